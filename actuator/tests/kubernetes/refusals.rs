//! Refusals by a cluster: the status names them, and the change is made once it is possible.

use super::*;

fn quota(limits: &Value) -> Value {
    let metadata = json!({ "name": "quota", "namespace": "default" });
    json!({ "apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": { "hard": limits } })
}

/// Sends States and Actions until condition `kind` is true, and returns its reason and message.
async fn pending(world: &mut World, wanted: Allocation, kind: &str) -> (String, String) {
    loop {
        world.tick_wanting(wanted).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let conditions = world.cluster.get(&["scp", "fib"])["status"]["conditions"].clone();
        let found = conditions.as_array().and_then(|conditions| conditions.iter().find(|condition| condition["type"] == kind)).cloned();
        if let Some(found) = found.filter(|found| found["status"] == "True") {
            let text = |field: &str| found[field].as_str().expect("a text").to_owned();
            return (text("reason"), text("message"));
        }
    }
}

#[track_caller]
fn check((reason, message): (String, String), expected: &str, part: &str) {
    assert!(reason == expected && message.contains(part), "{reason}: {message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_a_range_and_a_lack_of_nodes_are_named_in_the_status() {
    let Some(mut world) = World::start().await else { return };
    let mut actuator = world.actuator();
    let bounds = json!({ "replicas": { "min": 1, "max": 5 }, "cpu_millicores": { "min": 100, "max": 1000 } });
    let spec = json!({ "mode": "active", "agent": "agent", "tick": "1s", "fallback": { "rule": "hold" }, "bounds": bounds });
    world.cluster.apply(&policy("fib", &spec));
    world.condition("fib", "Acting", "True");
    assert_eq!(world.condition("fib", "ReplicasPending", "False"), "None");
    assert_eq!(world.condition("fib", "ResizePending", "False"), "None");

    // Two pods of 200m use all of it.
    world.cluster.apply(&quota(&json!({ "limits.cpu": "400m" })));
    eventually("the use of the quota", || (world.cluster.get(&["quota", "quota"])["status"]["used"]["limits.cpu"] == "400m").then_some(()));
    check(pending(&mut world, allocation(3, 200, 128), "ReplicasPending").await, "FailedCreate", "exceeded quota");
    check(pending(&mut world, allocation(3, 300, 128), "ResizePending").await, "Refused", "exceeded quota");
    assert!(pods(&world.cluster, "fib", 2).iter().all(|pod| pod["spec"]["containers"][0]["resources"]["limits"]["cpu"] == "200m"));

    // With room, what was decided comes true without another decision for the pod that is missing.
    world.cluster.apply(&quota(&json!({ "limits.cpu": "100" })));
    pods(&world.cluster, "fib", 3);
    world.condition("fib", "ReplicasPending", "False");
    world.until(allocation(3, 300, 128), Effect::Applied).await;
    world.condition("fib", "ResizePending", "False");

    let limit = json!({ "type": "Container", "max": { "cpu": "500m" } });
    let metadata = json!({ "name": "range", "namespace": "default" });
    world.cluster.apply(&json!({ "apiVersion": "v1", "kind": "LimitRange", "metadata": metadata, "spec": { "limits": [limit] } }));
    check(pending(&mut world, allocation(3, 600, 128), "ResizePending").await, "Refused", "500m");
    world.cluster.kubectl(&["delete", "limitrange", "range"]);

    world.cluster.kubectl(&["cordon", "node-0", "node-1"]);
    check(pending(&mut world, allocation(4, 300, 128), "ReplicasPending").await, "Unschedulable", "unschedulable");
    world.cluster.kubectl(&["uncordon", "node-0", "node-1"]);
    pods(&world.cluster, "fib", 4);
    world.condition("fib", "ReplicasPending", "False");
    assert!(actuator.stop().success());
}
