//! Windows, States and Rewards.

use std::time::Duration;

use qscale_common::contract::{Epoch, Message as _, Reward, State, StateId, parse};
use qscale_common::policy::{ScalingPolicy, Weight};
use qscale_common::reward::{self, RewardContext};
use qscale_common::scrape::{
    Count, CpuCounters, CpuPeriods, FunctionScrape, IngressReading, LATENCY_BUCKETS, Parts, PlatformReading, PlatformReplicas,
    RequestCounters, Scrape,
};
use qscale_common::time::{Tick, Timestamp};
use qscale_common::units::{Allocation, Replicas};
use qscale_common::window::{FunctionWindows, assemble};

use crate::input::Input;

const BEGIN_MS: u64 = 1_700_000_000_000;
/// Most ticks of one input.
const MAX_TICKS: usize = 100;
const REPLICAS: [&str; 3] = ["f-1", "f-2", "f-3"];
/// Cores of the node in every Scrape.
const CORES: f64 = 4.0;

/// The bytes of Scrapes: each State and Reward is valid, no rate is negative or impossible, and a longer window contains the shorter ones.
pub fn windows(data: &[u8]) {
    let mut input = Input::new(data);
    let mut policy = crate::guard::policy(&mut input);
    for price in [&mut policy.prices.cpu_core_hour, &mut policy.prices.memory_gib_hour] {
        *price = Weight::try_from(input.choose([0.0, 0.01, 5.0, 1e9])).expect("a price");
    }
    let mut windows = FunctionWindows::new(policy.tick);
    let mut now = Timestamp(BEGIN_MS);
    for _ in 0..MAX_TICKS {
        if input.is_empty() {
            break;
        }
        for _ in 0..input.choose([1, 1, 1, 0, 2]) {
            let scrape = scrape(&mut input, now);
            drop(windows.record(&scrape));
        }
        let ticks = input.choose([1, 1, 1, 1, 1, 2, 13, 61, 100_000, 0]);
        now = now.plus(policy.tick.duration().saturating_mul(ticks));
        let tick = Tick::at(now, policy.tick);
        if windows.close(tick, &policy.prices) {
            check(&windows, &policy, tick, now);
        }
    }
}

fn check(windows: &FunctionWindows, policy: &ScalingPolicy, tick: Tick, now: Timestamp) {
    let state = assemble(policy, StateId { epoch: Epoch(1), tick }, now, windows, None);
    assert_eq!(state.check(), Ok(()));
    parse::<State>(&state.encode()).expect("a valid State can be written");
    let all = [&state.windows.tick, &state.windows.short, &state.windows.long];
    for window in all {
        let cpu = window.cpu_millicores.map_or(0.0, |usage| usage.max.max(usage.mean));
        assert!(cpu <= CORES * 1000.0 * 1.01, "{cpu}m on {CORES} cores");
        // Twice the limits of an ingress and of three replicas, because growth within a millisecond may be that of nearly two.
        assert!(window.rate_rps.is_none_or(|rate| rate <= 2e8) && window.completed_rps.is_none_or(|rate| rate <= 6e6), "{window:?}");
        assert!(window.replicas.is_none_or(|replicas| replicas <= REPLICAS.len() as f64), "{window:?}");
        if let Some(latency) = window.latency {
            assert!(latency.p50_ms <= latency.p95_ms && latency.p95_ms <= latency.p99_ms, "{latency:?}");
        }
        if let Some(usage) = window.memory_mib {
            assert!(usage.mean <= usage.max, "{usage:?}");
        }
    }
    for (shorter, longer) in [(all[0], all[1]), (all[1], all[2])] {
        assert!(shorter.restarts <= longer.restarts && shorter.oom_kills <= longer.oom_kills && shorter.starts <= longer.starts);
        assert!(shorter.covered_ms <= longer.covered_ms);
    }
    let closed = windows.closed().expect("a tick was closed");
    let measured = reward::measure(&state.windows.tick, closed, policy);
    assert!(measured.value.is_none_or(|value| value.is_finite() && value <= 0.0), "{measured:?}");
    let message = reward::message(&measured, closed, RewardContext { epoch: Epoch(1), tick, at: now, decided_by: None }, policy);
    assert_eq!(message.check(), Ok(()));
    parse::<Reward>(&message.encode()).expect("a valid Reward can be written");
    assert!(windows.memory_bytes() < 1 << 20, "the memory of windows is bounded");
}

