use qscale_common::contract::{Epoch, Term, Terms, Version};
use qscale_common::time::Tick;
use qscale_dqn::{ActionSet, Scope};
use qscale_rl::learner::Hyperparameters;

use super::*;
use crate::fixtures;

/// State number `number` of a function with two replicas and no violation; the next one is five seconds later.
fn state(number: u64) -> State {
    let mut state = fixtures::busy(0.5);
    (state.tick, state.observed_at_ms) = (Tick(100 + number), Timestamp(1_000_000 + 5000 * number));
    state.age.requests_ms = Some(40);
    let tick = &mut state.windows.tick;
    (tick.failed_share, tick.queued) = (Some(0.0), Some(0.0));
    tick.latency = Some(Latency { p50_ms: 50.0, p95_ms: 100.0, p99_ms: 150.0, objective_ms: 100.0 });
    state
}

fn reward(of: &State, current: Allocation) -> Reward {
    let measured = |value: f64| Term { value: Some(value), weight: 1.0 };
    let terms =
        Terms { violation: measured(0.0), cost: measured(0.1), resize: measured(0.0), reversal: measured(0.0), kill: measured(0.0) };
    Reward {
        version: Version::CURRENT,
        namespace: of.namespace.clone(),
        function: of.function.clone(),
        epoch: of.epoch,
        tick: of.tick,
        measured_at_ms: of.observed_at_ms,
        allocation: Some(current),
        decided_by: None,
        value: None,
        terms,
        completion: None,
        latency_ms: None,
        cost_per_hour: None,
    }
}

/// Rewards of ticks with the current allocation.
fn rewards(states: &[State]) -> BTreeMap<StateId, Reward> {
    let of = |state: &State| (state.state_id(), reward(state, Allocation::new(2, 500, 256)));
    states.iter().map(of).collect()
}

fn read(states: &[State], rewards: &BTreeMap<StateId, Reward>) -> Experience {
    let actions = Actions::new(ActionSet::Step, Scope::Joint);
    let reader = ExperienceReader { actions: &actions, reward: TrainingReward::default(), violation_cost: &|_| 40.0 };
    reader.read(&Recording { states, rewards, since: Timestamp(0) })
}

fn step(experience: &Experience, at: usize) -> &RecordedStep {
    match &experience.ticks[at] {
        RecordedTick::Step(step) => step,
        RecordedTick::Gap => panic!("a step at {at}: {:?}", experience.skipped),
    }
}

#[track_caller]
fn close(one: f64, other: f64) {
    assert!((one - other).abs() < 1e-9, "{one} instead of {other}");
}

#[test]
fn a_step_holds_the_action_of_the_current_allocation_and_the_training_reward() {
    let states: Vec<State> = (0..4).map(state).collect();
    let mut rewards = rewards(&states);
    rewards.insert(states[1].state_id(), reward(&states[1], Allocation::new(3, 500, 256)));
    let experience = read(&states, &rewards);
    assert_eq!((experience.steps(), experience.skipped), (3, Skipped::default()));
    // `keep` is the first choice of the set, `replicas +1` the third.
    assert_eq!([0, 1, 2].map(|at| step(&experience, at).choice), [0, 2, 0]);
    assert_eq!(step(&experience, 0).next, step(&experience, 1).observation);
    let tick = step(&experience, 0).tick;
    // 5 % are slower than 100 ms and 1 % slower than 150 ms, so at 500 ms the share is 0.01 times a fifth to the seventh power.
    close(tick.violation, (0.01 * 0.2f64.powi(7) / 0.1).powi(2));
    // The reward by hand: violation cost 40; the unit of cost is a tick.
    let usual = FeatureContext::update(&states[0], &mut History::default(), 40.0).usual_price();
    close(tick.cost, states[0].prices.per_hour(Allocation::new(2, 500, 256)) / usual);
    close(tick.reward, -(40.0 * tick.violation + tick.cost) / (0.376 * 40f64.powf(0.75)));
    assert!(step(&experience, 1).tick.cost > tick.cost);
}

#[test]
fn the_share_of_slow_requests_is_interpolated_between_percentiles() {
    let latency = Latency { p50_ms: 50.0, p95_ms: 100.0, p99_ms: 150.0, objective_ms: 100.0 };
    let share = |bound| slower(&latency, 95.0, bound);
    close(share(50.0), 0.5);
    close(share(100.0), 0.05);
    close(share(150.0), 0.01);
    close(share(75.0), (0.5f64 * 0.05).sqrt());
    assert!(share(10.0) > 0.8 && share(1000.0) < 1e-6);
    let one = Latency { p50_ms: 50.0, p95_ms: 50.0, p99_ms: 50.0, objective_ms: 50.0 };
    assert_eq!(slower(&one, 95.0, 60.0), 0.0, "the slowest known request was in time");
    assert!(slower(&one, 95.0, 49.0) > 0.5);
    let (before, mut late) = (state(0), state(1));
    late.windows.tick.latency = Some(Latency { p50_ms: 600.0, p95_ms: 900.0, p99_ms: 950.0, objective_ms: 900.0 });
    assert_eq!(violation(&before, &late), Some(1.0));
    late.windows.tick.latency = Some(Latency { p50_ms: 50.0, p95_ms: 500.0, p99_ms: 950.0, objective_ms: 500.0 });
    close(violation(&before, &late).expect("measured"), 0.25);
    (late.windows.tick.latency, late.windows.tick.failed_share) = (Some(latency), Some(0.01));
    close(violation(&before, &late).expect("measured"), 0.25);
}

