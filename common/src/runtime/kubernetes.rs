//! Kubernetes, as the services read it: connection, watches, workloads, sizes of pods. Must not write: the service does that owns the object.

pub mod cache;
pub mod knative;
pub mod scaled;
pub mod sizing;

use std::path::Path;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ObjectMeta;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Resource};

use crate::name::{FunctionId, Name};

/// Address and credentials of a cluster: those of the file, of `KUBECONFIG` or `~/.kube/config`, or of the service account of the pod.
///
/// # Errors
/// If there are none, or the file is malformed.
pub async fn configuration(kubeconfig: Option<&Path>, context: Option<&str>) -> anyhow::Result<Config> {
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    Ok(match kubeconfig {
        Some(path) => Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &options).await?,
        None if context.is_some() => Config::from_kubeconfig(&options).await?,
        None => Config::infer().await?,
    })
}

/// Access to the objects of a kind in `namespaces`, or in all if there are none.
#[must_use]
pub fn apis<K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(client: &Client, namespaces: &[Name]) -> Vec<Api<K>> {
    match namespaces {
        [] => vec![Api::all(client.clone())],
        some => some.iter().map(|namespace| Api::namespaced(client.clone(), namespace.as_str())).collect(),
    }
}

/// Namespace and name as the identity of a function, if both are DNS labels.
#[must_use]
pub fn function_id(metadata: &ObjectMeta) -> Option<FunctionId> {
    let name = |text: &Option<String>| Name::new(text.as_deref()?).ok();
    Some(FunctionId::new(name(&metadata.namespace)?, name(&metadata.name)?))
}

/// Whether the pod runs or will run.
#[must_use]
pub fn is_alive(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"))
}
