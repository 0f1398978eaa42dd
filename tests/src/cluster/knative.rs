//! Knative Serving in a [`Cluster`]: its definitions, and its controllers and autoscaler in one process. Owns their start; there is no ingress, and no webhook.

use std::process::Command;

use serde_json::{Value, json};

use super::Cluster;
use crate::Program;

/// Namespace of its configuration.
const NAMESPACE: &str = "knative-serving";
/// File with its definitions and its default configuration.
const DEFINITIONS: &str = "knative.yaml";
/// Names of its parts of the configuration, which the programs take from the environment.
const CONFIGURATION: [(&str, &str); 5] = [
    ("SYSTEM_NAMESPACE", NAMESPACE),
    ("METRICS_DOMAIN", "knative.dev/serving"),
    ("CONFIG_LOGGING_NAME", "config-logging"),
    ("CONFIG_OBSERVABILITY_NAME", "config-observability"),
    ("CONFIG_LEADERELECTION_NAME", "config-leader-election"),
];
/// Image of the function of a Knative Service.
pub const FUNCTION_IMAGE: &str = "qscale-function:dev";
/// Image of the proxy in its pods.
pub const PROXY_IMAGE: &str = "queue:dev";
/// Registry of images whose name has none; Knative is not to look them up there.
const REGISTRY: &str = "index.docker.io";

impl Cluster {
    /// Starts Knative; `None`, with a message, if its programs are missing.
    ///
    /// # Panics
    /// When it does not start although it is there.
    #[must_use]
    pub fn start_knative(&self) -> Option<Program> {
        let (program, definitions) = (self.assets.join("knative"), self.assets.join(DEFINITIONS));
        if !program.is_file() || !definitions.is_file() {
            eprintln!("skipped: {} has no knative; `make kube-assets` builds it", self.assets.display());
            return None;
        }
        self.kubectl(&["create", "namespace", NAMESPACE]);
        let file = definitions.display().to_string();
        // Server-side: the definitions are too long for the annotation that it writes otherwise. The second time objects of the new kinds are known, too.
        let apply = ["apply", "--server-side", "--force-conflicts", "--filename", &file];
        let _of_unknown_kinds = self.try_kubectl(&apply);
        self.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"]);
        self.kubectl(&apply);
        let deployments = json!({ "data": {
            "queue-sidecar-image": PROXY_IMAGE,
            "registries-skipping-tag-resolving": REGISTRY,
        } });
        self.kubectl(&["patch", "configmap", "config-deployment", "-n", NAMESPACE, "--type=merge", "-p", &deployments.to_string()]);
        let mut command = Command::new(&program);
        command.arg(format!("-kubeconfig={}", self.kubeconfig().display())).envs(CONFIGURATION);
        Some(Program::spawn(command, &self.path("knative.log")))
    }

    /// A Knative Service `fib` whose function has `cpu` and `memory`, and this `revision`, with the defaults that a webhook would add.
    #[must_use]
    pub fn knative_service(revision: &str, cpu: &str, memory: &str) -> Value {
        let resources = json!({ "requests": { "cpu": cpu, "memory": memory }, "limits": { "cpu": cpu, "memory": memory } });
        let container = json!({
            "name": "user-container",
            "image": FUNCTION_IMAGE,
            "args": ["fibonacci", "--addr", "0.0.0.0", "--port", "8080"],
            "ports": [{ "containerPort": 8080 }],
            "env": [{ "name": "REVISION", "value": revision }],
            "readinessProbe": { "successThreshold": 1, "tcpSocket": { "port": 0 } },
            "resources": resources,
        });
        let spec = json!({ "containerConcurrency": 0, "timeoutSeconds": 300, "enableServiceLinks": false, "containers": [container] });
        let annotations = json!({ "autoscaling.knative.dev/class": "kpa.autoscaling.knative.dev" });
        let template = json!({ "metadata": { "annotations": annotations }, "spec": spec });
        let traffic = json!([{ "latestRevision": true, "percent": 100 }]);
        let metadata = json!({ "name": "fib", "namespace": "default" });
        let spec = json!({ "template": template, "traffic": traffic });
        json!({ "apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": metadata, "spec": spec })
    }
}
