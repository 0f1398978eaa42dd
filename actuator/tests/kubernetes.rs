//! The backend for Kubernetes against a real control plane with simulated nodes.

use std::path::PathBuf;

use qscale_actuator::backend::{BackendError, KubernetesBackend, KubernetesBackendConfig, PlatformBackend, WorkloadId, WorkloadStatus};
use qscale_common::name::{FunctionId, Name};
use qscale_common::policy::WorkloadKind;
use qscale_common::time::Span;
use qscale_common::units::{Allocation, Mebibytes, Millicores, Replicas};
use qscale_tests::{Cluster, eventually};
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
    let Some((mut cluster, backend)) = start() else { return };
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
    cluster.kubectl(&["create", "serviceaccount", "actuator", "-n", "qscale-system"]);
    let rule = |groups: &[&str], resources: &[&str], verbs: &[&str]| json!({ "apiGroups": groups, "resources": resources, "verbs": verbs });
    let rules = json!([
        rule(&["apps"], &["deployments", "statefulsets"], &["get", "list"]),
        rule(&["apps"], &["deployments/scale", "statefulsets/scale"], &["update"]),
        rule(&[""], &["pods"], &["list"]),
        rule(&[""], &["pods/resize"], &["patch"]),
        rule(&["coordination.k8s.io"], &["leases"], &["get", "create", "update"]),
    ]);
    let role = |rules: &Value| json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": "actuator" }, "rules": rules });
    cluster.apply(&role(&rules));
    cluster.kubectl(&["create", "clusterrolebinding", "actuator", "--clusterrole=actuator", "--serviceaccount=qscale-system:actuator"]);
    let token = cluster.kubectl(&["create", "token", "actuator", "-n", "qscale-system"]);
    let backend = backend(cluster.kubeconfig_of("actuator", token.trim()));
    let (id, wanted) = (workload(WorkloadKind::Deployment, "fib"), allocation(2, 200, 128));
    let applied = qscale_tests::eventually_async("the rights to be in effect", async || backend.apply(&id, wanted, 1).await.ok());
    assert_eq!(applied.await.desired, wanted);
    assert!(listed(&backend, &id).await.is_some());

    let less: Vec<Value> = rules.as_array().expect("rules").iter().filter(|rule| rule["verbs"] != json!(["update"])).cloned().collect();
    cluster.apply(&role(&json!(less)));
    let refused =
        qscale_tests::eventually_async("the right to be gone", async || backend.apply(&id, allocation(3, 200, 128), 1).await.err()).await;
    assert!(matches!(&refused, BackendError::Invalid(reason) if reason.contains("deployments/scale")), "{refused:?}");
}
