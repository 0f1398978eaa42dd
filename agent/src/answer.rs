//! From a State to what is answered. Owns expiry and what a hold becomes; does no I/O.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use qscale_common::contract::{Action, Choice, FallbackKind, Message as _, ModelRef, Provenance, State, StateId, Version};
use qscale_common::name::{FunctionId, Name};
use qscale_common::time::Timestamp;
use qscale_common::units::Allocation;
use qscale_dqn::Dqn;
use qscale_dqn::decider::{Decided, Decider, Memories};
use qscale_policies::{Decision, HoldReason};
use rand::Rng;

/// Answers States under one name, by one rule or network.
pub struct Answerer {
    /// The name under which is answered.
    pub agent: Name,
    /// Which instance answers.
    pub instance: String,
    /// Ticks from the observation after which an answer is void.
    pub expires_after: NonZeroU32,
    provenance: Provenance,
    decider: Decider,
    /// What a rule with memory knows of each function; empty for one without.
    memories: HashMap<FunctionId, Recollection>,
}

/// What is remembered of one function.
#[derive(Debug)]
struct Recollection {
    memories: Memories,
    /// The State that it was last shown.
    last: StateId,
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
    /// Answers as `instance` of `agent` by `decider`.
    #[must_use]
    pub fn new(agent: Name, instance: String, expires_after: NonZeroU32, decider: Decider) -> Self {
        Self { agent, instance, expires_after, provenance: provenance(&decider), decider, memories: HashMap::new() }
    }

    /// Provenance of what it answers: its policy and model.
    #[must_use]
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// How far back a State may still matter; `None` for a rule without memory.
    #[must_use]
    pub fn lookback(&self) -> Option<Duration> {
        self.decider.lookback()
    }

    /// Decides by `network`, which is `version` of `name` in the model store, from the next State on, with all that is remembered; a rule stays what it is.
    pub fn take_up(&mut self, network: Arc<Dqn>, name: &Name, version: u64) {
        if let Decider::Learned { dqn, .. } = &mut self.decider {
            *dqn = network;
            let mut provenance = provenance(&self.decider);
            let fingerprint = provenance.fingerprint().unwrap_or_default().to_owned();
            provenance.model = Some(ModelRef { name: Some(name.clone()), version: Some(version), fingerprint });
            self.provenance = provenance;
        }
    }

    /// Lets a rule with memory see a State of the past, without an answer.
    pub fn recall(&mut self, state: &State, rng: &mut dyn Rng) {
        if self.lookback().is_some() {
            let mut recollection = self.take(state, state.observed_at_ms);
            self.decider.recall(state, &mut recollection.memories, rng);
            self.memories.insert(state.function(), recollection);
        }
    }

    /// Forgets functions of which nothing was heard for a day.
    pub fn forget(&mut self, now: Timestamp) {
        self.memories.retain(|_, recollection| now.since(recollection.at) < FORGET_AFTER);
    }

    /// What is remembered of the function of `state`, which is shown to it, taken out of the memories.
    fn take(&mut self, state: &State, now: Timestamp) -> Recollection {
        let memories = self.memories.remove(&state.function()).map(|known| known.memories).unwrap_or_default();
        Recollection { memories, last: state.state_id(), at: now }
    }

    /// Whether the memory holds `state` already, as after a start, when the stream and the subscription both brought it.
    fn was_seen(&self, state: &State) -> bool {
        self.memories.get(&state.function()).is_some_and(|recollection| recollection.last >= state.state_id())
    }

    /// What is answered to `state` at `now`.
    #[must_use]
    pub fn answer(&mut self, state: &State, now: Timestamp, rng: &mut dyn Rng) -> Answer {
        let mut answers = self.answer_all(&[state], now, rng);
        answers.pop().expect("one State has one answer").0
    }

