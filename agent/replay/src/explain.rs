//! Explains one decision: what it was based on, what the guard made of it, and what other policies would have
//! requested. Owns what is read and which other policies are asked; [`text`] has the wording.

mod features;
mod text;

use std::time::Duration;

use anyhow::bail;
use qscale_common::contract::{Action, DecisionSource, EventType, Message as _, Outcome, Reward, State, StateId, subject};
use qscale_common::name::{FunctionId, Name};
use qscale_common::runtime::bus::Bus;
use qscale_common::time::{Tick, Timestamp, millis};
use qscale_common::units::Allocation;
use qscale_dqn::decider::{Decider, LearnedPolicy};
use qscale_dqn::policy::DqnParams;
use qscale_dqn::registry::DQN;
use qscale_dqn::tree::policy::TREE;
use qscale_policies::{Decision, History, HoldReason};
use serde::Serialize;

pub use self::features::FeatureSnapshot;
use crate::policy::{ReplayPolicy, SettingsFolder};
use crate::recording;
use crate::session::ReplaySession;

/// Policies that are asked what they would have done: those in common use.
const ALTERNATIVES: [&str; 2] = ["hpa", "vpa"];
/// Period of Outcomes that is searched for the agents that decide at all.
const RECENT: Duration = Duration::from_secs(600);

/// A decision with everything recorded about it.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// State that was decided on.
    pub state: State,
    /// The decision.
    pub action: Action,
    /// Features that the learned policy derived from earlier States; `None` for a rule.
    pub features: Option<FeatureSnapshot>,
    /// Result of the guard and the platform.
    pub outcome: Option<Outcome>,
    /// Reward of the tick that followed.
    pub reward: Option<Reward>,
    /// Requests of other policies.
    pub alternatives: Vec<Alternative>,
    /// First tick that the fallback rule decided.
    pub fallback_since: Option<Tick>,
}

/// Decision of a policy that did not act, on the same States: the last one that was due, as a policy may decide less often than every tick.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Alternative {
    policy: &'static str,
    configuration: String,
    /// Requested allocation; absent if it would have kept the current one.
    requested: Option<Allocation>,
    /// Current allocation when it decided.
    current: Option<Allocation>,
    reason: String,
    /// Time from its decision to the explained one, milliseconds.
    before_ms: u64,
    /// Time that it looks back, and time for which States were retained, seconds.
    lookback_s: u64,
    retained_s: u64,
}

impl Alternative {
    fn new(policy: &ReplayPolicy, state: &State, last: DueDecision, first: Timestamp) -> Self {
        let requested = last.decision.wanted();
        let (Decision::Want { reason, .. } | Decision::Hold { reason, .. }) = last.decision;
        let decider = &policy.decider;
        Self {
            policy: decider.name(),
            configuration: decider.configuration(),
            requested,
            current: last.current,
            reason,
            before_ms: millis(state.observed_at_ms.since(last.at)),
            lookback_s: decider.lookback().unwrap_or_default().as_secs(),
            retained_s: state.observed_at_ms.since(first).as_secs(),
        }
    }
}

impl Serialize for Explanation {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Output<'a> {
            function: String,
            agent: &'a str,
            acting: bool,
            tick: Tick,
            state: &'a State,
            features: &'a Option<FeatureSnapshot>,
            action: &'a Action,
            outcome: &'a Option<Outcome>,
            reward: &'a Option<Reward>,
            alternatives: &'a [Alternative],
            limitations: Vec<String>,
        }
        let output = Output {
            function: self.state.function().to_string(),
            agent: self.action.agent.as_str(),
            acting: self.is_acting(),
            tick: self.state.tick,
            state: &self.state,
            features: &self.features,
            action: &self.action,
            outcome: &self.outcome,
            reward: &self.reward,
            alternatives: &self.alternatives,
            limitations: self.limitations(),
        };
        output.serialize(serializer)
    }
}

