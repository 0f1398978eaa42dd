use proptest::prelude::*;
use qscale_common::contract::{Changes, Latency, ReplicaCounts, Usage, Window};
use qscale_common::policy::Range;
use qscale_common::units::{Allocation, Mebibytes, Millicores, Replicas};
use qscale_policies::History;

use super::*;
use crate::fixtures;

fn seen(state: &State, name: &str) -> f32 {
    let mut out = [0.0; COUNT];
    observe(&FeatureContext::update(state, &mut History::default(), 200.0), &mut out);
    let at = FEATURES.iter().position(|feature| feature.name == name).expect("a feature of that name");
    out[at]
}

#[test]
fn feature_names_are_unique() {
    let mut names = names();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), COUNT);
}

#[test]
fn missing_measurements_are_neutral_and_marked() {
    let state = fixtures::state();
    let mut out = [9.0; COUNT];
    observe(&FeatureContext::update(&state, &mut History::default(), 200.0), &mut out);
    let neutral = [
        "next_over_rate",
        "peak_5_over_next",
        "season_over_next",
        "ready_over_next",
        "queued_a_replica",
        "objective_over_latency",
        "throttled_share",
    ];
    for (feature, value) in FEATURES.iter().zip(out).filter(|(feature, _)| neutral.contains(&feature.name)) {
        assert_eq!(f64::from(value), feature.neutral, "{}", feature.name);
    }
    for name in ["saw_arrivals", "saw_latency", "saw_cpu", "saw_replicas", "saw_demand"] {
        assert_eq!(seen(&state, name), 0.0, "{name}");
    }
    let busy = fixtures::busy(1.0);
    for name in ["saw_arrivals", "saw_cpu", "saw_demand"] {
        assert_eq!(seen(&busy, name), 1.0, "{name}");
    }
}

#[test]
fn features_are_ratios_to_the_functions_own_bounds() {
    let mut state = fixtures::busy(1.0);
    // One core asked for, one allocated, ten allowed.
    assert!(seen(&state, "allocated_over_next").abs() < 1e-3);
    assert!((seen(&state, "cores_asked_for_of_most") - 0.1).abs() < 1e-3);
    assert_eq!(seen(&state, "cpu_mean_over_limit"), 0.5);
    state.windows.tick.latency = Some(Latency { p50_ms: 500.0, p95_ms: 1000.0, p99_ms: 1000.0, objective_ms: 1000.0 });
    assert_eq!((seen(&state, "objective_over_latency"), seen(&state, "median_over_objective")), (0.5, 0.5));
    state.changes = Changes { horizontal_ticks: Some(12), vertical_ticks: None, last: Some(Direction::Down) };
    assert_eq!((seen(&state, "since_horizontal_change"), seen(&state, "last_change_within_a_minute_of_ticks")), (0.5, -0.5));
}

fn wild() -> impl Strategy<Value = Option<f64>> {
    let numbers = prop_oneof![4 => 0.0..1e4f64, 1 => Just(0.0), 1 => Just(f64::MAX), 1 => Just(f64::MIN_POSITIVE), 1 => Just(1e300)];
    proptest::option::weighted(0.8, numbers)
}

/// Also numbers that the contract refuses, since the States of a simulation are not checked.
fn anything() -> impl Strategy<Value = Option<f64>> {
    prop_oneof![3 => wild(), 1 => Just(Some(f64::NAN)), 1 => Just(Some(f64::NEG_INFINITY)), 1 => Just(Some(-3.0))]
}

fn share() -> impl Strategy<Value = Option<f64>> {
    proptest::option::of(prop_oneof![0.0..=1.0f64, Just(0.0), Just(1.0)])
}

