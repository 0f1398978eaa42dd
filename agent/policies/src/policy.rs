//! The policy trait and its decisions. Owns the interface between a policy and its callers; must not know any policy.

use std::fmt;
use std::time::Duration;

use qscale_common::contract::{Choice, State};
use qscale_common::time::{Span, Timestamp};
use qscale_common::units::Allocation;
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::Memory;

/// A rule, learned or written, that says what a function should be given.
pub trait Policy: Send + Sync {
    /// The name that [`crate::by_name`] knows it by.
    fn name(&self) -> &'static str;

    /// Which version of the rule this is, with what it was told to heed: at most [`qscale_common::contract::Action::MAX_TEXT`] bytes.
    fn model(&self) -> String;

    /// How far back a State may still matter to a decision, where the rule remembers anything: a service that starts reads so much of the stream.
    fn lookback(&self) -> Option<Duration> {
        None
    }

    /// When the rule decides and how old what it sees is, in the real form of it; at each State and at once where that form has no tick of its own.
    fn timing(&self) -> Timing {
        Timing::default()
    }

    /// What the function that `state` speaks of should be given. Whatever the rule must remember between two States of one function lies in `memory`.
    /// The same arguments give the same decision.
    fn decide(&self, state: &State, memory: &mut Memory, now: Timestamp, rng: &mut dyn Rng) -> Decision;

    /// What each of many functions should be given, as [`Policy::decide`] says it of one, in their order. A rule for which many at once are cheaper than one
    /// by one says how.
    fn decide_all(&self, cases: &mut [(&State, &mut Memory)], now: Timestamp, rng: &mut dyn Rng) -> Vec<Decision> {
        cases.iter_mut().map(|(state, memory)| self.decide(state, memory, now, rng)).collect()
    }
}

/// The timing of a rule's real form. The rule keeps to it by itself, whatever the State's tick: it holds between its own ticks and delays what it sees, so a
/// caller adds nothing. It cannot see finer than the State's tick, so whoever compares rules shows each of them States at least as often as it decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Timing {
    /// How often it decides; absent where each State is a tick.
    pub tick: Option<Span>,
    /// How old the newest measurement is that it may decide on, at most, apart from what the platform adds.
    pub metric_lag: Span,
}

/// What a policy says to a State.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// The function should be given something else than it has.
    Want {
        /// What it should be given, absolute, within the State's bounds.
        allocation: Allocation,
        /// Why, in words for a person.
        reason: String,
        /// What could have been chosen.
        choices: Vec<Choice>,
    },
    /// What is in force should stay.
    Hold {
        /// Which kind of reason.
        why: HoldReason,
        /// The reason in words for a person.
        reason: String,
        /// What could have been chosen.
        choices: Vec<Choice>,
    },
}

impl Decision {
    /// To keep what is in force, with nothing to choose from.
    #[must_use]
    pub fn hold(why: HoldReason, reason: impl Into<String>) -> Self {
        Self::Hold { why, reason: reason.into(), choices: Vec::new() }
    }

    /// The allocation that is wanted; `None` for a hold.
    #[must_use]
    pub fn wanted(&self) -> Option<Allocation> {
        match self {
            Self::Want { allocation, .. } => Some(*allocation),
            Self::Hold { .. } => None,
        }
    }
}

/// Why what is in force should stay. Nothing to do, not allowed and not known are different answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldReason {
    /// Nothing to do: what is in force is what the policy wants.
    NothingToDo,
    /// The policy wants something else, and the State's bounds do not allow it.
    NotAllowed,
    /// Not known: the State does not tell the allocation in force.
    NoAllocation,
    /// Not known: the State lacks a measurement that the policy decides by.
    NoMeasurement,
    /// Nothing was judged: the rule has a tick of its own, and this State comes between two of them.
    NotDue,
}

impl HoldReason {
    /// Every reason, in a fixed order.
    pub const ALL: [HoldReason; 5] = [Self::NothingToDo, Self::NotAllowed, Self::NoAllocation, Self::NoMeasurement, Self::NotDue];

    /// A word for counting.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::NothingToDo => "nothing_to_do",
            Self::NotAllowed => "not_allowed",
            Self::NoAllocation => "no_allocation",
            Self::NoMeasurement => "no_measurement",
            Self::NotDue => "not_due",
        }
    }
}

impl fmt::Display for HoldReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}