impl Explanation {
    /// Reads everything recorded about `action`, a decision on `function`, and asks other policies.
    ///
    /// # Errors
    /// When its State is no longer retained or a stream cannot be read.
    pub async fn read(bus: &Bus, settings: &SettingsFolder, function: &FunctionId, action: Action) -> anyhow::Result<Self> {
        let state_id = action.state_id();
        let policies = ALTERNATIVES.iter().map(|name| ReplayPolicy::named(name, None)).collect::<anyhow::Result<Vec<_>>>()?;
        let lookback = policies.iter().filter_map(|policy| policy.decider.lookback()).max().unwrap_or_default().max(History::REACH);
        let mut scan = StateScan::new(&policies, state_id);
        let states = subject::of(EventType::State, function);
        bus.read_history_on(states, action.decided_at_ms.minus(lookback), |state: State| scan.add(&state)).await?;
        let StateScan { state, history, due, first, .. } = scan;
        let Some(state) = state else {
            bail!(
                "the State of tick {}, which {} decided on, is no longer retained; `qscale watch --kind action --since 1h` shows the recorded Actions",
                state_id.tick,
                action.agent
            )
        };
        let alternatives = policies.iter().zip(due).filter_map(|(policy, due)| Some(Alternative::new(policy, &state, due?, first?)));
        let alternatives = alternatives.collect();
        let features = match action.provenance.policy.as_str() {
            DQN | TREE => Some(FeatureSnapshot::new(&state, history.summary(), violation_cost(bus, settings, &action, &state).await)),
            _ => None,
        };
        // The Outcome follows at once, the Reward after the next tick. Clocks may differ slightly.
        let from = state.observed_at_ms.minus(Duration::from_millis(state.tick_length_ms));
        let outcomes: Vec<Outcome> = recording::messages(bus, function, from).await?;
        let rewards: Vec<Reward> = recording::messages(bus, function, from).await?;
        let fallback_since = outcomes.iter().find(|outcome| outcome.source == DecisionSource::Fallback).map(|outcome| outcome.tick);
        let of_action =
            |outcome: &Outcome| outcome.agent == action.agent && (outcome.epoch, outcome.tick) == (state_id.epoch, state_id.tick);
        let outcome = outcomes.into_iter().rfind(of_action);
        let reward = rewards.into_iter().find(|reward| (reward.epoch, reward.tick) == (state_id.epoch, state_id.tick));
        Ok(Self { state, action, features, outcome, reward, alternatives, fallback_since })
    }

    /// Whether the function acts on the decisions of this agent; otherwise the agent is a shadow.
    #[must_use]
    pub fn is_acting(&self) -> bool {
        self.state.agent == self.action.agent
    }
}

/// An error for a decision that is not retained, which lists the agents that decide.
///
/// # Errors
/// When the stream cannot be read.
pub async fn missing_decision(
    bus: &Bus,
    agent: &Name,
    function: &FunctionId,
    tick: Option<u64>,
    now: Timestamp,
) -> anyhow::Result<anyhow::Error> {
    let outcomes: Vec<Outcome> = recording::messages(bus, function, now.minus(RECENT)).await?;
    let mut deciders: Vec<String> = outcomes.iter().map(decider).collect();
    deciders.sort();
    deciders.dedup();
    let which = tick.map_or_else(|| "no decision".to_owned(), |tick| format!("no decision of tick {tick}"));
    let others = match deciders.as_slice() {
        [] => "no decision was made in the last 10 minutes; run `qscale doctor`".to_owned(),
        deciders => format!("decisions of the last 10 minutes: {}", deciders.join(", ")),
    };
    let ticks = outcomes.iter().filter(|outcome| outcome.agent == *agent).map(|outcome| outcome.tick.0);
    let ticks = ticks.clone().min().zip(ticks.max()).filter(|_| tick.is_some());
    let ticks = ticks.map_or_else(String::new, |(first, last)| format!("; recent ticks of {agent}: {first} to {last}"));
    Ok(anyhow::anyhow!("{which} of agent {agent} for {function} is retained; {others}{ticks}"))
}

