//! Knative Services, with the controllers and the autoscaler of Knative itself.

use super::*;

const BOUNDS: [&str; 2] = ["autoscaling.knative.dev/min-scale", "autoscaling.knative.dev/max-scale"];

/// Waits for `count` running pods of `revision`, and returns them.
fn pods_of(cluster: &Cluster, revision: &str, count: usize) -> Vec<Value> {
    eventually(&format!("{count} pods of {revision}"), || {
        let list = cluster.get(&["pods", "-l", &format!("serving.knative.dev/revision={revision}")]);
        let alive = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
        let pods: Vec<Value> = list["items"].as_array()?.iter().filter(alive).cloned().collect();
        let running = pods.iter().all(|pod| pod["status"]["phase"] == "Running");
        (running && pods.len() == count).then_some(pods)
    })
}

/// Limits of the containers of `pod`, by name.
fn limits(pod: &Value) -> Value {
    let containers = pod["spec"]["containers"].as_array().expect("containers").iter();
    containers.map(|container| (container["name"].as_str().expect("a name").to_owned(), container["resources"]["limits"].clone())).collect()
}

/// The fewest and the most replicas of the PodAutoscaler of `revision`.
fn bounds(cluster: &Cluster, revision: &str) -> [Value; 2] {
    let autoscaler = cluster.get(&["podautoscaler", revision]);
    BOUNDS.map(|name| autoscaler["metadata"]["annotations"][name].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_knative_service_is_scaled_across_its_revisions_and_given_back() {
    let Some(mut world) = World::start().await else { return };
    let Some(_knative) = world.cluster.start_knative() else { return };
    world.cluster.kubectl(&["delete", "deployment", "fib"]);
    world.cluster.install("chart/files/pod-sizes.yaml");
    world.cluster.apply(&Cluster::knative_service("first", "200m", "128Mi"));
    let before = pods_of(&world.cluster, "fib-00001", 1);
    let template = world.cluster.get(&["deployment", "fib-00001-deployment"])["spec"]["template"].clone();

    let mut actuator = world.actuator();
    let workload = json!({ "kind": "knative_service" });
    let spec = json!({
        "workload": workload, "mode": "active", "agent": "agent", "tick": "1s", "fallback": { "rule": "hold" }, "on_delete": "restore",
        "bounds": { "replicas": { "min": 0, "max": 5 } },
    });
    world.cluster.apply(&policy("fib", &spec));
    world.finalizer(true);
    world.until(allocation(3, 300, 192), Effect::Applied).await;
    let pods = pods_of(&world.cluster, "fib-00001", 3);
    assert_eq!(bounds(&world.cluster, "fib-00001"), ["3", "3"]);
    let decided = json!({ "cpu": "300m", "memory": "192Mi" });
    eventually("the sizes", || {
        pods_of(&world.cluster, "fib-00001", 3).iter().all(|pod| limits(pod)["user-container"] == decided).then_some(())
    });
    let kept = pods.iter().find(|pod| pod["metadata"]["uid"] == before[0]["metadata"]["uid"]).expect("the first pod was not replaced");
    assert_eq!(limits(kept)["queue-proxy"], limits(&before[0])["queue-proxy"], "the proxy keeps its size");
    assert_eq!(world.cluster.get(&["deployment", "fib-00001-deployment"])["spec"]["template"], template, "the template is not written");
    let status = world.cluster.get(&["scp", "fib"])["status"].clone();
    assert_eq!(status["target"], "ksvc/fib");
    eventually("the allocation in the status", || {
        (world.cluster.get(&["scp", "fib"])["status"]["allocation"]["text"] == "3 x 300m 192Mi").then_some(())
    });

    let about = |event: &&Value| event["reason"] == "Scaled" && event["regarding"]["kind"] == "Service";
    let event = eventually("an event about the Service", || {
        let events = world.cluster.get(&["events.events.k8s.io"])["items"].clone();
        events.as_array()?.iter().find(about).cloned()
    });
    assert_eq!((&event["regarding"]["name"], &event["regarding"]["uid"]), (&json!("fib"), &Value::Null), "not the uid of its Deployment");

    // The next revision gets what was decided.
    world.cluster.apply(&Cluster::knative_service("second", "200m", "128Mi"));
    pods_of(&world.cluster, "fib-00002", 3);
    assert_eq!(bounds(&world.cluster, "fib-00002"), ["3", "3"]);
    eventually("the sizes of the next revision", || {
        pods_of(&world.cluster, "fib-00002", 3).iter().all(|pod| limits(pod)["user-container"] == decided).then_some(())
    });

    // Without replicas, Knative may start one.
    world.until(allocation(0, 300, 192), Effect::Applied).await;
    assert_eq!(bounds(&world.cluster, "fib-00002"), ["0", "1"]);

    world.cluster.kubectl(&["delete", "scp", "fib", "--timeout=60s"]);
    for revision in ["fib-00001", "fib-00002"] {
        assert_eq!(bounds(&world.cluster, revision), [Value::Null, Value::Null], "{revision} has its own bounds again");
    }
    assert!(world.events("Restored").contains("ksvc/fib has its original allocation again"));
    assert!(actuator.stop().success());
}
