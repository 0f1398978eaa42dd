//! Decides on a recorded function again. Owns which States and Actions are read and which policy decides; [`decide`] is pure.

pub mod decide;

use std::collections::BTreeMap;

use anyhow::Context as _;
use qscale_common::contract::{Action, State, StateId};
use qscale_common::name::{FunctionId, Name};
use qscale_common::runtime::bus::Bus;
use qscale_common::text::clean;
use qscale_common::time::Timestamp;
use qscale_dqn::Checkpoint;
use serde::Serialize;

pub use self::decide::{Match, ReplayedDecision};
use self::decide::{Replayed, decide_again};
use crate::policy::{ReplayPolicy, SettingsFolder};
use crate::recording::{self, Period, RecordedStates};

/// Which policy decides again.
#[derive(Clone, Copy)]
pub enum ReplayWith<'a> {
    /// The policy of the agent, with the memory that the agent had.
    Agent {
        /// Folder with its settings.
        settings: &'a SettingsFolder,
        /// Model that replaces the one that decided.
        model: Option<&'a Checkpoint>,
    },
    /// Another policy, which sees every State.
    Policy(&'a ReplayPolicy),
}

/// The recorded decisions of one agent on one function, next to those of a replay.
#[derive(Debug, Clone, PartialEq)]
pub struct FunctionReplay {
    /// The function.
    pub function: FunctionId,
    /// Agent whose decisions were recorded.
    pub agent: Name,
    /// Policy that decided again, with its parameters.
    pub policy: String,
    /// Its version.
    pub configuration: String,
    /// Assumptions, in sentences.
    pub assumptions: Vec<String>,
    /// Recorded States that cannot be read.
    pub unreadable: u64,
    /// Replayed decisions in order.
    pub decisions: Vec<ReplayedDecision>,
    /// States that the agent did not see, and that the replay therefore skipped.
    pub unseen: usize,
}

impl FunctionReplay {
    /// Decisions that were recorded and can be compared.
    #[must_use]
    pub fn compared(&self) -> usize {
        self.decisions.iter().filter(|decision| decision.comparison().is_some()).count()
    }

    /// Decisions that compare as `wanted`.
    #[must_use]
    pub fn count(&self, wanted: Match) -> usize {
        self.decisions.iter().filter(|decision| decision.comparison() == Some(wanted)).count()
    }

    /// Recorded decisions of the fallback rule.
    #[must_use]
    pub fn fallbacks(&self) -> usize {
        self.decisions.iter().filter(|decision| decision.fallback).count()
    }
}

impl Serialize for FunctionReplay {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Output<'a> {
            function: String,
            agent: &'a Name,
            policy: &'a str,
            configuration: &'a str,
            assumptions: &'a [String],
            unreadable: u64,
            states: usize,
            compared: usize,
            same: usize,
            same_allocation: usize,
            unseen: usize,
            fallback: usize,
            differences: Vec<&'a ReplayedDecision>,
        }
        let different = |decision: &&ReplayedDecision| decision.comparison().is_some_and(|found| found != Match::Same);
        let output = Output {
            function: self.function.to_string(),
            agent: &self.agent,
            policy: &self.policy,
            configuration: &self.configuration,
            assumptions: &self.assumptions,
            unreadable: self.unreadable,
            states: self.decisions.len(),
            compared: self.compared(),
            same: self.count(Match::Same),
            same_allocation: self.count(Match::Same) + self.count(Match::SameAllocation),
            unseen: self.unseen,
            fallback: self.fallbacks(),
            differences: self.decisions.iter().filter(different).collect(),
        };
        output.serialize(serializer)
    }
}

