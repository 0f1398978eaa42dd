//! Why a workload does not have what was decided yet. Owns which conditions of its objects say so; must not send anything.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition};
use k8s_openapi::api::core::v1::{Pod, PodCondition};

/// Condition of a pod whose resize was accepted but not begun.
const PENDING_RESIZE: &str = "PodResizePending";
/// Condition of a pod that is being resized.
const RESIZE_IN_PROGRESS: &str = "PodResizeInProgress";
/// Reason of that condition after a failed attempt, which the kubelet repeats.
const RESIZE_FAILED: &str = "Error";
/// Condition of a pod, false until it has a node, and its reason if none fits.
const SCHEDULED: &str = "PodScheduled";
const UNSCHEDULABLE: &str = "Unschedulable";
/// Condition of a Deployment whose pods cannot be created.
const REPLICA_FAILURE: &str = "ReplicaFailure";
/// Reasons where there are none.
const RESIZE_WAITS: &str = "Pending";
const CREATION_FAILED: &str = "FailedCreate";
/// Reason of a resize that the API server did not accept.
const REFUSED: &str = "Refused";

/// Why something waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pending {
    /// One word.
    pub reason: String,
    pub message: String,
}

impl Pending {
    fn new(reason: Option<&String>, otherwise: &str, message: String) -> Self {
        // A reason of a condition is never empty.
        Self { reason: reason.filter(|reason| !reason.is_empty()).map_or_else(|| otherwise.to_owned(), Clone::clone), message }
    }

    /// A resize that the API server refused with `message`.
    pub(super) fn refused(message: String) -> Self {
        Self { reason: REFUSED.to_owned(), message }
    }

    /// The resize of a pod that waits or failed, or that its node cannot do.
    pub(super) fn resize(pod: &Pod) -> Option<Self> {
        let waits = |condition: &&PodCondition| {
            let failed = condition.reason.as_deref() == Some(RESIZE_FAILED);
            condition.status == "True" && (condition.type_ == PENDING_RESIZE || condition.type_ == RESIZE_IN_PROGRESS && failed)
        };
        of_pod(pod, waits, RESIZE_WAITS)
    }

    /// A pod that no node has room for.
    pub(super) fn pod(pod: &Pod) -> Option<Self> {
        let waits = |condition: &&PodCondition| {
            condition.type_ == SCHEDULED && condition.status == "False" && condition.reason.as_deref() == Some(UNSCHEDULABLE)
        };
        of_pod(pod, waits, UNSCHEDULABLE)
    }

    /// Pods of a Deployment that cannot be created, for example because of a quota.
    pub(super) fn creation(deployment: &Deployment) -> Option<Self> {
        let failed = deployment.status.as_ref()?.conditions.iter().flatten().find(|condition| is_failure(condition))?;
        Some(Self::new(failed.reason.as_ref(), CREATION_FAILED, failed.message.clone().unwrap_or_default()))
    }
}

/// Whether a condition of a Deployment says that its pods cannot be created.
pub(super) fn is_failure(condition: &DeploymentCondition) -> bool {
    condition.type_ == REPLICA_FAILURE && condition.status == "True"
}

/// The condition of a pod that `waits`.
fn of_pod(pod: &Pod, waits: impl FnMut(&&PodCondition) -> bool, otherwise: &str) -> Option<Pending> {
    let condition = pod.status.as_ref()?.conditions.as_ref()?.iter().find(waits)?;
    let message = format!("{}: {}", pod.metadata.name.as_deref().unwrap_or_default(), condition.message.as_deref().unwrap_or_default());
    Some(Pending::new(condition.reason.as_ref(), otherwise, message))
}
