//! A Kubernetes cluster with real pods on this machine, until Ctrl-C: `make cluster`. Owns what is printed about it.

use std::time::Duration;

use qscale_tests::process::binary;
use qscale_tests::{Cluster, RealNode, signals};

fn main() {
    signals::catch();
    let Some(cluster) = Cluster::start_without_nodes() else { std::process::exit(1) };
    let node = RealNode::start(&cluster).unwrap_or_else(|obstacle| {
        eprintln!("error: {obstacle}");
        std::process::exit(1);
    });
    node.import("qscale-function:dev", &binary("qscale-function"));
    let metrics = cluster.start_metrics();
    cluster.kubectl(&["create", "namespace", "qscale-system"]);
    cluster.install_policies();
    println!(
        "The cluster runs: one node with real pods{}, Qscale's custom resource, the image qscale-function:dev.

  export KUBECONFIG={}
  export PATH=$PATH:{}
  kubectl apply -f deploy/cluster/fibonacci.yaml    # a function and its ScalingPolicy
  make up-kubernetes                                # the services, in another shell
  kubectl get pods,scalingpolicies

Pods have no name service and no route to other machines. Ctrl-C ends everything.",
        if metrics.is_some() { ", metrics.k8s.io" } else { "" },
        cluster.kubeconfig().display(),
        cluster.assets().display(),
    );
    while !signals::arrived() {
        std::thread::sleep(Duration::from_millis(200));
    }
    println!("stopping");
    drop((metrics, node));
}
