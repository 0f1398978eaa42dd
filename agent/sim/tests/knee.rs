//! The knee that the study measured: fibonacci at some 332 requests a second on one replica, by its CPU limit (`reference/peers.md`).

use std::sync::Arc;

use qscale_common::time::Span;
use qscale_common::units::Allocation;
use qscale_sim::{Function, FunctionProfile, Gateway, Nanos, Totals};

/// A latency that grows from nothing to a median of 2 to 4 s where little more than half of the load is carried takes some 20 s of load.
const RUN: Nanos = Nanos::millis(20_000);
/// The study's client rounded the time between requests to whole milliseconds.
const GAP_MS: u64 = 3;
const SEEDS: u64 = 10;

/// A run as the study made it: every change of the limit restarted the replica; before a Kubernetes Service nothing
/// holds a request while no replica is ready, and a replica takes any number of requests; what was in flight at the end
/// was dropped.
fn run(cpu: u32, seed: u64) -> Totals {
    let gateway = Gateway { concurrency: 0, queue: 0, timeout: Span::seconds(60) };
    let mut function = Function::new(Arc::new(FunctionProfile::fibonacci_python()), gateway, seed, 0);
    function.allocate(Allocation::new(1, cpu, 256), Nanos::ZERO);
    (0..RUN.0 / Nanos::millis(GAP_MS).0).for_each(|request| function.arrive(Nanos::millis(request * GAP_MS)));
    function.totals(RUN).clone()
}

/// Holds the mean over the seeds against what was measured.
#[track_caller]
fn check(cpu: u32, completed_percent: std::ops::RangeInclusive<f64>, median_ms: std::ops::RangeInclusive<f64>) {
    let runs: Vec<Totals> = (0..SEEDS).map(|seed| run(cpu, seed)).collect();
    let mean = |of: fn(&Totals) -> f64| runs.iter().map(of).sum::<f64>() / runs.len() as f64;
    let completed = mean(|run| 100.0 * run.completed as f64 / run.arrived as f64);
    let median = mean(|run| run.latency.quantile(0.5, 0).expect("some completed").seconds() * 1000.0);
    assert!(completed_percent.contains(&completed), "{cpu}m: {completed} % completed, median {median} ms");
    assert!(median_ms.contains(&median), "{cpu}m: median {median} ms, {completed} % completed");
    println!("{cpu}m: {completed:.1} % completed, median {median:.2} ms");
}

#[test]
fn completion_rises_with_the_limit_to_half_a_core_and_is_flat_above() {
    check(250, 33.0..=52.0, 2000.0..=4000.0);
    check(350, 74.0..=84.0, 500.0..=3000.0);
    check(500, 90.0..=97.0, 1.5..=10.0);
    check(550, 90.0..=97.0, 1.5..=1.8);
    check(1000, 90.0..=97.0, 1.5..=1.8);
}
