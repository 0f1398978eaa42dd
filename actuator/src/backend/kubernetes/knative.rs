//! Replicas of Knative Services. Knative's autoscaler keeps the number of replicas of a revision between two annotations; both get the decided number. Knative
//! still starts a Service from zero when a request arrives. Owns the annotations; must not decide.
//!
//! Since 1.21 Knative copies the annotations of a Revision to its PodAutoscaler whenever they change. Before, it did so only once, and a change of those of the
//! Revision replaces all pods; so they are written to the PodAutoscaler.

use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, ObjectMeta, Patch, PatchParams};
use kube::{Api, Client};
use qscale_common::policy::WorkloadId;
use qscale_common::runtime::kubernetes::knative;
use qscale_common::units::Replicas;
use serde_json::{Map, Value, json};

use super::cluster::{Attempt, FIELD_MANAGER};
use crate::backend::BackendError;

/// Annotations with the fewest and the most replicas of a revision; no most ones: as many as its load needs.
const BOUNDS: [&str; 2] = ["autoscaling.knative.dev/min-scale", "autoscaling.knative.dev/max-scale"];
/// Annotation of a PodAutoscaler that keeps them as they were before the first change, as a JSON array.
const ORIGINAL: &str = "qscale.dev/original-scale";
/// Definition of the PodAutoscaler, and its label with the version of Knative.
const DEFINITION: &str = "podautoscalers.autoscaling.internal.knative.dev";
const VERSION: &str = "app.kubernetes.io/version";
/// First version that copies the annotations of a Revision whenever they change.
const COPIES_SINCE: (u32, u32) = (1, 21);

/// The objects that hold the replicas of a revision, as they were read.
pub(super) struct RevisionScale {
    autoscaler: Object,
    /// Absent if Knative does not copy its annotations.
    revision: Option<Object>,
}

struct Object {
    api: Api<DynamicObject>,
    metadata: ObjectMeta,
}

impl Object {
    fn annotation(&self, name: &str) -> Option<&String> {
        self.metadata.annotations.as_ref()?.get(name)
    }

    async fn annotate(&self, annotations: &Map<String, Value>) -> Result<(), kube::Error> {
        let metadata = json!({ "resourceVersion": self.metadata.resource_version, "annotations": annotations });
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let name = self.metadata.name.as_deref().unwrap_or_default();
        self.api.patch_metadata(name, &params, &Patch::Merge(json!({ "metadata": metadata }))).await.map(drop)
    }
}

/// Objects of a kind of Knative in a namespace.
fn objects(client: &Client, namespace: &str, group: &str, version: &str, kind: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind)))
}

fn autoscalers(client: &Client, namespace: &str) -> Api<DynamicObject> {
    objects(client, namespace, "autoscaling.internal.knative.dev", "v1alpha1", "PodAutoscaler")
}

fn revisions(client: &Client, namespace: &str) -> Api<DynamicObject> {
    objects(client, namespace, "serving.knative.dev", "v1", "Revision")
}

/// Whether Knative copies the annotations of a Revision whenever they change.
async fn copies_annotations(client: &Client) -> Result<bool, kube::Error> {
    let definition = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let definitions: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::from_gvk(&definition));
    let labels = definitions.get_metadata(DEFINITION).await?.metadata.labels;
    Ok(labels.as_ref().and_then(|labels| labels.get(VERSION)).is_some_and(|version| is_copying(version)))
}

/// Whether a version, such as `1.21.0` or `v1.21.0`, copies them.
fn is_copying(version: &str) -> bool {
    let mut parts = version.trim_start_matches('v').split('.').map_while(|part| part.parse().ok());
    parts.next().zip(parts.next()).is_some_and(|version| version >= COPIES_SINCE)
}

impl RevisionScale {
    /// That of the revision of `deployment`.
    pub(super) async fn read(client: &Client, deployment: &ObjectMeta) -> Result<Self, Attempt> {
        let namespace = deployment.namespace.as_deref().unwrap_or_default();
        let unnamed = || Attempt::Failed(BackendError::Invalid("the Deployment names no revision of Knative".into()));
        let name = knative::revision(deployment).ok_or_else(unnamed)?;
        let read = async |api: Api<DynamicObject>| {
            let metadata = api.get_metadata(name).await?.metadata;
            Ok::<_, kube::Error>(Object { api, metadata })
        };
        Self::complete(client, read(autoscalers(client, namespace)).await?, namespace).await.map_err(Attempt::from)
    }

