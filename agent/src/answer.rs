//! Answers States with Actions. Owns the expiry of an Action and the answer to a hold; does no I/O.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use qscale_common::contract::{Action, Choice, FallbackKind, HeldPoint, Message as _, ModelRef, Provenance, State, StateId, Version};
use qscale_common::name::{FunctionId, Name};
use qscale_common::time::Timestamp;
use qscale_common::units::Allocation;
use qscale_dqn::Dqn;
use qscale_dqn::decider::{Decided, Decider, LearnedPolicy, Memories};
use qscale_policies::{Decision, HoldReason};
use rand::Rng;

/// Answers States as one agent, with one policy.
pub struct Answerer {
    /// Name of the agent.
    pub agent: Name,
    /// Name of the instance.
    pub instance: String,
    /// Ticks from the observation after which an answer expires.
    pub expires_after: NonZeroU32,
    provenance: Provenance,
    decider: Decider,
    /// Memory of the policy for each function; empty for a policy without memory.
    memories: HashMap<FunctionId, FunctionMemory>,
}

/// Memory of one function.
#[derive(Debug)]
struct FunctionMemory {
    memories: Memories,
    /// The last State that the policy saw.
    last: StateId,
    at: Timestamp,
}

/// Time without a State after which a function is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Answer to a State.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// An Action. If the policy holds, it requests the current allocation, so that only a dead agent is silent.
    Act(Box<Action>, AnswerKind),
    /// Nothing: the policy holds and the current allocation is not known.
    Silent(HoldReason),
    /// Nothing: the Action would have expired before it is read.
    Late,
}

/// Decision of the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AnswerKind {
    /// Another allocation than the current one.
    Change,
    /// The current allocation.
    Hold(HoldReason),
}

impl Answerer {
    /// Answers as `instance` of `agent` with `decider`.
    #[must_use]
    pub fn new(agent: Name, instance: String, expires_after: NonZeroU32, decider: Decider) -> Self {
        Self { agent, instance, expires_after, provenance: provenance(&decider), decider, memories: HashMap::new() }
    }

    /// Provenance of its answers: policy and model.
    #[must_use]
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// Age at which a State no longer matters; `None` for a policy without memory.
    #[must_use]
    pub fn lookback(&self) -> Option<Duration> {
        self.decider.lookback()
    }

    /// Decides with `network`, version `version` of model `name`, from the next State on; memories are kept. No effect on a rule or a tree.
    pub fn take_up(&mut self, network: Arc<Dqn>, name: &Name, version: u64) {
        if let Decider::Learned { learned: LearnedPolicy::Network(dqn), .. } = &mut self.decider {
            *dqn = network;
            let mut provenance = provenance(&self.decider);
            let fingerprint = provenance.fingerprint().unwrap_or_default().to_owned();
            provenance.model = Some(ModelRef { name: Some(name.clone()), version: Some(version), fingerprint });
            self.provenance = provenance;
        }
    }

    /// Shows a past State to a policy with memory, without an answer.
    pub fn remember(&mut self, state: &State, rng: &mut dyn Rng) {
        if self.lookback().is_some() {
            let mut memory = self.take(state, state.observed_at_ms);
            self.decider.remember(state, &mut memory.memories, rng);
            self.memories.insert(state.function(), memory);
        }
    }

    /// Continues to hold the operating point `point` of `function`, the last one that was published.
    pub fn resume(&mut self, function: &FunctionId, point: &HeldPoint) {
        if let Some(memory) = self.memories.get_mut(function) {
            memory.memories.resume(point);
        }
    }

    /// Forgets functions without a State for a day.
    pub fn forget(&mut self, now: Timestamp) {
        self.memories.retain(|_, memory| now.since(memory.at) < FORGET_AFTER);
    }

    /// Takes the memory of the function of `state` out of the map and marks the State as seen.
    fn take(&mut self, state: &State, now: Timestamp) -> FunctionMemory {
        let memories = self.memories.remove(&state.function()).map(|known| known.memories).unwrap_or_default();
        FunctionMemory { memories, last: state.state_id(), at: now }
    }

