//! The status of a ScalingPolicy object from what its actuator knows. Owns the conditions and their reasons; must not send anything.

use std::borrow::Cow;

use qscale_common::contract::{DecisionSource, Effect, Outcome, State};
use qscale_common::policy::{Mode, Prices, ScalingPolicy, WorkloadKind};
use qscale_common::text;
use qscale_common::time::Timestamp;
use qscale_common::units::Allocation;
use strum::IntoStaticStr;

use super::pending::Pending;
use super::resource::{DecisionStatus, Measured, PodSize, PolicyCondition, PolicyStatus};
use crate::backend::WorkloadStatus;

/// Knowledge of one policy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    pub generation: Option<i64>,
    /// The policy, or why it is not in use.
    pub policy: Result<&'a ScalingPolicy, &'a Unused>,
    /// The workload; `None` if the platform does not have it or was not read yet.
    pub workload: Option<&'a WorkloadStatus>,
    /// Size that was decided for new pods; `None` if this actuator has decided none.
    pub pod_size: Option<&'a PodSize>,
    /// Whether the platform was read.
    pub platform_read: bool,
    /// Another autoscaler of the workload.
    pub rival: Option<&'a str>,
    pub frozen: bool,
    /// Why pods do not have their size.
    pub pending_resize: Option<&'a Pending>,
    /// Why there are fewer pods than decided.
    pub pending_replicas: Option<&'a Pending>,
    /// The last State, and when it arrived.
    pub state: Option<(&'a State, Timestamp)>,
    /// The last decision of the agent, the fallback or an operator.
    pub decision: Option<&'a Outcome>,
}

/// Why a policy is not in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unused {
    /// A field is invalid.
    Invalid(String),
    /// An older policy is for the same workload.
    Conflict(String),
    /// It could not be written to the bucket.
    NotWritten(String),
    /// The object is being deleted.
    Deleted,
}

/// The conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
pub(super) enum ConditionKind {
    Ready,
    Acting,
    Fallback,
    Stale,
    NoLatencySource,
    Conflict,
    ResizePending,
    ReplicasPending,
}

/// The status at `now`; conditions that are as `before` keep their time.
pub(super) fn status(facts: &Facts<'_>, before: &PolicyStatus, now: Timestamp) -> PolicyStatus {
    let policy = facts.policy.ok();
    let present = facts.workload.map(|workload| workload.desired);
    let allowed = facts.decision.and_then(|decision| decision.allowed);
    let conditions =
        [ready(facts), acting(facts), fallback(facts), stale(facts, now), latency(facts), conflict(facts), resize(facts), replicas(facts)];
    PolicyStatus {
        observed_generation: facts.generation,
        target: policy.map(target).or_else(|| before.target.clone()),
        allocation: present.map(Into::into),
        recommendation: allowed.map(Into::into),
        estimated_saving: policy
            .zip(present)
            .zip(allowed)
            .and_then(|((policy, present), allowed)| saving(&policy.prices, present, allowed)),
        decision: facts.decision.map(decision),
        measured: facts.state.map(|(state, _)| measured(state)),
        // Also while it is frozen or paused, and after another actuator has decided: pods that are replaced keep their size.
        pod_size: facts
            .pod_size
            .or(before.pod_size.as_ref())
            .filter(|_| facts.rival.is_none() && policy.is_some_and(|policy| policy.mode == Mode::Active))
            .cloned(),
        conditions: conditions.into_iter().map(|found| found.condition(facts.generation, before, now)).collect(),
    }
}

/// A condition that was found.
struct Found {
    kind: ConditionKind,
    /// `None` if unknown.
    holds: Option<bool>,
    reason: Cow<'static, str>,
    message: String,
}

impl Found {
    fn new(kind: ConditionKind, holds: impl Into<Option<bool>>, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { kind, holds: holds.into(), reason: reason.into(), message: message.into() }
    }

    fn condition(self, generation: Option<i64>, before: &PolicyStatus, now: Timestamp) -> PolicyCondition {
        let kind: &str = self.kind.into();
        let status = self.holds.map_or("Unknown", |holds| if holds { "True" } else { "False" });
        let same = before.conditions.iter().find(|condition| condition.kind == kind && condition.status == status);
        PolicyCondition {
            kind: kind.to_owned(),
            status: status.to_owned(),
            reason: self.reason.into_owned(),
            message: text::clean(&self.message),
            last_transition_time: same.map_or_else(|| now.to_string(), |condition| condition.last_transition_time.clone()),
            observed_generation: generation,
        }
    }
}

