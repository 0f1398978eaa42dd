//! Speed of the simulator: requests a second on one core for each implementation of a replica, and memory.
//! `cargo run --release -p qscale-sim --example simulator_speed`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use qscale_common::policy::{Prices, ScalingPolicy};
use qscale_common::time::{Span, Tick, TickLength, Timestamp};
use qscale_common::units::Allocation;
use qscale_common::window::FunctionWindows;
use qscale_common::workload::Gaps;
use qscale_sim::rng::{Purpose, stream};
use qscale_sim::{Distribution, Function, FunctionProfile, Gateway, Nanos, Perturbation, ScrapeBuffer, Setup, SimulatedLoad, Simulation};
use rand::RngExt;
use rand_distr::Exp1;

const REQUESTS: u32 = 10_000_000;
/// A tick of 15 s at 50 requests a second.
const REQUESTS_A_TICK: u32 = 750;
const ROUNDS: usize = 5;

fn main() {
    println!(
        "requests a second of CPU time: median of {ROUNDS} rounds of {REQUESTS} requests, draws, histograms, scrapes and windows included"
    );
    let path = |workers, cores| FunctionProfile {
        workers,
        parallelism: cores,
        ..FunctionProfile::simple("f", Distribution::exponential(Nanos::millis(100)))
    };
    if std::env::args().nth(1).is_none() {
        println!("{:7.1} M/s  the limit: the bare recursion over 8 servers, two draws and a sum, nothing else", bare_recursion());
    }
    measure("first come first served, 8 replicas, 80 % busy", path(1, 1), 8, 1, 1000);
    measure("first come first served, 64 replicas, 80 % busy", path(1, 1), 64, 1, 1000);
    measure("first come first served, 8 replicas under a quota of 250m, 80 % busy", path(1, 1), 8, 1, 250);
    measure("shared CPU, 8 replicas, 80 % busy", path(0, 1), 8, 0, 1000);
    measure("shared CPU, 8 replicas under a quota of 250m, 80 % busy", path(0, 1), 8, 0, 250);
    measure("shared CPU, 1 replica of 8 cores, 80 % busy", path(0, 8), 1, 0, 8000);
    println!("control ticks a second of CPU time, each with its scrape, windows, State, reward and guard:");
    control_ticks("50", 15);
    control_ticks("50", 5);
    control_ticks("0", 5);
    control_ticks("diurnal:5..95/1h", 15);
    memory();
}

/// Millions of requests a second that are nothing but Kiefer and Wolfowitz' recursion.
fn bare_recursion() -> f64 {
    let mut rng = stream(1, 0, Purpose::Arrivals);
    let mut free: BinaryHeap<Reverse<u64>> = (0..8).map(|_| Reverse(0)).collect();
    let (mut now, mut sum) = (0, 0u64);
    let begin = cpu_seconds();
    for _ in 0..REQUESTS {
        now += (1.5625e7 * rng.sample::<f64, _>(Exp1)) as u64;
        let service = (1e8 * rng.sample::<f64, _>(Exp1)) as u64;
        if let Some(mut first) = free.peek_mut() {
            first.0 = first.0.max(now) + service;
            sum = sum.wrapping_add(first.0 - now);
        }
    }
    black_box(sum);
    f64::from(REQUESTS) / (cpu_seconds() - begin) / 1e6
}

/// Control ticks a second, with windows, State, reward and guard: functions at `rate`, in ticks of `seconds`.
fn control_ticks(rate: &str, seconds: u64) {
    const FUNCTIONS: u32 = 64;
    const TICKS: u32 = 2000;
    let name = format!("control ticks of {seconds} s at {rate} requests a second");
    if std::env::args().nth(1).is_some_and(|part| !name.contains(&part)) {
        return;
    }
    let mut simulations: Vec<Simulation> = (0..FUNCTIONS).map(|index| Simulation::new(setup(rate, seconds), 1, u64::from(index))).collect();
    let begin = cpu_seconds();
    for tick in 0..TICKS {
        simulations.iter_mut().for_each(|simulation| simulation.step(Some(Allocation::new(2 + tick % 3, 1000, 128))));
    }
    let spent = cpu_seconds() - begin;
    let requests: u64 = simulations.iter_mut().map(|simulation| simulation.totals().arrived).sum();
    println!("{:7.1} k/s  {:5.1} M requests/s  {name}", f64::from(FUNCTIONS * TICKS) / spent / 1e3, requests as f64 / spent / 1e6);
}

