use qscale_common::contract::ReplicaCounts;
use qscale_common::policy::Range;
use qscale_common::time::Tick;

use super::autoscaler::*;
use super::*;
use crate::fixtures;

const NOW: Timestamp = Timestamp(1_000_000_000);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// The specification of the original's tests: rates of 10, a utilization of 75 %, a window of a minute.
fn spec(target: f64, target_burst_capacity: f64) -> DeciderSpec {
    DeciderSpec {
        target,
        total: target / 0.75,
        target_burst_capacity,
        panic_threshold: 2.0,
        max_scale_up_rate: 10.0,
        max_scale_down_rate: 10.0,
        activation_scale: 0,
        stable_window: MINUTE,
        scale_down_delay: Duration::ZERO,
        reachable: true,
    }
}

fn fresh() -> Autoscaler {
    Autoscaler::new(1, NOW)
}

#[track_caller]
fn check(autoscaler: &mut Autoscaler, spec: &DeciderSpec, ready: u32, (stable, panic): (f64, f64), after: Duration, expected: u32) {
    let got = autoscaler.scale(spec, ready, stable, panic, NOW.plus(after));
    assert_eq!(got.desired, expected, "{stable} {panic} with {ready} ready");
    let excess = match spec.target_burst_capacity {
        0.0 => 0,
        -1.0 => -1,
        burst => (spec.target / 0.75 * f64::from(ready) - burst - panic).floor() as i32,
    };
    assert!(got.excess_burst_capacity.abs_diff(excess) <= 1, "excess {}, not {excess}", got.excess_burst_capacity);
}

mod autoscaler_cases {
    use super::*;

    #[test]
    fn scale() {
        let small_up = DeciderSpec { max_scale_up_rate: 1.1, ..spec(1.0, 1982.0) };
        let small_down = DeciderSpec { max_scale_down_rate: 1.1, ..spec(10.0, 1982.0) };
        let unreachable = DeciderSpec { reachable: false, ..small_down };
        let cases = [
            ("no data at zero", spec(10.0, 100.0), 1, (0.0, 0.0), 0),
            ("unlimited burst capacity", spec(181.0, -1.0), 1, (21.0, 26.0), 1),
            ("no burst capacity", spec(10.0, 0.0), 1, (50.0, 49.0), 5),
            ("stable mode", spec(10.0, 100.0), 1, (50.0, 50.0), 5),
            ("stable mode increase", spec(10.0, 101.0), 1, (50.0, 10.0), 5),
            ("stable mode increase further", spec(10.0, 101.0), 1, (100.0, 10.0), 10),
            ("already scaled", spec(10.0, 100.0), 5, (50.0, 50.0), 5),
            ("increase with small scale up rate", small_up, 2, (3.0, 3.1), 3),
            ("decrease with small scale down rate", small_down, 100, (1.0, 1.0), 90),
            ("decrease, not reachable", unreachable, 100, (1.0, 1.0), 1),
            ("panic mode doubles the pods", spec(10.0, 84.0), 1, (50.0, 100.0), 10),
            ("one pod where none are found", spec(10.0, 81.0), 0, (1000.0, 888.0), 10),
        ];
        for (name, spec, ready, values, expected) in cases {
            assert_eq!(fresh().scale(&spec, ready, values.0, values.1, NOW).desired, expected, "{name}");
            check(&mut fresh(), &spec, ready, values, Duration::ZERO, expected);
        }
    }

    #[test]
    fn panic_takes_the_larger_of_both_windows() {
        let mut autoscaler = Autoscaler::new(5, NOW.minus(5 * SECOND));
        check(&mut autoscaler, &spec(1.0, 100.0), 5, (50.0, 30.0), Duration::ZERO, 50);
        let mut autoscaler = Autoscaler::new(5, NOW.minus(5 * SECOND));
        check(&mut autoscaler, &spec(1.0, 100.0), 5, (20.0, 30.0), Duration::ZERO, 30);
    }

