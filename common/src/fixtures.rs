//! Messages for tests, compiled only with the feature `fixtures`. Owns one complete State, so that a new field is given in one place.

use rand::rngs::SmallRng;
use rand::{Rng, RngExt as _, SeedableRng as _};

use crate::contract::{Ages, Changes, Direction, Epoch, Headroom, Latency, ReplicaCounts, State, Usage, Window, WireObjective};
use crate::name::{FunctionId, Name};
use crate::policy::{Bounds, OperatingPoint, Prices, Range, ScalingPolicy, Weight};
use crate::time::{Tick, Timestamp};
use crate::units::{Allocation, Mebibytes, Millicores, Replicas};

/// A name.
///
/// # Panics
/// When `text` is not a DNS label.
#[must_use]
pub fn name(text: &str) -> Name {
    Name::new(text).expect("a DNS label")
}

/// The function `fibonacci` at its tick 1 of 5 s with a current allocation of 2 replicas of 500m and 256 MiB, of which nothing was measured; everything else is
/// as in a default ScalingPolicy: p95 within 500 ms, 1 to 10 replicas, 100m to 1000m, 64 to 1024 MiB, agent `threshold`.
#[must_use]
pub fn state() -> State {
    let function = FunctionId::new(name(FunctionId::DEFAULT_NAMESPACE), name("fibonacci"));
    State {
        epoch: Epoch(1),
        tick: Tick(1),
        observed_at_ms: Timestamp(9_999),
        allocation: Some(Allocation::new(2, 500, 256)),
        ..State::unmeasured(&ScalingPolicy::new(function))
    }
}

/// `valid` States that the contract allows, most of their values usual, some of them at the end of their range, many of their ticks close together; and,
/// before the last of them, one that the contract refuses, whose allocation and counts have the largest numbers. None of them may end an agent.
///
/// # Panics
/// If `valid` is 0.
#[must_use]
pub fn any_states(seed: u64, valid: usize) -> Vec<State> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut states: Vec<State> = (0..valid).map(|_| any_state(&mut rng)).collect();
    let largest = State {
        allocation: Some(Allocation::new(u32::MAX, u32::MAX, u32::MAX)),
        replicas: Some(ReplicaCounts::all(Replicas(u32::MAX))),
        ..any_state(&mut rng)
    };
    states.insert(valid - 1, largest);
    states
}

/// A State that the contract allows, most of its values usual, some of them at the end of their range.
#[must_use]
pub fn any_state(rng: &mut impl Rng) -> State {
    let state = state();
    let tick_length_ms = choose(rng, [100, 1_000, 5_000, 5_000, 5_000, 60_000, 3_600_000]);
    let newest = Timestamp::LAST.0 / tick_length_ms;
    let usual = 1_700_000_000_000 / tick_length_ms + rng.random_range(0..200);
    let tick = choose(rng, [usual, usual, usual, usual, usual, 0, 1, newest - 1, newest]);
    State {
        epoch: Epoch(choose(rng, [1, u64::MAX])),
        tick: Tick(tick),
        tick_length_ms,
        observed_at_ms: Timestamp(choose(rng, [tick * tick_length_ms, 0, Timestamp::LAST.0])),
        allocation: maybe(rng, any_allocation),
        replicas: maybe(rng, |rng| ReplicaCounts {
            desired: Replicas(count(rng, Replicas::MAX.0)),
            ready: Replicas(count(rng, Replicas::MAX.0)),
            pending: Replicas(count(rng, Replicas::MAX.0)),
            reporting: Replicas(count(rng, Replicas::MAX.0)),
            without_cpu: Replicas(count(rng, Replicas::MAX.0)),
            without_memory: Replicas(count(rng, Replicas::MAX.0)),
        }),
        age: Ages {
            requests_ms: maybe(rng, any_millis),
            cpu_ms: maybe(rng, any_millis),
            memory_ms: maybe(rng, any_millis),
            replicas_ms: maybe(rng, any_millis),
        },
        windows: crate::contract::Windows { tick: any_window(rng), short: any_window(rng), long: any_window(rng) },
        changes: Changes {
            horizontal_ticks: maybe(rng, |rng| count(rng, u32::MAX)),
            vertical_ticks: maybe(rng, |rng| count(rng, u32::MAX)),
            last: maybe(rng, |rng| choose(rng, [Direction::Up, Direction::Down])),
        },
        startup_ms: maybe(rng, any_millis),
        headroom: maybe(rng, |rng| Headroom {
            cpu_millicores: Millicores(count(rng, u32::MAX)),
            memory_mib: Mebibytes(count(rng, u32::MAX)),
        }),
        objective: WireObjective {
            percentile: choose(rng, [95.0, 50.0, f64::MIN_POSITIVE, 99.999]),
            latency_ms: any_millis(rng),
            failure_share: choose(rng, [0.01, 0.0, 1.0]),
            point: maybe(rng, |rng| {
                let points = [
                    OperatingPoint::ViolationCost(10.0.try_into().expect("in range")),
                    OperatingPoint::ViolatedShare(0.0001.try_into().expect("in range")),
                    OperatingPoint::BudgetPerMonth(1e9.try_into().expect("in range")),
                ];
                choose(rng, points)
            }),
        },
        bounds: Bounds {
            replicas: any_range(rng, Replicas, u32::MAX),
            cpu_millicores: any_range(rng, Millicores, u32::MAX),
            memory_mib: any_range(rng, Mebibytes, u32::MAX),
        },
        prices: Prices { cpu_core_hour: any_price(rng), memory_gib_hour: any_price(rng), ..Prices::default() },
        ..state
    }
}

