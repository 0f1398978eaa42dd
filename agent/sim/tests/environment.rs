//! Many functions at once: the same on any number of threads, and without asking for memory once they run.

use std::alloc::{GlobalAlloc, Layout, System};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use qscale_common::policy::ScalingPolicy;
use qscale_common::units::Allocation;
use qscale_common::workload::Gaps;
use qscale_sim::{Distribution, Environment, FunctionProfile, Gateway, Load, Nanos, Perturbation, Setup};

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

fn environment(functions: u32, threads: usize) -> Environment {
    let setup = |index: u32| Setup {
        profile: Arc::new(FunctionProfile {
            workers: index % 2,
            ..FunctionProfile::simple("f", Distribution::exponential(Nanos::millis(10 + u64::from(index))))
        }),
        gateway: Gateway::default(),
        policy: ScalingPolicy::new("default/f".parse().expect("a function")),
        allocation: Allocation::new(1 + index % 4, 1000, 128),
        load: Load::Pattern { pattern: "bursty:5..50/30s/5s".parse().expect("a pattern"), gaps: Gaps::Poisson },
        perturbation: Perturbation::default(),
        nodes: None,
    };
    Environment::new((0..functions).map(setup), 5, NonZeroUsize::new(threads).expect("at least one"))
}

fn wanted(functions: u32, tick: u32) -> Vec<Option<Allocation>> {
    (0..functions)
        .map(|index| (index + tick).is_multiple_of(5).then(|| Allocation::new((index + tick) % 6, 200 + tick % 800, 128)))
        .collect()
}

/// One test, since the counter sees every thread.
#[test]
fn threads_change_nothing_and_running_asks_for_no_memory() {
    let seen = |threads| {
        let mut environment = environment(23, threads);
        (0..60).for_each(|tick| environment.step(&wanted(23, tick)));
        environment.cells().iter().map(|cell| format!("{:?} {:?}", cell.state(), cell.reward())).collect::<Vec<_>>()
    };
    let alone = seen(1);
    assert_eq!(alone, seen(2));
    assert_eq!(alone, seen(7));

    let mut environment = environment(8, 1);
    (0..1000).for_each(|_| environment.step(&[]));
    let before = ASKED.load(Ordering::Relaxed);
    (0..1000).for_each(|_| environment.step(&[]));
    let asked = ASKED.load(Ordering::Relaxed) - before;
    assert!(asked < 8, "asked {asked} times in 8,000 ticks");
}
