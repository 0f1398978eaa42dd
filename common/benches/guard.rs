//! Time of the guard for one decision.

use std::hint::black_box;

use divan::Bencher;
use qscale_common::contract::{Ages, Direction, State, Usage, Window};
use qscale_common::guard::{Budget, DecisionKind, GuardInput, evaluate};
use qscale_common::name::FunctionId;
use qscale_common::policy::{Mode, ScalingPolicy};
use qscale_common::time::Timestamp;
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
    let body = serde_json::json!({
        "version": "1.0", "namespace": policy.namespace, "function": policy.name, "epoch": 1, "tick": 1, "tick_length_ms": 5000,
        "observed_at_ms": NOW.0 - 100, "agent": policy.agent, "age": age,
        "windows": { "tick": window, "short": window, "long": window },
        "changes": {}, "objective": policy.objective.wire(), "bounds": policy.bounds, "prices": policy.prices,
    });
    serde_json::from_value(body).expect("a State")
}
