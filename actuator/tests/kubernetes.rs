//! The backend for Kubernetes against a real control plane with simulated nodes.

#[path = "kubernetes/knative.rs"]
mod knative;
#[path = "support/messages.rs"]
mod messages;
#[path = "kubernetes/refusals.rs"]
mod refusals;

use std::path::{Path, PathBuf};
use std::time::Duration;

use qscale_actuator::backend::{BackendError, KubernetesBackend, KubernetesBackendConfig, PlatformBackend, WorkloadId, WorkloadStatus};
use qscale_common::contract::subject::{self, POLICY_BUCKET};
use qscale_common::contract::{Effect, EventType, Outcome};
use qscale_common::name::{FunctionId, Name};
use qscale_common::policy::{ScalingPolicy, WorkloadKind};
use qscale_common::runtime::bus::{Bus, Subscription};
use qscale_common::runtime::clock;
use qscale_common::time::Span;
use qscale_common::units::{Allocation, Mebibytes, Millicores, Replicas};
use qscale_tests::{Cluster, Folder, NatsServer, Program, TIMEOUT, eventually, eventually_async, first};
use serde_json::{Value, json};

fn name(text: &str) -> Name {
    Name::new(text).expect("a DNS label")
}

fn workload(kind: WorkloadKind, of: &str) -> WorkloadId {
    WorkloadId { kind, name: FunctionId::new(name("default"), name(of)) }
}

fn allocation(replicas: u32, cpu: u32, memory: u32) -> Allocation {
    Allocation { replicas: Replicas(replicas), cpu_millicores: Millicores(cpu), memory_mib: Mebibytes(memory) }
}

fn resources(cpu: &str, memory: &str) -> Value {
    json!({ "cpu": cpu, "memory": memory })
}

/// An object with `replicas` pods that have `containers`.
fn object(kind: &str, of: &str, replicas: u32, containers: &Value) -> Value {
    let labels = json!({ "app": of });
    let template = json!({ "metadata": { "labels": &labels }, "spec": { "containers": containers, "terminationGracePeriodSeconds": 0 } });
    let spec = json!({ "replicas": replicas, "selector": { "matchLabels": &labels }, "template": template, "serviceName": of });
    let mut object = json!({ "apiVersion": "apps/v1", "kind": kind, "metadata": { "name": of, "namespace": "default" }, "spec": spec });
    if kind == "Deployment" {
        object["spec"].as_object_mut().expect("fields").remove("serviceName");
    }
    object
}

fn container(of: &str, requests: &Value, limits: &Value) -> Value {
    json!({ "name": of, "image": "function", "resources": { "requests": requests, "limits": limits } })
}

fn backend(kubeconfig: PathBuf) -> KubernetesBackend {
    // Long, because these tests share the cores with a control plane; a real one has a longer lease, too.
    let timeout = Span::seconds(20);
    KubernetesBackend::new(KubernetesBackendConfig { kubeconfig: Some(kubeconfig), timeout, ..KubernetesBackendConfig::default() })
}

fn start() -> Option<(Cluster, KubernetesBackend)> {
    let cluster = Cluster::start()?;
    cluster.kubectl(&["create", "namespace", "qscale-system"]);
    let backend = backend(cluster.kubeconfig());
    Some((cluster, backend))
}

/// Waits for `count` running pods of `of` and returns them.
fn pods(cluster: &Cluster, of: &str, count: usize) -> Vec<Value> {
    eventually("the pods to run", || {
        let list = cluster.get(&["pods", "-l", &format!("app={of}")]);
        let pods: Vec<Value> =
            list["items"].as_array()?.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).cloned().collect();
        let running = pods.iter().all(|pod| pod["status"]["phase"] == "Running");
        (running && pods.len() == count).then_some(pods)
    })
}

/// Waits until the containers of all pods of `of` run with the resources of their specification, and returns those of one pod by container.
fn running(cluster: &Cluster, of: &str, count: usize) -> Vec<Value> {
    eventually("the sizes to be in effect", || {
        let of_container = |part: &Value| part.as_array().map(|all| all.iter().map(|one| one["resources"].clone()).collect::<Vec<_>>());
        let pods = pods(cluster, of, count);
        let same = pods.iter().all(|pod| of_container(&pod["spec"]["containers"]) == of_container(&pod["status"]["containerStatuses"]));
        same.then(|| of_container(&pods[0]["spec"]["containers"])).flatten()
    })
}

fn policy(of: &str, spec: &Value) -> Value {
    let metadata = json!({ "name": of, "namespace": "default" });
    json!({ "apiVersion": "qscale.dev/v1alpha1", "kind": "ScalingPolicy", "metadata": metadata, "spec": spec })
}

