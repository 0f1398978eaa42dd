use qscale_common::guard::Verdict;
use qscale_common::policy::Range;
use qscale_common::time::Span;
use qscale_common::units::{Mebibytes, Millicores, Replicas};
use qscale_common::workload::Gaps;

use super::*;
use crate::distribution::Distribution;
use crate::perturbation::{LostNode, NoisyNeighbour, Payload};
use crate::profile::{MemoryProfile, Startup};

fn setup(rate: &str, perturbation: Perturbation) -> Setup {
    let mut policy = ScalingPolicy::new("default/f".parse().expect("a function"));
    policy.guard.max_age = Some(Span::seconds(300));
    Setup {
        profile: Arc::new(FunctionProfile::simple("f", Distribution::constant(Nanos::millis(20)))),
        gateway: Gateway::default(),
        policy,
        allocation: Allocation::new(2, 500, 128),
        load: SimulatedLoad::Pattern { pattern: rate.parse().expect("a pattern"), gaps: Gaps::Constant },
        perturbation,
        nodes: None,
    }
}

fn simulate(rate: &str, perturbation: Perturbation) -> Simulation {
    Simulation::new(setup(rate, perturbation), 1, 0)
}

#[test]
fn a_noisy_neighbour_raises_cpu_time_while_it_lasts() {
    let noisy_neighbour = Some(NoisyNeighbour { at: Span::seconds(10), lasts: Span::seconds(20), factor: 1.5 });
    let mut simulation = simulate("20", Perturbation { noisy_neighbour, ..Perturbation::default() });
    let cores: Vec<f64> = (0..8)
        .map(|_| {
            simulation.step(None);
            simulation.state().cores_used(&simulation.state().windows.tick).expect("measured")
        })
        .collect();
    // 20 requests a second of 20 ms each; 30 ms from second 10 to 30.
    let expected = [0.4, 0.4, 0.6, 0.6, 0.6, 0.6, 0.4, 0.4];
    assert!(cores.iter().zip(expected).all(|(cores, expected)| (cores - expected).abs() < 0.02), "{cores:?}");
}

#[test]
fn the_state_reflects_the_tick() {
    let mut simulation = simulate("20", Perturbation::default());
    assert_eq!(simulation.state().windows.tick.rate_rps, None);
    (0..3).for_each(|_| simulation.step(None));
    let window = &simulation.state().windows.tick;
    assert_eq!((window.rate_rps, window.completed_rps, window.failed_share), (Some(20.0), Some(20.0), Some(0.0)));
    // 20 requests a second of 20 ms on two replicas.
    assert!((window.cpu_millicores.expect("read").mean - 200.0).abs() < 5.0, "{window:?}");
    let reward = simulation.reward();
    assert!(reward.terms.violation.value == Some(0.0) && reward.value.is_some_and(|value| value < 0.0), "{reward:?}");
}

#[test]
fn a_wanted_allocation_passes_the_guard_and_applies_at_once() {
    let mut simulation = simulate("20", Perturbation::default());
    simulation.step(None);
    simulation.step(Some(Allocation::new(3, 500, 128)));
    assert_eq!(simulation.function().allocation(), Allocation::new(3, 500, 128));
    simulation.step(Some(Allocation::new(30, 500, 128)));
    assert_eq!(simulation.function().allocation(), Allocation::new(7, 500, 128));
    assert!(matches!(simulation.verdict(), Some(Verdict::Apply { notes, .. }) if notes.len() == 2), "{:?}", simulation.verdict());
}

#[test]
fn measurements_have_the_configured_age() {
    for (lag_s, seen_after) in [(0, 1), (10, 3), (12, 3), (18, 4), (55, 12)] {
        let perturbation = Perturbation { metric_lag: Span::seconds(lag_s), ..Perturbation::default() };
        let mut simulation = simulate("step:0@0s,40@1s", perturbation);
        for tick in 1..=13 {
            simulation.step(None);
            let seen = simulation.state().windows.tick.rate_rps.is_some_and(|rate| rate > 0.0);
            assert_eq!(seen, tick >= seen_after, "lag {lag_s}, tick {tick}");
        }
        assert_eq!(simulation.state().age.requests_ms, Some(lag_s * 1000));
    }
}

#[test]
fn platform_readings_are_never_late() {
    let mut simulation = simulate("20", Perturbation { metric_lag: Span::seconds(55), ..Perturbation::default() });
    (0..14).for_each(|_| simulation.step(None));
    let used = |simulation: &Simulation| simulation.state().cores_used(&simulation.state().windows.tick).expect("read");
    let before = used(&simulation);
    simulation.step(Some(Allocation::new(4, 700, 128)));
    let state = simulation.state();
    assert_eq!(state.allocation, Some(Allocation::new(4, 700, 128)));
    assert_eq!(state.changes.horizontal_ticks, Some(0));
    assert_eq!((state.age.cpu_ms, state.age.replicas_ms), (Some(55_000), Some(0)));
    // What was measured is still that of the two there were, and 20 requests of 20 ms a second use 0.4 cores however many there are.
    assert_eq!((state.replicas.map(|counts| counts.desired.0), state.windows.tick.replicas), (Some(4), Some(2.0)));
    assert!((before - 0.4).abs() < 0.01 && (used(&simulation) - 0.4).abs() < 0.01, "{before} {}", used(&simulation));
}

