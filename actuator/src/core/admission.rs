//! Admission of Actions. Owns expiry, ticks and duplicates; must not evaluate the requested allocation.

use qscale_common::contract::{Action, Effect, GuardNote, GuardRule, Outcome, Provenance, StateId};
use qscale_common::name::FunctionId;
use qscale_common::time::Timestamp;

use super::decision::AllocationDecision;
use super::function::ScaledFunction;

/// Result of admission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Admission {
    /// The guard evaluates it.
    Admitted {
        /// Whether the policy names its agent.
        named: bool,
    },
    /// Its State has not arrived yet; the two take different paths, so it may arrive soon.
    Early,
    /// It is refused.
    Refused(Refusal),
}

/// Reason for refusing an Action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The guard rule, if there is one.
    pub(super) note: Option<GuardNote>,
    /// Explanation for people.
    pub(super) reason: String,
}

impl Refusal {
    fn new(rule: GuardRule, detail: String) -> Self {
        Self { reason: detail.clone(), note: Some(GuardNote { rule, detail }) }
    }

    /// The State that `action` answers never arrived.
    pub(super) fn state_missing(action: &Action) -> Self {
        Self::new(GuardRule::WrongTick, format!("State of epoch {}, tick {} did not arrive", action.epoch.0, action.tick))
    }
}

/// Decides whether `action` is admitted, and if so marks its State as answered.
pub(super) fn admit(function: Option<&mut ScaledFunction>, action: &Action, now: Timestamp) -> Admission {
    let Some((function, policy)) = function.and_then(|function| function.policy.clone().map(|policy| (function, policy))) else {
        return Admission::Refused(Refusal { note: None, reason: "no ScalingPolicy for this function".into() });
    };
    if now >= action.expires_at_ms {
        let late = now.since(action.expires_at_ms).as_millis();
        return Admission::Refused(Refusal::new(GuardRule::Expired, format!("expired {late} ms ago, at {}", action.expires_at_ms)));
    }
    let state_id = action.state_id();
    let Some(last) = function.last_state_id() else { return Admission::Early };
    if state_id != last && Some(state_id) != function.previous {
        return misplaced(state_id, last);
    }
    let answered = function.answered_by(&action.agent);
    if answered == Some(last) || answered == Some(state_id) {
        return Admission::Refused(Refusal::new(GuardRule::WrongTick, format!("tick {} was already answered", action.tick)));
    }
    function.answer(&action.agent, state_id);
    Admission::Admitted { named: policy.agent == action.agent }
}

/// Admission of an Action for a State other than the last two.
fn misplaced(state_id: StateId, last: StateId) -> Admission {
    let next = state_id.epoch > last.epoch || (state_id.epoch == last.epoch && state_id.tick == last.tick.next());
    if next {
        return Admission::Early;
    }
    let detail = if state_id.epoch == last.epoch && state_id.tick > last.tick {
        format!("answers tick {} in the future, the last is {}", state_id.tick, last.tick)
    } else if state_id.epoch == last.epoch {
        format!("answers tick {}, the last is {}", state_id.tick, last.tick)
    } else {
        format!("answers tick {} of epoch {}, the last is {} of epoch {}", state_id.tick, state_id.epoch.0, last.tick, last.epoch.0)
    };
    Admission::Refused(Refusal::new(GuardRule::WrongTick, detail))
}

/// The Outcome of an Action that was not admitted.
pub(super) fn refused(action: &Action, function: Option<&ScaledFunction>, why: Refusal, actuator: &str, now: Timestamp) -> Outcome {
    let id = FunctionId::new(action.namespace.clone(), action.function.clone());
    let named = function.and_then(|function| function.policy.as_ref()).is_some_and(|policy| policy.agent == action.agent);
    let decision = AllocationDecision::of_action(action.clone(), named, None, now);
    let guard: Vec<GuardNote> = why.note.into_iter().collect();
    // Without the texts of the agent: refusals must not fill the record.
    let provenance = Provenance::default();
    Outcome {
        before: function.and_then(ScaledFunction::current),
        guard,
        reason: why.reason,
        provenance,
        ..decision.outcome(&id, Effect::Refused, actuator)
    }
}
