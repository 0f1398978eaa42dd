//! Cost of an arrival: drawn from a pattern, and merged from the functions of a trace.

use std::time::Duration;

use divan::{Bencher, counter::ItemsCount};
use qscale_common::workload::trace::{MinuteTrace, TraceFunction};
use qscale_common::workload::{Arrivals, Demand, DurationQuantiles, Gaps, Iat, MinuteCount, PatternArrivals, Scale, WorkloadRng};
use rand::SeedableRng;

fn main() {
    divan::main();
}

const ARRIVALS: usize = 100_000;

fn rng() -> WorkloadRng {
    WorkloadRng::seed_from_u64(1)
}

#[divan::bench(args = ["1000", "step:500@0s,2000@30s", "ramp:100..2000/60s", "diurnal:100..2000/60s", "bursty:500..5000/10s/1s"])]
fn poisson(bencher: Bencher, pattern: &str) {
    let pattern = pattern.parse().expect("a pattern");
    let arrivals = PatternArrivals::new(pattern, Gaps::Poisson, Duration::MAX, rng());
    bencher
        .counter(ItemsCount::new(ARRIVALS))
        .with_inputs(|| arrivals.clone())
        .bench_values(|arrivals| arrivals.take(ARRIVALS).fold(Duration::ZERO, |_, at| at));
}

fn trace(functions: u32) -> MinuteTrace {
    let duration = DurationQuantiles::new([1, 2, 10, 20, 50, 100, 200]).expect("rising");
    let demand = Demand::QuantilesOfDuration { duration, memory_mib: 128 };
    let per_minute = ARRIVALS as u32 / functions / 10;
    let counts: Vec<MinuteCount> = (0..10).map(|bin| MinuteCount { bin, count: per_minute }).collect();
    let function = |index: u32| TraceFunction { hash: index.to_string(), counts: counts.clone().into(), demand };
    MinuteTrace { functions: (0..functions).map(function).collect(), minutes: 10 }
}

#[divan::bench(args = [10, 100, 1000])]
fn trace_merged(bencher: Bencher, functions: u32) {
    let trace = trace(functions);
    bencher
        .counter(ItemsCount::new(ARRIVALS))
        .with_inputs(|| Arrivals::minutes(&trace, Iat::Conditioned, Scale::default(), Duration::MAX, &mut rng()))
        .bench_values(|arrivals| arrivals.fold(0u64, |sum, arrival| sum + u64::from(arrival.duration_ms)));
}