prop_compose! {
    fn window()(
        covered_ms in prop_oneof![Just(0u64), Just(5000), Just(u64::MAX)], rate_rps in wild(), rate_slope_rps in anything(), rate_variation in anything(),
        completed_rps in wild(), failed_share in share(), latency in proptest::option::of((anything(), anything())), (replicas, concurrency) in (wild(), wild()), queued in wild(),
        cpu in wild(), throttled_share in share(), memory in wild(), restarts in any::<u32>(), oom_kills in any::<u32>(),
    ) -> Window {
        let usage = |mean: f64| Usage { mean, max: mean };
        let latency = latency.map(|(some, other)| {
            let (some, other) = (some.unwrap_or(1.0), other.unwrap_or(2.0));
            Latency { p50_ms: some, p95_ms: other, p99_ms: some, objective_ms: other }
        });
        Window {
            covered_ms, rate_rps, rate_slope_rps, rate_variation, completed_rps, failed_share, latency, replicas, concurrency, queued,
            cpu_millicores: cpu.map(usage), throttled_share, memory_mib: memory.map(usage), restarts, oom_kills,
            ..Window::default()
        }
    }
}

prop_compose! {
    fn state()(
        tick in window(), short in window(), long in window(), replicas in proptest::option::of(any::<[u32; 4]>()),
        allocation in proptest::option::weighted(0.9, any::<[u32; 3]>()), startup_ms in any::<Option<u64>>(), ages in any::<Option<u64>>(),
        changes in any::<[Option<u32>; 2]>(), most in any::<[u32; 3]>(), latency_ms in prop_oneof![Just(0u64), 1..5000u64, Just(u64::MAX)],
        tick_length_ms in 100..=3_600_000u64,
    ) -> State {
        let mut state = fixtures::state();
        state.windows.tick = tick;
        state.windows.short = short;
        state.windows.long = long;
        state.replicas = replicas.map(|[a, b, c, d]| ReplicaCounts { desired: Replicas(a), ready: Replicas(b), pending: Replicas(c), reporting: Replicas(d), ..ReplicaCounts::default() });
        state.allocation = allocation.map(|[a, b, c]| Allocation::new(a, b, c));
        (state.startup_ms, state.objective.latency_ms, state.tick_length_ms) = (startup_ms, latency_ms, tick_length_ms);
        state.age = qscale_common::contract::Ages { requests_ms: ages, cpu_ms: ages, memory_ms: ages, replicas_ms: ages };
        state.changes = Changes { horizontal_ticks: changes[0], vertical_ticks: changes[1], last: Some(Direction::Up) };
        state.bounds.replicas = Range::new(Replicas(0), Replicas(most[0])).expect("ordered");
        state.bounds.cpu_millicores = Range::new(Millicores(0), Millicores(most[1])).expect("ordered");
        state.bounds.memory_mib = Range::new(Mebibytes(0), Mebibytes(most[2])).expect("ordered");
        state
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_state_gives_finite_features_within_their_scale(state in state(), violation_cost in 10.0..20_000.0f64) {
        let mut out = [f32::NAN; COUNT];
        let mut history = History::default();
        let context = FeatureContext::update(&state, &mut history, violation_cost);
        observe(&context, &mut out);
        for (feature, value) in FEATURES.iter().zip(out) {
            prop_assert!((-1.0..=1.0).contains(&value), "{} = {value}", feature.name);
        }
        let actions = crate::Actions::new(crate::ActionSet::Headroom, crate::Scope::Joint);
        let mut candidates = crate::ActionCandidates::default();
        actions.decode(&context, &mut candidates);
        for index in 0..actions.count() {
            match candidates.entry(index) {
                Ok(allocation) => {
                    prop_assert!(state.bounds.contain(allocation), "{} has {allocation}", actions.name(index));
                    prop_assert!(candidates.mask().allows(index));
                }
                Err(_) => prop_assert!(!candidates.mask().allows(index)),
            }
        }
    }
}

#[test]
fn the_lower_bound_of_replicas_is_at_its_index() {
    assert_eq!(FEATURES[LEAST_REPLICAS].name, "least_replicas");
}