fn ready(facts: &Facts<'_>) -> Found {
    let found = |holds: Option<bool>, reason, message: String| Found::new(ConditionKind::Ready, holds, reason, message);
    match (facts.policy, facts.workload) {
        (Err(Unused::Invalid(error)), _) => found(Some(false), "Invalid", format!("{error}; the last valid version stays in use")),
        (Err(Unused::Conflict(other)), _) => found(Some(false), "Conflict", format!("policy {other} is for the same workload and older")),
        (Err(Unused::NotWritten(error)), _) => {
            found(Some(false), "NotWritten", format!("failed to pass the policy to the services: {error}"))
        }
        (Err(Unused::Deleted), _) => found(Some(false), "Deleted", "the object is being deleted".into()),
        (Ok(policy), None) if facts.platform_read => found(Some(false), "NoWorkload", format!("there is no {}", target(policy))),
        (Ok(_), None) => found(None, "NotRead", "the workloads were not read yet".into()),
        (Ok(_), Some(_)) => found(Some(true), "InUse", String::new()),
    }
}

fn acting(facts: &Facts<'_>) -> Found {
    let found = |holds, reason, message: &str| Found::new(ConditionKind::Acting, holds, reason, message);
    let Ok(policy) = facts.policy else { return found(false, "NotReady", "the policy is not in use") };
    match policy.mode {
        _ if facts.rival.is_some() => found(false, "Conflict", "another autoscaler scales the workload"),
        _ if facts.frozen => found(false, "Frozen", "an operator has frozen the function"),
        _ if policy.paused => found(false, "Paused", "spec.paused is true"),
        Mode::Observe => found(false, "Observe", "spec.mode is observe"),
        Mode::Recommend => found(false, "Recommend", "spec.mode is recommend"),
        Mode::Active if facts.workload.is_none() => found(false, "NoWorkload", "there is nothing to scale"),
        Mode::Active => found(true, "Active", ""),
    }
}

fn fallback(facts: &Facts<'_>) -> Found {
    let found = |holds: Option<bool>, reason, message: String| Found::new(ConditionKind::Fallback, holds, reason, message);
    match facts.decision {
        None => found(None, "NoDecision", "nothing was decided yet".into()),
        Some(decision) if decision.source == DecisionSource::Fallback => {
            let agent = facts.policy.map_or("", |policy| policy.agent.as_str());
            found(Some(true), "AgentSilent", format!("agent {agent} does not answer; the rule {} decides", decision.agent))
        }
        Some(decision) => found(Some(false), "AgentAnswers", format!("{} decides", decision.agent)),
    }
}

fn stale(facts: &Facts<'_>, now: Timestamp) -> Found {
    let found = |holds: Option<bool>, reason, message: String| Found::new(ConditionKind::Stale, holds, reason, message);
    let Ok(policy) = facts.policy else { return found(None, "NotReady", "the policy is not in use".into()) };
    let Some((state, arrived)) = facts.state else { return found(Some(true), "NoState", "no collector measures the workload".into()) };
    let oldest = [state.age.cpu_ms, state.age.memory_ms, state.age.replicas_ms].into_iter().collect::<Option<Vec<_>>>();
    let Some(oldest) = oldest.and_then(|ages| ages.into_iter().max()) else {
        return found(Some(true), "NotMeasured", "CPU, memory or replicas are not measured; nothing is scaled down".into());
    };
    let age = now.since(arrived) + std::time::Duration::from_millis(oldest);
    if age > policy.max_age() {
        return found(
            Some(true),
            "TooOld",
            format!("measurements are older than {} s; nothing is scaled down", policy.max_age().as_secs_f64()),
        );
    }
    found(Some(false), "Fresh", String::new())
}

fn latency(facts: &Facts<'_>) -> Found {
    let found = |holds: Option<bool>, reason, message: &str| Found::new(ConditionKind::NoLatencySource, holds, reason, message);
    match facts.state {
        None => found(None, "NoState", "no collector measures the workload"),
        Some((state, _)) if state.age.requests_ms.is_none() => {
            found(Some(true), "NotMeasured", "arrivals and latency are not measured; decisions follow CPU and memory")
        }
        Some(_) => found(Some(false), "Measured", ""),
    }
}

