//! The chart in real pods of a node on this machine: its services scale a real function under real load, with the rights of the chart and no others.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use qscale_common::quantity;
use qscale_tests::cluster::{FUNCTION_IMAGE, PROXY_IMAGE};
use qscale_tests::process::binary;
use qscale_tests::{Cluster, RealNode};
use serde_json::{Value, json};

use super::rights;

/// Long enough for images, starts and decisions on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);
/// Label of the function's pods.
const FUNCTION: &str = "app=fibonacci";

/// A node with the chart and the function.
struct World<'a> {
    cluster: &'a Cluster,
    node: RealNode<'a>,
}

/// A client that sends requests until it is dropped.
struct Client(Child);

impl Drop for Client {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

impl<'a> World<'a> {
    /// `None`, with a message, where no node can run.
    fn start(cluster: &'a Cluster) -> Option<Self> {
        let node = match RealNode::start(cluster) {
            Ok(node) => node,
            Err(obstacle) => {
                eprintln!("skipped: {obstacle}");
                return None;
            }
        };
        node.import(FUNCTION_IMAGE, &[binary("qscale-function")]);
        node.install_chart(&[]).unwrap_or_else(|error| panic!("{error}"));
        cluster.install("fibonacci.yaml");
        cluster.kubectl(&["rollout", "status", "deployment/fibonacci", "--timeout=120s"]);
        Some(Self { cluster, node })
    }

    /// Waits for a value, and shows the pods of the chart if there is none.
    #[track_caller]
    fn until<T>(&self, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
        let began = qscale_common::runtime::clock::instant();
        loop {
            if let Some(found) = condition() {
                return found;
            }
            if qscale_common::runtime::clock::since(began) > PATIENCE {
                let described = self.cluster.try_kubectl(&["describe", "scp", "fibonacci"]).unwrap_or_else(|error| error);
                let pods = self.cluster.try_kubectl(&["describe", "pods", "--selector", FUNCTION]).unwrap_or_else(|error| error);
                panic!("timeout after {PATIENCE:?}: {what}\n{pods}\n{described}\n{}", self.node.pods_of_chart());
            }
            std::thread::sleep(Duration::from_millis(250));
        }
    }

    /// Sends `rate` requests/s to a Service of the function, each with some 30 ms of CPU.
    fn load(&self, service: &str, rate: &str) -> Client {
        let spec = self.cluster.get(&["service", service])["spec"].clone();
        let address = format!("{}:{}", spec["clusterIP"].as_str().expect("an address"), spec["ports"][0]["port"]);
        let mut command = Command::new(binary("qscale-loadgen"));
        command.args(["run", "--protocol=http", "--function=fibonacci", "--path=/?n=80000", "--quiet", "--no-real-time", "--max-lag=10s"]);
        command.args([&format!("--target={address}"), &format!("--rate={rate}"), "--for=30m"]);
        Client(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the load generator runs"))
    }

    /// Changes fields of the policy.
    fn change(&self, spec: &Value) {
        let patch = json!({ "spec": spec }).to_string();
        self.cluster.kubectl(&["patch", "scp", "fibonacci", "--type=merge", "--patch", &patch]);
    }

    fn condition(&self, kind: &str) -> Option<String> {
        let object = self.cluster.get(&["scp", "fibonacci"]);
        let condition = object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)?.clone();
        condition["status"].as_str().map(str::to_owned)
    }

    /// Pods of the function that neither end nor have ended.
    fn pods(&self) -> Vec<Value> {
        let list = self.cluster.get(&["pods", "--selector", FUNCTION]);
        let is_alive = |pod: &&Value| {
            let phase = pod["status"]["phase"].as_str();
            pod["metadata"]["deletionTimestamp"].is_null() && !matches!(phase, Some("Failed" | "Succeeded"))
        };
        list["items"].as_array().into_iter().flatten().filter(is_alive).cloned().collect()
    }

    /// CPU limit of a pod as its container has it.
    fn actual_cpu(pod: &Value) -> Option<String> {
        pod["status"]["containerStatuses"][0]["resources"]["limits"]["cpu"].as_str().map(str::to_owned)
    }

