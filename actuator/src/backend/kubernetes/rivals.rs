//! Other autoscalers of the same workloads: HorizontalPodAutoscalers, acting VerticalPodAutoscalers and ScaledObjects. Owns which of them acts on what; must not
//! change anything.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use qscale_common::name::Name;
use qscale_common::policy::import::AutoscalerKind;
use qscale_common::runtime::clock;

use super::requests::{backend_error, pages};
use crate::backend::{BackendError, WorkloadId};

/// Time after which a kind that a cluster does not have, or that may not be read, is asked for again.
const ABSENT_FOR: Duration = Duration::from_secs(300);

/// How objects of a kind are read.
struct RivalKind {
    kind: AutoscalerKind,
    group: &'static str,
    version: &'static str,
    /// Whether an object of it changes its workload.
    acts: fn(&DynamicObject) -> bool,
}

/// All kinds. A ScaledObject makes a HorizontalPodAutoscaler of its own, so it comes first: deleting it deletes both.
const KINDS: [RivalKind; 3] = [
    RivalKind { kind: AutoscalerKind::ScaledObject, group: "keda.sh", version: "v1alpha1", acts: is_not_paused },
    RivalKind { kind: AutoscalerKind::Hpa, group: "autoscaling", version: "v2", acts: |_| true },
    RivalKind { kind: AutoscalerKind::Vpa, group: "autoscaling.k8s.io", version: "v1", acts: is_not_off },
];

/// KEDA pauses a ScaledObject by these annotations.
fn is_not_paused(object: &DynamicObject) -> bool {
    let annotations = object.metadata.annotations.as_ref();
    let value = |name: &str| annotations.and_then(|annotations| annotations.get(name));
    let paused = value("autoscaling.keda.sh/paused").is_some_and(|value| value == "true");
    !paused && value("autoscaling.keda.sh/paused-replicas").is_none()
}

/// A VerticalPodAutoscaler without a mode acts.
fn is_not_off(object: &DynamicObject) -> bool {
    object.data["spec"]["updatePolicy"]["updateMode"] != "Off"
}

/// Autoscalers of one kind by their workloads, as `kind/name`.
type FoundRivals = Vec<(WorkloadId, String)>;

/// Finds other autoscalers.
#[derive(Debug, Default)]
pub(super) struct RivalFinder {
    kinds: Mutex<HashMap<&'static str, LastRead>>,
}

/// The last attempt to read a kind.
#[derive(Debug, Clone)]
struct LastRead {
    /// Those that were found last.
    found: FoundRivals,
    /// When the kind was not there, or could not be read.
    absent_at: Option<Instant>,
}

impl RivalFinder {
    /// The autoscaler of each workload that has one, as `kind/name`.
    pub(super) async fn find(&self, client: &Client, namespaces: &[Name]) -> Result<HashMap<WorkloadId, String>, BackendError> {
        let mut rivals = HashMap::new();
        for kind in &KINDS {
            for (workload, name) in self.of_kind(client, namespaces, kind).await? {
                rivals.entry(workload).or_insert(name);
            }
        }
        Ok(rivals)
    }

    async fn of_kind(&self, client: &Client, namespaces: &[Name], kind: &RivalKind) -> Result<FoundRivals, BackendError> {
        let last = self.kinds.lock().unwrap_or_else(PoisonError::into_inner).get(kind.kind.name()).cloned();
        if let Some(LastRead { found, absent_at: Some(at) }) = &last
            && clock::since(*at) < ABSENT_FOR
        {
            return Ok(found.clone());
        }
        let read = match list(client, namespaces, kind).await {
            Ok(found) => LastRead { found, absent_at: None },
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => {
                tracing::debug!(kind = kind.kind.name(), error = status.message, "no autoscalers of this kind can be read");
                // Without the right to read them, those that were there count as if they still were.
                let found = last.filter(|_| status.code == 403).map(|last| last.found).unwrap_or_default();
                LastRead { found, absent_at: Some(clock::instant()) }
            }
            Err(error) => return Err(backend_error(error)),
        };
        let found = read.found.clone();
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner).insert(kind.kind.name(), read);
        Ok(found)
    }
}

async fn list(client: &Client, namespaces: &[Name], kind: &RivalKind) -> Result<FoundRivals, kube::Error> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(kind.group, kind.version, kind.kind.name()));
    let apis: Vec<Api<DynamicObject>> = match namespaces {
        [] => vec![Api::all_with(client.clone(), &resource)],
        some => some.iter().map(|namespace| Api::namespaced_with(client.clone(), namespace.as_str(), &resource)).collect(),
    };
    let mut found = Vec::new();
    for api in apis {
        for object in pages(&api).await?.iter().filter(|object| (kind.acts)(object)) {
            let name = object.metadata.name.as_deref().unwrap_or_default();
            // One of another kind of workload is no rival.
            let workload = kind.kind.workload(object.metadata.namespace.as_deref(), &object.data["spec"]).ok();
            found.extend(workload.map(|workload| (workload, format!("{}/{name}", kind.kind.name()))));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(kind: &RivalKind, annotations: Value, spec: Value) -> DynamicObject {
        let metadata = json!({ "name": "old", "namespace": "shop", "annotations": annotations });
        serde_json::from_value(json!({ "apiVersion": "v1", "kind": kind.kind.name(), "metadata": metadata, "spec": spec }))
            .expect("an object")
    }

    #[test]
    fn an_autoscaler_that_changes_nothing_is_no_rival() {
        let [keda, hpa, vpa] = &KINDS;
        let none = json!({});
        for (kind, annotations, spec, acts) in [
            (keda, none.clone(), none.clone(), true),
            (keda, json!({ "autoscaling.keda.sh/paused": "true" }), none.clone(), false),
            (keda, json!({ "autoscaling.keda.sh/paused": "false" }), none.clone(), true),
            (keda, json!({ "autoscaling.keda.sh/paused-replicas": "2" }), none.clone(), false),
            (hpa, none.clone(), none.clone(), true),
            (vpa, none.clone(), none.clone(), true),
            (vpa, none.clone(), json!({ "updatePolicy": { "updateMode": "Initial" } }), true),
            (vpa, none.clone(), json!({ "updatePolicy": { "updateMode": "Off" } }), false),
        ] {
            let object = object(kind, annotations, spec);
            assert_eq!((kind.acts)(&object), acts, "{object:?}");
        }
    }
}
