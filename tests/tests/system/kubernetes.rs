//! The services with a Kubernetes cluster: a real control plane with simulated nodes, whose pods say what they use.

mod chart;
mod pods;
mod rights;

use std::time::Duration;

use qscale_tests::{Cluster, System, within};
use serde_json::{Value, json};

/// Long enough for several decisions of a rule that decides every 15 s.
const DECISIONS: Duration = Duration::from_secs(180);

fn policy(mode: &str) -> Value {
    let bounds = json!({ "replicas": { "min": 1, "max": 3 } });
    let spec = json!({ "agent": "threshold", "mode": mode, "tick": "1s", "bounds": bounds });
    let metadata = json!({ "name": "fib", "namespace": "default" });
    json!({ "apiVersion": "qscale.dev/v1alpha1", "kind": "ScalingPolicy", "metadata": metadata, "spec": spec })
}

#[test]
fn a_workload_follows_its_use_first_in_recommendations() {
    let Some(cluster) = Cluster::start() else { return };
    cluster.kubectl(&["create", "namespace", "qscale-system"]);
    cluster.install_policies();
    cluster.apply(&Cluster::deployment(1, "400m"));
    let mut system = System::up_with(&["--backend", "kubernetes", "--insecure-kubelets"], None, |command| {
        command.env("KUBECONFIG", cluster.kubeconfig());
    });
    cluster.apply(&policy("recommend"));
    let replicas = || cluster.get(&["deployment", "fib"])["spec"]["replicas"].clone();
    let recommended = within(DECISIONS, "a recommendation", || {
        let status = cluster.get(&["scp", "fib"])["status"].clone();
        (status["recommendation"]["replicas"] == 2).then_some(status)
    });
    assert_eq!(recommended["estimatedSaving"], "-100 %");
    let cpu = recommended["measured"]["cpu"].as_str().and_then(|cpu| cpu.strip_suffix('m')?.parse::<f64>().ok());
    assert!(cpu.is_some_and(|cpu| (250.0..550.0).contains(&cpu)), "{recommended}");
    assert_eq!(replicas(), 1, "nothing is changed");

    cluster.apply(&policy("active"));
    within(DECISIONS, "the largest number of replicas", || (replicas() == 3).then_some(()));
    let table = cluster.kubectl(&["get", "scp"]);
    assert!(table.contains("deployment/fib") && table.contains("threshold"), "{table}");

    within(DECISIONS, "the smallest number of replicas", || {
        // Pods are replaced meanwhile: one that is listed may be gone, and a new one uses as much as its template says.
        let _replaced = cluster.try_kubectl(&["annotate", "--overwrite", "pods", "-l", "app=fib", "qscale.dev/uses-cpu=50m"]);
        (replicas() == 1).then_some(())
    });
    for arguments in [["policy", "list"], ["why", "fib"]] {
        let output = system.qscale(&arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.contains("threshold"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(system.stop(), "{}", system.tail());
}
