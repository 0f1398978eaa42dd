//! A Kubernetes cluster with real pods on this machine, until Ctrl-C: `make cluster`, and `make cluster-install` with the chart in it. Owns what is printed about it.
//!
//! Argument: `--install` installs the chart and applies `deploy/cluster/fibonacci.yaml`.

use std::time::Duration;

use qscale_tests::process::binary;
use qscale_tests::{Cluster, RealNode, signals};

fn main() {
    signals::catch();
    let install = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [only] if only == "--install" => true,
        other => fail(&format!("arguments {other:?}, must be none or --install")),
    };
    let Some(cluster) = Cluster::start_without_nodes() else { std::process::exit(1) };
    let node = RealNode::start(&cluster).unwrap_or_else(|obstacle| fail(&obstacle));
    node.import("qscale-function:dev", &[binary("qscale-function")]);
    let metrics = cluster.start_metrics();
    if install {
        println!("installing the chart");
        if let Err(error) = node.install_chart(&[]) {
            // Ends its pods.
            drop(node);
            fail(&error);
        }
        cluster.install("fibonacci.yaml");
    } else {
        cluster.kubectl(&["create", "namespace", "qscale-system"]);
        cluster.install_policies();
    }
    println!(
        "The cluster runs: one node with real pods{}, {}.

  export KUBECONFIG={}
  export PATH=$PATH:{}",
        if metrics.is_some() { ", metrics.k8s.io" } else { "" },
        if install { "Qscale, and a function that it scales" } else { "Qscale's custom resource, the image qscale-function:dev" },
        cluster.kubeconfig().display(),
        cluster.assets().display(),
    );
    if install {
        println!(
            "  kubectl -n qscale-system get pods
  kubectl get pods,scalingpolicies
  kubectl describe scalingpolicy fibonacci
  qscale-loadgen run --function=fibonacci --protocol=http --target={}:8080 --path='/?n=80000' --rate=9 --for=2m",
            address(&cluster)
        );
    } else {
        println!(
            "  kubectl apply -f deploy/cluster/fibonacci.yaml    # a function and its ScalingPolicy
  make up-kubernetes                                # the services, in another shell
  kubectl get pods,scalingpolicies"
        );
    }
    println!("\nPods have no route to other machines. Ctrl-C ends everything.");
    while !signals::arrived() {
        std::thread::sleep(Duration::from_millis(200));
    }
    println!("stopping");
    drop((metrics, node));
}

/// Address of the function's Service.
fn address(cluster: &Cluster) -> String {
    cluster.get(&["service", "fibonacci"])["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned()
}

fn fail(error: &str) -> ! {
    eprintln!("error: {error}");
    std::process::exit(1);
}
