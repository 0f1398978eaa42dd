//! A policy that decides on recorded States of one function in order. Owns its memory and the Action that an agent
//! would publish; reads nothing.

use qscale_common::contract::{Action, Choice, State};
use qscale_common::time::Timestamp;
use qscale_common::units::Allocation;
use qscale_dqn::decider::{Decided, Decider, Memories};
use qscale_policies::Decision;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde::Serialize;

/// A policy with its memory of one function.
pub struct ReplaySession<'a> {
    decider: &'a Decider,
    memories: Memories,
    rng: SmallRng,
}

impl<'a> ReplaySession<'a> {
    /// A session of `decider` with an empty memory.
    #[must_use]
    pub fn new(decider: &'a Decider) -> Self {
        // None of the policies draws random numbers.
        Self { decider, memories: Memories::default(), rng: SmallRng::seed_from_u64(0) }
    }

    /// Decides on `state` at `now`.
    pub fn decide(&mut self, state: &State, now: Timestamp) -> Decision {
        self.decide_with_reason(state, now).decision
    }

    /// Decides on `state` at `now`, and reports whether and why the fallback rule decided.
    pub fn decide_with_reason(&mut self, state: &State, now: Timestamp) -> Decided {
        if self.decider.lookback().is_none() {
            self.memories = Memories::default();
        }
        let decided = self.decider.decide_all(&mut [(state, &mut self.memories)], now, &mut self.rng).pop();
        decided.expect("one State has one decision")
    }

    /// Rebuilds the memory of an agent that started at `now`, when the stream held `before`.
    pub fn restart(&mut self, before: &[State], now: Timestamp) {
        self.memories = Memories::default();
        let Some(lookback) = self.decider.lookback() else { return };
        for state in before.iter().filter(|state| state.observed_at_ms >= now.minus(lookback)) {
            self.decider.remember(state, &mut self.memories, &mut self.rng);
        }
    }

    /// Ends the distrust of a network, as the start of an agent does.
    pub fn trust_again(&mut self) {
        self.memories.trust_again();
    }
}

/// The part of an Action that a policy determines.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReplayedAnswer {
    /// Requested allocation.
    pub allocation: Allocation,
    /// Reason, for people.
    pub reason: String,
    /// Candidate actions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<Choice>,
}

impl ReplayedAnswer {
    /// The answer that a reader of the published Action receives; `None` if an agent publishes nothing.
    #[must_use]
    pub fn of(state: &State, decision: Decision) -> Option<Self> {
        let (allocation, reason, mut choices) = match decision {
            Decision::Want { allocation, reason, choices } => (allocation, reason, choices),
            Decision::Hold { reason, choices, .. } => (state.allocation?, reason, choices),
        };
        choices.truncate(Action::MAX_CHOICES);
        // Serialisation may change the last bit of a number.
        let written = serde_json::to_vec(&choices).expect("choices hold only strings and numbers");
        let choices = serde_json::from_slice(&written).unwrap_or(choices);
        Some(Self { allocation, reason: Action::cut(reason), choices })
    }
}

impl From<Action> for ReplayedAnswer {
    fn from(action: Action) -> Self {
        Self { allocation: action.allocation, reason: action.reason, choices: action.choices }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{action, state};
    use crate::policy::ReplayPolicy;

    #[test]
    fn answer_equals_the_one_read_from_its_action() {
        let policy = ReplayPolicy::named("dqn", None).expect("the bundled model");
        let state = state(1, 40.0);
        let decision = ReplaySession::new(&policy.decider).decide(&state, state.observed_at_ms);
        let (Decision::Want { choices, .. } | Decision::Hold { choices, .. }) = decision.clone();
        let answer = ReplayedAnswer::of(&state, decision).expect("the current allocation is known");
        let published = ReplayedAnswer { choices, ..answer.clone() };
        let action = action(&policy.decider, &state, published, state.observed_at_ms, "");
        let read: Action = serde_json::from_slice(&serde_json::to_vec(&action).expect("writes")).expect("reads");
        assert!(!answer.choices.is_empty());
        assert_eq!(ReplayedAnswer::from(read), answer, "bit for bit");
    }

    #[test]
    fn holds_without_an_allocation_publish_nothing() {
        let policy = ReplayPolicy::named("dqn", None).expect("the bundled model");
        let unknown = State { allocation: None, ..state(1, 40.0) };
        assert_eq!(ReplayedAnswer::of(&unknown, ReplaySession::new(&policy.decider).decide(&unknown, unknown.observed_at_ms)), None);
    }
}
