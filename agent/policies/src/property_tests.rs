//! Properties of every registered rule, for arbitrary sequences of States.

use proptest::prelude::*;
use qscale_common::contract::{Message as _, ReplicaCounts, State, Usage};
use qscale_common::fixtures::any_states;
use qscale_common::policy::Range;
use qscale_common::time::{Tick, Timestamp};
use qscale_common::units::{Allocation, Mebibytes, Millicores, Replicas};
use serde_json::{Value, json};

use crate::{Decision, HoldReason, Memory, NAMES, Policy, by_name, fixtures};

/// Random part of a State; the rest follows from its place in the sequence.
#[derive(Debug, Clone)]
struct Drawn {
    ticks: u64,
    rate: Option<f64>,
    concurrency: Option<f64>,
    queued: Option<f64>,
    cpu: Option<f64>,
    memory: Option<f64>,
    ready: Option<u32>,
    reporting: u32,
    oom: u32,
    allocation: bool,
    applied: bool,
}

/// A tick in which everything was measured and nothing is unusual.
fn calm() -> Drawn {
    Drawn {
        ticks: 1,
        rate: Some(3.0),
        concurrency: Some(1.0),
        queued: Some(0.0),
        cpu: Some(200.0),
        memory: Some(100.0),
        ready: Some(2),
        reporting: 2,
        oom: 0,
        allocation: true,
        applied: true,
    }
}

fn number(most: f64) -> impl Strategy<Value = Option<f64>> {
    let numbers =
        prop_oneof![8 => 0.0..most, 2 => Just(0.0), 1 => Just(f64::NAN), 1 => Just(f64::INFINITY), 1 => Just(1e300), 1 => Just(-1.0)];
    proptest::option::weighted(0.8, numbers)
}

prop_compose! {
    fn drawn()(
        ticks in prop_oneof![9 => Just(1u64), 1 => 0..3000u64],
        rate in number(1000.0), concurrency in number(50.0), queued in number(100.0), cpu in number(1500.0), memory in number(1500.0),
        ready in proptest::option::weighted(0.9, prop_oneof![9 => 0..20u32, 1 => Just(u32::MAX)]),
        reporting in 0..20u32, oom in prop_oneof![9 => Just(0u32), 1 => 1..4u32], allocation in proptest::bool::weighted(0.95),
        applied in proptest::bool::weighted(0.8),
    ) -> Drawn {
        Drawn { ticks, rate, concurrency, queued, cpu, memory, ready, reporting, oom, allocation, applied }
    }
}

fn scene() -> impl Strategy<Value = (u64, u32, u32, Vec<Drawn>)> {
    let lengths = prop_oneof![Just(100u64), Just(1000), Just(5000), Just(5000), Just(60_000), Just(3_600_000)];
    (lengths, 0..4u32, 0..30u32, proptest::collection::vec(drawn(), 1..80))
}

fn state(drawn: &Drawn, tick: u64, length: u64, bounds: (u32, u32), allocation: Allocation) -> State {
    let usage = |mean: f64| Usage { mean, max: mean * 1.5 };
    let mut state = State { allocation: drawn.allocation.then_some(allocation), ..fixtures::state() };
    state.tick = Tick(tick);
    state.tick_length_ms = length;
    state.observed_at_ms = Timestamp(tick * length + 7);
    state.bounds.replicas = Range::new(Replicas(bounds.0), Replicas(bounds.0 + bounds.1 + 1)).expect("ordered");
    state.replicas = drawn.ready.map(|ready| ReplicaCounts {
        desired: allocation.replicas,
        ready: Replicas(ready),
        pending: Replicas(drawn.reporting / 3),
        reporting: Replicas(drawn.reporting),
        ..ReplicaCounts::default()
    });
    for window in [&mut state.windows.tick, &mut state.windows.short, &mut state.windows.long] {
        window.rate_rps = drawn.rate;
        window.concurrency = drawn.concurrency;
        window.queued = drawn.queued;
        window.cpu_millicores = drawn.cpu.map(usage);
        window.memory_mib = drawn.memory.map(usage);
        window.oom_kills = drawn.oom;
    }
    state
}

