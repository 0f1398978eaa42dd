//! Recorded States, decided on again in order and with memory. Owns which States the policy sees and when two answers are equal; pure.

use std::collections::BTreeMap;

use qscale_common::contract::{Action, Epoch, HeldPoint, State, StateId, WireObjective};
use qscale_common::policy::{OperatingPoint, ViolationCost};
use qscale_common::time::{Tick, Timestamp};
use qscale_dqn::decider::Decider;
use serde::Serialize;

use crate::session::{ReplaySession, ReplayedAnswer};

/// Comparison of a recorded answer with the replayed one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// Equal bit for bit: allocation, reason and values.
    Same,
    /// The same allocation, with another reason or other values.
    SameAllocation,
    /// Another allocation, or none.
    Different,
}

impl Match {
    /// Its name in output for programs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::SameAllocation => "same_allocation",
            Self::Different => "different",
        }
    }
}

/// A recorded decision next to the replayed one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReplayedDecision {
    /// Epoch of the State.
    pub epoch: Epoch,
    /// Tick of the State.
    pub tick: Tick,
    /// Time of observation.
    pub at: Timestamp,
    /// Version and parameters of the policy that made the recorded decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configuration: Option<String>,
    /// Whether the fallback rule made the recorded decision.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub fallback: bool,
    /// Recorded answer; `None` if none was recorded.
    pub recorded: Option<ReplayedAnswer>,
    /// Replayed answer; `None` if an agent would publish nothing.
    pub now: Option<ReplayedAnswer>,
}

impl ReplayedDecision {
    /// Comparison of the answers; `None` if none was recorded.
    #[must_use]
    pub fn comparison(&self) -> Option<Match> {
        let recorded = self.recorded.as_ref()?;
        Some(match &self.now {
            Some(now) if now == recorded => Match::Same,
            Some(now) if now.allocation == recorded.allocation => Match::SameAllocation,
            _ => Match::Different,
        })
    }
}

/// Result of deciding again.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Replayed {
    /// Decisions on the States of the period, in order.
    pub decisions: Vec<ReplayedDecision>,
    /// States of the period that the agent did not see, and that the policy therefore did not see either.
    pub unseen: usize,
}

/// Decides with `decider` on the `states` since `since`; earlier ones only rebuild its memory.
///
/// With `as_agent` the memory is that of the agent that published `actions`. An instance that answered before and after
/// a State, but not that State, did not see it: the State was late, or dropped. A new instance started with the States
/// that the stream held then, and trusted its network.
#[must_use]
pub fn decide_again(
    decider: &Decider,
    states: &[State],
    mut actions: BTreeMap<StateId, Action>,
    since: Timestamp,
    as_agent: bool,
) -> Replayed {
    let mut replayed = Replayed::default();
    let mut session = ReplaySession::new(decider);
    let last = if as_agent { instances_after(states, &actions) } else { Vec::new() };
    let mut instance: Option<String> = None;
    for (index, state) in states.iter().enumerate() {
        let action = actions.remove(&state.state_id());
        if as_agent {
            let next = last[index].as_deref();
            match &action {
                Some(action) => {
                    match &instance {
                        Some(before) if *before != action.instance => session.restart(&states[..index], action.decided_at_ms),
                        Some(_) => {}
                        None => session.trust_again(),
                    }
                    instance = Some(action.instance.clone());
                }
                None if state.allocation.is_some() && next.is_some() && next == instance.as_deref() => {
                    replayed.unseen += usize::from(state.observed_at_ms >= since);
                    continue;
                }
                None => {}
            }
        }
        let now = action.as_ref().map_or(state.observed_at_ms, |action| action.decided_at_ms);
        let held = action.as_ref().filter(|_| as_agent).and_then(|action| action.point);
        let decision = match held.map(|point| at_point(state, &point)) {
            Some(state) => session.decide(&state, now),
            None => session.decide(state, now),
        };
        if state.observed_at_ms < since {
            continue;
        }
        let (epoch, tick, at) = (state.epoch, state.tick, state.observed_at_ms);
        let configuration = action.as_ref().map(|action| action.provenance.configuration.clone());
        let fallback = as_agent && action.as_ref().is_some_and(|action| action.provenance.fallback.is_some());
        let recorded = action.map(ReplayedAnswer::from);
        replayed.decisions.push(ReplayedDecision {
            epoch,
            tick,
            at,
            configuration,
            fallback,
            recorded,
            now: ReplayedAnswer::of(state, decision),
        });
    }
    replayed
}

/// `state` with the violation cost of `point` stated by its ScalingPolicy: the controller of the agent may have begun before the first recorded State.
fn at_point(state: &State, point: &HeldPoint) -> State {
    let cost = ViolationCost::try_from(point.violation_cost.clamp(ViolationCost::LEAST, ViolationCost::MOST)).ok();
    State { objective: WireObjective { point: cost.map(OperatingPoint::ViolationCost), ..state.objective }, ..state.clone() }
}

