//! Many functions at once: the same on any number of threads, and without asking for memory once they run.

use std::alloc::{GlobalAlloc, Layout, System};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use qscale_common::policy::ScalingPolicy;
use qscale_common::time::Span;
use qscale_common::units::{Allocation, Mebibytes, Millicores};
use qscale_common::workload::trace::{MinuteTrace, TraceFunction};
use qscale_common::workload::{Demand, DurationQuantiles, Gaps, Iat, MinuteCount, Scale};
use qscale_sim::profile::{Memory, Startup};
use qscale_sim::{Distribution, Environment, FunctionProfile, Gateway, Load, LostNode, Nanos, Nodes, Payload, Perturbation, Setup, Totals};

/// Counts how often memory is asked for.
struct Counting;

static ASKED: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is passed on to the system's allocator as it comes.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps to the contract of this very function.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const FUNCTIONS: u32 = 23;

/// A function of every kind: one at a time and several, patterns and traces, nodes without limit, full and crowded, with all that goes wrong.
fn setup(index: u32) -> Setup {
    let startup = Startup { cpu: Distribution::exponential(Nanos::millis(300)), waiting: Distribution::exponential(Nanos::millis(500)) };
    let profile = FunctionProfile {
        workers: index % 2,
        startup,
        memory: Memory { base_mib: Mebibytes(50), request_kib: 1024 },
        ..FunctionProfile::simple("f", Distribution::exponential(Nanos::millis(10 + u64::from(index))))
    };
    let load = match index % 3 {
        0 => Load::Trace { trace: Arc::new(trace()), iat: Iat::Conditioned, scale: Scale::default(), cpu_share: 0.8 },
        _ => Load::Pattern { pattern: "bursty:5..50/30s/5s".parse().expect("a pattern"), gaps: Gaps::Poisson },
    };
    let perturbation = Perturbation {
        metric_lag: Span::seconds(u64::from(index % 4) * 6),
        lost_scrapes: 0.1,
        startup: 1.5,
        payload: Some(Payload { from: Span::seconds(100), factor: 1.5 }),
        crashes_per_hour: 20.0,
        lost_node: Some(LostNode { at: Span::seconds(70), lasts: Span::seconds(60), node: 0 }),
    };
    let nodes = |cpu_overcommit| Nodes { count: 3, cpu_millicores: Millicores(1000), memory_mib: Mebibytes(400), cpu_overcommit };
    let (nodes, perturbation) = match index % 4 {
        0 => (None, Perturbation { lost_node: None, ..perturbation }),
        1 => (Some(nodes(1.0)), perturbation),
        _ => (Some(nodes(3.0)), perturbation),
    };
    let mut policy = ScalingPolicy::new("default/f".parse().expect("a function"));
    policy.guard.max_age = Some(Span::seconds(300));
    Setup {
        profile: Arc::new(profile),
        gateway: Gateway::default(),
        policy,
        allocation: Allocation::new(1 + index % 4, 500, 64),
        load,
        perturbation,
        nodes,
    }
}

/// Ten a second for ten hours.
fn trace() -> MinuteTrace {
    let duration = DurationQuantiles::new([1, 2, 10, 20, 30, 100, 200]).expect("rising");
    let counts = (0..600).map(|bin| MinuteCount { bin, count: 600 }).collect();
    let demand = Demand::QuantilesOfDuration { duration, memory_mib: 128 };
    MinuteTrace { functions: vec![TraceFunction { hash: "f".to_owned(), counts, demand }], minutes: 600 }
}

/// What does not ask for memory once it runs: load that goes on and an allocation that stays.
fn steady(index: u32) -> Setup {
    Setup { perturbation: Perturbation { metric_lag: Span::seconds(12), ..Perturbation::default() }, nodes: None, ..setup(index) }
}

fn environment(setup: impl Fn(u32) -> Setup, threads: usize, seed: u64) -> Environment {
    Environment::new((0..FUNCTIONS).map(setup), seed, NonZeroUsize::new(threads).expect("at least one"))
}

fn wanted(tick: u32, wanted: &mut Vec<Option<Allocation>>) {
    let wants = |index: u32| (index + tick).is_multiple_of(5).then(|| Allocation::new((index + tick) % 6, 200 + tick % 800, 64 + tick % 3));
    wanted.clear();
    wanted.extend((0..FUNCTIONS).map(wants));
}

fn seen(environment: &mut Environment) -> Vec<String> {
    let mut actions = Vec::new();
    let mut seen = Vec::new();
    for tick in 0..60 {
        wanted(tick, &mut actions);
        environment.step(&actions);
        seen.extend(environment.cells().map(|cell| format!("{:?} {:?}", cell.state(), cell.reward())));
    }
    seen.extend(environment.cells_mut().map(|cell| format!("{:?}", cell.totals())));
    seen
}

/// How often memory is asked for meanwhile.
fn asked(act: impl FnOnce()) -> u64 {
    let before = ASKED.load(Ordering::Relaxed);
    act();
    ASKED.load(Ordering::Relaxed) - before
}

/// One test, since the counter sees every thread.
#[test]
fn threads_change_nothing_and_running_asks_for_no_memory() {
    let alone = seen(&mut environment(setup, 1, 5));
    for threads in [2, 3, 7] {
        let mut environment = environment(setup, threads, 6);
        assert_ne!(seen(&mut environment), alone);
        environment.reset(5);
        assert!(seen(&mut environment) == alone, "another world on {threads} threads, or after a reset");
    }

    for threads in [1, 3] {
        let mut environment = environment(steady, threads, 5);
        (0..1000).for_each(|_| environment.step(&[]));
        let steps = asked(|| (0..500).for_each(|_| environment.step(&[])));
        assert!(steps < 8, "asked {steps} times in {} ticks on {threads} threads", 500 * FUNCTIONS);
    }

    // Where replicas come and go, each is named once in the windows, and the guard says in words what it does not permit; a world that begins anew sets
    // its trace up.
    let mut environment = environment(setup, 1, 5);
    let mut actions = Vec::new();
    let mut live = |environment: &mut Environment| {
        for tick in 0..120 {
            let wants = |index: u32| (index + tick).is_multiple_of(8).then(|| Allocation::new(2 + (tick / 8) % 2, 500 + tick % 8, 64));
            actions.clear();
            actions.extend((0..FUNCTIONS).map(wants));
            environment.step(&actions);
        }
    };
    (0..4).for_each(|seed| {
        environment.reset(seed);
        live(&mut environment);
    });
    let resets = asked(|| environment.reset(4));
    let steps = asked(|| live(&mut environment));
    let mut totals = Totals::default();
    environment.cells_mut().for_each(|cell| totals.include(cell.totals()));
    println!("asked {resets} times by a reset, {steps} times by {} ticks with {} starts", 120 * FUNCTIONS, totals.starts);
    assert!(resets <= u64::from(FUNCTIONS) * 8, "asked {resets} times by one reset of {FUNCTIONS} functions");
    assert!(steps <= 2 * totals.starts + 20 * u64::from(FUNCTIONS), "asked {steps} times with {} starts", totals.starts);
}