/// Decisions of `policy` on `scene`, and its memory after it.
fn play(policy: &dyn Policy, (length, least, width, drawn): &(u64, u32, u32, Vec<Drawn>)) -> (Vec<Decision>, Memory) {
    let (mut memory, mut rng) = (Memory::default(), fixtures::rng());
    let (mut tick, mut allocation) = (1_700_000_000_000 / length, Allocation::new(*least, 500, 256));
    let mut decisions = Vec::new();
    for drawn in drawn {
        tick += drawn.ticks;
        let state = state(drawn, tick, *length, (*least, *width), allocation);
        let decision = policy.decide(&state, &mut memory, state.observed_at_ms, &mut rng);
        if let Some(wanted) = decision.wanted() {
            assert!(state.bounds.contain(wanted), "{} wants {wanted} outside the bounds", policy.name());
            assert_ne!(Some(wanted), state.allocation, "{} wants the current allocation", policy.name());
            if drawn.applied {
                allocation = wanted;
            }
        }
        decisions.push(decision);
    }
    (decisions, memory)
}

/// The States of `scene` if no decision is applied.
fn shown((length, least, width, drawn): &(u64, u32, u32, Vec<Drawn>)) -> Vec<State> {
    let mut tick = 1_700_000_000_000 / length;
    let states = drawn.iter().map(|drawn| {
        tick += drawn.ticks;
        state(drawn, tick, *length, (*least, *width), Allocation::new(*least, 500, 256))
    });
    states.collect()
}

