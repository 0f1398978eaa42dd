//! Time of the guard for one decision.

use std::hint::black_box;

use divan::Bencher;
use qscale_common::contract::{Ages, Direction, Epoch, State, Usage, Window, Windows};
use qscale_common::guard::{Budget, DecisionKind, GuardInput, evaluate};
use qscale_common::name::FunctionId;
use qscale_common::policy::{Mode, ScalingPolicy};
use qscale_common::time::{Tick, Timestamp};
use qscale_common::units::Allocation;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn main() {
    divan::main();
}

/// The decisions that are timed: most ticks change nothing, some are let through, and a mad agent is cut down in every part.
#[divan::bench(args = ["unchanged", "applied", "cut"])]
fn decision(bencher: Bencher<'_, '_>, which: &str) {
    let policy = policy();
    let state = state(&policy);
    let budget = budget();
    let current = Allocation::new(4, 500, 256);
    let wanted = match which {
        "unchanged" => current,
        "applied" => Allocation::new(6, 625, 256),
        _ => Allocation::new(1000, 10, 1),
    };
    let case = GuardInput {
        wanted,
        current: Some(current),
        kind: DecisionKind::Named,
        policy: &policy,
        state: Some(&state),
        frozen: None,
        vertical: true,
        budget: &budget,
        now: NOW,
    };
    bencher.bench(|| evaluate(black_box(&case)));
}

fn policy() -> ScalingPolicy {
    let mut policy = ScalingPolicy::new("fibonacci".parse::<FunctionId>().expect("a name"));
    policy.mode = Mode::Active;
    policy
}

/// A budget in which every minute of the last hour has a change.
fn budget() -> Budget {
    let mut budget = Budget::default();
    for minute in 0..60 {
        let direction = if minute % 7 == 0 { Direction::Down } else { Direction::Up };
        budget.charge(direction, Timestamp(NOW.0 - (60 - minute) * 60_000));
    }
    budget
}

fn state(policy: &ScalingPolicy) -> State {
    let window = Window { memory_mib: Some(Usage { mean: 80.0, max: 100.0 }), ..Window::default() };
    let age = Ages { requests_ms: Some(400), cpu_ms: Some(400), memory_ms: Some(400), replicas_ms: Some(400) };
    State {
        epoch: Epoch(1),
        tick: Tick(1),
        observed_at_ms: Timestamp(NOW.0 - 100),
        age,
        windows: Windows { tick: window.clone(), short: window.clone(), long: window },
        ..State::unmeasured(policy)
    }
}
