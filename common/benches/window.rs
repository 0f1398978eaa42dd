//! Cost of updating the windows of a function, and of writing its State.

use divan::{Bencher, black_box};
use qscale_common::contract::{Epoch, Message, StateId};
use qscale_common::name::{FunctionId, Name};
use qscale_common::policy::{Prices, ScalingPolicy};
use qscale_common::reward::measure;
use qscale_common::scrape::{
    CpuCounters, CpuPeriods, FunctionScrape, IngressReading, LATENCY_BUCKETS, Parts, PlatformReading, PlatformReplicas, RequestCounters,
    Scrape,
};
use qscale_common::time::{Tick, TickLength, Timestamp};
use qscale_common::units::{Allocation, Replicas};
use qscale_common::window::{FunctionWindows, assemble, latency_percentiles};

fn main() {
    divan::main();
}

fn policy() -> ScalingPolicy {
    let name = |text| Name::new(text).expect("a DNS label");
    ScalingPolicy::new(FunctionId::new(name("default"), name("fibonacci-python")))
}

/// Readings of a function with `replicas` at the end of `tick`.
fn scrape(replicas: u32, tick: u64) -> FunctionScrape {
    let at = Timestamp(tick * 5000);
    let replica = |index: u32| Scrape {
        requests: Some(RequestCounters {
            completed: tick * 500,
            failed: tick,
            latency: Some(std::array::from_fn(|bucket| if (8..16).contains(&bucket) { tick * 62 } else { 0 })),
        }),
        in_flight: Some(3.0),
        cpu: Some(Parts::One(CpuCounters {
            usage_us: tick * 1_234_567,
            periods: Some(CpuPeriods { runnable: tick * 50, throttled: tick * 3 }),
            ..CpuCounters::default()
        })),
        working_set_bytes: Some(77 << 20),
        ..Scrape::new(format!("fibonacci-python-{index}"), at)
    };
    FunctionScrape {
        platform: Some(PlatformReading {
            allocation: Some(Allocation::new(replicas, 500, 256)),
            replicas: Some(PlatformReplicas { desired: Replicas(replicas), ready: Replicas(replicas), pending: Replicas(0) }),
            startups: Some((4, 2000)),
            ..PlatformReading::new(at)
        }),
        ingress: Some(IngressReading { at, arrived: (tick * 500 * u64::from(replicas)).into(), failed: 0.into(), queued: 1.0 }),
        replicas: (0..replicas).map(replica).collect(),
        node_cores: Some(64.0),
    }
}

fn fed(replicas: u32) -> FunctionWindows {
    let mut windows = FunctionWindows::new(TickLength::default());
    for tick in 1..100 {
        windows.record(&scrape(replicas, tick));
        windows.close(Tick(tick), &Prices::default());
    }
    windows
}

/// One tick: take in a scrape, close the tick. Reading the scrape is not counted.
#[divan::bench(args = [1, 4, 16])]
fn record_and_close(bencher: Bencher, replicas: u32) {
    let mut windows = fed(replicas);
    let prices = Prices::default();
    let mut tick = 100;
    bencher
        .with_inputs(|| {
            tick += 1;
            (Tick(tick), scrape(replicas, tick))
        })
        .bench_local_values(|(tick, scrape)| {
            windows.record(&scrape);
            windows.close(tick, &prices)
        });
}

#[divan::bench]
fn measured(bencher: Bencher) {
    let windows = fed(4);
    bencher.bench(|| black_box(&windows).measured(95.0));
}

#[divan::bench]
fn percentiles(bencher: Bencher) {
    let buckets: [u64; LATENCY_BUCKETS] = std::array::from_fn(|index| (index as u64 * 37) % 101);
    bencher.bench(|| latency_percentiles(black_box(&buckets), [50.0, 95.0, 99.0, 90.0]));
}

#[divan::bench]
fn assemble_state(bencher: Bencher) {
    let (windows, policy) = (fed(4), policy());
    let state_id = StateId { epoch: Epoch(1), tick: Tick(99) };
    bencher.bench(|| assemble(black_box(&policy), state_id, Timestamp(99 * 5000 + 3), &windows, None));
}

#[divan::bench]
fn encode_state(bencher: Bencher) {
    let (windows, policy) = (fed(4), policy());
    let state_id = StateId { epoch: Epoch(1), tick: Tick(99) };
    let state = assemble(&policy, state_id, Timestamp(99 * 5000 + 3), &windows, None);
    bencher.counter(divan::counter::BytesCount::new(state.encode().len())).bench(|| black_box(&state).encode());
}

#[divan::bench]
fn measure_reward(bencher: Bencher) {
    let (windows, policy) = (fed(4), policy());
    let window = windows.measured(95.0).tick;
    let closed = *windows.closed().expect("ticks were closed");
    bencher.bench(|| measure(black_box(&window), &closed, &policy));
}