#[test]
fn readings_delivered_after_scaling_to_zero_are_complete() {
    // Called and ready for two ticks, neither for two, and so on.
    let calls: Vec<String> = (0..30).map(|half| format!("{}@{}s", if half % 2 == 0 { 20 } else { 0 }, half * 10)).collect();
    let mut setup = setup(&format!("step:{}", calls.join(",")), Perturbation { metric_lag: Span::seconds(20), ..Perturbation::default() });
    setup.policy.bounds.replicas = Range::new(Replicas(0), Replicas(5)).expect("a range");
    let many = std::num::NonZeroU32::MAX;
    (setup.policy.guard.changes_per_hour, setup.policy.guard.reversals_per_hour) = (many, many.get());
    let mut simulation = Simulation::new(setup, 1, 0);
    let mut answered = 0.0;
    for tick in 0..60u32 {
        simulation.step((tick > 8).then(|| Allocation::new(u32::from(tick % 4 < 2), 500, 128)));
        answered += simulation.state().windows.tick.completed_rps.unwrap_or(0.0) * 5.0;
    }
    let really = simulation.totals().completed as f64;
    assert!(answered > 0.7 * really && answered <= really, "{answered} of {really}");
}

#[test]
fn lost_scrapes_do_not_lose_counts() {
    let lossy = |share| {
        let mut simulation = simulate("20", Perturbation { lost_scrapes: share, ..Perturbation::default() });
        (0..60).for_each(|_| simulation.step(None));
        simulation
    };
    let (all, some, none) = (lossy(0.0), lossy(0.5), lossy(1.0));
    assert_eq!(none.state().windows.long.rate_rps, None);
    let rate = |simulation: &Simulation| simulation.state().windows.long.rate_rps.expect("read");
    assert!((rate(&some) - rate(&all)).abs() < 1e-9);
}

#[test]
fn payload_changes_at_its_instant() {
    let mut simulation =
        simulate("20", Perturbation { payload: Some(Payload { from: Span::seconds(12), factor: 2.0 }), ..Perturbation::default() });
    let cpu: Vec<f64> = (0..4)
        .map(|_| {
            simulation.step(None);
            simulation.state().windows.tick.cpu_millicores.expect("read").mean
        })
        .collect();
    for (tick, expected) in [200.0, 200.0, 320.0, 400.0].into_iter().enumerate() {
        assert!((cpu[tick] - expected).abs() < 15.0, "{cpu:?}");
    }
}

#[test]
fn a_node_fails_and_returns_at_its_instants() {
    let lost_node = Some(LostNode { at: Span::seconds(12), lasts: Span::seconds(10), node: 0 });
    let mut setup = setup("20", Perturbation { lost_node, ..Perturbation::default() });
    let nodes = Nodes { count: 2, cpu_millicores: Millicores(1000), memory_mib: Mebibytes(200), cpu_overcommit: 1.0 };
    setup.nodes = Some(nodes);
    let mut simulation = Simulation::new(setup, 1, 0);
    // Each node has room for one replica.
    let ready = |simulation: &Simulation| simulation.state().replicas.map(|replicas| (replicas.ready.0, replicas.pending.0));
    let headroom = |simulation: &Simulation| simulation.state().headroom.map(|headroom| headroom.cpu_millicores.0);
    assert_eq!((ready(&simulation), headroom(&simulation)), (Some((2, 0)), Some(1000)));
    (0..3).for_each(|_| simulation.step(None));
    assert_eq!((ready(&simulation), headroom(&simulation)), (Some((1, 1)), Some(0)));
    (0..2).for_each(|_| simulation.step(None));
    assert_eq!((ready(&simulation), headroom(&simulation)), (Some((2, 0)), Some(1000)));
    let totals = simulation.totals();
    assert_eq!((totals.lost, totals.starts), (1, 1));
}

#[test]
fn crashes_are_seen() {
    let mut simulation = simulate("20", Perturbation { crashes_per_hour: 600.0, ..Perturbation::default() });
    (0..12).for_each(|_| simulation.step(None));
    let crashes = simulation.totals().crashes;
    assert_eq!(simulation.state().windows.short.restarts, u32::try_from(crashes).expect("few"), "{:?}", simulation.state().windows.short);
    assert!(crashes > 5, "{crashes}");
}

