//! Cost of a request with each implementation of a replica, and of a control tick, relative to the bare recursion.
//! Compare ratios within one run, not figures of different machines.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use divan::Bencher;
use divan::counter::ItemsCount;
use qscale_common::policy::ScalingPolicy;
use qscale_common::time::{Span, TickLength};
use qscale_common::units::Allocation;
use qscale_common::workload::Gaps;
use qscale_sim::rng::{Purpose, stream};
use qscale_sim::{Distribution, Function, FunctionProfile, Gateway, Nanos, Perturbation, Setup, SimulatedLoad, Simulation};
use rand::RngExt;
use rand_distr::Exp1;

fn main() {
    divan::main();
}

const REQUESTS: u32 = 200_000;

/// Kiefer and Wolfowitz' recursion over 8 servers: two draws, a heap and a sum.
#[divan::bench]
fn bare_recursion(bencher: Bencher) {
    bencher.counter(ItemsCount::new(REQUESTS)).bench(|| {
        let mut rng = stream(1, 0, Purpose::Arrivals);
        let mut free: BinaryHeap<Reverse<u64>> = (0..8).map(|_| Reverse(0)).collect();
        let (mut now, mut sum) = (0, 0u64);
        for _ in 0..REQUESTS {
            now += (1.5625e7 * rng.sample::<f64, _>(Exp1)) as u64;
            let service = (1e8 * rng.sample::<f64, _>(Exp1)) as u64;
            if let Some(mut first) = free.peek_mut() {
                first.0 = first.0.max(now) + service;
                sum = sum.wrapping_add(first.0 - now);
            }
        }
        sum
    });
}

/// One request at a time a replica, 80 % busy.
#[divan::bench(args = [1, 8, 64, 512])]
fn first_come_first_served(bencher: Bencher, replicas: u32) {
    requests(bencher, 1, replicas, 1000);
}

/// The same under a quota.
#[divan::bench(args = [8])]
fn first_come_first_served_under_quota(bencher: Bencher, replicas: u32) {
    requests(bencher, 1, replicas, 250);
}

/// All requests of a replica share its CPU, 80 % busy.
#[divan::bench(args = [1, 8, 64])]
fn shared_cpu(bencher: Bencher, replicas: u32) {
    requests(bencher, 0, replicas, 1000);
}

/// The same under a quota.
#[divan::bench(args = [8])]
fn shared_cpu_under_quota(bencher: Bencher, replicas: u32) {
    requests(bencher, 0, replicas, 250);
}

fn requests(bencher: Bencher, workers: u32, replicas: u32, cpu: u32) {
    let profile = FunctionProfile { workers, ..FunctionProfile::simple("f", Distribution::exponential(Nanos::millis(100))) };
    let profile = Arc::new(profile);
    let mean_gap = 1e8 / (0.8 * f64::from(replicas) * f64::from(cpu) / 1000.0);
    let fresh = || {
        let gateway = Gateway { concurrency: workers, queue: 10_000, timeout: Span::seconds(30) };
        let mut function = Function::new(Arc::clone(&profile), gateway, 1, 0);
        function.warm(Allocation::new(replicas, cpu, 128), Nanos::ZERO);
        function
    };
    bencher.counter(ItemsCount::new(REQUESTS)).with_inputs(fresh).bench_local_values(|mut function| {
        let mut rng = stream(1, 0, Purpose::Arrivals);
        let mut now = Nanos::ZERO;
        for _ in 0..REQUESTS {
            now += Nanos((mean_gap * rng.sample::<f64, _>(Exp1)) as u64);
            function.arrive(now);
        }
        function
    });
}

const FUNCTIONS: u32 = 16;

/// Ticks of 5 s at a request rate; the rate 0 measures control alone.
#[divan::bench(args = ["0", "1", "50", "diurnal:5..95/1h"])]
fn control_ticks(bencher: Bencher, rate: &str) {
    const TICKS: u32 = 100;
    let setup = |_: u32| {
        let mut policy = ScalingPolicy::new("default/f".parse().expect("a function"));
        policy.tick = TickLength::new(Duration::from_secs(5)).expect("within the range");
        Setup {
            profile: Arc::new(FunctionProfile::simple("f", Distribution::exponential(Nanos::millis(30)))),
            gateway: Gateway::default(),
            policy,
            allocation: Allocation::new(2, 1000, 128),
            load: SimulatedLoad::Pattern { pattern: rate.parse().expect("a rate"), gaps: Gaps::Poisson },
            perturbation: Perturbation::default(),
            nodes: None,
        }
    };
    let fresh = || (0..FUNCTIONS).map(|index| Simulation::new(setup(index), 1, u64::from(index))).collect::<Vec<Simulation>>();
    bencher.counter(ItemsCount::new(FUNCTIONS * TICKS)).with_inputs(fresh).bench_local_values(|mut simulations| {
        for tick in 0..TICKS {
            simulations.iter_mut().for_each(|simulation| simulation.step(Some(Allocation::new(2 + tick % 3, 1000, 128))));
        }
        simulations
    });
}