    #[test]
    fn stable_mode_decrease() {
        let (mut autoscaler, spec) = (fresh(), spec(10.0, 98.0));
        check(&mut autoscaler, &spec, 8, (100.0, 100.0), Duration::ZERO, 10);
        check(&mut autoscaler, &spec, 8, (50.0, 50.0), Duration::ZERO, 5);
    }

    #[test]
    fn stable_mode_no_traffic_scale_to_zero() {
        let (mut autoscaler, spec) = (fresh(), spec(10.0, 75.0));
        check(&mut autoscaler, &spec, 1, (1.0, 0.0), Duration::ZERO, 1);
        check(&mut autoscaler, &spec, 1, (0.0, 0.0), Duration::ZERO, 0);
    }

    #[test]
    fn activation_scale() {
        let (mut autoscaler, spec) = (fresh(), DeciderSpec { activation_scale: 2, ..spec(10.0, 75.0) });
        check(&mut autoscaler, &spec, 1, (0.0, 0.0), Duration::ZERO, 0);
        check(&mut autoscaler, &spec, 1, (1.0, 0.0), Duration::ZERO, 2);
    }

    #[test]
    fn panic_then_unpanic_scale_down() {
        let (mut autoscaler, spec) = (fresh(), spec(10.0, 93.0));
        check(&mut autoscaler, &spec, 1, (100.0, 100.0), Duration::ZERO, 10);
        check(&mut autoscaler, &spec, 10, (100.0, 1000.0), Duration::ZERO, 100);
        check(&mut autoscaler, &spec, 10, (1.0, 1.0), 30 * SECOND, 100);
        check(&mut autoscaler, &spec, 10, (1.0, 1.0), 61 * SECOND, 1);
    }

    #[test]
    fn unpanic_after_slow_increase() {
        let (mut autoscaler, spec) = (fresh(), spec(1.0, 98.0));
        check(&mut autoscaler, &spec, 10, (11.0, 25.0), Duration::ZERO, 25);
        check(&mut autoscaler, &spec, 40, (30.0, 41.0), 30 * SECOND, 41);
        assert_eq!(autoscaler.panics_since(), Some(NOW), "panic does not move");
        check(&mut autoscaler, &spec, 55, (50.0, 56.0), 62 * SECOND, 50);
        assert_eq!(autoscaler.panics_since(), None);
    }

    #[test]
    fn extend_panic_window() {
        let (mut autoscaler, spec) = (fresh(), spec(1.0, 98.0));
        check(&mut autoscaler, &spec, 10, (11.0, 25.0), Duration::ZERO, 25);
        check(&mut autoscaler, &spec, 40, (30.0, 80.0), 30 * SECOND, 80);
        assert_eq!(autoscaler.panics_since(), Some(NOW.plus(30 * SECOND)));
    }

    #[test]
    fn panic_mode_exponential_track_and_stabilize() {
        let (mut autoscaler, spec) = (fresh(), spec(1.0, 101.0));
        for (ready, load, expected) in [(1, 6.0, 6), (6, 36.0, 36), (36, 216.0, 216), (216, 1296.0, 1296), (1296, 1296.0, 1296)] {
            check(&mut autoscaler, &spec, ready, (load, load), Duration::ZERO, expected);
        }
    }

    #[test]
    fn rate_limit_scale_up_and_down() {
        let (mut autoscaler, spec) = (fresh(), spec(10.0, 61.0));
        check(&mut autoscaler, &spec, 1, (1000.0, 1001.0), Duration::ZERO, 10);
        check(&mut autoscaler, &spec, 10, (1000.0, 1001.0), Duration::ZERO, 100);
        let mut autoscaler = fresh();
        check(&mut autoscaler, &spec, 100, (1.0, 1.0), Duration::ZERO, 10);
        check(&mut autoscaler, &spec, 10, (1.0, 1.0), Duration::ZERO, 1);
    }

    #[test]
    fn update_target() {
        let mut autoscaler = fresh();
        check(&mut autoscaler, &spec(10.0, 77.0), 1, (100.0, 101.0), Duration::ZERO, 10);
        check(&mut autoscaler, &DeciderSpec { reachable: false, ..spec(1.0, 71.0) }, 10, (100.0, 101.0), Duration::ZERO, 100);
    }