/// For each State, the instance that answered it, or else the one that answered the next answered State.
fn instances_after(states: &[State], actions: &BTreeMap<StateId, Action>) -> Vec<Option<String>> {
    let mut next: Option<String> = None;
    let backwards = states.iter().rev().map(|state| {
        if let Some(action) = actions.get(&state.state_id()) {
            next = Some(action.instance.clone());
        }
        next.clone()
    });
    let mut found: Vec<_> = backwards.collect();
    found.reverse();
    found
}

#[cfg(test)]
mod tests {
    use qscale_common::contract::Usage;
    use qscale_dqn::registry::DQN;
    use qscale_rl::device::cpu;

    use super::*;
    use crate::fixtures::{BEGIN, action, state};
    use crate::policy::ReplayPolicy;

    /// An hour of a rising and falling load.
    fn states() -> Vec<State> {
        (0..720).map(|tick| state(tick, 40.0 + 35.0 * (tick as f64 / 40.0).sin())).collect()
    }

    fn policy(text: &str) -> Decider {
        ReplayPolicy::named(text, None).expect("valid").decider
    }

    /// Actions of an `instance` that sees the States `shown` and answers those of `answered`.
    fn answers(decider: &Decider, shown: &[&State], answered: impl Fn(&State) -> bool, instance: &str) -> BTreeMap<StateId, Action> {
        let mut session = ReplaySession::new(decider);
        let mut actions = BTreeMap::new();
        for state in shown {
            let now = state.observed_at_ms.plus(std::time::Duration::from_millis(3));
            let decided = session.decide_with_reason(state, now);
            let Some(answer) = ReplayedAnswer::of(state, decided.decision).filter(|_| answered(state)) else { continue };
            let mut action = action(decider, state, answer, now, instance);
            action.provenance.fallback = decided.fallback;
            action.point = decided.point;
            actions.insert(state.state_id(), action);
        }
        actions
    }

    #[track_caller]
    fn check(replayed: &Replayed, compared: usize, same: usize) {
        let found: Vec<Match> = replayed.decisions.iter().filter_map(ReplayedDecision::comparison).collect();
        assert_eq!((found.len(), found.iter().filter(|found| **found == Match::Same).count()), (compared, same));
    }

    #[test]
    fn same_policy_with_rebuilt_memory_repeats_its_decisions() {
        let (states, half) = (states(), Timestamp(BEGIN + 1_800_000));
        for name in ["threshold-both", "hpa", "kpa", "keda", "hpa-vpa", "holt-winters", "dqn"] {
            let policy = policy(name);
            let actions = answers(&policy, &states.iter().collect::<Vec<_>>(), |_| true, "one");
            let replayed = decide_again(&policy, &states, actions, half, true);
            check(&replayed, 360, 360);
            assert_eq!(replayed.unseen, 0, "{name}");
        }
    }

    #[test]
    fn a_held_point_is_that_of_the_actions_from_the_first_recorded_state_on() {
        let mut states = states();
        let target = OperatingPoint::ViolatedShare(0.001.try_into().expect("in range"));
        states.iter_mut().for_each(|state| state.objective.point = Some(target));
        let policy = policy("dqn");
        let mut actions = answers(&policy, &states.iter().collect::<Vec<_>>(), |_| true, "one");
        let begin = states[360].observed_at_ms;
        actions.retain(|_, action| action.decided_at_ms >= begin);
        let costs: Vec<f64> = actions.values().filter_map(|action| Some(action.point?.violation_cost)).collect();
        assert!(costs.len() == 360 && costs[0] < 19.5 && costs[359] < costs[0], "no tick is violated: {costs:?}");
        let replayed = decide_again(&policy, &states, actions, begin, true);
        check(&replayed, 360, 360);
    }

    #[test]
    fn policy_without_its_memory_decides_differently() {
        let states = states();
        let policy = policy("hpa");
        let actions = answers(&policy, &states.iter().collect::<Vec<_>>(), |_| true, "one");
        let late = &states[361..];
        let replayed = decide_again(&policy, late, actions, Timestamp(0), true);
        assert!(replayed.decisions.iter().any(|decision| decision.comparison() != Some(Match::Same)), "earlier States mattered");
    }

    #[test]
    fn another_policy_requests_another_allocation() {
        let states = states();
        let (recorded, other) = (policy("hpa"), policy("static:replicas=5"));
        let actions = answers(&recorded, &states.iter().collect::<Vec<_>>(), |_| true, "one");
        let replayed = decide_again(&other, &states, actions, Timestamp(0), false);
        check(&replayed, 720, 0);
        assert!(replayed.decisions.iter().any(|decision| decision.comparison() == Some(Match::Different)));
        assert!(replayed.decisions.iter().all(|decision| decision.now.as_ref().is_some_and(|answer| answer.allocation.replicas.0 == 5)));
    }

