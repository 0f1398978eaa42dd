//! Whether an Action is considered at all. Owns expiry, ticks and duplicates; must not judge what the Action wants.

use qscale_common::contract::{Action, GuardNote, GuardRule, StateId};
use qscale_common::time::Timestamp;

use super::function::Function;

/// What is done with an Action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Admission {
    /// The guard judges it.
    Considered {
        /// Whether the policy names its agent.
        named: bool,
    },
    /// Its State has not come yet; it may any moment, since the two travel on different ways.
    Early,
    /// It is not considered.
    Refused(Refusal),
}

/// Why an Action is not considered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The rule, where the guard has one for it.
    pub note: Option<GuardNote>,
    /// In words for a person.
    pub reason: String,
}

impl Refusal {
    fn new(rule: GuardRule, detail: String) -> Self {
        Self { reason: detail.clone(), note: Some(GuardNote { rule, detail }) }
    }

    /// The State that `action` answers never came.
    pub(super) fn of_unseen(action: &Action) -> Self {
        Self::new(GuardRule::WrongTick, format!("no State of epoch {} and tick {} was seen", action.epoch.0, action.tick))
    }
}

/// Judges whether `action` counts, and remembers that it was answered where it does.
pub(super) fn admit(function: Option<&mut Function>, action: &Action, now: Timestamp) -> Admission {
    let Some((function, policy)) = function.and_then(|function| function.policy.clone().map(|policy| (function, policy))) else {
        return Admission::Refused(Refusal { note: None, reason: "no ScalingPolicy has this namespace and function".into() });
    };
    if now >= action.expires_at_ms {
        let late = now.since(action.expires_at_ms).as_millis();
        return Admission::Refused(Refusal::new(GuardRule::Expired, format!("void since {}, {late} ms ago", action.expires_at_ms)));
    }
    let state_id = action.state_id();
    let Some(last) = function.last_moment() else { return Admission::Early };
    if state_id != last && Some(state_id) != function.previous {
        return misplaced(state_id, last);
    }
    let answered = function.answered_by(&action.agent);
    if answered == Some(last) || answered == Some(state_id) {
        return Admission::Refused(Refusal::new(GuardRule::WrongTick, format!("tick {} was answered before", action.tick)));
    }
    function.answer(&action.agent, state_id);
    Admission::Considered { named: policy.agent == action.agent }
}

/// An Action for another moment than the last two.
fn misplaced(state_id: StateId, last: StateId) -> Admission {
    let next = state_id.epoch > last.epoch || (state_id.epoch == last.epoch && state_id.tick == last.tick.next());
    if next {
        return Admission::Early;
    }
    let detail = if state_id.epoch == last.epoch && state_id.tick > last.tick {
        format!("answers tick {}, which is not yet: the last is {}", state_id.tick, last.tick)
    } else if state_id.epoch == last.epoch {
        format!("answers tick {}, the last is {}", state_id.tick, last.tick)
    } else {
        format!("answers tick {} of epoch {}, the last is {} of epoch {}", state_id.tick, state_id.epoch.0, last.tick, last.epoch.0)
    };
    Admission::Refused(Refusal::new(GuardRule::WrongTick, detail))
}