fn all() -> impl Iterator<Item = Box<dyn Policy>> {
    NAMES.into_iter().map(|name| by_name(name, &Value::Null).expect("known"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn stays_within_bounds_and_is_deterministic(scene in scene()) {
        for policy in all() {
            let (once, memory) = play(&*policy, &scene);
            prop_assert_eq!(&once, &play(&*policy, &scene).0, "{}", policy.name());
            prop_assert!(format!("{memory:?}").len() < 1024 * 1024, "the memory of {} is bounded", policy.name());
        }
    }

    #[test]
    fn memory_rebuilt_from_the_stream_is_equal(scene in scene()) {
        // A service that starts shows its policy the States of the stream, at another time, and discards the decisions.
        for policy in all() {
            let states = shown(&scene);
            let mut memory = Memory::default();
            states.iter().for_each(|state| drop(policy.decide(state, &mut memory, state.observed_at_ms, &mut fixtures::rng())));
            let mut rebuilt = Memory::default();
            states.iter().for_each(|state| drop(policy.decide(state, &mut rebuilt, Timestamp(u64::MAX), &mut fixtures::rng())));
            prop_assert_eq!(&memory, &rebuilt, "{}", policy.name());
        }
    }

    #[test]
    fn holds_without_measurements(length in prop_oneof![Just(1000u64), Just(5000), Just(60_000)], count in 1..60usize) {
        let nothing = Drawn {
            ticks: 1, rate: None, concurrency: None, queued: None, cpu: None, memory: None, ready: Some(3), reporting: 0, oom: 0,
            allocation: true, applied: true,
        };
        let scene = (length, 0, 9, vec![nothing; count]);
        for policy in all() {
            let (decisions, _) = play(&*policy, &scene);
            // The first State has zero replicas, which the bounds allow.
            prop_assert!(decisions.iter().all(|decision| decision.wanted().is_none()), "{} acts without measurements", policy.name());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn handles_every_valid_state(seed: u64) {
        let states = any_states(seed, 5);
        prop_assert_eq!(states.iter().filter(|state| state.check().is_ok()).count(), 5);
        for policy in all() {
            let mut memory = Memory::default();
            for state in &states {
                for _ in 0..2 {
                    let decision = policy.decide(state, &mut memory, state.observed_at_ms, &mut fixtures::rng());
                    prop_assert!(decision.wanted().is_none_or(|wanted| state.bounds.contain(wanted)), "{}", policy.name());
                }
            }
        }
    }
}

#[test]
fn keeps_its_control_interval_for_any_tick_length() {
    for seconds in [1u64, 2, 5, 15, 60] {
        for policy in all() {
            let Some(own) = policy.timing().tick else { continue };
            let drawn = Drawn { applied: false, ..calm() };
            let scene = (seconds * 1000, 1, 9, vec![drawn; 600 / seconds as usize]);
            let (mut memory, mut decided, mut wanted) = (Memory::default(), 0u64, 0u64);
            for state in shown(&scene) {
                let decision = policy.decide(&state, &mut memory, state.observed_at_ms, &mut fixtures::rng());
                decided += u64::from(!matches!(decision, Decision::Hold { why: HoldReason::NotDue, .. }));
                wanted += u64::from(decision.wanted().is_some());
            }
            let (expected, name) = (600 / own.0.as_secs().max(seconds), policy.name());
            assert!(decided + 1 >= expected, "{name} decides {decided} times in 10 min at States of {seconds} s");
            assert!(wanted <= expected + 1, "{name} asks for a change {wanted} times in 10 min at States of {seconds} s");
        }
    }
}

#[test]
fn model_fits_into_an_action() {
    for policy in all() {
        assert!(policy.model().len() <= qscale_common::contract::Action::MAX_TEXT, "{}", policy.model());
    }
}

#[test]
fn has_a_lookback_if_and_only_if_it_has_memory() {
    let state = fixtures::state();
    for policy in all() {
        let keeps = !remembered(&*policy, &state).is_empty();
        assert_eq!(policy.lookback().is_some(), keeps, "{}", policy.name());
    }
}

#[test]
fn ignores_the_memory_of_another_policy() {
    let drawn = Drawn { rate: Some(10.0), applied: true, ..calm() };
    let state = state(&drawn, 340_000_000, 5000, (1, 9), Allocation::new(2, 500, 256));
    for policy in all() {
        let fresh = policy.decide(&state, &mut Memory::default(), Timestamp(0), &mut fixtures::rng());
        for other in all() {
            let mut memory = Memory::default();
            let _ = other.decide(&state, &mut memory, Timestamp(0), &mut fixtures::rng());
            if !memory.is_like(&remembered(&*policy, &state)) {
                assert_eq!(
                    policy.decide(&state, &mut memory, Timestamp(0), &mut fixtures::rng()),
                    fresh,
                    "{} after {}",
                    policy.name(),
                    other.name()
                );
            }
        }
    }
}

fn remembered(policy: &dyn Policy, state: &State) -> Memory {
    let mut memory = Memory::default();
    let _ = policy.decide(state, &mut memory, Timestamp(0), &mut fixtures::rng());
    memory
}

#[test]
fn refused_parameters_are_named_with_value_and_range() {
    let refusal = |name: &str, params: Value| by_name(name, &params).err().expect("must be refused").to_string();
    let checks = [
        ("hpa", json!({"tolerance": 2.0}), "tolerance = 2, must be from 0 to 1"),
        ("hpa", json!({"sync_period": "0s"}), "sync_period = 0s, must be 1s to 1h"),
        ("hpa", json!({"cpu_utilization": 0}), "cpu_utilization = 0, must be from 1 to 1000"),
        ("hpa", json!({"scale_to_zero": true}), "scale_to_zero = true"),
        ("hpa", json!({"target": 3}), "unknown key `target`"),
        (
            "hpa-behavior",
            json!({"behavior": {"scale_up": {"stabilization_window": "2h", "policies": [{"kind": "pods", "value": 1, "period": "15s"}]}}}),
            "behavior.scale_up.stabilization_window = 2h, must be at most 1h",
        ),
        ("kpa", json!({"max_scale_up_rate": 0.9}), "max_scale_up_rate = 0.9, must be greater than 1"),
        ("kpa", json!({"stable_window": "5s"}), "stable_window = 5s, must be 6s to 1h"),
        ("kpa", json!({"target_burst_capacity": -2}), "target_burst_capacity = -2, must be from 0 to 1000000, or -1"),
        ("vpa", json!({"margin": -1}), "margin = -1, must be from 0 to 10"),
        ("hpa-vpa", json!({"vpa": {"cpu_percentile": 1.5}}), "vpa.cpu_percentile = 1.5, must be from 0 to 1"),
        ("keda", json!({"threshold": 0}), "threshold = 0, must be from 0.001 to 1000000"),
        ("holt-winters", json!({"seasonal_periods": 1}), "seasonal_periods = 1, must be from 2 to 1000"),
        ("holt-winters", json!({"alpha": "fast"}), "alpha"),
    ];
    for (name, params, expected) in checks {
        let error = refusal(name, params);
        assert!(error.contains(expected), "{name}: {error}");
    }
}

#[test]
fn the_fixture_allows_its_allocation() {
    let bounds = fixtures::state().bounds;
    assert!(bounds.cpu_millicores.contains(Millicores(500)) && bounds.memory_mib.contains(Mebibytes(256)));
}