fn conflict(facts: &Facts<'_>) -> Found {
    let found = |holds, reason, message: String| Found::new(ConditionKind::Conflict, holds, reason, message);
    match (facts.policy, facts.rival) {
        (Err(Unused::Conflict(other)), _) => found(true, "SameTarget", format!("policy {other} is for the same workload")),
        (_, Some(rival)) => found(true, "Autoscaler", format!("{rival} scales the workload; nothing is changed until that ends")),
        _ => found(false, "None", String::new()),
    }
}

fn resize(facts: &Facts<'_>) -> Found {
    pending(ConditionKind::ResizePending, facts.pending_resize)
}

fn replicas(facts: &Facts<'_>) -> Found {
    pending(ConditionKind::ReplicasPending, facts.pending_replicas)
}

fn pending(kind: ConditionKind, pending: Option<&Pending>) -> Found {
    match pending {
        Some(Pending { reason, message }) => Found::new(kind, true, reason.clone(), message),
        None => Found::new(kind, false, "None", ""),
    }
}

/// The scaled object, as `kind/name`.
pub(super) fn target(policy: &ScalingPolicy) -> String {
    format!("{}/{}", kind(policy.workload.kind), policy.workload_name())
}

/// Kind of an object in lower case, as kubectl takes it.
fn kind(kind: WorkloadKind) -> &'static str {
    match kind {
        WorkloadKind::Local => "local",
        WorkloadKind::Deployment => "deployment",
        WorkloadKind::StatefulSet => "statefulset",
        WorkloadKind::KnativeService => "ksvc",
    }
}

fn saving(prices: &Prices, present: Allocation, allowed: Allocation) -> Option<String> {
    let (before, after) = (prices.per_hour(present), prices.per_hour(allowed));
    (before > 0.0 && present != allowed).then(|| format!("{:.0} %", (before - after) / before * 100.0))
}

fn decision(outcome: &Outcome) -> DecisionStatus {
    let guard = outcome.guard.iter().map(|note| format!("; {}: {}", <&str>::from(note.rule), note.detail)).collect::<String>();
    DecisionStatus {
        at: outcome.decided_at_ms.to_string(),
        agent: outcome.agent.to_string(),
        effect: <&str>::from(outcome.effect).to_owned(),
        reason: text::clean(&format!("{}{guard}", outcome.reason)),
    }
}

fn measured(state: &State) -> Measured {
    let window = &state.windows.tick;
    Measured {
        at: state.observed_at_ms.to_string(),
        ready_replicas: state.replicas.map(|replicas| replicas.ready.0),
        requests_per_second: window.rate_rps.map(|rate| format!("{rate:.1}")),
        cpu: window.cpu_millicores.map(|used| format!("{:.0}m", used.mean)),
        memory: window.memory_mib.map(|used| format!("{:.0}Mi", used.mean)),
    }
}

/// Whether the two differ in what a person must know at once; measurements do not count.
pub(super) fn differ(one: &PolicyStatus, other: &PolicyStatus) -> bool {
    let brief = |status: &PolicyStatus| PolicyStatus { measured: None, decision: None, ..status.clone() };
    brief(one) != brief(other)
}

/// Type, reason and note of the event of an Outcome; `None` if it needs none.
pub(super) fn event(outcome: &Outcome) -> Option<(bool, &'static str, String)> {
    if outcome.source == DecisionSource::Shadow {
        return None;
    }
    let before = outcome.before.map_or_else(|| "an unknown allocation".to_owned(), |before| before.to_string());
    let to = |allocation: Allocation| format!("from {before} to {allocation} by {}: {}", outcome.agent, outcome.reason);
    let (normal, reason, note) = match (outcome.effect, outcome.allowed) {
        (Effect::Applied | Effect::Changed, Some(allowed)) => (true, "Scaled", format!("scaled {}", to(allowed))),
        (Effect::Recorded, Some(allowed)) if outcome.before != Some(allowed) => {
            (true, "Recommended", format!("would scale {}", to(allowed)))
        }
        (Effect::Failed, _) => (false, "ScaleFailed", format!("failed to scale {}", to(outcome.requested))),
        _ => return None,
    };
    Some((normal, reason, text::clean(&note)))
}