    /// What is answered to each of `states` at `now`, in their order, and why the fallback decided where it did.
    #[must_use]
    pub fn answer_all(&mut self, states: &[&State], now: Timestamp, rng: &mut dyn Rng) -> Vec<(Answer, Option<FallbackKind>)> {
        let mut answers = Vec::with_capacity(states.len());
        let mut rest = states;
        while !rest.is_empty() {
            let (pass, later) = rest.split_at(of_different_functions(rest));
            self.answer_pass(pass, now, rng, &mut answers);
            rest = later;
        }
        answers
    }

    /// Answers `states`, of which no two are of one function, in one pass.
    fn answer_pass(&mut self, states: &[&State], now: Timestamp, rng: &mut dyn Rng, answers: &mut Vec<(Answer, Option<FallbackKind>)>) {
        let timely: Vec<bool> = states.iter().map(|state| now <= self.expires(state) && !self.was_seen(state)).collect();
        let due = states.iter().zip(&timely).filter(|(_, timely)| **timely);
        let mut due: Vec<(&State, Recollection)> = due.map(|(state, _)| (*state, self.take(state, now))).collect();
        let mut cases: Vec<_> = due.iter_mut().map(|(state, recollection)| (*state, &mut recollection.memories)).collect();
        let mut decided = self.decider.decide_all(&mut cases, now, rng).into_iter();
        for (state, timely) in states.iter().zip(timely) {
            let decided = if timely { decided.next() } else { None };
            answers.push(decided.map_or((Answer::Late, None), |decided| self.answer_of(state, decided, now)));
        }
        if self.lookback().is_some() {
            self.memories.extend(due.into_iter().map(|(state, recollection)| (state.function(), recollection)));
        }
    }

    fn answer_of(&self, state: &State, decided: Decided, now: Timestamp) -> (Answer, Option<FallbackKind>) {
        let fallback = decided.fallback.as_ref().map(|fallback| fallback.reason.kind());
        let provenance = Provenance { fallback: decided.fallback, ..self.provenance.clone() };
        let answer = match decided.decision {
            Decision::Want { allocation, reason, choices } => {
                Answer::Act(Box::new(self.action(state, provenance, allocation, reason, choices, now)), Verdict::Want)
            }
            Decision::Hold { why, reason, choices } => match state.allocation {
                Some(current) => Answer::Act(Box::new(self.action(state, provenance, current, reason, choices, now)), Verdict::Hold(why)),
                None => Answer::Silent(why),
            },
        };
        (answer, fallback)
    }

    /// When an answer to `state` is void. The observation counts, not the decision: a State that waited for long is no fresher for being answered.
    fn expires(&self, state: &State) -> Timestamp {
        Timestamp(state.observed_at_ms.0.saturating_add(state.tick_length_ms.saturating_mul(u64::from(self.expires_after.get()))))
    }

    fn action(
        &self,
        state: &State,
        provenance: Provenance,
        allocation: Allocation,
        reason: String,
        mut choices: Vec<Choice>,
        now: Timestamp,
    ) -> Action {
        choices.truncate(Action::MAX_CHOICES);
        Action {
            version: Version::CURRENT,
            agent: self.agent.clone(),
            instance: self.instance.clone(),
            provenance,
            namespace: state.namespace.clone(),
            function: state.function.clone(),
            epoch: state.epoch,
            tick: state.tick,
            decided_at_ms: now,
            expires_at_ms: self.expires(state),
            allocation,
            reason: cut(reason),
            choices,
        }
    }
}

/// How many of `states`, from the first on, are each of another function: of one function each is decided by what the one before left in the memory.
fn of_different_functions(states: &[&State]) -> usize {
    let mut functions = HashSet::with_capacity(states.len());
    states.iter().take_while(|state| functions.insert((&state.namespace, &state.function))).count()
}

/// Provenance of `decider`, its texts cut to what an Action may carry.
fn provenance(decider: &Decider) -> Provenance {
    let provenance = decider.provenance();
    Provenance { configuration: cut(provenance.configuration), ..provenance }
}

/// `text`, cut to what an Action may carry.
fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(Action::MAX_TEXT));
    text
}

#[cfg(test)]
mod tests;