#[test]
fn out_of_memory_kills_appear_in_state_and_reward() {
    let mut setup = setup("20", Perturbation::default());
    let memory = MemoryProfile { base_mib: Mebibytes(60), request_kib: 64 };
    setup.profile = Arc::new(FunctionProfile { memory, ..FunctionProfile::simple("f", Distribution::constant(Nanos::millis(20))) });
    setup.policy.bounds.memory_mib = Range::new(Mebibytes(50), Mebibytes(100)).expect("a range");
    setup.allocation = Allocation::new(2, 500, 59);
    let mut simulation = Simulation::new(setup, 1, 0);
    simulation.step(None);
    let kills = simulation.totals().oom_kills;
    assert!(kills > 4 && u64::from(simulation.state().windows.tick.oom_kills) == kills, "{:?}", simulation.state().windows.tick);
    assert!(simulation.reward().terms.kill.value.is_some_and(|value| value > 0.0), "{:?}", simulation.reward());
}

#[test]
fn a_reset_simulation_equals_a_new_one() {
    let pattern = SimulatedLoad::Pattern { pattern: "bursty:5..100/30s/3s".parse().expect("a pattern"), gaps: Gaps::Poisson };
    let calm = Setup { load: pattern, ..setup("20", Perturbation { lost_scrapes: 0.2, ..Perturbation::default() }) };
    let perturbed = Perturbation {
        metric_lag: Span::seconds(12),
        lost_scrapes: 0.2,
        startup: 2.0,
        payload: Some(Payload { from: Span::seconds(100), factor: 1.5 }),
        crashes_per_hour: 60.0,
        lost_node: Some(LostNode { at: Span::seconds(61), lasts: Span::seconds(90), node: 0 }),
        noisy_neighbour: Some(NoisyNeighbour { at: Span::seconds(120), lasts: Span::seconds(30), factor: 1.3 }),
    };
    let nodes = |cpu_overcommit| Nodes { count: 2, cpu_millicores: Millicores(1000), memory_mib: Mebibytes(400), cpu_overcommit };
    let startup = Startup { cpu: Distribution::exponential(Nanos::millis(300)), waiting: Distribution::exponential(Nanos::millis(500)) };
    let profile = FunctionProfile { startup, workers: 0, ..FunctionProfile::simple("f", Distribution::exponential(Nanos::millis(20))) };
    let crowded =
        |overcommit| Setup { profile: Arc::new(profile.clone()), perturbation: perturbed, nodes: Some(nodes(overcommit)), ..calm.clone() };
    let live = |simulation: &mut Simulation| {
        let wanted = |tick: u32| tick.is_multiple_of(7).then(|| Allocation::new(1 + tick % 5, 300 + tick, 128));
        (0..100)
            .map(|tick| {
                simulation.step(wanted(tick));
                let totals = simulation.totals().clone();
                format!("{:?} {:?} {totals:?}", simulation.state(), simulation.reward())
            })
            .collect::<Vec<_>>()
    };
    for setup in [calm.clone(), crowded(1.0), crowded(3.0)] {
        let mut simulation = Simulation::new(setup.clone(), 7, 3);
        let first = live(&mut simulation);
        simulation.reset(8);
        assert_eq!(live(&mut simulation), live(&mut Simulation::new(setup, 8, 3)));
        simulation.reset(7);
        assert_eq!(live(&mut simulation), first);
    }
}

#[test]
fn the_state_is_what_the_collector_assembles() {
    let mut simulation = simulate("20", Perturbation { metric_lag: Span::seconds(7), ..Perturbation::default() });
    for tick in 0..80 {
        simulation.step((tick == 40).then(|| Allocation::new(4, 700, 200)));
        let now = timestamp(simulation.now());
        let policy = &simulation.setup().policy;
        assert_eq!(*simulation.state(), assemble(policy, state_id(now, policy), now, &simulation.windows, None));
    }
}

#[test]
fn every_field_of_the_state_is_what_the_collector_assembles() {
    let perturbation = Perturbation { metric_lag: Span::seconds(7), lost_scrapes: 0.3, crashes_per_hour: 60.0, ..Perturbation::default() };
    let nodes = Nodes { count: 2, cpu_millicores: Millicores(4000), memory_mib: Mebibytes(4096), cpu_overcommit: 1.0 };
    let mut simulation = Simulation::new(Setup { nodes: Some(nodes), ..setup("step:5@0s,40@60s,10@150s", perturbation) }, 5, 0);
    for tick in 0..60u32 {
        simulation.step(Some(Allocation::new(1 + tick % 4, 300 + 100 * (tick % 3), 128)));
        let state = simulation.state();
        let expected = assemble(&simulation.setup.policy, state.state_id(), state.observed_at_ms, &simulation.windows, simulation.headroom);
        assert_eq!(*state, expected, "tick {tick}");
    }
    assert!(simulation.state().headroom.is_some() && simulation.state().startup_ms.is_some(), "the fields are covered");
}
