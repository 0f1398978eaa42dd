//! Kinds of object that have replicas and a pod template. Owns what is read of them; must not write.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Resource;
use kube::api::ObjectMeta;
use serde::de::DeserializeOwned;

use super::{function_id, knative};
use crate::policy::{WorkloadId, WorkloadKind};
use crate::units::Replicas;

/// Label that a Deployment gives the pods of one revision of its template; the name of their ReplicaSet ends with its value.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// An object with a scale subresource.
pub trait Scaled: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync {
    /// Its kind.
    const KIND: WorkloadKind;

    /// Replicas that it asks for; 1 if it does not say.
    fn replicas(&self) -> Replicas;

    /// Template of its pods.
    fn template(&self) -> Option<&PodTemplateSpec>;

    /// Labels of its pods.
    fn selector(&self) -> Option<&LabelSelector>;
}

macro_rules! scaled {
    ($kind:ident) => {
        impl Scaled for $kind {
            const KIND: WorkloadKind = WorkloadKind::$kind;

            fn replicas(&self) -> Replicas {
                let replicas = self.spec.as_ref().and_then(|spec| spec.replicas);
                Replicas(replicas.map_or(1, |replicas| u32::try_from(replicas).unwrap_or(0)))
            }

            fn template(&self) -> Option<&PodTemplateSpec> {
                self.spec.as_ref().map(|spec| &spec.template)
            }

            fn selector(&self) -> Option<&LabelSelector> {
                self.spec.as_ref().map(|spec| &spec.selector)
            }
        }
    };
}

scaled!(Deployment);
scaled!(StatefulSet);

/// The identity of an object; `None` if its name or namespace is not a DNS label. A Deployment of a Knative Service is that Service.
#[must_use]
pub fn id<K: Scaled>(object: &K) -> Option<WorkloadId> {
    match knative::service(object.meta()).filter(|_| K::KIND == WorkloadKind::Deployment) {
        Some(service) => named(WorkloadKind::KnativeService, service, object.meta()),
        None => Some(WorkloadId { kind: K::KIND, name: function_id(object.meta())? }),
    }
}

/// The workload `name` in the namespace of `metadata`.
fn named(kind: WorkloadKind, name: &str, metadata: &ObjectMeta) -> Option<WorkloadId> {
    let metadata = ObjectMeta { name: Some(name.to_owned()), namespace: metadata.namespace.clone(), ..ObjectMeta::default() };
    Some(WorkloadId { kind, name: function_id(&metadata)? })
}

/// The workload that controls a pod.
#[must_use]
pub fn owner(pod: &Pod) -> Option<WorkloadId> {
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    let owner = owners.iter().find(|owner| owner.controller == Some(true))?;
    let (kind, name) = match owner.kind.as_str() {
        "StatefulSet" => (WorkloadKind::StatefulSet, owner.name.as_str()),
        "ReplicaSet" => match knative::service(&pod.metadata) {
            Some(service) => (WorkloadKind::KnativeService, service),
            None => {
                let hash = pod.metadata.labels.as_ref()?.get(TEMPLATE_HASH)?;
                (WorkloadKind::Deployment, owner.name.strip_suffix(hash.as_str())?.strip_suffix('-')?)
            }
        },
        _ => return None,
    };
    named(kind, name, &pod.metadata)
}
