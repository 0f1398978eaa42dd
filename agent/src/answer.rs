//! From a State to what is answered. Owns expiry and what a hold becomes; does no I/O.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

use qscale_common::contract::{Action, Choice, Message as _, Moment, State, Version};
use qscale_common::name::{FunctionId, Name};
use qscale_common::time::Timestamp;
use qscale_common::units::Allocation;
use qscale_policies::{Decision, HoldReason, Memory, Policy};
use rand::Rng;

/// Answers States under one name, by one rule.
pub struct Answerer {
    /// The name under which is answered.
    pub agent: Name,
    /// Which instance answers.
    pub instance: String,
    /// Ticks from the observation after which an answer is void.
    pub expires_after: NonZeroU32,
    model: String,
    policy: Box<dyn Policy>,
    /// What a rule with memory knows of each function; empty for one without.
    memories: HashMap<FunctionId, Recollection>,
}

/// What is remembered of one function.
#[derive(Debug)]
struct Recollection {
    memory: Memory,
    /// The State that it was last shown.
    last: Moment,
    at: Timestamp,
}

/// A function of which nothing was heard for so long is forgotten, whatever its rule would still remember.
const FORGET_AFTER: Duration = Duration::from_secs(24 * 3600);

/// What is answered to a State.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// This Action; where the rule holds, one that keeps what is in force, so that silence means that the agent is dead.
    Act(Box<Action>, Verdict),
    /// Nothing, for there is nothing that could be kept.
    Silent(HoldReason),
    /// Nothing, for the answer would be void before it is read.
    Late,
}

/// What the rule said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Something else than is in force.
    Want,
    /// What is in force.
    Hold(HoldReason),
}

impl Answerer {
    /// Answers as `instance` of `agent` by `policy`.
    #[must_use]
    pub fn new(agent: Name, instance: String, expires_after: NonZeroU32, policy: Box<dyn Policy>) -> Self {
        Self { agent, instance, expires_after, model: cut(policy.model()), policy, memories: HashMap::new() }
    }

    /// Which version of which rule answers.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }

    /// How far back a State may still matter; `None` for a rule without memory.
    #[must_use]
    pub fn remembers(&self) -> Option<Duration> {
        self.policy.remembers()
    }

    /// Lets a rule with memory see a State of the past, without an answer.
    pub fn recall(&mut self, state: &State, rng: &mut dyn Rng) {
        self.decide(state, state.observed_at_ms, rng);
    }

    /// Forgets functions of which nothing was heard for a day.
    pub fn forget(&mut self, now: Timestamp) {
        self.memories.retain(|_, recollection| now.since(recollection.at) < FORGET_AFTER);
    }

    fn decide(&mut self, state: &State, now: Timestamp, rng: &mut dyn Rng) -> Decision {
        if self.policy.remembers().is_none() {
            return self.policy.decide(state, &mut Memory::None, now, rng);
        }
        let fresh = || Recollection { memory: Memory::default(), last: state.moment(), at: now };
        let recollection = self.memories.entry(state.function()).or_insert_with(fresh);
        (recollection.last, recollection.at) = (state.moment(), now);
        self.policy.decide(state, &mut recollection.memory, now, rng)
    }

    /// Whether the rule's memory holds `state` already, as after a start, when the stream and the subscription both brought it.
    fn was_seen(&self, state: &State) -> bool {
        self.memories.get(&state.function()).is_some_and(|recollection| recollection.last >= state.moment())
    }

    /// What is answered to `state` at `now`.
    #[must_use]
    pub fn answer(&mut self, state: &State, now: Timestamp, rng: &mut dyn Rng) -> Answer {
        let expires = self.expires(state);
        if now > expires || self.was_seen(state) {
            return Answer::Late;
        }
        match self.decide(state, now, rng) {
            Decision::Want { allocation, reason, choices } => {
                Answer::Act(Box::new(self.action(state, allocation, reason, choices, now, expires)), Verdict::Want)
            }
            Decision::Hold { why, reason, choices } => match state.allocation {
                Some(in_force) => Answer::Act(Box::new(self.action(state, in_force, reason, choices, now, expires)), Verdict::Hold(why)),
                None => Answer::Silent(why),
            },
        }
    }

    /// When an answer to `state` is void. The observation counts, not the decision: a State that waited for long is no fresher for being answered.
    fn expires(&self, state: &State) -> Timestamp {
        Timestamp(state.observed_at_ms.0.saturating_add(state.tick_length_ms.saturating_mul(u64::from(self.expires_after.get()))))
    }

    fn action(
        &self,
        state: &State,
        allocation: Allocation,
        reason: String,
        mut choices: Vec<Choice>,
        now: Timestamp,
        expires: Timestamp,
    ) -> Action {
        choices.truncate(Action::MAX_CHOICES);
        Action {
            version: Version::CURRENT,
            agent: self.agent.clone(),
            instance: self.instance.clone(),
            model: self.model.clone(),
            namespace: state.namespace.clone(),
            function: state.function.clone(),
            epoch: state.epoch,
            tick: state.tick,
            decided_at_ms: now,
            expires_at_ms: expires,
            allocation,
            reason: cut(reason),
            choices,
        }
    }
}

/// `text`, cut to what an Action may carry.
fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(Action::MAX_TEXT));
    text
}

#[cfg(test)]
mod tests;
