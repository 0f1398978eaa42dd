//! The decider: a rule, or a learned policy with a fallback rule. Owns when the learned policy is trusted, and the
//! memory of a function. The agent and the replay of recordings use it.

use std::sync::Arc;
use std::time::Duration;

use qscale_common::contract::{Fallback, FallbackReason, HeldPoint, ModelRef, Provenance, State};
use qscale_common::time::Timestamp;
use qscale_policies::{Decision, HoldReason, Memory, Policy, PolicyError};
use qscale_rl::network::DeviceError;
use rand::Rng;
use serde_json::Value;

use crate::policy::{Dqn, LearnedMemory, OOD_THRESHOLD, Valuation};
use crate::tree::policy::TreePolicy;

/// The default fallback rule.
pub const FALLBACK: &str = "threshold-both";

/// Consecutive good States after which the model decides again. With one, model and fallback would take turns while
/// good and bad States alternate.
const RECOVERY_STATES: u32 = 6;

/// Ticks of other measurements without one of requests after which a function counts as one without a source of them. Until then its allocation stays.
const UNMEASURED_TICKS: u64 = 10;

/// Longest text of a device's error that is passed on, bytes.
const MAX_ERROR: usize = 256;

/// A rule, or a learned policy with its fallback.
pub enum Decider {
    /// A rule.
    Rule(Box<dyn Policy>),
    /// A learned policy and its fallback.
    Learned {
        /// The learned policy.
        learned: LearnedPolicy,
        /// The rule that decides when the learned policy is not trusted.
        fallback: Box<dyn Policy>,
    },
}

/// A policy that was learned from simulated functions, and is trusted only while observations resemble those of its training.
pub enum LearnedPolicy {
    /// A network, which may be replaced between two States.
    Network(Arc<Dqn>),
    /// A decision tree that imitates a network.
    Tree(Box<TreePolicy>),
}

impl From<Dqn> for LearnedPolicy {
    fn from(network: Dqn) -> Self {
        Self::Network(Arc::new(network))
    }
}

impl From<TreePolicy> for LearnedPolicy {
    fn from(tree: TreePolicy) -> Self {
        Self::Tree(Box::new(tree))
    }
}

impl LearnedPolicy {
    fn policy(&self) -> &dyn Policy {
        match self {
            Self::Network(dqn) => &**dqn,
            Self::Tree(tree) => &**tree,
        }
    }

    fn fingerprint(&self) -> &str {
        match self {
            Self::Network(dqn) => dqn.fingerprint(),
            Self::Tree(tree) => tree.fingerprint(),
        }
    }

    /// Adds each State to its memory and values it.
    fn value_all(&self, cases: &mut [(&State, &mut Memory)]) -> Result<Vec<Valuation>, DeviceError> {
        match self {
            Self::Network(dqn) => dqn.value_all(cases),
            Self::Tree(tree) => Ok(cases.iter_mut().map(|(state, memory)| tree.value(state, memory)).collect()),
        }
    }

    fn decision(&self, state: &State, valuation: &Valuation) -> Decision {
        match self {
            Self::Network(dqn) => dqn.decision(state, valuation),
            Self::Tree(tree) => tree.decision(state, valuation),
        }
    }
}

/// Memory of one function.
#[derive(Debug, Default)]
pub struct Memories {
    own: Memory,
    /// Memory of the fallback.
    fallback: Memory,
    /// Good States that are still needed before the learned policy decides again.
    recovery: u32,
}

/// A decision and who made it.
#[derive(Debug, Clone, PartialEq)]
pub struct Decided {
    /// The decision.
    pub decision: Decision,
    /// The rule that decided in place of the learned policy; `None` if the policy itself decided.
    pub fallback: Option<Fallback>,
    /// Operating point that the learned policy holds; `None` if the ScalingPolicy states none.
    pub point: Option<HeldPoint>,
}

impl Decider {
    /// The policy `learned` with the rule `fallback`, with defaults, as its fallback.
    ///
    /// # Errors
    /// When there is no such rule.
    pub fn learned(learned: impl Into<LearnedPolicy>, fallback: &str) -> Result<Self, PolicyError> {
        Ok(Self::Learned { learned: learned.into(), fallback: qscale_policies::by_name(fallback, &Value::Null)? })
    }