    /// That of a PodAutoscaler, whose Revision has the same name.
    async fn complete(client: &Client, autoscaler: Object, namespace: &str) -> Result<Self, kube::Error> {
        let mut revision = None;
        if copies_annotations(client).await? {
            let api = revisions(client, namespace);
            let metadata = api.get_metadata(autoscaler.metadata.name.as_deref().unwrap_or_default()).await?.metadata;
            revision = Some(Object { api, metadata });
        }
        Ok(Self { autoscaler, revision })
    }

    /// The object whose annotations Knative obeys.
    fn obeyed(&self) -> &Object {
        self.revision.as_ref().unwrap_or(&self.autoscaler)
    }

    /// Sets the number of replicas, unless the objects have it. It is refused if they have changed since they were read.
    pub(super) async fn write(&self, replicas: Replicas) -> Result<(), Attempt> {
        let wanted = bounds(replicas);
        let obeyed = self.obeyed();
        if BOUNDS.iter().zip(&wanted).all(|(name, value)| obeyed.annotation(name) == Some(value)) {
            return Ok(());
        }
        let mut annotations: Map<String, Value> =
            BOUNDS.iter().zip(&wanted).map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        if self.autoscaler.annotation(ORIGINAL).is_none() {
            let original = json!(BOUNDS.map(|name| obeyed.annotation(name))).to_string();
            if self.revision.is_some() {
                // The pods of a Revision get its other annotations.
                self.autoscaler.annotate(&Map::from_iter([(ORIGINAL.to_owned(), json!(original))])).await?;
            } else {
                annotations.insert(ORIGINAL.to_owned(), json!(original));
            }
        }
        Ok(obeyed.annotate(&annotations).await?)
    }

    /// Restores the annotations from before the first change, if there was one.
    async fn release(&self) -> Result<(), kube::Error> {
        let Some(original) = self.autoscaler.annotation(ORIGINAL) else { return Ok(()) };
        let original: [Option<String>; 2] = serde_json::from_str(original).unwrap_or_default();
        let mut annotations: Map<String, Value> =
            BOUNDS.iter().zip(original).map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let unmarked = (ORIGINAL.to_owned(), Value::Null);
        let Some(revision) = &self.revision else {
            annotations.extend([unmarked]);
            return self.autoscaler.annotate(&annotations).await;
        };
        revision.annotate(&annotations).await?;
        self.autoscaler.annotate(&Map::from_iter([unmarked])).await
    }
}

/// The fewest and the most replicas, so that there are `replicas`. From zero Knative starts one.
fn bounds(replicas: Replicas) -> [String; 2] {
    [replicas.0.to_string(), replicas.0.max(1).to_string()]
}

/// Gives the replicas of `service` back to Knative's autoscaler.
pub(super) async fn release(client: &Client, service: &WorkloadId) -> Result<(), kube::Error> {
    let namespace = service.name.namespace.as_str();
    let api = autoscalers(client, namespace);
    let own = ListParams::default().labels(&format!("{}={}", knative::SERVICE, service.name.name));
    let found = match api.list_metadata(&own).await {
        Ok(found) => found.items,
        // Knative is gone.
        Err(kube::Error::Api(status)) if status.code == 404 => Vec::new(),
        Err(error) => return Err(error),
    };
    for found in found {
        let autoscaler = Object { api: api.clone(), metadata: found.metadata };
        RevisionScale::complete(client, autoscaler, namespace).await?.release().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_of_revisions_are_copied_since_a_version() {
        for (version, expected) in
            [("1.20.4", false), ("1.21.0", true), ("v1.21.3", true), ("2.0.0", true), ("devel", false), ("", false), ("1", false)]
        {
            assert_eq!(is_copying(version), expected, "{version}");
        }
    }

    #[test]
    fn a_service_without_replicas_may_be_started() {
        assert_eq!(bounds(Replicas(3)), ["3", "3"]);
        assert_eq!(bounds(Replicas(0)), ["0", "1"]);
    }
}