#[test]
fn a_tick_that_was_not_measured_is_skipped_and_never_zero() {
    let check = |change: fn(&mut State, &mut BTreeMap<StateId, Reward>), expected: Skipped| {
        let mut states: Vec<State> = (0..3).map(state).collect();
        let mut rewards = rewards(&states);
        change(&mut states[1], &mut rewards);
        let experience = read(&states, &rewards);
        assert_eq!(experience.skipped, expected);
        assert_eq!(experience.steps() + expected.all(), 2);
    };
    let unmeasured = Skipped { unmeasured: 1, ..Skipped::default() };
    check(|state, _| state.windows.tick.completed_rps = None, unmeasured);
    check(|state, _| state.windows.tick.latency = None, unmeasured);
    check(|state, _| state.windows.tick.failed_share = None, unmeasured);
    check(|state, _| state.windows.tick.covered_ms = 15_000, unmeasured);
    check(|state, rewards| drop(rewards.remove(&state.state_id())), unmeasured);
    check(|state, rewards| rewards.get_mut(&state.state_id()).expect("there").terms.kill.value = None, unmeasured);
    check(|state, rewards| rewards.get_mut(&state.state_id()).expect("there").allocation = None, unmeasured);
    let other = |state: &mut State, rewards: &mut BTreeMap<StateId, Reward>| {
        rewards.get_mut(&state.state_id()).expect("there").allocation = Some(Allocation::new(9, 500, 256));
    };
    check(other, Skipped { unmatched: 1, ..Skipped::default() });
    check(|state, _| state.epoch = Epoch(9), Skipped { missing: 2, ..Skipped::default() });
}

#[test]
fn an_idle_tick_is_not_violated_and_a_tick_in_which_all_requests_wait_is() {
    let quiet = |number, queued| {
        let mut state = state(number);
        let tick = &mut state.windows.tick;
        (tick.completed_rps, tick.failed_share, tick.latency, tick.queued) = (Some(0.0), None, None, queued);
        state
    };
    assert_eq!(violation(&quiet(0, Some(0.0)), &quiet(1, Some(0.0))), Some(0.0));
    assert_eq!(violation(&quiet(0, Some(2.0)), &quiet(1, Some(0.5))), Some(1.0));
    assert_eq!(violation(&quiet(0, Some(0.0)), &quiet(1, Some(0.5))), Some(0.0), "the request may have just arrived");
    assert_eq!(violation(&quiet(0, Some(2.0)), &quiet(1, None)), None);
}

#[test]
fn a_gap_in_the_recording_skips_one_tick() {
    let states: Vec<State> = [0, 1, 2, 5, 6].map(state).into();
    let experience = read(&states, &rewards(&states));
    assert_eq!((experience.steps(), experience.skipped), (3, Skipped { missing: 1, ..Skipped::default() }));
    assert_eq!(experience.ticks[2], RecordedTick::Gap);
    let mut newest = experience.clone();
    newest.keep_newest(2);
    assert_eq!(newest.ticks.len(), 2);
}

#[test]
fn late_measurements_belong_to_the_tick_that_they_measure() {
    let mut states: Vec<State> = (0..5).map(state).collect();
    states.iter_mut().for_each(|state| state.age.requests_ms = Some(5_040));
    states[2].windows.tick.failed_share = Some(1.0);
    let experience = read(&states, &rewards(&states));
    // The measurements in the third State are one tick old: they belong to the first step.
    assert_eq!((step(&experience, 0).tick.violation, experience.skipped.missing), (1.0, 1));
    assert!(step(&experience, 1).tick.violation < 1e-6);
}

#[test]
fn states_before_the_period_only_fill_the_history() {
    let states: Vec<State> = (0..6).map(state).collect();
    let (actions, rewards) = (Actions::new(ActionSet::Step, Scope::Joint), rewards(&states));
    let reader = ExperienceReader { actions: &actions, reward: TrainingReward::default(), violation_cost: &|_| 40.0 };
    let recording = Recording { states: &states, rewards: &rewards, since: states[3].observed_at_ms };
    let (late, all) = (reader.read(&recording), read(&states, &rewards));
    assert_eq!(late.ticks[..], all.ticks[3..], "the history is the same as the agent's");
}

#[test]
fn no_return_spans_a_gap() {
    let states: Vec<State> = [0, 1, 2, 3, 4, 9, 10].map(state).into();
    let experience = read(&states, &rewards(&states));
    let hyperparameters = Hyperparameters { hidden: vec![4], steps: 2, capacity: 100, ..Hyperparameters::plain() };
    let mut learner = Learner::new(hyperparameters, COUNT, 11, 1, &qscale_rl::device::cpu()).expect("valid");
    fill_replay(&mut learner, 0, &experience.ticks, 2);
    // Four steps before the gap are three two-step returns; the single step after it is none.
    assert_eq!(learner.transitions(), 2 * 3);
}
