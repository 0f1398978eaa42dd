//! Reports about a ScalingPolicy object: its status, and events for it and its workload. Owns the requests; does not choose the content.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Api, Client, Resource as _};
use qscale_common::contract::Outcome;
use qscale_common::name::FunctionId;
use qscale_common::policy::WorkloadKind;
use serde_json::json;

use super::cluster::FIELD_MANAGER;
use super::resource::{PolicyObject, PolicyStatus};
use super::status;
use crate::backend::WorkloadId;

/// Status and events to write about one object.
pub(super) struct PolicyReport {
    pub function: FunctionId,
    pub status: Option<PolicyStatus>,
    pub events: Vec<Event>,
    /// The object and its workload, which get the events.
    pub about: Vec<ObjectReference>,
}

/// Result of a report.
pub(super) struct WrittenReport {
    pub function: FunctionId,
    /// The status, if it was written.
    pub status: Option<PolicyStatus>,
    /// The first failure.
    pub result: anyhow::Result<()>,
}

impl PolicyReport {
    /// Writes it. After a failure the rest is not tried.
    pub(super) async fn write(self, client: Client, recorder: Recorder) -> WrittenReport {
        let Self { function, status, events, about } = self;
        if let Some(status) = &status
            && let Err(error) = write_status(&client, &function, status).await
        {
            return WrittenReport { function, status: None, result: Err(error) };
        }
        for event in &events {
            for object in &about {
                if let Err(error) = recorder.publish(event, object).await {
                    let error = anyhow::Error::new(error).context("failed to write an event");
                    return WrittenReport { function, status, result: Err(error) };
                }
            }
        }
        WrittenReport { function, status, result: Ok(()) }
    }
}

async fn write_status(client: &Client, function: &FunctionId, status: &PolicyStatus) -> anyhow::Result<()> {
    let api: Api<PolicyObject> = Api::namespaced(client.clone(), function.namespace.as_str());
    let patch = json!({
        "apiVersion": PolicyObject::api_version(&()),
        "kind": PolicyObject::kind(&()),
        "metadata": { "name": function.name.as_str() },
        "status": status,
    });
    match api.patch_status(function.name.as_str(), &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(patch)).await {
        // It is being deleted.
        Err(kube::Error::Api(error)) if error.code == 404 => Ok(()),
        written => {
            written.map(drop).map_err(|error| anyhow::Error::new(error).context(format!("failed to write the status of {function}")))
        }
    }
}

/// The event of `outcome`, with its reason; `None` if it is not worth one. Events with the same action are counted instead of written again, with the first
/// note.
pub(super) fn event(outcome: &Outcome) -> Option<(&'static str, Event)> {
    let (normal, reason, note) = status::event(outcome)?;
    let action = format!("{reason} {}", outcome.allowed.unwrap_or(outcome.requested));
    let type_ = if normal { EventType::Normal } else { EventType::Warning };
    Some((reason, Event { type_, reason: reason.to_owned(), note: Some(note), action, secondary: None }))
}

/// The object of a workload.
pub(super) fn reference(workload: &WorkloadId, uid: Option<String>) -> ObjectReference {
    let (version, kind) = match workload.kind {
        WorkloadKind::StatefulSet => ("apps/v1", "StatefulSet"),
        WorkloadKind::KnativeService => ("serving.knative.dev/v1", "Service"),
        WorkloadKind::Local | WorkloadKind::Deployment => ("apps/v1", "Deployment"),
    };
    ObjectReference {
        api_version: Some(version.into()),
        kind: Some(kind.into()),
        name: Some(workload.name.name.to_string()),
        namespace: Some(workload.name.namespace.to_string()),
        uid,
        ..ObjectReference::default()
    }
}
