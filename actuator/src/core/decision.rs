//! A decision of an agent, the fallback or an operator, and its Outcome.

use qscale_common::contract::{Action, DecisionSource, Effect, Epoch, Outcome, Provenance, StateId, TraceParent, Version};
use qscale_common::control;
use qscale_common::guard::DecisionKind;
use qscale_common::name::{FunctionId, Name};
use qscale_common::time::{Tick, Timestamp};
use qscale_common::units::Allocation;

use crate::fallback::FallbackDecision;

/// A requested allocation of a function.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct AllocationDecision {
    /// Kind of decider.
    pub(super) source: DecisionSource,
    /// Name of the agent or rule.
    pub(super) agent: Name,
    /// Policy, model and fallback that decided.
    pub(super) provenance: Provenance,
    /// Identity of the State that it answers.
    pub(super) state_id: StateId,
    /// Requested allocation.
    pub(super) wanted: Allocation,
    /// Reason, for people.
    pub(super) reason: String,
    /// How the guard treats it.
    pub(super) kind: DecisionKind,
    /// Time at which it expires; never if the actuator itself decided.
    pub(super) expires: Option<Timestamp>,
    /// Time of arrival.
    pub(super) at: Timestamp,
    /// Trace that it belongs to.
    pub(super) trace: Option<TraceParent>,
    /// Whether an Outcome is published even if nothing was changed.
    pub(super) always_reported: bool,
    /// Whether this is a restore, which bypasses the guard.
    pub(super) restores: bool,
}

impl AllocationDecision {
    /// The decision of an Action, by the policy's agent (`named`) or by another one.
    pub(super) fn of_action(action: Action, named: bool, trace: Option<TraceParent>, now: Timestamp) -> Self {
        Self {
            source: if named { DecisionSource::Agent } else { DecisionSource::Shadow },
            state_id: action.state_id(),
            agent: action.agent,
            provenance: action.provenance,
            wanted: action.allocation,
            reason: action.reason,
            kind: if named { DecisionKind::Named } else { DecisionKind::Shadow },
            expires: Some(action.expires_at_ms),
            at: now,
            trace,
            always_reported: true,
            restores: false,
        }
    }

    /// The fallback's decision on the State of `state_id`.
    pub(super) fn of_fallback(decision: FallbackDecision, state_id: StateId, trace: Option<TraceParent>, now: Timestamp) -> Self {
        Self {
            source: DecisionSource::Fallback,
            agent: name(decision.rule),
            provenance: decision.provenance,
            state_id,
            wanted: decision.wanted,
            reason: decision.reason,
            kind: DecisionKind::Named,
            expires: None,
            at: now,
            trace,
            always_reported: true,
            restores: false,
        }
    }

    /// A restore of `wanted`, requested by an operator after the State of `last`. Its result is always reported.
    pub(super) fn of_restore(wanted: Allocation, reason: &str, last: Option<StateId>, now: Timestamp) -> Self {
        Self { always_reported: true, restores: true, ..Self::of_operator(control::RESTORE, wanted, reason, last, now) }
    }

    /// A move of `current` into the bounds that an operator has set, after the State of `last`.
    pub(super) fn of_bounds(current: Allocation, last: Option<StateId>, now: Timestamp) -> Self {
        Self::of_operator(BOUNDS, current, "the current allocation is outside the policy's bounds", last, now)
    }

    fn of_operator(rule: &'static str, wanted: Allocation, reason: &str, last: Option<StateId>, now: Timestamp) -> Self {
        Self {
            source: DecisionSource::Operator,
            agent: name(rule),
            provenance: Provenance::default(),
            state_id: last.unwrap_or(StateId { epoch: Epoch(0), tick: Tick(0) }),
            wanted,
            reason: reason.to_owned(),
            kind: DecisionKind::Repair,
            expires: None,
            at: now,
            trace: None,
            always_reported: false,
            restores: false,
        }
    }

    /// The Outcome of this decision.
    pub(super) fn outcome(&self, function: &FunctionId, effect: Effect, actuator: &str) -> Outcome {
        Outcome {
            version: Version::CURRENT,
            namespace: function.namespace.clone(),
            function: function.name.clone(),
            epoch: self.state_id.epoch,
            tick: self.state_id.tick,
            source: self.source,
            agent: self.agent.clone(),
            provenance: self.provenance.clone(),
            effect,
            requested: self.wanted,
            before: None,
            allowed: None,
            guard: Vec::new(),
            reason: self.reason.clone(),
            decided_at_ms: self.at,
            actuator: actuator.to_owned(),
            attempts: 0,
        }
    }
}

/// Name under which a move into bounds is published.
const BOUNDS: &str = "bounds";

fn name(rule: &'static str) -> Name {
    Name::new(rule).expect("rules are named by DNS labels")
}