    /// Name of the policy.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.policy().name()
    }

    /// Provenance of its decisions: the policy, its version and parameters, and the fingerprint of its model.
    #[must_use]
    pub fn provenance(&self) -> Provenance {
        let model = match self {
            Self::Rule(_) => None,
            Self::Learned { learned, .. } => Some(ModelRef { fingerprint: learned.fingerprint().to_owned(), ..ModelRef::default() }),
        };
        Provenance { model, ..Provenance::of_rule(self.name(), self.configuration()) }
    }

    /// Version and parameters of the policy, as one opaque text.
    #[must_use]
    pub fn configuration(&self) -> String {
        self.policy().model()
    }

    /// The rule, or the learned policy without its fallback.
    #[must_use]
    pub fn policy(&self) -> &dyn Policy {
        match self {
            Self::Rule(rule) => &**rule,
            Self::Learned { learned, .. } => learned.policy(),
        }
    }

    /// How far back States affect decisions; `None` if there is no memory.
    #[must_use]
    pub fn lookback(&self) -> Option<Duration> {
        match self {
            Self::Rule(rule) => rule.lookback(),
            Self::Learned { learned, fallback } => learned.policy().lookback().max(fallback.lookback()),
        }
    }

    /// Adds a past State to the memory without deciding.
    pub fn remember(&self, state: &State, memories: &mut Memories, rng: &mut dyn Rng) {
        let at = state.observed_at_ms;
        match self {
            Self::Rule(rule) => drop(rule.decide(state, &mut memories.own, at, rng)),
            Self::Learned { fallback, .. } => {
                memories.own.of::<LearnedMemory>().history.add(state);
                if fallback.lookback().is_some() {
                    fallback.decide(state, &mut memories.fallback, at, rng);
                }
            }
        }
    }

    /// Decides each of `cases`; a network does so in one pass.
    pub fn decide_all(&self, cases: &mut [(&State, &mut Memories)], now: Timestamp, rng: &mut dyn Rng) -> Vec<Decided> {
        let mut own: Vec<_> = cases.iter_mut().map(|(state, memories)| (*state, &mut memories.own)).collect();
        match self {
            Self::Rule(rule) => {
                let decided = |decision| Decided { decision, fallback: None, point: None };
                rule.decide_all(&mut own, now, rng).into_iter().map(decided).collect()
            }
            Self::Learned { learned, fallback } => {
                let seen: Vec<Result<Valuation, FallbackReason>> = match learned.value_all(&mut own) {
                    Ok(valued) => valued.into_iter().map(trusted).collect(),
                    Err(error) => {
                        let mut error = error.to_string();
                        error.truncate(error.floor_char_boundary(MAX_ERROR));
                        vec![Err(FallbackReason::DeviceFailed { error }); cases.len()]
                    }
                };
                let decide = |((state, memories), seen): (&mut (&State, &mut Memories), _)| {
                    let point = memories.point(state);
                    let trusted = match requests(state) {
                        Requests::Measured => Some(memories.trust(seen)),
                        Requests::Never => Some(memories.trust(Err(FallbackReason::RequestsNotMeasured))),
                        Requests::NotYet => None,
                    };
                    if let Some(Err(reason)) = trusted {
                        let decision = fallback.decide(state, &mut memories.fallback, now, rng);
                        let taken = Fallback { rule: fallback.name().to_owned(), reason };
                        return Decided { decision: explained(decision, &taken), fallback: Some(taken), point };
                    }
                    if fallback.lookback().is_some() {
                        // Its decision is ignored; it sees every State so as to know the load when it has to take over.
                        fallback.decide(state, &mut memories.fallback, now, rng);
                    }
                    let not_yet = || Decision::Hold {
                        why: HoldReason::NoMeasurement,
                        reason: "requests are not measured yet".into(),
                        choices: Vec::new(),
                    };
                    let decision = trusted.and_then(Result::ok).map_or_else(not_yet, |valued| learned.decision(state, &valued));
                    Decided { decision, fallback: None, point }
                };
                cases.iter_mut().zip(seen).map(decide).collect()
            }
        }
    }
}

/// The valuation of a State, where it can be trusted.
fn trusted(valued: Valuation) -> Result<Valuation, FallbackReason> {
    if valued.values.iter().any(|value| !value.is_finite()) {
        return Err(FallbackReason::NonFiniteValue);
    }
    // A non-finite score is out of distribution too.
    if valued.ood_score <= OOD_THRESHOLD {
        return Ok(valued);
    }
    let score = Some(f64::from(valued.ood_score)).filter(|score| score.is_finite());
    Err(FallbackReason::OutOfDistribution { score, threshold: f64::from(OOD_THRESHOLD) })
}

/// Whether requests of a function are measured. The model would take those that are not for none.
enum Requests {
    Measured,
    /// Not yet, as some sources need more time than others.
    NotYet,
    Never,
}

fn requests(state: &State) -> Requests {
    let others_covered = state.windows.short.covered_ms >= state.tick_length_ms.saturating_mul(UNMEASURED_TICKS);
    match state.age.requests_ms {
        Some(_) => Requests::Measured,
        None if others_covered => Requests::Never,
        None => Requests::NotYet,
    }
}

impl Memories {
    /// The operating point that the function of `state` is held at.
    fn point(&mut self, state: &State) -> Option<HeldPoint> {
        state.objective.point.and_then(|_| self.own.of::<LearnedMemory>().point.held())
    }

    /// Continues to hold an operating point from `point`, the last one that was published for the function.
    pub fn resume(&mut self, point: &HeldPoint) {
        self.own.of::<LearnedMemory>().point.resume(point);
    }

    /// Lets the model decide at once, as a start of the agent does.
    pub fn trust_again(&mut self) {
        self.recovery = 0;
    }

    /// `seen`, unless the model still recovers from an earlier State.
    fn trust(&mut self, seen: Result<Valuation, FallbackReason>) -> Result<Valuation, FallbackReason> {
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