async fn listed(backend: &KubernetesBackend, id: &WorkloadId) -> Option<WorkloadStatus> {
    backend.list().await.expect("listed").into_iter().find(|status| status.id == *id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_decision_changes_replicas_cpu_and_memory_of_running_pods() {
    let Some((cluster, backend)) = start() else { return };
    let function = container("function", &resources("100m", "64Mi"), &resources("200m", "128Mi"));
    let sidecar = container("proxy", &resources("50m", "32Mi"), &resources("50m", "32Mi"));
    for kind in [WorkloadKind::Deployment, WorkloadKind::StatefulSet] {
        let (kubernetes, of) = if kind == WorkloadKind::Deployment { ("Deployment", "fib") } else { ("StatefulSet", "aes") };
        cluster.apply(&object(kubernetes, of, 2, &json!([function, sidecar])));
        let before = pods(&cluster, of, 2);
        let generation = cluster.get(&[&kubernetes.to_lowercase(), of])["spec"]["template"].clone();
        let id = workload(kind, of);
        let expected = WorkloadStatus { id: id.clone(), desired: allocation(2, 200, 128), vertical: true };
        assert_eq!(listed(&backend, &id).await, Some(expected));

        let wanted = allocation(3, 500, 256);
        let status = backend.apply(&id, wanted, 7).await.expect("applied");
        assert_eq!((status.desired, status.vertical), (wanted, true));
        // The pod that is new has the size of its template until the next request.
        pods(&cluster, of, 3);
        assert_eq!(listed(&backend, &id).await.map(|status| status.desired), Some(allocation(3, 200, 128)));
        assert_eq!(backend.apply(&id, wanted, 7).await.expect("applied").desired, wanted);
        let sizes = running(&cluster, of, 3);
        assert_eq!(
            sizes[0],
            json!({ "limits": resources("500m", "256Mi"), "requests": resources("250m", "128Mi") }),
            "the request keeps its share"
        );
        assert_eq!(
            sizes[1],
            json!({ "limits": resources("50m", "32Mi"), "requests": resources("50m", "32Mi") }),
            "the sidecar keeps its size"
        );
        assert_eq!(listed(&backend, &id).await.map(|status| status.desired), Some(wanted));
        let after = pods(&cluster, of, 3);
        for pod in &before {
            let same = after.iter().find(|other| other["metadata"]["uid"] == pod["metadata"]["uid"]).expect("no pod was replaced");
            assert_eq!(same["status"]["containerStatuses"][0]["restartCount"], 0);
            assert_eq!(same["status"]["qosClass"], pod["status"]["qosClass"]);
        }
        assert_eq!(cluster.get(&[&kubernetes.to_lowercase(), of])["spec"]["template"], generation, "the template is not written");

        assert_eq!(backend.apply(&id, allocation(0, 500, 256), 7).await.expect("applied").desired, allocation(0, 500, 256));
        pods(&cluster, of, 0);
        assert_eq!(listed(&backend, &id).await.map(|status| status.desired), Some(allocation(0, 500, 256)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_follows_the_one_before_although_watches_lag() {
    let Some((cluster, backend)) = start() else { return };
    cluster.apply(&object("Deployment", "fib", 2, &json!([container("f", &resources("100m", "64Mi"), &resources("100m", "64Mi"))])));
    pods(&cluster, "fib", 2);
    let id = workload(WorkloadKind::Deployment, "fib");
    // Back and forth, so that objects from before the last change show what is wanted.
    for step in 0..20 {
        let wanted = allocation(2, 100 + 50 * (step % 2), 64);
        assert_eq!(backend.apply(&id, wanted, 1).await.expect("applied").desired, wanted);
        assert_eq!(listed(&backend, &id).await.map(|status| status.desired), Some(wanted));
    }
    assert_eq!(running(&cluster, "fib", 2)[0]["limits"], resources("150m", "64Mi"));
    for step in 0..20 {
        let wanted = allocation(1 + step % 2, 150, 64);
        assert_eq!(backend.apply(&id, wanted, 1).await.expect("applied").desired, wanted);
        assert_eq!(cluster.get(&["deployment", "fib"])["spec"]["replicas"], 1 + step % 2);
        assert_eq!(listed(&backend, &id).await.map(|status| status.desired.replicas), Some(wanted.replicas));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_at_the_same_time_share_reads_of_the_token_and_read_no_workload() {
    let Some((cluster, _)) = start() else { return };
    let backend = backend(cluster.service_account("actuator"));
    let ids: Vec<_> = (0..30).map(|number| workload(WorkloadKind::Deployment, &format!("fib-{number}"))).collect();
    for id in &ids {
        let whole = container("f", &resources("100m", "64Mi"), &resources("100m", "64Mi"));
        cluster.apply(&object("Deployment", id.name.name.as_str(), 1, &json!([whole])));
    }
    eventually("ready pods", || {
        let ready = cluster.get(&["deployments"])["items"].as_array()?.iter().filter(|item| item["status"]["readyReplicas"] == 1).count();
        (ready == ids.len()).then_some(())
    });
    eventually_async("the rights and the objects", async || {
        let listed = backend.list().await.ok()?;
        ids.iter().all(|id| listed.iter().any(|status| status.id == *id)).then_some(())
    })
    .await;
    backend.apply(&ids[0], allocation(1, 100, 64), 1).await.expect("the token is written");
    let change = async |id: &WorkloadId| backend.apply(id, allocation(2, 100, 64), 1).await.expect("applied").desired;
    let changed = futures::future::join_all(ids.iter().map(change)).await;
    assert!(changed.iter().all(|changed| *changed == allocation(2, 100, 64)), "{changed:?}");
    let used = cluster.requests_of("qscale-actuator").used;
    let count = |right: &str| used.iter().filter(|(of, _)| of.to_string() == right).map(|(_, count)| *count).sum::<u32>();
    assert!(count("update deployments/scale.apps") >= 30, "{used:?}");
    assert!(count("get leases.coordination.k8s.io") < 15 && count("get deployments.apps") < 15, "{used:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_leader_writes_nothing_more() {
    let Some((cluster, old)) = start() else { return };
    let new = backend(cluster.kubeconfig());
    cluster.apply(&object("Deployment", "fib", 1, &json!([container("f", &resources("100m", "64Mi"), &resources("100m", "64Mi"))])));
    let id = workload(WorkloadKind::Deployment, "fib");
    old.apply(&id, allocation(2, 100, 64), 4).await.expect("applied");
    new.apply(&id, allocation(3, 100, 64), 5).await.expect("applied");
    let refused = old.apply(&id, allocation(1, 100, 64), 4).await.expect_err("an older token");
    assert!(matches!(refused, BackendError::StaleLease { highest: 5, .. }), "{refused:?}");
    assert_eq!(cluster.get(&["deployment", "fib"])["spec"]["replicas"], 3);
    let refused = old.apply(&workload(WorkloadKind::Deployment, "nothing"), allocation(1, 100, 64), 6).await.expect_err("missing");
    assert!(matches!(refused, BackendError::NotFound(_)), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_of_others_and_a_restart_of_the_api_server_delay_a_change_but_lose_nothing() {
    let Some((cluster, backend)) = start() else { return };
    cluster.apply(&object("Deployment", "fib", 2, &json!([container("f", &resources("100m", "64Mi"), &resources("100m", "64Mi"))])));
    pods(&cluster, "fib", 2);
    let id = workload(WorkloadKind::Deployment, "fib");
    // Each rollout status and each annotation is another revision.
    for step in 1..=20 {
        let annotate = || cluster.kubectl(&["annotate", "--overwrite", "deployment", "fib", &format!("step={step}")]);
        let wanted = allocation(2 + step % 5, 100 + step, 64);
        let (applied, _) = tokio::join!(backend.apply(&id, wanted, 1), async { annotate() });
        assert_eq!(applied.expect("applied").desired, wanted);
    }
    cluster.restart_api_server();
    let wanted = allocation(4, 300, 96);
    let applied = qscale_tests::eventually_async("the server to answer again", async || backend.apply(&id, wanted, 1).await.ok());
    assert_eq!(applied.await.desired, wanted);
    assert_eq!(cluster.get(&["deployment", "fib"])["spec"]["replicas"], 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_cluster_refuses_is_reported_and_the_rest_is_applied() {
    let Some((cluster, backend)) = start() else { return };
    let whole = container("f", &resources("100m", "64Mi"), &resources("100m", "64Mi"));
    cluster.apply(&object("Deployment", "fib", 1, &json!([whole])));
    // Without memory there is no allocation to change.
    cluster.apply(&object("Deployment", "bare", 1, &json!([container("f", &json!({ "cpu": "100m" }), &json!({}))])));
    let mut restarting = whole;
    restarting["resizePolicy"] = json!([{ "resourceName": "memory", "restartPolicy": "RestartContainer" }]);
    cluster.apply(&object("Deployment", "restarting", 1, &json!([restarting])));
    for of in ["fib", "bare", "restarting"] {
        pods(&cluster, of, 1);
    }
    // More than a node has.
    let fib = workload(WorkloadKind::Deployment, "fib");
    assert_eq!(backend.apply(&fib, allocation(2, 64_000, 64), 1).await.expect("applied").desired, allocation(2, 100, 64));
    assert_eq!(cluster.get(&["deployment", "fib"])["spec"]["replicas"], 2);
    for of in ["bare", "restarting"] {
        let id = workload(WorkloadKind::Deployment, of);
        let status = backend.apply(&id, allocation(3, 200, 128), 1).await.expect("applied");
        assert!(
            !status.vertical && status.desired.replicas == Replicas(3) && status.desired.cpu_millicores != Millicores(200),
            "{status:?}"
        );
        assert_eq!(running(&cluster, of, 3)[0]["requests"]["cpu"], "100m");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rights_of_the_actuator_suffice_and_a_missing_one_is_named() {
    let Some((cluster, _)) = start() else { return };
    cluster.apply(&object("Deployment", "fib", 1, &json!([container("f", &resources("100m", "64Mi"), &resources("100m", "64Mi"))])));
    pods(&cluster, "fib", 1);
    let backend = backend(cluster.service_account("actuator"));
    let (id, wanted) = (workload(WorkloadKind::Deployment, "fib"), allocation(2, 200, 128));
    let applied = qscale_tests::eventually_async("the rights to be in effect", async || backend.apply(&id, wanted, 1).await.ok());
    assert_eq!(applied.await.desired, wanted);
    assert!(listed(&backend, &id).await.is_some());

    let mut role = cluster.get(&["clusterrole", "qscale-actuator"]);
    role["rules"].as_array_mut().expect("rules").retain(|rule| rule["verbs"] != json!(["update"]));
    cluster.apply(&role);
    let refused =
        qscale_tests::eventually_async("the right to be gone", async || backend.apply(&id, allocation(3, 200, 128), 1).await.err()).await;
    assert!(matches!(&refused, BackendError::Invalid(reason) if reason.contains("deployments/scale")), "{refused:?}");
}

#[test]
fn policies_are_checked_completed_and_explained_by_the_api_server() {
    let Some((cluster, _)) = start() else { return };
    cluster.install_policies();
    cluster.apply(&policy("fib", &json!({})));
    let spec = cluster.get(&["scp", "fib"])["spec"].clone();
    let mut expected = ScalingPolicy::new(workload(WorkloadKind::Deployment, "fib").name);
    expected.workload.kind = WorkloadKind::Deployment;
    let mut completed = spec.clone();
    completed["name"] = json!("fib");
    assert_eq!(ScalingPolicy::from_value(completed).expect("valid"), expected);
    for field in
        ["agent", "bounds", "fallback", "guard", "mode", "objective", "on_delete", "paused", "prices", "reward", "scale_up_only", "tick"]
    {
        assert!(!spec[field].is_null(), "{field} has a default");
    }
    assert!(spec["name"].is_null() && spec["mirrored"].is_null(), "{spec}");
    for (invalid, part) in [
        (json!({ "bounds": { "replicas": { "min": 5, "max": 2 } } }), "min must be at most max"),
        (json!({ "bounds": { "replicas": { "min": 0, "max": 0 } } }), "replicas.max must be at least 1"),
        (json!({ "bounds": { "cpu_millicores": { "min": 0, "max": 5 } } }), "cpu_millicores.min must be at least 1"),
        (json!({ "objective": { "percentile": 100.0 } }), "must be less than 100"),
        (json!({ "objective": { "failure_share": 2 } }), "less than or equal to 1"),
        (json!({ "mode": "wild" }), "supported values: \"observe\", \"recommend\", \"active\""),
        (json!({ "workload": { "kind": "local" } }), "supported values"),
        (json!({ "tick": "soon" }), "spec.tick"),
        (json!({ "agent": "Mine!" }), "spec.agent"),
        (json!({ "prices": { "cpu_core_hour": -1 } }), "greater than or equal to 0"),
    ] {
        let error = cluster.refuse(&policy("invalid", &invalid));
        assert!(error.contains(part), "{invalid}: {error}");
    }
    // kubectl breaks lines.
    let explain = |field: &str| cluster.kubectl(&["explain", field]).split_whitespace().collect::<Vec<_>>().join(" ");
    let explained = explain("scalingpolicies.spec.bounds.replicas");
    assert!(explained.contains("scaling to zero"), "{explained}");
    let explained = explain("scp.spec.mode");
    assert!(explained.contains("recommend: The guard evaluates"), "{explained}");
    let table = cluster.kubectl(&["get", "scp"]);
    for column in ["TARGET", "MODE", "AGENT", "READY", "ACTING", "ALLOCATION", "RECOMMENDED", "SAVING"] {
        assert!(table.contains(column), "{table}");
    }
    assert!(cluster.kubectl(&["get", "qscale"]).contains("fib"));
}

/// An actuator as a process, on a real bus and a real API server; the test plays collector and agent.
struct World {
    cluster: Cluster,
    server: NatsServer,
    collector: Bus,
    agent: Bus,
    outcomes: Subscription<Outcome>,
    /// Configuration of a client with the rights of the actuator.
    kubeconfig: PathBuf,
    folder: Folder,
    tick: u64,
}

impl World {
    async fn start() -> Option<Self> {
        let (cluster, _) = start()?;
        cluster.install_policies();
        cluster.apply(&object("Deployment", "fib", 2, &json!([container("f", &resources("100m", "64Mi"), &resources("200m", "128Mi"))])));
        pods(&cluster, "fib", 2);
        let server = NatsServer::start_with_accounts(&["agent"]);
        server.provision().await;
        let bus = async |user: &str| Bus::of_client(server.config(user).connect_once("test", TIMEOUT).await.expect("it answers"), "/test");
        let (collector, agent, operator) = (bus("collector").await, bus("agent-agent").await, bus("operator").await);
        let outcomes = operator.subscribe(subject::all(EventType::Outcome), None).await.expect("a valid subject");
        operator.client().flush().await.expect("connected");
        let kubeconfig = cluster.service_account("actuator");
        Some(Self { cluster, server, collector, agent, outcomes, kubeconfig, folder: Folder::new("actuator"), tick: 0 })
    }

    fn actuator(&self) -> Program {
        let nats = self.server.config("actuator");
        let set = [
            format!("nats.url={}", nats.url),
            format!("nats.user={}", nats.user),
            format!("nats.password={}", nats.password),
            "platform.backend=kubernetes".into(),
            format!("platform.kubeconfig={}", self.kubeconfig.display()),
            "platform.timeout=9s".into(),
            "lease.ttl=60s".into(),
            "reconcile=1s".into(),
            "health=127.0.0.1:0".into(),
        ];
        let arguments = set.iter().flat_map(|pair| ["--set", pair]);
        Program::start(Path::new(env!("CARGO_BIN_EXE_qscale-actuator")), arguments, &self.folder.path().join("actuator.log"))
    }

    /// The policy of `fib` in the bucket.
    async fn stored(&self, of: &str) -> Option<ScalingPolicy> {
        let store = self.collector.jetstream().get_key_value(POLICY_BUCKET).await.ok()?;
        let value = store.get(format!("default.{of}")).await.ok()??;
        Some(ScalingPolicy::from_json(&value).expect("a policy"))
    }

    /// Sends a State of `fib` and the agent's answer.
    async fn tick_wanting(&mut self, wanted: Allocation) {
        self.tick += 1;
        let mut policy = ScalingPolicy::new(workload(WorkloadKind::Deployment, "fib").name);
        policy.agent = name("agent");
        let trace = self.collector.new_trace();
        self.collector.publish(&messages::state(&policy, self.tick, allocation(2, 200, 128), 150.0), trace).await;
        let expires = clock::now().plus(Duration::from_secs(30));
        self.agent.record(&messages::action("agent", &policy.function(), self.tick, wanted, expires), trace).await;
    }

    /// Sends States and Actions until an Outcome has `effect`, and returns it.
    async fn until(&mut self, wanted: Allocation, effect: Effect) -> Outcome {
        loop {
            self.tick_wanting(wanted).await;
            let second = Duration::from_secs(1);
            let next = tokio::time::timeout(second, first(&mut self.outcomes, |outcome| outcome.effect == effect)).await;
            if let Ok(Some(outcome)) = next {
                return outcome;
            }
        }
    }

    /// Sends States and Actions until `fib` has `wanted`.
    async fn until_applied(&mut self, wanted: Allocation) {
        while self.cluster.get(&["deployment", "fib"])["spec"]["replicas"] != wanted.replicas.0 {
            self.tick_wanting(wanted).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Waits until policy `fib` has the finalizer, or does not have it.
    fn finalizer(&self, present: bool) {
        eventually(&format!("finalizer present = {present}"), || {
            let finalizers = self.cluster.get(&["scp", "fib"])["metadata"]["finalizers"].clone();
            (finalizers.as_array().is_some_and(|all| all.iter().any(|one| one == "qscale.dev/restore")) == present).then_some(())
        });
    }

    /// Waits for an event of `reason`, and returns all of them.
    fn events(&self, reason: &str) -> String {
        eventually(reason, || {
            let events = self.cluster.kubectl(&["get", "events", &format!("--field-selector=reason={reason}")]);
            events.contains(reason).then_some(events)
        })
    }

    /// Waits until condition `kind` of policy `of` has `status`, and returns its reason.
    fn condition(&self, of: &str, kind: &str, status: &str) -> String {
        eventually(&format!("{kind} = {status} of {of}"), || {
            let object = self.cluster.get(&["scp", of]);
            let condition = object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)?.clone();
            (condition["status"] == status).then(|| condition["reason"].as_str().expect("a reason").to_owned())
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_is_a_policy_whose_decisions_are_applied_and_explained() {
    let Some(mut world) = World::start().await else { return };
    let mut actuator = world.actuator();
    let spec = json!({ "mode": "active", "agent": "agent", "tick": "1s", "fallback": { "rule": "hold" } });
    world.cluster.apply(&policy("fib", &spec));
    let stored = eventually_async("the policy in the bucket", async || world.stored("fib").await).await;
    assert!(stored.mirrored && stored.workload.kind == WorkloadKind::Deployment && stored.agent == name("agent"));
    assert_eq!(world.condition("fib", "Ready", "True"), "InUse");

    let wanted = allocation(3, 300, 192);
    world.until(wanted, Effect::Applied).await;
    assert_eq!(world.cluster.get(&["deployment", "fib"])["spec"]["replicas"], 3);
    assert_eq!(world.condition("fib", "Acting", "True"), "Active");
    assert_eq!(world.condition("fib", "Fallback", "False"), "AgentAnswers");
    assert_eq!(world.condition("fib", "NoLatencySource", "False"), "Measured");
    let allocation_shown = eventually("the allocation in the status", || {
        let status = world.cluster.get(&["scp", "fib"])["status"].clone();
        // The pod that is new has the size of its template until the next comparison.
        (status["allocation"]["text"] == "3 x 300m 192Mi").then(|| status["allocation"].clone())
    });
    assert_eq!((&allocation_shown["replicas"], &allocation_shown["cpu"]), (&json!(3), &json!("300m")));
    for target in ["deployment/fib", "scalingpolicy/fib"] {
        let events = eventually("an event", || {
            let events = world.cluster.kubectl(&["events", "--for", target]);
            events.contains("Scaled").then_some(events)
        });
        assert!(events.contains("to 3 x 300m 192Mi by agent"), "{events}");
    }

    let pod = pods(&world.cluster, "fib", 3)[0]["metadata"]["name"].as_str().expect("a name").to_owned();
    let set_condition = |kind: &str, status: &str, reason: &str| {
        let condition = json!({ "type": kind, "status": status, "reason": reason, "message": "no room" });
        let patch = json!({ "status": { "conditions": [condition] } }).to_string();
        world.cluster.kubectl(&["patch", "pod", &pod, "--subresource=status", "--type=strategic", "-p", &patch]);
    };
    set_condition("PodResizePending", "True", "Deferred");
    assert_eq!(world.condition("fib", "ResizePending", "True"), "Deferred");
    set_condition("PodResizePending", "False", "");
    world.condition("fib", "ResizePending", "False");
    set_condition("PodResizeInProgress", "True", "Error");
    assert_eq!(world.condition("fib", "ResizePending", "True"), "Error");

    // The API server accepts it, since it does not know every unit.
    world.cluster.apply(&policy("fib", &json!({ "mode": "active", "agent": "agent", "tick": "5parsec" })));
    assert_eq!(world.condition("fib", "Ready", "False"), "Invalid");
    assert_eq!(world.stored("fib").await.as_ref(), Some(&stored), "the last valid version stays in use");
    world.cluster.apply(&policy("fib", &spec));
    world.condition("fib", "Ready", "True");

    world.cluster.apply(&policy("second", &json!({ "workload": { "name": "fib" } })));
    assert_eq!(world.condition("second", "Conflict", "True"), "SameTarget");
    assert_eq!(world.stored("second").await, None);

    // Objects are followed across a restart of the API server.
    world.cluster.restart_api_server();
    let mut paused = spec.clone();
    paused["paused"] = json!(true);
    world.cluster.apply(&policy("fib", &paused));
    eventually_async("the pause in the bucket", async || world.stored("fib").await.filter(|stored| stored.paused)).await;
    assert_eq!(world.condition("fib", "Acting", "False"), "Paused");

    world.cluster.kubectl(&["delete", "scp", "fib"]);
    eventually_async("the policy to be gone", async || world.stored("fib").await.is_none().then_some(())).await;
    eventually_async("the other policy in the bucket", async || world.stored("second").await).await;
    assert_eq!(world.cluster.get(&["deployment", "fib"])["spec"]["replicas"], 3, "a deleted policy leaves the workload as it is");
    assert!(actuator.stop().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_policy_restores_its_workload_if_it_says_so_and_is_never_stuck() {
    let Some(mut world) = World::start().await else { return };
    let mut actuator = world.actuator();
    let workload = object("Deployment", "fib", 2, &json!([container("f", &resources("100m", "64Mi"), &resources("200m", "128Mi"))]));
    let mut spec = json!({ "mode": "active", "agent": "agent", "tick": "1s", "fallback": { "rule": "hold" }, "on_delete": "restore" });
    let restored = |world: &World| {
        assert_eq!(world.cluster.get(&["deployment", "fib"])["spec"]["replicas"], 2);
        let limits = json!([{ "requests": resources("100m", "64Mi"), "limits": resources("200m", "128Mi") }]);
        assert_eq!(Value::from(running(&world.cluster, "fib", 2)), limits);
    };
    let delete = |world: &World| world.cluster.kubectl(&["delete", "scp", "fib", "--timeout=60s"]);

    world.cluster.apply(&policy("fib", &spec));
    world.finalizer(true);
    world.until_applied(allocation(3, 300, 192)).await;
    delete(&world);
    restored(&world);
    assert!(world.events("Restored").contains("deployment/fib has its original allocation again: 2 x 200m 128Mi"));
    eventually_async("the policy to be gone", async || world.stored("fib").await.is_none().then_some(())).await;

    // The finalizer follows the specification; an invalid one changes nothing.
    world.cluster.apply(&policy("fib", &spec));
    world.finalizer(true);
    spec["on_delete"] = json!("keep");
    world.cluster.apply(&policy("fib", &spec));
    world.finalizer(false);
    spec["on_delete"] = json!("restore");
    world.cluster.apply(&policy("fib", &spec));
    world.finalizer(true);

    // No actuator is there when it is deleted; the next one finds the original allocation on the bus.
    world.until_applied(allocation(3, 300, 192)).await;
    actuator.kill();
    world.cluster.apply(&policy("fib", &json!({ "on_delete": "restore", "tick": "5parsec" })));
    world.cluster.kubectl(&["delete", "scp", "fib", "--wait=false"]);
    assert!(world.cluster.get(&["scp", "fib"])["metadata"]["deletionTimestamp"].is_string());
    actuator = world.actuator();
    world.cluster.kubectl(&["wait", "--for=delete", "scp/fib", "--timeout=120s"]);
    restored(&world);

    // Its workload is gone.
    world.cluster.apply(&policy("fib", &spec));
    world.until_applied(allocation(3, 300, 192)).await;
    world.cluster.kubectl(&["delete", "deployment", "fib"]);
    delete(&world);
    assert!(world.events("RestoreFailed").contains("no workload"));

    // The whole namespace is being deleted, which takes no events.
    world.cluster.kubectl(&["create", "namespace", "short"]);
    let mut of_namespace = policy("fib", &spec);
    of_namespace["metadata"]["namespace"] = json!("short");
    world.cluster.apply(&of_namespace);
    eventually("the finalizer", || {
        let object = world.cluster.get(&["scp", "fib", "--namespace=short"]);
        object["metadata"]["finalizers"].is_array().then_some(())
    });
    world.cluster.kubectl(&["delete", "namespace", "short", "--timeout=60s"]);

    // What nothing has changed keeps the size that it has got meanwhile.
    world.cluster.apply(&workload);
    world.cluster.apply(&policy("fib", &spec));
    world.finalizer(true);
    world.cluster.kubectl(&["scale", "deployment", "fib", "--replicas=1"]);
    delete(&world);
    assert_eq!(world.cluster.get(&["deployment", "fib"])["spec"]["replicas"], 1);
    assert!(actuator.stop().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_created_later_gets_the_decided_size_at_its_admission() {
    let Some(mut world) = World::start().await else { return };
    world.cluster.install("chart/files/pod-sizes.yaml");
    let mut actuator = world.actuator();
    world.cluster.apply(&policy("fib", &json!({ "mode": "active", "agent": "agent", "tick": "1s", "fallback": { "rule": "hold" } })));
    // Until something is decided, a new template decides.
    world.condition("fib", "Acting", "True");
    let smaller = json!([container("f", &resources("80m", "64Mi"), &resources("160m", "128Mi"))]);
    world.cluster.apply(&object("Deployment", "fib", 2, &smaller));
    world.cluster.kubectl(&["rollout", "status", "deployment/fib", "--timeout=60s"]);
    let rolled_out = |pod: &Value| pod["spec"]["containers"][0]["resources"]["limits"]["cpu"] == "160m";
    assert!(pods(&world.cluster, "fib", 2).iter().all(rolled_out));
    world.cluster.apply(&object("Deployment", "fib", 2, &json!([container("f", &resources("100m", "64Mi"), &resources("200m", "128Mi"))])));
    world.cluster.kubectl(&["rollout", "status", "deployment/fib", "--timeout=60s"]);
    pods(&world.cluster, "fib", 2);

    world.until(allocation(2, 300, 192), Effect::Applied).await;
    let size = eventually("the size of pods in the status", || {
        let size = world.cluster.get(&["scp", "fib"])["status"]["podSize"].clone();
        (size["limits"]["cpu"] == "300m").then_some(size)
    });
    let decided = json!({ "requests": { "cpu": "150m", "memory": "96Mi" }, "limits": { "cpu": "300m", "memory": "192Mi" } });
    assert_eq!(size, json!({ "container": "f", "requests": decided["requests"], "limits": decided["limits"] }));
    // Nobody is left to resize them.
    assert!(actuator.stop().success());
    world.cluster.kubectl(&["delete", "pods", "-l", "app=fib", "--wait", "--ignore-not-found"]);
    let sizes = |of: &str, count| {
        let pods = pods(&world.cluster, of, count);
        pods.iter().map(|pod| pod["spec"]["containers"][0]["resources"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(sizes("fib", 2), [decided.clone(), decided]);
    let of_template = json!({ "requests": resources("100m", "64Mi"), "limits": resources("200m", "128Mi") });
    assert_eq!(world.cluster.get(&["deployment", "fib"])["spec"]["template"]["spec"]["containers"][0]["resources"], of_template);

    world.cluster.apply(&object(
        "Deployment",
        "fib-2",
        1,
        &json!([container("f", &resources("100m", "64Mi"), &resources("200m", "128Mi"))]),
    ));
    assert_eq!(sizes("fib-2", 1), std::slice::from_ref(&of_template), "another workload keeps the size of its template");
    world.cluster.kubectl(&["delete", "scp", "fib"]);
    world.cluster.kubectl(&["delete", "pods", "-l", "app=fib", "--wait", "--ignore-not-found"]);
    assert_eq!(sizes("fib", 2), [of_template.clone(), of_template], "without a policy the template decides");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_that_another_autoscaler_scales_is_left_to_it() {
    let Some(mut world) = World::start().await else { return };
    let target = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "name": "fib" });
    let metric =
        json!({ "type": "Resource", "resource": { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 80 } } });
    let spec = json!({ "scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 4, "metrics": [metric] });
    world.cluster.apply(&json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": { "name": "old", "namespace": "default" }, "spec": spec,
    }));
    let _actuator = world.actuator();
    world.cluster.apply(&policy("fib", &json!({ "mode": "active", "agent": "agent", "tick": "1s", "fallback": { "rule": "hold" } })));
    assert_eq!(world.condition("fib", "Conflict", "True"), "Autoscaler");
    let failed = world.until(allocation(3, 300, 192), Effect::Failed).await;
    assert!(failed.allowed.is_some() && failed.reason.contains("HorizontalPodAutoscaler/old"), "{failed:?}");
    assert_eq!(world.cluster.get(&["deployment", "fib"])["spec"]["replicas"], 2);
    world.cluster.kubectl(&["delete", "hpa", "old"]);
    assert_eq!(world.condition("fib", "Conflict", "False"), "None");
    world.until(allocation(3, 300, 192), Effect::Applied).await;
}

/// The custom resource `kind` with any specification.
fn resource(group: &str, version: &str, kind: &str, plural: &str) -> Value {
    let schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let version = json!({ "name": version, "served": true, "storage": true, "schema": { "openAPIV3Schema": schema } });
    let names = json!({ "kind": kind, "plural": plural });
    let spec = json!({ "group": group, "names": names, "scope": "Namespaced", "versions": [version] });
    let (name, kind) = (format!("{plural}.{group}"), "CustomResourceDefinition");
    // The group is protected; these definitions are for tests.
    let annotations = json!({ "api-approved.kubernetes.io": "unapproved, for tests" });
    let metadata = json!({ "name": name, "annotations": annotations });
    json!({ "apiVersion": "apiextensions.k8s.io/v1", "kind": kind, "metadata": metadata, "spec": spec })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acting_autoscalers_of_custom_resources_are_left_to_it_too() {
    let Some(world) = World::start().await else { return };
    world.cluster.apply(&resource("keda.sh", "v1alpha1", "ScaledObject", "scaledobjects"));
    world.cluster.apply(&resource("autoscaling.k8s.io", "v1", "VerticalPodAutoscaler", "verticalpodautoscalers"));
    world.cluster.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"]);
    let _actuator = world.actuator();
    world.cluster.apply(&policy("fib", &json!({ "mode": "active", "agent": "agent", "tick": "1s", "fallback": { "rule": "hold" } })));
    assert_eq!(world.condition("fib", "Conflict", "False"), "None");
    let message = || {
        let conditions = world.cluster.get(&["scp", "fib"])["status"]["conditions"].clone();
        let conflict = conditions.as_array().and_then(|conditions| conditions.iter().find(|condition| condition["type"] == "Conflict"));
        conflict.and_then(|conflict| conflict["message"].as_str()).unwrap_or_default().to_owned()
    };

    let keda = json!({ "scaleTargetRef": { "name": "fib" }, "triggers": [] });
    let vpa = json!({ "targetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "fib" } });
    let object = |version: &str, kind: &str, spec: &Value| {
        world
            .cluster
            .apply(&json!({ "apiVersion": version, "kind": kind, "metadata": { "name": "old", "namespace": "default" }, "spec": spec }));
    };
    object("keda.sh/v1alpha1", "ScaledObject", &keda);
    assert_eq!(world.condition("fib", "Conflict", "True"), "Autoscaler");
    assert!(message().contains("ScaledObject/old"), "{}", message());
    world.cluster.kubectl(&["annotate", "scaledobject", "old", "autoscaling.keda.sh/paused=true"]);
    world.condition("fib", "Conflict", "False");

    object("autoscaling.k8s.io/v1", "VerticalPodAutoscaler", &vpa);
    assert_eq!(world.condition("fib", "Conflict", "True"), "Autoscaler");
    assert!(message().contains("VerticalPodAutoscaler/old"), "{}", message());
    let mut off = vpa;
    off["updatePolicy"] = json!({ "updateMode": "Off" });
    object("autoscaling.k8s.io/v1", "VerticalPodAutoscaler", &off);
    world.condition("fib", "Conflict", "False");
}