    #[test]
    fn start_in_panic_mode() {
        for (ready, panics) in [(0, false), (1, false), (2, true)] {
            let autoscaler = Autoscaler::new(ready, NOW);
            assert_eq!((autoscaler.panics_since().is_some(), autoscaler.max_panic_pods()), (panics, ready));
        }
    }

    #[test]
    fn scale_down_delay() {
        let delayed = DeciderSpec { panic_threshold: 100.0, scale_down_delay: 5 * MINUTE, ..spec(10.0, 0.0) };
        // The original's test counts from an instant that is a whole number of slots.
        let mut autoscaler = fresh();
        for (after, load, expected) in [
            (2 * SECOND, 40.0, 4),
            (5 * MINUTE, 0.0, 4),
            (5 * MINUTE + 2 * SECOND, 0.0, 0),
            (9 * MINUTE, 40.0, 4),
            (10 * MINUTE, 30.0, 4),
            (11 * MINUTE, 0.0, 4),
            (14 * MINUTE, 0.0, 3),
            (15 * MINUTE, 0.0, 0),
        ] {
            check(&mut autoscaler, &delayed, 0, (load, load), after, expected);
        }
        let mut autoscaler = fresh();
        check(&mut autoscaler, &delayed, 0, (40.0, 40.0), 2 * SECOND, 4);
        check(&mut autoscaler, &delayed, 0, (0.0, 0.0), MINUTE, 4);
        check(&mut autoscaler, &DeciderSpec { reachable: false, ..delayed }, 0, (0.0, 0.0), MINUTE + 2 * SECOND, 0);
        let (mut autoscaler, at_once) = (fresh(), DeciderSpec { scale_down_delay: Duration::ZERO, ..delayed });
        check(&mut autoscaler, &at_once, 0, (40.0, 40.0), Duration::ZERO, 4);
        check(&mut autoscaler, &at_once, 0, (20.0, 20.0), SECOND / 2, 2);
    }
}