fn decider(outcome: &Outcome) -> String {
    match outcome.source {
        DecisionSource::Fallback => format!("fallback rule {}", outcome.agent),
        DecisionSource::Operator => "operator".to_owned(),
        DecisionSource::Agent | DecisionSource::Shadow | DecisionSource::Other => format!("agent {}", outcome.agent),
    }
}

/// The configured violation cost of the learned policy; `None` if it is unknown or the default.
async fn violation_cost(bus: &Bus, settings: &SettingsFolder, action: &Action, state: &State) -> Option<f64> {
    if let Some(point) = &action.point {
        return Some(point.violation_cost);
    }
    let policy = ReplayPolicy::of_agent(bus, settings, &action.agent, Some(action), None).await.ok()?;
    if let Decider::Learned { learned: LearnedPolicy::Tree(tree), .. } = &policy.decider {
        return Some(tree.violation_cost(state));
    }
    qscale_policies::read::<DqnParams>(DQN, &policy.params).ok()?.violation_cost.map(f64::from)
}

/// The last decision that was due of a policy.
#[derive(Debug, Clone, PartialEq)]
struct DueDecision {
    at: Timestamp,
    current: Option<Allocation>,
    decision: Decision,
}

/// A pass over the States up to the explained one.
struct StateScan<'a> {
    state_id: StateId,
    sessions: Vec<ReplaySession<'a>>,
    /// Last due decision of each session.
    due: Vec<Option<DueDecision>>,
    history: History,
    first: Option<Timestamp>,
    last: Option<StateId>,
    state: Option<State>,
}

impl<'a> StateScan<'a> {
    fn new(policies: &'a [ReplayPolicy], state_id: StateId) -> Self {
        let sessions: Vec<ReplaySession<'a>> = policies.iter().map(|policy| ReplaySession::new(&policy.decider)).collect();
        let due = sessions.iter().map(|_| None).collect();
        Self { state_id, sessions, due, history: History::default(), first: None, last: None, state: None }
    }

    fn add(&mut self, state: &State) {
        let at = state.state_id();
        if at > self.state_id || self.last.is_some_and(|last| at <= last) {
            return;
        }
        self.last = Some(at);
        self.first.get_or_insert(state.observed_at_ms);
        self.history.add(state);
        for (session, due) in self.sessions.iter_mut().zip(&mut self.due) {
            let decision = session.decide(state, state.observed_at_ms);
            if !matches!(decision, Decision::Hold { why: HoldReason::NotDue, .. }) {
                *due = Some(DueDecision { at: state.observed_at_ms, current: state.allocation, decision });
            }
        }
        self.state = Some(state.clone()).filter(|_| at == self.state_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::state;

    #[test]
    fn later_states_do_not_influence_the_explanation() {
        let policies = [ReplayPolicy::named("hpa", None).expect("valid")];
        let states: Vec<State> = (0..60).map(|tick| state(tick, if tick < 30 { 10.0 } else { 100.0 })).collect();
        let mut scan = StateScan::new(&policies, states[29].state_id());
        states.iter().for_each(|state| scan.add(state));
        assert_eq!(scan.state.as_ref(), Some(&states[29]));
        assert!(scan.history.summary().rate_peaks.peak_60 < 10.1, "{:?}", scan.history.summary());
        let mut alone = ReplaySession::new(&policies[0].decider);
        let decided = states[..30].iter().map(|state| (state.observed_at_ms, alone.decide(state, state.observed_at_ms)));
        let last = decided.filter(|(_, decision)| !matches!(decision, Decision::Hold { why: HoldReason::NotDue, .. })).last();
        let due = scan.due[0].clone().expect("it decided within thirty ticks");
        assert_eq!(Some((due.at, due.decision)), last);
    }

    #[test]
    fn missing_state_is_not_substituted() {
        let mut scan = StateScan::new(&[], state(5, 1.0).state_id());
        [3, 4, 6].into_iter().for_each(|tick| scan.add(&state(tick, 1.0)));
        assert_eq!(scan.state, None);
    }
}
