//! The resource metrics API of a [`Cluster`]: metrics-server, which the HorizontalPodAutoscaler and `kubectl top` read. Owns its start and its registration.

use serde_json::json;

use super::Cluster;
use crate::process::tail;
use crate::{Program, eventually, free_port};

/// The API that it serves.
const API: &str = "v1beta1.metrics.k8s.io";

impl Cluster {
    /// Starts metrics-server and waits until its API is available; `None`, with a message, if the program is missing.
    ///
    /// # Panics
    /// When it does not start although it is there.
    #[must_use]
    pub fn start_metrics(&self) -> Option<Program> {
        if !self.assets.join("metrics-server").is_file() {
            eprintln!("{} has no metrics-server; `deploy/cluster/assets.sh node` builds it", self.assets.display());
            return None;
        }
        let port = free_port();
        let file = |flag: &str, name: &str| format!("--{flag}={}", self.path(name).display());
        let kubeconfigs = ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"];
        let mut arguments: Vec<String> = kubeconfigs.iter().map(|flag| file(flag, "metrics-server.kubeconfig")).collect();
        arguments.extend([
            "--bind-address=127.0.0.1".into(),
            format!("--secure-port={port}"),
            file("tls-cert-file", "server.pem"),
            file("tls-private-key-file", "server.key"),
            "--kubelet-insecure-tls".into(),
            "--kubelet-use-node-status-port".into(),
            "--kubelet-preferred-address-types=InternalIP".into(),
            // The shortest that it accepts.
            "--metric-resolution=10s".into(),
            "--kubelet-request-timeout=5s".into(),
        ]);
        let mut server = self.launch("metrics-server", &arguments);
        // The API server finds it on loopback by a name that it does not look up in the cluster.
        let spec = json!({ "type": "ExternalName", "externalName": "localhost", "ports": [{ "port": port }] });
        let metadata = json!({ "name": "metrics-server", "namespace": "kube-system" });
        self.apply(&json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec }));
        let spec = json!({
            "group": "metrics.k8s.io",
            "version": "v1beta1",
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": true,
            "service": { "name": "metrics-server", "namespace": "kube-system", "port": port },
        });
        self.apply(&json!({ "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": { "name": API }, "spec": spec }));
        eventually("the resource metrics API", || {
            assert!(server.ended().is_none(), "metrics-server ended: {}", tail(&self.path("metrics-server.log")));
            self.try_kubectl(&["wait", "--for=condition=Available", &format!("apiservice/{API}"), "--timeout=2s"]).ok()
        });
        Some(server)
    }
}
