//! The policy trait and its decisions. Owns the interface between a policy and its callers; must not know any policy.

use std::time::Duration;

use qscale_common::contract::{Choice, State};
use qscale_common::time::{Span, Timestamp};
use qscale_common::units::Allocation;
use rand::Rng;
use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

use crate::Memory;

/// A decision function from a State to an allocation, learned or not.
pub trait Policy: Send + Sync {
    /// Name in configuration files, unique among policies.
    fn name(&self) -> &'static str;

    /// Version and most important parameters, at most [`qscale_common::contract::Action::MAX_TEXT`] bytes.
    fn model(&self) -> String;

    /// Age up to which a State can still influence a decision; `None` without memory. A service that starts reads this much of the stream.
    fn lookback(&self) -> Option<Duration> {
        None
    }

    /// Control interval and metric lag of the policy's original; by default it decides at each State, without lag.
    fn timing(&self) -> Timing {
        Timing::default()
    }

    /// Decides for the function of `state`. `memory` holds what the policy keeps between two States of that function.
    /// Deterministic: equal arguments give equal decisions.
    fn decide(&self, state: &State, memory: &mut Memory, now: Timestamp, rng: &mut dyn Rng) -> Decision;

    /// Decides for several functions, in order, with the same results as [`Policy::decide`] one by one. Overridden
    /// where a batch is cheaper.
    fn decide_all(&self, cases: &mut [(&State, &mut Memory)], now: Timestamp, rng: &mut dyn Rng) -> Vec<Decision> {
        cases.iter_mut().map(|(state, memory)| self.decide(state, memory, now, rng)).collect()
    }
}

/// Control interval and metric lag of a policy's original. The policy keeps them by itself, whatever the State's tick:
/// it holds between its own ticks and delays its metrics. It cannot see finer than the State's tick, so a comparison
/// must show each policy States at least as often as it decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Timing {
    /// Time between decisions; absent if it decides at each State.
    pub tick: Option<Span>,
    /// Greatest age of the newest measurement it decides on, without the lag of the platform.
    pub metric_lag: Span,
}

/// A policy's answer to a State.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Change the allocation.
    Want {
        /// Absolute allocation within the State's bounds.
        allocation: Allocation,
        /// Explanation for a reader.
        reason: String,
        /// Alternatives that were considered.
        choices: Vec<Choice>,
    },
    /// Keep the current allocation.
    Hold {
        /// Kind of reason.
        why: HoldReason,
        /// Explanation for a reader.
        reason: String,
        /// Alternatives that were considered.
        choices: Vec<Choice>,
    },
}

impl Decision {
    /// Keeps the current allocation, without alternatives.
    #[must_use]
    pub fn hold(why: HoldReason, reason: impl Into<String>) -> Self {
        Self::Hold { why, reason: reason.into(), choices: Vec::new() }
    }

    /// The wanted allocation; `None` for a hold.
    #[must_use]
    pub fn wanted(&self) -> Option<Allocation> {
        match self {
            Self::Want { allocation, .. } => Some(*allocation),
            Self::Hold { .. } => None,
        }
    }
}

/// Why the current allocation is kept. "Nothing to do", "not allowed" and "unknown" are different answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, IntoStaticStr, VariantArray, strum::Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum HoldReason {
    /// The current allocation is the wanted one.
    NothingToDo,
    /// The policy wants another allocation that the State's bounds do not allow.
    NotAllowed,
    /// Unknown: the State lacks the current allocation.
    NoAllocation,
    /// Unknown: the State lacks a measurement that the policy needs.
    NoMeasurement,
    /// Not evaluated: the State lies between two of the policy's own ticks.
    NotDue,
}
