//! Decisions a second of CPU time on one core, by rule. `cargo run --release -p qscale-policies --example rule_speed`.

use std::hint::black_box;

use qscale_common::contract::{Epoch, ReplicaCounts, State, StateId, Usage};
use qscale_common::policy::ScalingPolicy;
use qscale_common::time::{Span, Tick, TickLength, Timestamp};
use qscale_common::units::{Allocation, Replicas};
use qscale_common::window::{FunctionWindows, assemble};
use qscale_policies::clairvoyant::{Facts, IntervalLoad};
use qscale_policies::{Clairvoyant, ClairvoyantParams, Forecast, Memory, NAMES, Policy, by_name};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::Value;

/// Half a day of ticks of 5 s.
const DECISIONS: u64 = 8640;
const BEGIN_TICK: u64 = 340_000_000;

fn main() {
    println!("decisions a second of CPU time on one core, of {DECISIONS} States of one function, 5 s apart, with what is wanted applied");
    for name in NAMES {
        let policy = by_name(name, &Value::Null).expect("the registry knows its own names");
        measure(&*policy);
    }
    measure(&clairvoyant());
}

fn measure(policy: &dyn Policy) {
    let (mut memory, mut rng, mut state) = (Memory::default(), SmallRng::seed_from_u64(1), state());
    let begin = cpu_seconds();
    for tick in 0..DECISIONS {
        show(&mut state, tick);
        let decision = black_box(policy.decide(&state, &mut memory, state.observed_at_ms, &mut rng));
        state.allocation = decision.wanted().or(state.allocation);
    }
    println!("{:10.0}  {}", DECISIONS as f64 / (cpu_seconds() - begin), policy.name());
}

fn state() -> State {
    let policy = ScalingPolicy::new("default/f".parse().expect("a function"));
    let windows = FunctionWindows::new(TickLength::default());
    let mut state = assemble(&policy, StateId { epoch: Epoch(1), tick: Tick(BEGIN_TICK) }, Timestamp(0), &windows, None);
    state.allocation = Some(Allocation::new(2, 500, 256));
    state
}

/// A load that rises and falls every quarter of an hour.
fn show(state: &mut State, tick: u64) {
    let rate = 20.0 + 15.0 * (tick as f64 / 180.0 * std::f64::consts::TAU).sin();
    state.tick = Tick(BEGIN_TICK + tick);
    state.observed_at_ms = Timestamp((BEGIN_TICK + tick) * state.tick_length_ms);
    let replicas = state.allocation.map_or(Replicas(1), |allocation| allocation.replicas);
    state.replicas = Some(ReplicaCounts::all(replicas));
    let each = rate / f64::from(replicas.0.max(1));
    let window = &mut state.windows.tick;
    (window.rate_rps, window.concurrency, window.queued) = (Some(rate), Some(each * 0.1), Some(0.0));
    window.cpu_millicores = Some(Usage { mean: each * 30.0, max: each * 33.0 });
    window.memory_mib = Some(Usage { mean: 60.0, max: 66.0 });
}

fn clairvoyant() -> Clairvoyant {
    let function = Facts {
        request_cpu: Span::millis(30),
        request_waiting: Span::millis(70),
        startup_cpu: Span::millis(500),
        startup_waiting: Span::seconds(1),
        workers: 0,
        parallelism: 1,
        memory_mib: qscale_common::units::Mebibytes(128),
    };
    let coming = IntervalLoad { arrivals: 20.0, cpu_seconds: 0.6, waiting_seconds: 1.4 };
    let (begin, interval) = (Timestamp(BEGIN_TICK * 5000), Span::seconds(1));
    let forecast = Forecast { begin, interval, intervals: vec![coming; DECISIONS as usize * 5], function };
    Clairvoyant::new(&forecast, ClairvoyantParams::default()).expect("the forecast is made of finite numbers")
}

/// CPU time of this thread so far.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec that outlives the call.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(failed, 0, "the clock of a thread's CPU time is always there");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