fn any_window(rng: &mut impl Rng) -> Window {
    let share = |rng: &mut _| maybe(rng, |rng| choose(rng, [0.0, 0.05, 0.5, 1.0, f64::MIN_POSITIVE]));
    let usage = |rng: &mut _| maybe(rng, |rng| Usage { mean: amount(rng), max: amount(rng) });
    Window {
        covered_ms: any_millis(rng),
        rate_rps: maybe(rng, amount),
        rate_slope_rps: maybe(rng, |rng| amount(rng) * choose(rng, [1.0, -1.0])),
        rate_variation: maybe(rng, amount),
        completed_rps: maybe(rng, amount),
        failed_share: share(rng),
        latency: maybe(rng, |rng| Latency { p50_ms: amount(rng), p95_ms: amount(rng), p99_ms: amount(rng), objective_ms: amount(rng) }),
        replicas: maybe(rng, amount),
        concurrency: maybe(rng, amount),
        queued: maybe(rng, amount),
        cpu_millicores: usage(rng),
        throttled_share: share(rng),
        memory_mib: usage(rng),
        starts: maybe(rng, |rng| count(rng, u32::MAX)),
        restarts: choose(rng, [0, 0, 0, 1, u32::MAX]),
        oom_kills: choose(rng, [0, 0, 0, 1, u32::MAX]),
    }
}

fn any_allocation(rng: &mut impl Rng) -> Allocation {
    Allocation::new(count(rng, Replicas::MAX.0), count(rng, Millicores::MAX.0), count(rng, Mebibytes::MAX.0))
}

fn any_range<T: Copy + Ord + std::fmt::Display>(rng: &mut impl Rng, unit: fn(u32) -> T, max: u32) -> Range<T> {
    let (one, other) = (count(rng, max), count(rng, max));
    Range::new(unit(one.min(other)), unit(one.max(other))).expect("ordered")
}

fn any_price(rng: &mut impl Rng) -> Weight {
    Weight::try_from(amount(rng)).expect("a finite number of at least 0")
}

fn any_millis(rng: &mut impl Rng) -> u64 {
    choose(rng, [0, 1, 500, 5_000, 60_000, 1 << 53, u64::MAX])
}

fn amount(rng: &mut impl Rng) -> f64 {
    let usual = rng.random_range(0.0..2_000.0);
    choose(rng, [usual, usual, usual, usual, usual, usual, 0.0, f64::MIN_POSITIVE, 1e9, 1e15, 1e300, f64::MAX])
}

fn count(rng: &mut impl Rng, max: u32) -> u32 {
    let usual = rng.random_range(0..20);
    choose(rng, [usual, usual, usual, usual, 500, 1_000, max / 2, max - 1, max])
}

fn maybe<R: Rng, T>(rng: &mut R, value: impl FnOnce(&mut R) -> T) -> Option<T> {
    rng.random_bool(0.85).then(|| value(rng))
}

fn choose<T: Copy, const N: usize>(rng: &mut impl Rng, from: [T; N]) -> T {
    from[rng.random_range(0..N)]
}