    /// The actuator's pod that leads, by its own metrics.
    fn leader(&self) -> Option<String> {
        let pods = self.cluster.get(&["pods", "--namespace=qscale-system", "--selector=app.kubernetes.io/component=actuator"]);
        let leads = |pod: &&Value| {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            let path = format!("/api/v1/namespaces/qscale-system/pods/{name}:8080/proxy/metrics");
            self.cluster.try_kubectl(&["get", "--raw", &path]).is_ok_and(|text| text.lines().any(|line| line == "qscale_actuator_leader 1"))
        };
        let alive = pods["items"].as_array()?.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        alive.into_iter().find(leads)?["metadata"]["name"].as_str().map(str::to_owned)
    }
}

#[test]
fn the_chart_in_real_pods_scales_a_function_under_load_and_survives_faults() {
    let Some(cluster) = Cluster::start_without_nodes() else { return };
    let Some(world) = World::start(&cluster) else { return };
    // One replica, so that only its size can follow the load.
    world.change(&json!({ "on_delete": "restore", "tick": "2s", "bounds": { "replicas": { "min": 1, "max": 1 } } }));
    for (kind, status) in [("Ready", "True"), ("Acting", "True"), ("Stale", "False"), ("NoLatencySource", "False"), ("Fallback", "False")] {
        world.until(&format!("{kind} = {status}"), || world.condition(kind).filter(|found| found == status));
    }

    // In place: the same container with another limit.
    let before = world.pods()[0].clone();
    assert_eq!(World::actual_cpu(&before).as_deref(), Some("200m"));
    let load = world.load("fibonacci", "9");
    let resized = world.until("a resize in place", || {
        let pod = world.pods().into_iter().find(|pod| pod["metadata"]["uid"] == before["metadata"]["uid"])?;
        (World::actual_cpu(&pod)? != "200m").then_some(pod)
    });
    assert_eq!(resized["status"]["containerStatuses"][0]["restartCount"], 0, "{resized}");
    assert_eq!(
        resized["status"]["containerStatuses"][0]["containerID"], before["status"]["containerStatuses"][0]["containerID"],
        "the container runs on"
    );
    let events = world.until("an event", || {
        let events = cluster.kubectl(&["events", "--for", "scalingpolicy/fibonacci"]);
        events.contains("Scaled").then_some(events)
    });
    assert!(events.contains("by dqn"), "{events}");

    // The threshold rule follows the use with replicas alone.
    let bounds = json!({ "replicas": { "min": 1, "max": 2 }, "cpu_millicores": { "min": 200, "max": 200 } });
    world.change(&json!({ "agent": "threshold", "bounds": bounds }));
    world.until("another replica", || (world.pods().len() == 2).then_some(()));

    faults(&world);
    drop(load);
    commands(&world);

    world.cluster.kubectl(&["delete", "scp", "fibonacci", "--timeout=120s"]);
    let original = |pods: &[Value]| pods.len() == 1 && World::actual_cpu(&pods[0]).as_deref() == Some("200m");
    world.until("the original allocation", || original(&world.pods()).then_some(()));
    let events = cluster.kubectl(&["get", "events", "--field-selector=reason=Restored"]);
    assert!(events.contains("its original allocation"), "{events}");

    knative(&world);
    for service in ["actuator", "collector"] {
        rights::check(&cluster, service, rights::NodeKind::Real);
    }
}

/// Commands that reach the chart's nats-server with the rights of kubectl.
fn commands(world: &World<'_>) {
    let path = format!("{}:{}", world.cluster.assets().display(), std::env::var("PATH").unwrap_or_default());
    let qscale = |arguments: &[&str]| {
        let mut command = Command::new(binary("qscale"));
        command.args(["--context", "test"]).args(arguments).env("KUBECONFIG", world.cluster.kubeconfig()).env("PATH", &path);
        let output = command.output().expect("qscale runs");
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    for (arguments, part) in [
        (&["policy", "list"][..], "fibonacci"),
        (&["why", "fibonacci"], "threshold"),
        (&["watch", "--since", "1m", "--kind", "outcome", "--json"], "\"agent\""),
        (&["replay", "fibonacci", "--check"], "fibonacci"),
        (&["compare", "fibonacci", "--policy", "hpa:cpu_utilization=50"], "hpa"),
        (&["doctor"], "rights of actuator: all"),
    ] {
        let (done, text) = qscale(arguments);
        assert!(done && text.contains(part), "{arguments:?}: {text}");
        println!("{arguments:?}:\n{text}");
    }
    let (done, text) = qscale(&["--context-namespace", "default", "policy", "list"]);
    assert!(!done && text.contains("--context-namespace"), "{text}");
}

/// A Knative Service, whose requests are read from the proxies in its pods, and whose replicas Knative's autoscaler keeps as they are decided.
fn knative(world: &World<'_>) {
    let Some(_knative) = world.cluster.start_knative() else { return };
    world.node.import(PROXY_IMAGE, &[world.cluster.assets().join("queue")]);
    world.cluster.apply(&Cluster::knative_service("first", "200m", "64Mi"));
    let pods =
        || world.cluster.get(&["pods", "--selector=serving.knative.dev/service=fib"])["items"].as_array().cloned().unwrap_or_default();
    let ready = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array();
        conditions.is_some_and(|all| all.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True"))
    };
    world.until("a pod of the Knative Service", || pods().first().filter(|pod| ready(pod)).cloned());

    let bounds = json!({ "replicas": { "min": 2, "max": 3 }, "cpu_millicores": { "min": 250, "max": 500 }, "memory_mib": { "min": 32, "max": 128 } });
    let spec = json!({
        "workload": { "kind": "knative_service" }, "agent": "dqn", "mode": "active", "tick": "2s", "bounds": bounds, "on_delete": "restore",
    });
    let metadata = json!({ "name": "fib", "namespace": "default" });
    world.cluster.apply(&json!({ "apiVersion": "qscale.dev/v1alpha1", "kind": "ScalingPolicy", "metadata": metadata, "spec": spec }));
    let _load = world.load("fib-00001-private", "9");
    world.until("pods of the decided size", || {
        let pods = pods();
        let function = |pod: &Value| {
            let statuses = pod["status"]["containerStatuses"].as_array()?;
            statuses.iter().find(|container| container["name"] == "user-container").cloned()
        };
        let cpu = |pod: &Value| function(pod)?["resources"]["limits"]["cpu"].as_str().and_then(quantity::positive);
        (pods.len() >= 2 && pods.iter().all(|pod| ready(pod) && cpu(pod).is_some_and(|cores| cores >= 0.2495))).then_some(())
    });
    let rate = world.until("requests as the proxies count them", || {
        let status = world.cluster.get(&["scp", "fib"])["status"].clone();
        status["measured"]["requestsPerSecond"].as_str()?.parse::<f64>().ok().filter(|rate| *rate > 1.0)
    });
    println!("the proxies of the Knative Service count {rate} requests/s");
    world.cluster.kubectl(&["delete", "scp", "fib", "--timeout=120s"]);
    let annotations = world.cluster.get(&["podautoscaler", "fib-00001"])["metadata"]["annotations"].clone();
    assert!(annotations["autoscaling.knative.dev/max-scale"].is_null(), "{annotations}");
}

/// Faults that the services survive: the leader killed, the API server restarted, a rollout during resizes.
fn faults(world: &World<'_>) {
    let leader = world.until("a leader", || world.leader());
    world.cluster.kubectl(&["delete", "pod", &leader, "--namespace=qscale-system", "--grace-period=0", "--force"]);
    let next = world.until("another leader", || world.leader().filter(|pod| *pod != leader));
    world.change(&json!({ "bounds": { "cpu_millicores": { "min": 250, "max": 500 } } }));
    world.until(&format!("a change by {next}"), || world.pods().iter().all(|pod| has_cpu(pod, 250)).then_some(()));

    world.cluster.restart_api_server();
    world.change(&json!({ "bounds": { "replicas": { "min": 3, "max": 4 } } }));
    world.until("a change after the restart of the API server", || (world.pods().len() >= 3).then_some(()));

    world.cluster.kubectl(&["set", "env", "deployment/fibonacci", "ROLLOUT=1"]);
    world.change(&json!({ "bounds": { "cpu_millicores": { "min": 300, "max": 500 } } }));
    world.cluster.kubectl(&["rollout", "status", "deployment/fibonacci", "--timeout=180s"]);
    world.until("pods of the rollout with the decided size", || {
        let pods = world.pods();
        let all = pods.iter().all(|pod| has_cpu(pod, 300) && pod["spec"]["containers"][0]["env"][0]["name"] == "ROLLOUT");
        (pods.len() >= 3 && all).then_some(())
    });
}

/// Whether the container of a pod has at least `millicores`.
fn has_cpu(pod: &Value, millicores: u32) -> bool {
    let cores = World::actual_cpu(pod).as_deref().map(quantity::positive);
    cores.flatten().is_some_and(|cores| cores * 1000.0 >= f64::from(millicores) - 0.5)
}