/// A function under control, two thirds busy at 50 requests a second.
fn setup(rate: &str, seconds: u64) -> Setup {
    let mut policy = ScalingPolicy::new("default/f".parse().expect("a function"));
    policy.tick = TickLength::new(Duration::from_secs(seconds)).expect("within the range");
    let load = SimulatedLoad::Pattern { pattern: rate.parse().expect("a rate"), gaps: Gaps::Poisson };
    let profile = Arc::new(FunctionProfile::simple("f", Distribution::exponential(Nanos::millis(30))));
    let allocation = Allocation::new(2, 1000, 128);
    Setup { profile, gateway: Gateway::default(), policy, allocation, load, perturbation: Perturbation::default(), nodes: None }
}

/// Memory after 26 million requests: 208 functions at 50 requests a second for 2,500 s.
fn memory() {
    const FUNCTIONS: u64 = 208;
    let name = "memory";
    if std::env::args().nth(1).is_some_and(|part| !name.contains(&part)) {
        return;
    }
    let before = peak_kib();
    let mut simulations: Vec<Simulation> = (0..FUNCTIONS).map(|index| Simulation::new(setup("50", 5), 1, index)).collect();
    let mut simulate = |ticks: u32| {
        (0..ticks).for_each(|_| simulations.iter_mut().for_each(|simulation| simulation.step(None)));
        let requests: u64 = simulations.iter_mut().map(|simulation| simulation.totals().arrived).sum();
        let held: usize = simulations.iter().map(Simulation::memory_bytes).sum();
        let (requests, held, grown) = (requests as f64 / 1e6, held as f64 / 1e6, (peak_kib() - before) as f64 / 1e3);
        println!(
            "{held:7.1} MB held by {FUNCTIONS} functions under control after {requests:4.1} M requests; the process grew by {grown:.1} MB"
        );
    };
    simulate(100);
    simulate(400);
}

/// The most memory that this process had at once, KiB.
fn peak_kib() -> u64 {
    // SAFETY: all bits zero are a valid value of a struct of whole numbers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a struct that outlives the call.
    let failed = unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    assert_eq!(failed, 0, "a process can always ask for its own usage");
    usage.ru_maxrss as u64
}

fn measure(name: &str, profile: FunctionProfile, replicas: u32, concurrency: u32, cpu: u32) {
    // An argument chooses those whose name holds it.
    if std::env::args().nth(1).is_some_and(|part| !name.contains(&part)) {
        return;
    }
    let cores = f64::from(replicas) * f64::from(cpu) / 1000.0;
    let arrivals_a_second = 0.8 * cores / profile.cpu.mean().seconds();
    let profile = Arc::new(profile);
    let mut rounds: Vec<(f64, usize)> = (0..ROUNDS)
        .map(|round| {
            let gateway = Gateway { concurrency, queue: 10_000, timeout: Span::seconds(30) };
            let mut function = Function::new(Arc::clone(&profile), gateway, round as u64, 0);
            function.warm(Allocation::new(replicas, cpu, 128), Nanos::ZERO);
            let seconds = simulate(&mut function, arrivals_a_second, round as u64);
            (f64::from(REQUESTS) / seconds / 1e6, function.memory_bytes())
        })
        .collect();
    rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (speed, memory) = rounds[ROUNDS / 2];
    println!("{speed:7.1} M/s  {:5.1} KB  {name}", memory as f64 / 1e3);
}

/// CPU time that this thread used, seconds: what others do on the machine does not count.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec that outlives the call.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(failed, 0, "the clock of a thread's CPU time is always there");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// CPU seconds that it takes.
fn simulate(function: &mut Function, arrivals_a_second: f64, seed: u64) -> f64 {
    let mut rng = stream(seed, 0, Purpose::Arrivals);
    let mut windows = FunctionWindows::new(TickLength::new(Duration::from_secs(15)).expect("within the range"));
    let (mut reading, prices) = (ScrapeBuffer::default(), Prices::default());
    let mean_gap = 1e9 / arrivals_a_second;
    let begin = cpu_seconds();
    let mut now = Nanos::ZERO;
    for tick in 1..=REQUESTS / REQUESTS_A_TICK {
        for _ in 0..REQUESTS_A_TICK {
            now += Nanos((mean_gap * rng.sample::<f64, _>(Exp1)) as u64);
            function.arrive(now);
        }
        function.scrape(now, Timestamp(now.0 / 1_000_000), &mut reading);
        windows.record(&reading.scrape);
        windows.close(Tick(u64::from(tick)), &prices);
    }
    cpu_seconds() - begin
}
