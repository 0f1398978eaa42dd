//! A Kubernetes cluster: workloads and pods from watches of the API server, CPU and memory from the kubelets' resource metrics, requests from the endpoints
//! of pods. Owns the limits and the configuration.
//!
//! [`kubelet`] reads nodes, or [`metrics_api`] the API of metrics-server; [`endpoints`] reads pods; [`sweep`] asks all of them
//! at once. [`workloads`] makes measurements of what they answer.

#[cfg(feature = "kubernetes")]
mod cluster;
#[cfg(feature = "kubernetes")]
mod endpoints;
#[cfg(feature = "kubernetes")]
mod kubelet;
#[cfg(feature = "kubernetes")]
mod metrics_api;
#[cfg(feature = "kubernetes")]
mod sweep;
#[cfg(feature = "kubernetes")]
mod workloads;

use std::path::PathBuf;

use qscale_common::name::Name;
use qscale_common::range::{check_number, check_span};
use qscale_common::time::Span;
use serde::{Deserialize, Serialize};

#[cfg(feature = "kubernetes")]
pub use cluster::Cluster;

/// Configuration of a Kubernetes cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename = "KubernetesSource", default, deny_unknown_fields)]
pub struct KubernetesConfig {
    /// File with the address and credentials; absent: that of `KUBECONFIG` or `~/.kube/config`, else the service account of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
    /// Context in that file; absent: its current one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// Namespaces of the workloads; empty: all.
    pub namespaces: Vec<Name>,
    /// Timeout of one reading, 1 ms to 1 min. A node or pod that needs longer than a quarter of it is read late, and after three quarters left out.
    pub timeout: Span,
    /// Source of CPU and memory.
    pub usage: UsageSource,
    /// Path of the resource metrics of a kubelet, unless the node has the annotation `metrics.k8s.io/resource-metrics-path`.
    pub kubelet_path: String,
    /// Whether the certificates of kubelets are accepted without a check, as they are self-signed in many clusters.
    pub insecure_kubelets: bool,
    /// Nodes that are read at the same time, and as many pods, 1 to 1024.
    pub concurrency: u32,
    /// Largest answer of a kubelet that is read, MiB, 1 to 1024. That of a pod has 4 MiB at most.
    pub max_body_mib: u32,
}

/// Source of CPU and memory of pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UsageSource {
    /// The resource metrics of each kubelet, as fresh as a reading.
    #[default]
    Kubelets,
    /// metrics.k8s.io, the API of metrics-server: means over windows of some 15 s.
    MetricsApi,
}

impl Default for KubernetesConfig {
    fn default() -> Self {
        Self {
            kubeconfig: None,
            context: None,
            namespaces: Vec::new(),
            timeout: Span::seconds(2),
            usage: UsageSource::default(),
            kubelet_path: "/metrics/resource".into(),
            insecure_kubelets: false,
            concurrency: 32,
            max_body_mib: 50,
        }
    }
}

impl KubernetesConfig {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        check_span("timeout", self.timeout, Span::millis(1), Span::seconds(60))?;
        check_number("concurrency", self.concurrency, 1, 1024)?;
        check_number("max_body_mib", self.max_body_mib, 1, 1024)?;
        let path = &self.kubelet_path;
        anyhow::ensure!(path.starts_with('/'), "kubelet_path = `{path}`, must begin with `/`");
        Ok(())
    }
}

#[cfg(feature = "kubernetes")]
fn milliseconds(time: &k8s_openapi::jiff::Timestamp) -> qscale_common::time::Timestamp {
    qscale_common::time::Timestamp(u64::try_from(time.as_millisecond()).unwrap_or_default())
}