    /// Whether the policy has seen `state` already: after a start both the stream and the subscription deliver it.
    fn was_seen(&self, state: &State) -> bool {
        self.memories.get(&state.function()).is_some_and(|memory| !state.state_id().follows(memory.last))
    }

    /// Answer to `state` at `now`.
    #[must_use]
    pub fn answer(&mut self, state: &State, now: Timestamp, rng: &mut dyn Rng) -> Answer {
        let mut answers = self.answer_all(&[state], now, rng);
        answers.pop().expect("one State has one answer").0
    }

    /// Answers to `states` at `now`, in their order, each with the reason if the fallback decided.
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

    /// Answers `states` of distinct functions in one pass.
    fn answer_pass(&mut self, states: &[&State], now: Timestamp, rng: &mut dyn Rng, answers: &mut Vec<(Answer, Option<FallbackKind>)>) {
        let timely: Vec<bool> = states.iter().map(|state| now <= self.expires(state) && !self.was_seen(state)).collect();
        let due = states.iter().zip(&timely).filter(|(_, timely)| **timely);
        let mut due: Vec<(&State, FunctionMemory)> = due.map(|(state, _)| (*state, self.take(state, now))).collect();
        let mut cases: Vec<_> = due.iter_mut().map(|(state, memory)| (*state, &mut memory.memories)).collect();
        let mut decided = self.decider.decide_all(&mut cases, now, rng).into_iter();
        for (state, timely) in states.iter().zip(timely) {
            let decided = if timely { decided.next() } else { None };
            answers.push(decided.map_or((Answer::Late, None), |decided| self.answer_of(state, decided, now)));
        }
        if self.lookback().is_some() {
            self.memories.extend(due.into_iter().map(|(state, memory)| (state.function(), memory)));
        }
    }

    fn answer_of(&self, state: &State, decided: Decided, now: Timestamp) -> (Answer, Option<FallbackKind>) {
        let fallback = decided.fallback.as_ref().map(|fallback| fallback.reason.kind());
        let basis =
            DecisionBasis { provenance: Provenance { fallback: decided.fallback, ..self.provenance.clone() }, point: decided.point };
        let answer = match decided.decision {
            Decision::Want { allocation, reason, choices } => {
                Answer::Act(Box::new(self.action(state, basis, allocation, reason, choices, now)), AnswerKind::Change)
            }
            Decision::Hold { why, reason, choices } => match state.allocation {
                Some(current) => Answer::Act(Box::new(self.action(state, basis, current, reason, choices, now)), AnswerKind::Hold(why)),
                None => Answer::Silent(why),
            },
        };
        (answer, fallback)
    }

    /// Time at which an answer to `state` expires, counted from the observation: a State that waited is not fresher when it is answered.
    fn expires(&self, state: &State) -> Timestamp {
        Timestamp(state.observed_at_ms.0.saturating_add(state.tick_length_ms.saturating_mul(u64::from(self.expires_after.get()))))
    }

    fn action(
        &self,
        state: &State,
        DecisionBasis { provenance, point }: DecisionBasis,
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
            reason: Action::cut(reason),
            choices,
            point,
        }
    }
}

/// Provenance of a decision, and the operating point that it holds.
struct DecisionBasis {
    provenance: Provenance,
    point: Option<HeldPoint>,
}

/// Number of leading `states` of distinct functions: a decision needs the memory left by the previous one of its function.
fn of_different_functions(states: &[&State]) -> usize {
    let mut functions = HashSet::with_capacity(states.len());
    states.iter().take_while(|state| functions.insert((&state.namespace, &state.function))).count()
}

/// Provenance of `decider`, with texts cut to the maximum of an Action.
fn provenance(decider: &Decider) -> Provenance {
    let provenance = decider.provenance();
    Provenance { configuration: Action::cut(provenance.configuration), ..provenance }
}

#[cfg(test)]
mod tests;
