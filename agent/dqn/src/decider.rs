//! What decides: a rule, or a learned policy with a rule beside it. Owns when the learned one is trusted and what is remembered of a function. The agent answers by
//! it, and what it answered is decided again by it.

use std::sync::Arc;
use std::time::Duration;

use qscale_common::contract::State;
use qscale_common::time::Timestamp;
use qscale_policies::{Decision, History, Memory, Policy, PolicyError};
use rand::Rng;
use serde_json::Value;

use crate::policy::{Dqn, FAR, Valued};

/// The rule beside a learned policy where no other is named.
pub const FALLBACK: &str = "threshold-both";

/// So many good States in a row end a distrust: one good State amid bad ones would have the two take turns.
const GOOD_IN_A_ROW: u32 = 6;

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
    /// Good States that are still wanted until the learned policy is trusted again.
    wanted: u32,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Decided {
    /// The decision.
    pub decision: Decision,
    /// Why the rule beside the learned policy made it; `None` where it did not.
    pub distrust: Option<Distrust>,
}

/// Why a learned policy is not trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Distrust {
    /// It values a choice at no number.
    NoNumber,
    /// What is seen lies far from what it was trained on.
    Strange,
    /// The device failed.
    Device,
    /// It was not trusted a moment ago.
    Recovering,
}

impl Distrust {
    /// Every reason, in a fixed order.
    pub const ALL: [Self; 4] = [Self::NoNumber, Self::Strange, Self::Device, Self::Recovering];

    /// A word for counting.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::NoNumber => "no_number",
            Self::Strange => "strange",
            Self::Device => "device",
            Self::Recovering => "recovering",
        }
    }
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

    /// Which version of which rule or network decides.
    #[must_use]
    pub fn model(&self) -> String {
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
                let decided = |decision| Decided { decision, distrust: None };
                rule.decide_all(&mut own, now, rng).into_iter().map(decided).collect()
            }
            Self::Learned { dqn, fallback } => {
                let seen: Vec<Result<Valued, Doubt>> = match dqn.see_all(&mut own) {
                    Ok(valued) => valued.into_iter().map(trusted).collect(),
                    Err(error) => vec![Err((Distrust::Device, format!(", as {error}"))); cases.len()],
                };
                let decide = |((state, memories), seen): (&mut (&State, &mut Memories), Result<Valued, Doubt>)| match memories.trust(seen) {
                    Ok(valued) => {
                        if fallback.lookback().is_some() {
                            // What it says is not heeded; it sees every State so as to know the load when it is asked.
                            fallback.decide(state, &mut memories.fallback, now, rng);
                        }
                        Decided { decision: dqn.decision(state, &valued), distrust: None }
                    }
                    Err((distrust, why)) => {
                        let decision = fallback.decide(state, &mut memories.fallback, now, rng);
                        Decided { decision: because(decision, fallback.name(), &why), distrust: Some(distrust) }
                    }
                };
                cases.iter_mut().zip(seen).map(decide).collect()
            }
        }
    }
}

/// Why a learned policy is not trusted, and that in words that follow the name of the rule which decides.
type Doubt = (Distrust, String);

/// What the network made of a State, where that can be trusted.
fn trusted(valued: Valued) -> Result<Valued, Doubt> {
    if valued.values.iter().any(|value| !value.is_finite()) {
        return Err((Distrust::NoNumber, ", as the network values a choice at what is no number".to_owned()));
    }
    // A strangeness that is no number is far too.
    if valued.strangeness <= FAR {
        return Ok(valued);
    }
    let far = format!(
        ", as what is seen lies {:.2} deviations from what the model was trained on and at most {FAR:.2} are trusted",
        valued.strangeness
    );
    Err((Distrust::Strange, far))
}

impl Memories {
    /// Ends a distrust that still lasts, as a start of the agent does.
    pub fn trust_again(&mut self) {
        self.wanted = 0;
    }

    /// `seen`, or the distrust that still lasts.
    fn trust(&mut self, seen: Result<Valued, Doubt>) -> Result<Valued, Doubt> {
        self.wanted = if seen.is_err() { GOOD_IN_A_ROW } else { self.wanted.saturating_sub(1) };
        let valued = seen?;
        match self.wanted {
            0 => Ok(valued),
            wanted => Err((Distrust::Recovering, format!(" until {wanted} more States in a row are like those of the training"))),
        }
    }
}

/// Whether `reason` says that the rule beside a network made the decision.
#[must_use]
pub fn by_the_rule(reason: &str) -> bool {
    reason.split_once(" decides").is_some_and(|(rule, _)| qscale_policies::NAMES.contains(&rule))
}

/// `decision`, its reason saying that `rule` made it and why.
fn because(mut decision: Decision, rule: &str, why: &str) -> Decision {
    let (Decision::Want { reason, .. } | Decision::Hold { reason, .. }) = &mut decision;
    *reason = format!("{rule} decides{why}: {reason}");
    decision
}

#[cfg(test)]
mod tests;
