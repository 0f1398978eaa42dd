//! Recorded States, decided on in their order with memory. Pure: owns what is shown to the policy, and what counts as the same answer.

use std::collections::BTreeMap;

use qscale_common::contract::{Action, Epoch, Moment, State};
use qscale_common::time::{Tick, Timestamp};
use qscale_dqn::decider::{Decider, by_the_rule};
use qscale_dqn::registry::DQN;
use serde::Serialize;

use crate::recorded::{Again, Said};

/// How alike a recorded answer and the one of now are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alike {
    /// To the bit.
    Same,
    /// They ask for the same, with other reasons or values.
    Words,
    /// They ask for something else.
    Other,
}

impl Alike {
    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Words => "words",
            Self::Other => "other",
        }
    }
}

/// A State that was decided on again.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// Epoch of the State.
    pub epoch: Epoch,
    /// Its tick.
    pub tick: Tick,
    /// When it was observed.
    pub at: Timestamp,
    /// The model that decided then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Whether it was the rule that answered which stands in where a network cannot be trusted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub beside: bool,
    /// What was answered then.
    pub recorded: Option<Said>,
    /// What is answered now; `None` where an agent would be silent.
    pub now: Option<Said>,
}

impl Line {
    /// How alike both are; `None` where nothing was recorded that could be.
    pub fn alike(&self) -> Option<Alike> {
        let recorded = self.recorded.as_ref()?;
        Some(match &self.now {
            Some(now) if now == recorded => Alike::Same,
            Some(now) if now.allocation == recorded.allocation => Alike::Words,
            _ => Alike::Other,
        })
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Outcome {
    /// The States since the beginning, in order.
    pub lines: Vec<Line>,
    /// States that the agent did not see, so that the policy was not shown them either.
    pub passed_over: usize,
}

/// Decides by `decides` on those of `states` that are no older than `since`; the others only rebuild its memory.
///
/// `as_agent` has the memory be what that of the agent was, whose answers `actions` are. An instance that answered before and after a State, and not it, did not
/// see it: it came too late, or was dropped. A new instance began with what the stream then held, and trusted its network.
pub fn decide(decides: &Decider, states: &[State], mut actions: BTreeMap<Moment, Action>, since: Timestamp, as_agent: bool) -> Outcome {
    let mut outcome = Outcome::default();
    let mut again = Again::new(decides);
    let last = if as_agent { instances_after(states, &actions) } else { Vec::new() };
    let mut instance: Option<String> = None;
    for (index, state) in states.iter().enumerate() {
        let action = actions.remove(&state.moment());
        if as_agent {
            let next = last[index].as_deref();
            match &action {
                Some(action) => {
                    match &instance {
                        Some(before) if *before != action.instance => again.begin_anew(&states[..index], action.decided_at_ms),
                        Some(_) => {}
                        None => again.trust_again(),
                    }
                    instance = Some(action.instance.clone());
                }
                None if state.allocation.is_some() && next.is_some() && next == instance.as_deref() => {
                    outcome.passed_over += usize::from(state.observed_at_ms >= since);
                    continue;
                }
                None => {}
            }
        }
        let now = action.as_ref().map_or(state.observed_at_ms, |action| action.decided_at_ms);
        let decision = again.decide(state, now);
        if state.observed_at_ms < since {
            continue;
        }
        let (epoch, tick, at) = (state.epoch, state.tick, state.observed_at_ms);
        let model = action.as_ref().map(|action| action.model.clone());
        let beside = as_agent && action.as_ref().is_some_and(is_beside);
        let recorded = action.map(Said::from);
        outcome.lines.push(Line { epoch, tick, at, model, beside, recorded, now: Said::of(state, decision) });
    }
    outcome
}

/// Whether a rule answered in place of the network, which its reason says first.
fn is_beside(action: &Action) -> bool {
    action.model.split(' ').next() == Some(DQN) && by_the_rule(&action.reason)
}

/// For each State which instance answers it, or else the next one that any answers.
fn instances_after(states: &[State], actions: &BTreeMap<Moment, Action>) -> Vec<Option<String>> {
    let mut next: Option<String> = None;
    let backwards = states.iter().rev().map(|state| {
        if let Some(action) = actions.get(&state.moment()) {
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
    use qscale_common::contract::{Usage, Version};
    use qscale_common::name::Name;
    use qscale_dqn::device::cpu;

    use super::*;
    use crate::recorded;
    use crate::recorded::tests::{BEGIN, state};

    /// An hour of a load that rises and falls.
    fn states() -> Vec<State> {
        (0..720).map(|tick| state(tick, 40.0 + 35.0 * (tick as f64 / 40.0).sin())).collect()
    }

    fn policy(text: &str) -> Decider {
        recorded::Decider::named(text, None).expect("valid").decides
    }

    /// What an agent of `decides` answers that is shown the States of `shown` and answers those of `answered` as `instance`.
    fn answers(decides: &Decider, shown: &[&State], answered: impl Fn(&State) -> bool, instance: &str) -> BTreeMap<Moment, Action> {
        let mut again = Again::new(decides);
        let mut actions = BTreeMap::new();
        for state in shown {
            let now = state.observed_at_ms.plus(std::time::Duration::from_millis(3));
            let decision = again.decide(state, now);
            let Some(said) = Said::of(state, decision).filter(|_| answered(state)) else { continue };
            actions.insert(state.moment(), action(decides, state, said, now, instance));
        }
        actions
    }

    /// The Action of `instance` that says so at `now`.
    fn action(decides: &Decider, state: &State, said: Said, now: Timestamp, instance: &str) -> Action {
        Action {
            version: Version::CURRENT,
            agent: Name::new("mine").expect("valid"),
            instance: instance.into(),
            model: decides.model(),
            namespace: state.namespace.clone(),
            function: state.function.clone(),
            epoch: state.epoch,
            tick: state.tick,
            decided_at_ms: now,
            expires_at_ms: now,
            allocation: said.allocation,
            reason: said.reason,
            choices: said.choices,
        }
    }

    #[track_caller]
    fn check(outcome: &Outcome, compared: usize, same: usize) {
        let alike: Vec<Alike> = outcome.lines.iter().filter_map(Line::alike).collect();
        let found = alike.iter().filter(|alike| **alike == Alike::Same).count();
        assert_eq!((alike.len(), found), (compared, same));
    }

    #[test]
    fn the_same_policy_answers_the_same_with_its_memory_rebuilt() {
        let (states, half) = (states(), Timestamp(BEGIN + 1_800_000));
        for name in ["threshold-both", "hpa", "kpa", "keda", "hpa-vpa", "holt-winters", "dqn"] {
            let policy = policy(name);
            let actions = answers(&policy, &states.iter().collect::<Vec<_>>(), |_| true, "one");
            let outcome = decide(&policy, &states, actions, half, true);
            check(&outcome, 360, 360);
            assert_eq!(outcome.passed_over, 0, "{name}");
        }
    }

    #[test]
    fn without_its_memory_a_policy_answers_otherwise() {
        let states = states();
        let policy = policy("hpa");
        let actions = answers(&policy, &states.iter().collect::<Vec<_>>(), |_| true, "one");
        let late = &states[361..];
        let outcome = decide(&policy, late, actions, Timestamp(0), true);
        assert!(outcome.lines.iter().any(|line| line.alike() != Some(Alike::Same)), "the States before mattered");
    }

    #[test]
    fn another_policy_asks_for_something_else() {
        let states = states();
        let (recorded, other) = (policy("hpa"), policy("static:replicas=5"));
        let actions = answers(&recorded, &states.iter().collect::<Vec<_>>(), |_| true, "one");
        let outcome = decide(&other, &states, actions, Timestamp(0), false);
        check(&outcome, 720, 0);
        assert!(outcome.lines.iter().any(|line| line.alike() == Some(Alike::Other)));
        assert!(outcome.lines.iter().all(|line| line.now.as_ref().is_some_and(|said| said.allocation.replicas.0 == 5)));
    }

    #[test]
    fn what_the_agent_did_not_see_is_not_shown_to_its_policy() {
        let states = states();
        let policy = policy("dqn");
        let seen: Vec<&State> = states.iter().enumerate().filter(|(index, _)| index % 7 != 3).map(|(_, state)| state).collect();
        let actions = answers(&policy, &seen, |_| true, "one");
        let outcome = decide(&policy, &states, actions.clone(), Timestamp(0), true);
        check(&outcome, seen.len(), seen.len());
        assert_eq!(outcome.passed_over, states.len() - seen.len());
        // To another policy they are shown: it would have been there.
        assert_eq!(decide(&policy, &states, actions, Timestamp(0), false).lines.len(), states.len());
    }

    #[test]
    fn a_new_instance_begins_with_what_the_stream_held() {
        let states = states();
        let policy = policy("dqn");
        let early: Vec<&State> = states[..300].iter().filter(|state| state.tick.0 % 5 != 0).collect();
        let mut actions = answers(&policy, &early, |_| true, "one");
        let begun = states[320].tick;
        actions.extend(answers(&policy, &states.iter().collect::<Vec<_>>(), |state| state.tick >= begun, "two"));
        let outcome = decide(&policy, &states, actions, Timestamp(0), true);
        check(&outcome, early.len() + 400, early.len() + 400);
    }

    /// A load that rises and falls, with two stretches which no training world shows.
    fn strange_states() -> Vec<State> {
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
    fn the_rule_beside_a_network_decides_again_where_it_did_and_for_as_long() {
        let states = strange_states();
        let policy = policy("dqn");
        let actions = answers(&policy, &states.iter().collect::<Vec<_>>(), |_| true, "one");
        let outcome = decide(&policy, &states, actions.clone(), Timestamp(0), true);
        check(&outcome, 720, 720);
        // Three strange States and then one, each time until six good ones came in a row.
        assert_eq!(outcome.lines.iter().filter(|line| line.beside).count(), 3 + 5 + 1 + 5);
        // The network alone would have answered otherwise.
        let alone = Decider::Rule(qscale_dqn::by_name(DQN, &serde_json::Value::Null, None, &cpu()).expect("the model that comes along"));
        check(&decide(&alone, &states, actions, Timestamp(0), true), 720, 720 - 14);
    }

    #[test]
    fn a_new_instance_trusts_its_network_whatever_the_one_before_saw() {
        let states = strange_states();
        let policy = policy("dqn");
        let (early, all) = (states[..302].iter().collect::<Vec<_>>(), &states);
        let mut actions = answers(&policy, &early, |_| true, "one");
        // The second was started after a strange State, which it only recalled.
        let mut again = Again::new(&policy);
        again.begin_anew(&all[..302], all[302].observed_at_ms);
        for state in &all[302..] {
            let said = Said::of(state, again.decide(state, state.observed_at_ms)).expect("an allocation is in force");
            actions.insert(state.moment(), action(&policy, state, said, state.observed_at_ms, "two"));
        }
        let outcome = decide(&policy, all, actions.clone(), Timestamp(0), true);
        check(&outcome, 720, 720);
        assert!(!outcome.lines[302].beside && outcome.lines[301].beside);
        // Where the first one's answers are not kept, its distrust is not the second one's either.
        actions.retain(|_, action| action.instance == "two");
        check(&decide(&policy, all, actions, Timestamp(0), true), 418, 418);
    }

    #[test]
    fn silence_is_another_answer_than_any() {
        let mut one = state(1, 10.0);
        let policy = policy("threshold");
        let actions = answers(&policy, &[&one], |_| true, "one");
        one.allocation = None;
        let outcome = decide(&policy, &[one], actions, Timestamp(0), true);
        assert_eq!(outcome.lines.iter().map(Line::alike).collect::<Vec<_>>(), [Some(Alike::Other)]);
    }
}
