//! What decides: a rule, or a learned policy with a rule beside it. Owns when the learned one is trusted and what is remembered of a function. The agent answers by
//! it, and what it answered is decided again by it.

use std::sync::Arc;
use std::time::Duration;

use qscale_common::contract::{Fallback, FallbackReason, ModelRef, Provenance, State};
use qscale_common::time::Timestamp;
use qscale_policies::{Decision, History, Memory, Policy, PolicyError};
use rand::Rng;
use serde_json::Value;

use crate::policy::{Dqn, FAR, Valued};

/// The rule beside a learned policy where no other is named.
pub const FALLBACK: &str = "threshold-both";

/// Consecutive good States after which the model decides again. With one, model and fallback would take turns while good and bad States alternate.
const RECOVERY_STATES: u32 = 6;

/// Longest text of a device's error that is passed on, bytes.
const MAX_ERROR: usize = 256;

/// What decides.
pub enum Decider {
    /// A rule.
    Rule(Box<dyn Policy>),
    /// A network, and the rule that decides where it cannot be trusted.
    Learned {
        /// The network.
        dqn: Arc<Dqn>,
        /// The rule.
        fallback: Box<dyn Policy>,
    },
}

/// What is remembered of one function.
#[derive(Debug, Default)]
pub struct Memories {
    own: Memory,
    /// Of the rule beside a learned policy.
    fallback: Memory,
    /// Good States that are still needed before the learned policy decides again.
    recovery: u32,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Decided {
    /// The decision.
    pub decision: Decision,
    /// The rule that decided in place of the learned policy; `None` where the policy itself decided.
    pub fallback: Option<Fallback>,
}

impl Decider {
    /// `dqn`, with the rule called `fallback` beside it, at its defaults.
    ///
    /// # Errors
    /// When there is no such rule.
    pub fn learned(dqn: Dqn, fallback: &str) -> Result<Self, PolicyError> {
        Ok(Self::Learned { dqn: Arc::new(dqn), fallback: qscale_policies::by_name(fallback, &Value::Null)? })
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.policy().name()
    }

    /// Provenance of its decisions: the policy, its version and parameters, and the fingerprint of its model.
    #[must_use]
    pub fn provenance(&self) -> Provenance {
        let model = match self {
            Self::Rule(_) => None,
            Self::Learned { dqn, .. } => Some(ModelRef { fingerprint: dqn.fingerprint().to_owned(), ..ModelRef::default() }),
        };
        Provenance { model, ..Provenance::of_rule(self.name(), self.configuration()) }
    }

    /// Version and parameters of the policy, as one opaque text.
    #[must_use]
    pub fn configuration(&self) -> String {
        self.policy().model()
    }

    /// The rule, or the network without the rule beside it.
    #[must_use]
    pub fn policy(&self) -> &dyn Policy {
        match self {
            Self::Rule(rule) => &**rule,
            Self::Learned { dqn, .. } => &**dqn,
        }
    }

    /// How far back a State may still matter; `None` where nothing is remembered.
    #[must_use]
    pub fn lookback(&self) -> Option<Duration> {
        match self {
            Self::Rule(rule) => rule.lookback(),
            Self::Learned { dqn, fallback } => dqn.lookback().max(fallback.lookback()),
        }
    }

    /// Lets a State of the past be seen, without a decision.
    pub fn recall(&self, state: &State, memories: &mut Memories, rng: &mut dyn Rng) {
        let at = state.observed_at_ms;
        match self {
            Self::Rule(rule) => drop(rule.decide(state, &mut memories.own, at, rng)),
            Self::Learned { fallback, .. } => {
                memories.own.of::<History>().see(state);
                if fallback.lookback().is_some() {
                    fallback.decide(state, &mut memories.fallback, at, rng);
                }
            }
        }
    }

    /// What is decided of each of `cases`, in one pass where that is cheaper.
    pub fn decide_all(&self, cases: &mut [(&State, &mut Memories)], now: Timestamp, rng: &mut dyn Rng) -> Vec<Decided> {
        let mut own: Vec<_> = cases.iter_mut().map(|(state, memories)| (*state, &mut memories.own)).collect();
        match self {
            Self::Rule(rule) => {
                let decided = |decision| Decided { decision, fallback: None };
                rule.decide_all(&mut own, now, rng).into_iter().map(decided).collect()
            }
            Self::Learned { dqn, fallback } => {
                let seen: Vec<Result<Valued, FallbackReason>> = match dqn.see_all(&mut own) {
                    Ok(valued) => valued.into_iter().map(trusted).collect(),
                    Err(error) => {
                        let mut error = error.to_string();
                        error.truncate(error.floor_char_boundary(MAX_ERROR));
                        vec![Err(FallbackReason::DeviceFailed { error }); cases.len()]
                    }
                };
                let decide = |((state, memories), seen): (&mut (&State, &mut Memories), _)| match memories.trust(seen) {
                    Ok(valued) => {
                        if fallback.lookback().is_some() {
                            // Its decision is ignored; it sees every State so as to know the load when it has to take over.
                            fallback.decide(state, &mut memories.fallback, now, rng);
                        }
                        Decided { decision: dqn.decision(state, &valued), fallback: None }
                    }
                    Err(reason) => {
                        let decision = fallback.decide(state, &mut memories.fallback, now, rng);
                        let taken = Fallback { rule: fallback.name().to_owned(), reason };
                        Decided { decision: explained(decision, &taken), fallback: Some(taken) }
                    }
                };
                cases.iter_mut().zip(seen).map(decide).collect()
            }
        }
    }
}

/// The network's values for a State, where they can be trusted.
fn trusted(valued: Valued) -> Result<Valued, FallbackReason> {
    if valued.values.iter().any(|value| !value.is_finite()) {
        return Err(FallbackReason::NonFiniteValue);
    }
    // A non-finite score is out of distribution too.
    if valued.strangeness <= FAR {
        return Ok(valued);
    }
    let score = Some(f64::from(valued.strangeness)).filter(|score| score.is_finite());
    Err(FallbackReason::OutOfDistribution { score, threshold: f64::from(FAR) })
}

impl Memories {
    /// Lets the model decide at once, as a start of the agent does.
    pub fn trust_again(&mut self) {
        self.recovery = 0;
    }

    /// `seen`, unless the model still recovers from an earlier State.
    fn trust(&mut self, seen: Result<Valued, FallbackReason>) -> Result<Valued, FallbackReason> {
        self.recovery = if seen.is_err() { RECOVERY_STATES } else { self.recovery.saturating_sub(1) };
        let valued = seen?;
        match self.recovery {
            0 => Ok(valued),
            states_left => Err(FallbackReason::Recovering { states_left }),
        }
    }
}

/// `decision`, with a reason that also names the rule and why it took over.
fn explained(mut decision: Decision, fallback: &Fallback) -> Decision {
    let (Decision::Want { reason, .. } | Decision::Hold { reason, .. }) = &mut decision;
    *reason = format!("fallback {}, as {}: {reason}", fallback.rule, fallback.reason);
    decision
}

#[cfg(test)]
mod tests;