/// Replays `function` over `period` against the recorded decisions of `agent`, by default the acting one; `None` if no State is retained.
///
/// # Errors
/// When a stream cannot be read, or the policy cannot be reconstructed.
pub async fn replay(
    bus: &Bus,
    function: &FunctionId,
    period: Period,
    agent: Option<&Name>,
    with: ReplayWith<'_>,
) -> anyhow::Result<Option<FunctionReplay>> {
    let in_period = recording::states(bus, function, period).await?;
    let unreadable = in_period.unreadable;
    let Some(last) = in_period.states.last().cloned() else {
        anyhow::ensure!(unreadable == 0, "none of {unreadable} recorded States of {function} can be read");
        return Ok(None);
    };
    let agent = agent.cloned().unwrap_or_else(|| last.agent.clone());
    let actions = recording::actions(bus, &agent, function, period.since).await?;
    let newest = recording::last_until(&actions, last.state_id());
    let reconstructed;
    let (policy, as_agent) = match with {
        ReplayWith::Policy(policy) => (policy, false),
        ReplayWith::Agent { settings, model } => {
            let of_agent = ReplayPolicy::of_agent(bus, settings, &agent, newest, model).await;
            reconstructed = of_agent.context("specify another policy with --policy")?;
            (&reconstructed, true)
        }
    };
    let recorded = Recorded::read(bus, function, &agent, policy, period, as_agent).await?;
    let Replayed { decisions, unseen } = decide_again(&policy.decider, &recorded.states, recorded.actions, period.since, as_agent);
    let configuration = policy.decider.configuration();
    let mut assumptions = policy.assumptions.clone();
    assumptions.extend(in_period.faults());
    assumptions.extend(other_configurations(&decisions, newest.map(|action| action.provenance.configuration.as_str())));
    let of_this_one = |decision: &&ReplayedDecision| decision.configuration.as_ref() == Some(&configuration);
    let differs = |decision: &ReplayedDecision| decision.comparison().is_some_and(|found| found != Match::Same);
    if as_agent && recorded.begins_amid && decisions.iter().filter(of_this_one).any(differs) {
        assumptions.push(format!("{agent} started with the oldest retained State; it may have started earlier"));
    }
    let (function, policy) = (function.clone(), policy.title());
    Ok(Some(FunctionReplay { function, agent, policy, configuration, assumptions, unreadable, decisions, unseen }))
}

/// States that other models than the `newest` decided on, in a sentence.
fn other_configurations(decisions: &[ReplayedDecision], newest: Option<&str>) -> Option<String> {
    let others =
        decisions.iter().filter_map(|decision| decision.configuration.as_deref()).filter(|configuration| Some(*configuration) != newest);
    let count = others.clone().count();
    let first = others.into_iter().next()?;
    Some(format!("another version or configuration, `{}`, made {count} of the recorded decisions", clean(first)))
}

/// States to decide on, with the recorded Actions.
struct Recorded {
    states: Vec<State>,
    actions: BTreeMap<StateId, Action>,
    /// Whether the agent answered even the oldest State: its memory of earlier ones is unknown.
    begins_amid: bool,
}

impl Recorded {
    /// Reads back as far as the policy remembers before the period. To rebuild an agent's own memory it reads from the
    /// agent's start: a rule with an interval of its own counts it from the first State.
    async fn read(
        bus: &Bus,
        function: &FunctionId,
        agent: &Name,
        policy: &ReplayPolicy,
        period: Period,
        as_agent: bool,
    ) -> anyhow::Result<Self> {
        let lookback = policy.decider.lookback();
        let from = |since| Period { since, until: period.until };
        let found = Self::read_from(bus, function, agent, from(period.since.minus(lookback.unwrap_or_default()))).await?;
        if as_agent && lookback.is_some() && found.begins_amid {
            return Self::read_from(bus, function, agent, from(Timestamp(0))).await;
        }
        Ok(found)
    }

    async fn read_from(bus: &Bus, function: &FunctionId, agent: &Name, period: Period) -> anyhow::Result<Self> {
        let RecordedStates { states, .. } = recording::states(bus, function, period).await?;
        let actions = recording::actions(bus, agent, function, period.since).await?;
        let begins_amid = states.first().is_some_and(|first| actions.contains_key(&first.state_id()));
        Ok(Self { states, actions, begins_amid })
    }
}
