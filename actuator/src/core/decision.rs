//! One decision, whoever made it, and the Outcomes that tell of it.

use qscale_common::contract::{Action, DecisionSource, Effect, Epoch, GuardNote, Outcome, Provenance, StateId, TraceParent, Version};
use qscale_common::guard::DecisionKind;
use qscale_common::name::{FunctionId, Name};
use qscale_common::time::{Tick, Timestamp};
use qscale_common::units::Allocation;

use super::admission::Refusal;
use super::function::Function;
use crate::fallback::Advice;

/// What somebody wants a function to have.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Who decided.
    pub source: DecisionSource,
    /// Name of the agent or rule.
    pub agent: Name,
    /// Policy, model and fallback that decided.
    pub provenance: Provenance,
    /// The State that it answers.
    pub state_id: StateId,
    /// What is wanted.
    pub wanted: Allocation,
    /// Why.
    pub reason: String,
    /// How the guard is to judge it.
    pub kind: DecisionKind,
    /// When it is void; never, where the actuator itself decided.
    pub expires: Option<Timestamp>,
    /// When it was taken in.
    pub at: Timestamp,
    /// The trace that it belongs to.
    pub trace: Option<TraceParent>,
    /// Whether an Outcome tells of it also where nothing was done.
    pub announced: bool,
}

impl Decision {
    /// What an Action asks for, by the agent that the policy names or by another.
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
            announced: true,
        }
    }

    /// What the fallback advises on the State of `state_id`.
    pub(super) fn of_fallback(advice: Advice, state_id: StateId, trace: Option<TraceParent>, now: Timestamp) -> Self {
        Self {
            source: DecisionSource::Fallback,
            agent: name(advice.rule),
            provenance: advice.provenance,
            state_id,
            wanted: advice.wanted,
            reason: advice.reason,
            kind: DecisionKind::Named,
            expires: None,
            at: now,
            trace,
            announced: true,
        }
    }

    /// What follows from something that a person did: a restore, new bounds.
    pub(super) fn of_operator(rule: &'static str, wanted: Allocation, reason: String, function: &Function, now: Timestamp) -> Self {
        Self {
            source: DecisionSource::Operator,
            agent: name(rule),
            provenance: Provenance::default(),
            state_id: function.last_moment().unwrap_or(StateId { epoch: Epoch(0), tick: Tick(0) }),
            wanted,
            reason,
            kind: DecisionKind::Repair,
            expires: None,
            at: now,
            trace: None,
            announced: false,
        }
    }

    /// Whether a person asked for exactly this, whatever the guard thinks of it.
    pub(super) fn is_restore(&self) -> bool {
        self.source == DecisionSource::Operator && self.agent.as_str() == RESTORE
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

/// Name under which a restore is published.
pub(super) const RESTORE: &str = "restore";
/// Name under which a move into bounds is published.
pub(super) const BOUNDS: &str = "bounds";

fn name(rule: &'static str) -> Name {
    Name::new(rule).expect("rules are named by DNS labels")
}

/// The Outcome of an Action that was not considered.
pub(super) fn refused(action: &Action, function: Option<&Function>, why: Refusal, actuator: &str, now: Timestamp) -> Outcome {
    let id = FunctionId::new(action.namespace.clone(), action.function.clone());
    let named = function.and_then(|function| function.policy.as_ref()).is_some_and(|policy| policy.agent == action.agent);
    let decision = Decision::of_action(action.clone(), named, None, now);
    let guard: Vec<GuardNote> = why.note.into_iter().collect();
    Outcome { before: function.and_then(Function::current), guard, reason: why.reason, ..decision.outcome(&id, Effect::Refused, actuator) }
}
