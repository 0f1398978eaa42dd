//! Recorded messages for tests.

use qscale_common::contract::{Action, Epoch, ReplicaCounts, State, StateId, Usage, Version};
use qscale_common::name::Name;
use qscale_common::policy::ScalingPolicy;
use qscale_common::time::{Tick, TickLength, Timestamp};
use qscale_common::units::{Allocation, Replicas};
use qscale_common::window::{FunctionWindows, assemble};
use qscale_dqn::decider::Decider;

use crate::session::ReplayedAnswer;

/// Time of tick 0, milliseconds since the epoch.
pub(crate) const BEGIN: u64 = 1_763_880_780_000;

/// State of a function with two replicas, `tick` ticks of five seconds after [`BEGIN`], under `rate` requests/s.
pub(crate) fn state(tick: u64, rate: f64) -> State {
    let at = Timestamp(BEGIN + tick * 5000 + 40);
    let policy = ScalingPolicy::new("f".parse().expect("valid"));
    let state_id = StateId { epoch: Epoch(7), tick: Tick::at(at, TickLength::default()) };
    let mut state = assemble(&policy, state_id, at, &FunctionWindows::new(TickLength::default()), None);
    state.allocation = Some(Allocation::new(2, 500, 128));
    let two = Replicas(2);
    state.replicas = Some(ReplicaCounts::all(two));
    state.age.requests_ms = Some(0);
    for window in [&mut state.windows.tick, &mut state.windows.short, &mut state.windows.long] {
        window.covered_ms = 5000;
        (window.rate_rps, window.completed_rps, window.failed_share) = (Some(rate), Some(rate), Some(0.0));
        (window.concurrency, window.queued) = (Some(rate / 100.0), Some(0.0));
        window.cpu_millicores = Some(Usage { mean: rate * 5.0, max: rate * 5.0 });
        window.memory_mib = Some(Usage { mean: 50.0, max: 52.0 });
    }
    state
}

/// Action of agent `mine` that publishes `answer` to `state` at `now`, decided by `decider`.
pub(crate) fn action(decider: &Decider, state: &State, answer: ReplayedAnswer, now: Timestamp, instance: &str) -> Action {
    Action {
        version: Version::CURRENT,
        agent: Name::new("mine").expect("valid"),
        instance: instance.into(),
        provenance: decider.provenance(),
        namespace: state.namespace.clone(),
        function: state.function.clone(),
        epoch: state.epoch,
        tick: state.tick,
        decided_at_ms: now,
        expires_at_ms: now,
        allocation: answer.allocation,
        reason: answer.reason,
        choices: answer.choices,
        point: None,
    }
}