#[test]
fn resolve_metric_target() {
    /// Name, requests at once that the container takes, annotated target, utilization in percent; target and total.
    struct Case(&'static str, ScalingMetric, u32, Option<f64>, f64, f64, f64);
    let (concurrency, rps) = (ScalingMetric::Concurrency, ScalingMetric::Rps);
    let cases = [
        Case("defaults", concurrency, 0, None, 100.0, 100.0, 100.0),
        Case("default CC + 80% TU", concurrency, 0, None, 80.0, 80.0, 100.0),
        Case("non-default CC and TU", concurrency, 0, Some(2.0), 30.0, 0.6, 2.0),
        Case("container concurrency 12, TU 75%", concurrency, 12, None, 75.0, 9.0, 12.0),
        Case("container concurrency 10, TU 80%", concurrency, 10, None, 80.0, 8.0, 10.0),
        Case("container concurrency 1, TU 80%", concurrency, 1, None, 80.0, 0.8, 1.0),
        Case("container concurrency 1", concurrency, 1, None, 100.0, 1.0, 1.0),
        Case("container concurrency 10", concurrency, 10, None, 100.0, 10.0, 10.0),
        Case("target annotation 1", concurrency, 0, Some(1.0), 100.0, 1.0, 1.0),
        Case("target annotation 1, TU 0.1%", concurrency, 0, Some(1.0), 0.1, 0.01, 1.0),
        Case("target annotation 1, TU 75%", concurrency, 0, Some(1.0), 75.0, 0.75, 1.0),
        Case("target annotation 10, TU 75%", concurrency, 0, Some(10.0), 75.0, 7.5, 10.0),
        Case("container concurrency greater than target", concurrency, 10, Some(1.0), 100.0, 1.0, 1.0),
        Case("target greater than default", concurrency, 0, Some(500.0), 100.0, 500.0, 500.0),
        Case("target greater than container concurrency", concurrency, 1, Some(10.0), 100.0, 1.0, 1.0),
        Case("RPS: defaults", rps, 1, None, 70.0, 140.0, 200.0),
        Case("RPS: target annotation 1", rps, 0, Some(1.0), 70.0, 0.7, 1.0),
        Case("RPS: TU annotation 75%", rps, 0, None, 75.0, 150.0, 200.0),
        Case("RPS: target greater than default", rps, 0, Some(300.0), 70.0, 210.0, 300.0),
    ];
    for Case(name, metric, container_concurrency, target, target_utilization_percentage, expected, total) in cases {
        let (got, all) = Kpa { metric, container_concurrency, target, target_utilization_percentage, ..Kpa::default() }.resolve();
        assert!((got - expected).abs() < 1e-9 && all == total, "{name}: {got} of {all}");
    }
    assert_eq!(Kpa::default().resolve(), (70.0, 100.0));
}

#[test]
fn refuses_invalid_behavior() {
    let check = |name: &str, kpa: Kpa, fine: bool| assert_eq!(kpa.check().is_ok(), fine, "{name}: {:?}", kpa.check());
    let seconds = Span::seconds;
    check("defaults", Kpa::default(), true);
    check(
        "minimum",
        Kpa { max_scale_up_rate: 1.001, target: Some(10.0), target_burst_capacity: 0.0, stable_window: seconds(300), ..Kpa::default() },
        true,
    );
    check("with -1 tbc", Kpa { target_burst_capacity: -1.0, ..Kpa::default() }, true);
    check("with explicit grace period", Kpa { scale_to_zero: false, scale_to_zero_grace_period: seconds(33), ..Kpa::default() }, true);
    check("invalid target burst capacity", Kpa { target_burst_capacity: -11.0, ..Kpa::default() }, false);
    check("invalid target %, too small", Kpa { target_utilization_percentage: -42.0, ..Kpa::default() }, false);
    check("invalid target %, too big", Kpa { target_utilization_percentage: 142.4, ..Kpa::default() }, false);
    check("invalid RPS target, too small", Kpa { metric: ScalingMetric::Rps, target: Some(-5.25), ..Kpa::default() }, false);
    check("max scale up rate 1.0", Kpa { max_scale_up_rate: 1.0, ..Kpa::default() }, false);
    check("max scale down rate negative", Kpa { max_scale_down_rate: -55.0, ..Kpa::default() }, false);
    check("max scale down rate 1.0", Kpa { max_scale_down_rate: 1.0, ..Kpa::default() }, false);
    check("stable window too big", Kpa { stable_window: seconds(3601), ..Kpa::default() }, false);
    check("stable window too small", Kpa { stable_window: seconds(1), ..Kpa::default() }, false);
    check("stable not seconds", Kpa { stable_window: Span::millis(61_984), ..Kpa::default() }, false);
    check("scale-down-delay not seconds", Kpa { scale_down_delay: Span::millis(61_984), ..Kpa::default() }, false);
    check("panic window percentage too small", Kpa { panic_window_percentage: 0.1, ..Kpa::default() }, false);
    check("panic window percentage too big", Kpa { panic_window_percentage: 110.0, stable_window: seconds(12), ..Kpa::default() }, false);
    check("grace window too small", Kpa { scale_to_zero_grace_period: seconds(0), ..Kpa::default() }, false);
}

/// A function of `replicas` that has `in_flight` requests in all, at the `second`th second.
fn at(second: u64, replicas: u32, in_flight: f64) -> State {
    let mut state = State { allocation: Some(Allocation::new(replicas, 500, 256)), ..fixtures::state() };
    (state.tick, state.tick_length_ms) = (Tick(1_700_000_000 + second), 1000);
    state.bounds.replicas = Range::new(Replicas(0), Replicas(1000)).expect("ordered");
    let all = Replicas(replicas);
    state.replicas = Some(ReplicaCounts::all(all));
    state.windows.tick.concurrency = (replicas > 0).then(|| in_flight / f64::from(replicas));
    state.windows.tick.queued = Some(if replicas == 0 { in_flight } else { 0.0 });
    state
}

fn run(policy: &Kpa, mut replicas: u32, load: impl Fn(u64) -> f64, seconds: u64) -> Vec<u32> {
    let mut memory = Memory::default();
    let played = (0..seconds).map(|second| {
        let decision = policy.decide(&at(second, replicas, load(second)), &mut memory, Timestamp(0), &mut fixtures::rng());
        replicas = decision.wanted().map_or(replicas, |wanted| wanted.replicas.0);
        replicas
    });
    played.collect()
}

#[test]
fn a_burst_is_answered_within_the_panic_window() {
    let replicas = run(&Kpa::default(), 1, |second| if second < 60 { 50.0 } else { 700.0 }, 80);
    assert_eq!(replicas[59], 1);
    assert_eq!(replicas[66], 10, "700 in flight at 70 each");
    assert!(replicas[62] > 1, "long before the stable window is full: {replicas:?}");
}

#[test]
fn weighted_aggregation_prefers_new_values() {
    // At a step the weighted mean is ahead of the plain one and reaches the same end.
    let load = |second| if second < 60 { 50.0 } else { 150.0 };
    let weighted = Kpa { aggregation: Aggregation::WeightedExponential, panic_threshold_percentage: 1000.0, ..Kpa::default() };
    let plain = Kpa { panic_threshold_percentage: 1000.0, ..Kpa::default() };
    let reached = |policy: &Kpa| run(policy, 1, load, 140).iter().position(|replicas| *replicas == 3).expect("in the end");
    assert!(reached(&weighted) < reached(&plain), "{} {}", reached(&weighted), reached(&plain));
}

#[test]
fn begins_with_the_initial_scale_once() {
    let policy = Kpa { initial_scale: 4, ..Kpa::default() };
    let replicas = run(&policy, 1, |_| 5.0, 100);
    assert_eq!((replicas[0], replicas[99]), (4, 1), "{replicas:?}");
}

#[test]
fn the_decision_in_which_the_initial_scale_is_reached_keeps_it() {
    let policy = Kpa { initial_scale: 20, panic_threshold_percentage: 1000.0, ..Kpa::default() };
    // 1 replica, then 20 of which 20 are ready, while 11 would do: 11 x 70 requests at once.
    let mut memory = Memory::default();
    let mut wanted = |second: u64, replicas: u32| {
        let decision = policy.decide(&at(second, replicas, 765.0), &mut memory, Timestamp(0), &mut fixtures::rng());
        decision.wanted().map(|wanted| wanted.replicas.0)
    };
    assert_eq!(wanted(1, 1), Some(20));
    assert_eq!(wanted(3, 19), Some(20), "not reached");
    assert_eq!(wanted(5, 20), None, "reached: 20 stay");
    assert_eq!(wanted(7, 20), Some(11), "free");
    let mut fresh = Memory::default();
    let first = policy.decide(&at(1, 20, 765.0), &mut fresh, Timestamp(0), &mut fixtures::rng());
    assert_eq!(first.wanted(), None, "first seen with its initial scale");
}

#[test]
fn goes_to_zero_when_idle_and_back_on_the_first_request() {
    let replicas = run(&Kpa::default(), 1, |second| if (10..300).contains(&second) { 0.0 } else { 5.0 }, 310);
    let zero = replicas.iter().position(|replicas| *replicas == 0).expect("goes to zero");
    // The stable window must be free of requests; the activator stands in the path already, since one replica cannot absorb a burst of 211.
    assert!((69..=75).contains(&zero), "{zero}");
    assert_eq!(replicas[299], 0);
    assert_eq!(*replicas.last().expect("some"), 1);
}

#[test]
fn stays_at_one_where_zero_is_off() {
    let replicas = run(&Kpa { scale_to_zero: false, ..Kpa::default() }, 1, |_| 0.0, 200);
    assert!(replicas.iter().all(|replicas| *replicas == 1));
}

#[test]
fn never_scales_down_while_it_panics() {
    let replicas = run(&Kpa::default(), 1, |second| if second < 10 { 700.0 } else { 7.0 }, 60);
    let peak = replicas.iter().max().expect("some");
    assert!(replicas[12..].iter().all(|replicas| replicas == peak), "{replicas:?}");
}
