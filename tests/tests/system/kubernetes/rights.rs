//! Rights of the services against what they used: nothing was forbidden, and each granted right was used, or has a reason to be granted.

use std::collections::BTreeSet;

use qscale_tests::Cluster;
use qscale_tests::cluster::{AuditedRequests, Right};

/// Nodes of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NodeKind {
    /// Simulated ones.
    Simulated,
    /// One with real pods.
    Real,
}

const WITHOUT_KNATIVE: &str = "Knative is not there";

/// Rights that a run does not use: service, right, run, and the reason.
const UNUSED: [(&str, &str, NodeKind, &str); 15] = [
    ("collector", "get nodes/metrics", NodeKind::Simulated, "simulated kubelets ask for no rights"),
    ("actuator", "get deployments.apps", NodeKind::Simulated, "one is read after a conflict only"),
    ("actuator", "get statefulsets.apps", NodeKind::Simulated, "one is read after a conflict only"),
    ("actuator", "get podautoscalers.autoscaling.internal.knative.dev", NodeKind::Simulated, WITHOUT_KNATIVE),
    ("actuator", "list podautoscalers.autoscaling.internal.knative.dev", NodeKind::Simulated, WITHOUT_KNATIVE),
    ("actuator", "patch podautoscalers.autoscaling.internal.knative.dev", NodeKind::Simulated, WITHOUT_KNATIVE),
    ("actuator", "get customresourcedefinitions.apiextensions.k8s.io", NodeKind::Simulated, WITHOUT_KNATIVE),
    ("actuator", "get revisions.serving.knative.dev", NodeKind::Simulated, WITHOUT_KNATIVE),
    ("actuator", "patch revisions.serving.knative.dev", NodeKind::Simulated, WITHOUT_KNATIVE),
    ("actuator", "get revisions.serving.knative.dev", NodeKind::Real, "only since Knative 1.21"),
    ("actuator", "patch revisions.serving.knative.dev", NodeKind::Real, "only since Knative 1.21"),
    ("actuator", "get deployments.apps", NodeKind::Real, "one is read after a conflict only"),
    ("actuator", "get statefulsets.apps", NodeKind::Real, "no StatefulSet is scaled there"),
    ("actuator", "update statefulsets/scale.apps", NodeKind::Real, "no StatefulSet is scaled there"),
    ("actuator", "patch events.events.k8s.io", NodeKind::Real, "only an event that recurs is patched"),
];

/// Checks the service account of `service`.
///
/// # Panics
/// When a request was forbidden, or a right is granted without use and reason.
#[track_caller]
pub(super) fn check(cluster: &Cluster, service: &str, nodes: NodeKind) {
    let account = format!("qscale-{service}");
    let AuditedRequests { used, forbidden } = cluster.requests_of(&account);
    assert!(forbidden.is_empty(), "{account} was refused: {forbidden:#?}");
    let granted = cluster.rights_of(&account);
    let unused: BTreeSet<&Right> = granted.iter().filter(|right| !used.contains_key(right)).collect();
    let excused = |right: &Right| UNUSED.iter().any(|(of, text, run, _)| *of == service && right.to_string() == *text && *run == nodes);
    let unexplained: Vec<String> = unused.iter().filter(|right| !excused(right)).map(ToString::to_string).collect();
    assert!(unexplained.is_empty(), "{account} has rights that it does not use: {unexplained:?}; it used {used:#?}");
    let text = used.iter().map(|(right, count)| format!("  {count:>6} {right}\n")).collect::<String>();
    println!("{account}: {} rights granted, {} used, none missing\n{text}", granted.len(), granted.len() - unused.len());
}
