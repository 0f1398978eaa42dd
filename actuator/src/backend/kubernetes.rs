//! A Kubernetes cluster. Owns its configuration; what it does is compiled only with the feature `kubernetes`.

#[cfg(feature = "kubernetes")]
mod cluster;
#[cfg(feature = "kubernetes")]
mod fence;
#[cfg(feature = "kubernetes")]
mod finalizer;
#[cfg(feature = "kubernetes")]
mod knative;
#[cfg(feature = "kubernetes")]
mod objects;
#[cfg(feature = "kubernetes")]
mod pending;
#[cfg(feature = "kubernetes")]
mod policies;
#[cfg(feature = "kubernetes")]
mod reports;
#[cfg(feature = "kubernetes")]
mod requests;
#[cfg(feature = "kubernetes")]
mod resource;
#[cfg(feature = "kubernetes")]
mod rivals;
#[cfg(feature = "kubernetes")]
mod status;

use std::path::PathBuf;
use std::sync::Arc;

#[cfg(feature = "kubernetes")]
pub use cluster::KubernetesBackend;
use qscale_common::name::Name;
use qscale_common::range::check_span;
use qscale_common::time::Span;
#[cfg(feature = "kubernetes")]
pub use resource::PolicyObject;
use serde::{Deserialize, Serialize};

use super::PlatformBackend;

/// Configuration of a Kubernetes cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename = "KubernetesConfig", default, deny_unknown_fields)]
pub struct KubernetesBackendConfig {
    /// File with the address and credentials; absent: that of `KUBECONFIG` or `~/.kube/config`, else the service account of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
    /// Context in that file; absent: its current one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// Namespaces of the workloads; empty: all.
    pub namespaces: Vec<Name>,
    /// Namespace of the Lease object that holds the fencing token.
    pub lease_namespace: Name,
    /// Timeout of one change of a workload, retries included, 10 ms to 1 min. Must be less than a sixth of `lease.ttl`.
    pub timeout: Span,
}

impl Default for KubernetesBackendConfig {
    fn default() -> Self {
        let lease_namespace = Name::new("qscale-system").expect("a DNS label");
        Self { kubeconfig: None, context: None, namespaces: Vec::new(), lease_namespace, timeout: Span::millis(900) }
    }
}

impl KubernetesBackendConfig {
    pub(super) fn check(&self, lease: Span) -> anyhow::Result<()> {
        check_span("platform.timeout", self.timeout, Span::millis(10), Span::seconds(60))?;
        let timeout = self.timeout;
        anyhow::ensure!(timeout.0 * 6 < lease.0, "platform.timeout = {timeout}, must be less than a sixth of lease.ttl = {lease}");
        Ok(())
    }

    #[cfg(feature = "kubernetes")]
    pub(super) fn open(&self) -> anyhow::Result<Arc<dyn PlatformBackend>> {
        Ok(Arc::new(KubernetesBackend::new(self.clone())))
    }

    #[cfg(not(feature = "kubernetes"))]
    pub(super) fn open(&self) -> anyhow::Result<Arc<dyn PlatformBackend>> {
        anyhow::bail!("platform.backend = kubernetes is not part of this program; build it with `--features qscale-actuator/kubernetes`")
    }
}