    #[test]
    fn skips_states_that_the_agent_did_not_see() {
        let states = states();
        let policy = policy("dqn");
        let seen: Vec<&State> = states.iter().enumerate().filter(|(index, _)| index % 7 != 3).map(|(_, state)| state).collect();
        let actions = answers(&policy, &seen, |_| true, "one");
        let replayed = decide_again(&policy, &states, actions.clone(), Timestamp(0), true);
        check(&replayed, seen.len(), seen.len());
        assert_eq!(replayed.unseen, states.len() - seen.len());
        // Another policy sees them.
        assert_eq!(decide_again(&policy, &states, actions, Timestamp(0), false).decisions.len(), states.len());
    }

    #[test]
    fn new_instance_starts_from_the_stream() {
        let states = states();
        let policy = policy("dqn");
        let early: Vec<&State> = states[..300].iter().filter(|state| state.tick.0 % 5 != 0).collect();
        let mut actions = answers(&policy, &early, |_| true, "one");
        let begun = states[320].tick;
        actions.extend(answers(&policy, &states.iter().collect::<Vec<_>>(), |state| state.tick >= begun, "two"));
        let replayed = decide_again(&policy, &states, actions, Timestamp(0), true);
        check(&replayed, early.len() + 400, early.len() + 400);
    }

    /// A rising and falling load with two spells that are far out of distribution.
    fn outlier_states() -> Vec<State> {
        let mut states = states();
        for index in [100, 101, 102, 301] {
            let state = &mut states[index];
            state.windows.short = state.windows.tick.clone();
            for window in [&mut state.windows.tick, &mut state.windows.short] {
                window.cpu_millicores = Some(Usage { mean: 1e12, max: 1e12 });
                window.memory_mib = None;
                (window.failed_share, window.throttled_share, window.restarts) = (Some(1.0), Some(1.0), 1000);
                (window.queued, window.concurrency) = (Some(1e9), Some(1e9));
            }
        }
        states
    }

    #[test]
    fn fallback_rule_decides_again_for_the_same_states() {
        let states = outlier_states();
        let policy = policy("dqn");
        let actions = answers(&policy, &states.iter().collect::<Vec<_>>(), |_| true, "one");
        let replayed = decide_again(&policy, &states, actions.clone(), Timestamp(0), true);
        check(&replayed, 720, 720);
        // Three outliers and then one, each followed by five States until six good ones came in a row.
        assert_eq!(replayed.decisions.iter().filter(|decision| decision.fallback).count(), 3 + 5 + 1 + 5);
        // The network alone would have decided differently.
        let alone = Decider::Rule(qscale_dqn::by_name(DQN, &serde_json::Value::Null, None, &cpu()).expect("the bundled model"));
        check(&decide_again(&alone, &states, actions, Timestamp(0), true), 720, 720 - 14);
    }

    #[test]
    fn new_instance_trusts_its_network() {
        let states = outlier_states();
        let policy = policy("dqn");
        let (early, all) = (states[..302].iter().collect::<Vec<_>>(), &states);
        let mut actions = answers(&policy, &early, |_| true, "one");
        // The second instance started after an outlier, which it only recalled.
        let mut session = ReplaySession::new(&policy);
        session.restart(&all[..302], all[302].observed_at_ms);
        for state in &all[302..] {
            let decided = session.decide_with_reason(state, state.observed_at_ms);
            let answer = ReplayedAnswer::of(state, decided.decision).expect("the current allocation is known");
            let mut action = action(&policy, state, answer, state.observed_at_ms, "two");
            action.provenance.fallback = decided.fallback;
            actions.insert(state.state_id(), action);
        }
        let replayed = decide_again(&policy, all, actions.clone(), Timestamp(0), true);
        check(&replayed, 720, 720);
        assert!(!replayed.decisions[302].fallback && replayed.decisions[301].fallback);
        // Without the Actions of the first instance, its distrust is not carried over.
        actions.retain(|_, action| action.instance == "two");
        check(&decide_again(&policy, all, actions, Timestamp(0), true), 418, 418);
    }

    #[test]
    fn silence_differs_from_an_answer() {
        let mut one = state(1, 10.0);
        let policy = policy("threshold");
        let actions = answers(&policy, &[&one], |_| true, "one");
        one.allocation = None;
        let replayed = decide_again(&policy, &[one], actions, Timestamp(0), true);
        assert_eq!(replayed.decisions.iter().map(ReplayedDecision::comparison).collect::<Vec<_>>(), [Some(Match::Different)]);
    }
}