fn scrape(input: &mut Input<'_>, now: Timestamp) -> FunctionScrape {
    let replicas = input.choose([0, 1, 1, 2, 3]);
    FunctionScrape {
        platform: input.maybe(|input| platform(input, now)),
        ingress: input.maybe(|input| IngressReading {
            at: time(input, now),
            arrived: counts(input),
            failed: counts(input),
            queued: input.choose([0.0, 1.0, 17.5, 1e6, f64::NAN]),
        }),
        replicas: (0..replicas).map(|_| replica(input, now)).collect(),
        node_cores: Some(CORES),
    }
}

fn platform(input: &mut Input<'_>, now: Timestamp) -> PlatformReading {
    let count = |input: &mut Input<'_>| Replicas(input.any_u32().min(Replicas::MAX.0));
    PlatformReading {
        at: time(input, now),
        allocation: input.maybe(|input| {
            let most = Allocation {
                replicas: Replicas::MAX,
                cpu_millicores: qscale_common::units::Millicores::MAX,
                memory_mib: qscale_common::units::Mebibytes::MAX,
            };
            let any = crate::guard::allocation(input);
            Allocation {
                replicas: any.replicas.min(most.replicas),
                cpu_millicores: any.cpu_millicores.min(most.cpu_millicores),
                memory_mib: any.memory_mib.min(most.memory_mib),
            }
        }),
        replicas: input.maybe(|input| PlatformReplicas { desired: count(input), ready: count(input), pending: count(input) }),
        crashes: input.maybe(Input::any_u64),
        oom_kills: input.maybe(Input::any_u64),
        startups: input.maybe(|input| (input.any_u64(), input.any_u64())),
    }
}

fn replica(input: &mut Input<'_>, now: Timestamp) -> Scrape {
    let at = time(input, now);
    Scrape {
        started: input.maybe(|input| time(input, now)),
        last_started: input.maybe(|input| time(input, now)),
        requests: input.maybe(|input| {
            let mut latency = [0; LATENCY_BUCKETS];
            let buckets = input.choose([0, 1, 5, LATENCY_BUCKETS]);
            latency.iter_mut().take(buckets).for_each(|bucket| *bucket = input.any_u64());
            RequestCounters { completed: input.any_u64(), failed: input.any_u64(), latency: input.maybe(|_| latency) }
        }),
        in_flight: input.maybe(|input| input.choose([0.0, 1.0, 2.5, 1e6])),
        cpu: input.maybe(|input| fingerprints(input).iter().map(|&of| cpu(input, of, now)).collect()),
        working_set_bytes: input.maybe(Input::any_u64),
        restarts: input.maybe(counts),
        oom_kills: input.maybe(counts),
        ..Scrape::new(input.choose(REPLICAS), at)
    }
}

fn cpu(input: &mut Input<'_>, of: u64, now: Timestamp) -> CpuCounters {
    CpuCounters {
        usage_us: input.any_u64(),
        periods: input.maybe(|input| CpuPeriods { runnable: input.any_u64(), throttled: input.any_u64() }),
        of,
        started: input.maybe(|input| time(input, now)),
    }
}

fn counts(input: &mut Input<'_>) -> Parts<Count> {
    fingerprints(input).iter().map(|&of| Count { of, value: input.any_u64() }).collect()
}

/// Fingerprints of containers or gateways, mostly the same ones.
fn fingerprints(input: &mut Input<'_>) -> &'static [u64] {
    input.choose([&[1][..], &[1], &[1, 2], &[1, 2], &[2], &[]])
}

/// A time before `now`, mostly within the last seconds, or a little after it.
fn time(input: &mut Input<'_>, now: Timestamp) -> Timestamp {
    let before = u64::from(input.any_u32());
    match input.choose([0, 0, 0, 1, 2]) {
        0 => now.minus(Duration::from_millis(before % 10_000)),
        1 => now.minus(Duration::from_millis(before)),
        _ => now.plus(Duration::from_millis(before % 100)),
    }
}
