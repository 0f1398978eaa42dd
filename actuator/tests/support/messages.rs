//! Messages of a collector and an agent.

use qscale_common::contract::{Action, Ages, Epoch, State, Usage, Window, Windows};
use qscale_common::name::FunctionId;
use qscale_common::policy::ScalingPolicy;
use qscale_common::runtime::clock;
use qscale_common::time::{Tick, Timestamp};
use qscale_common::units::Allocation;

/// The State of `tick`, of replicas that use `cpu` millicores each.
pub fn state(policy: &ScalingPolicy, tick: u64, allocation: Allocation, cpu: f64) -> State {
    let used = |used: f64| Some(Usage { mean: used, max: used });
    let window = Window { cpu_millicores: used(cpu), memory_mib: used(50.0), rate_rps: Some(10.0), ..Window::default() };
    let age = Ages { requests_ms: Some(0), cpu_ms: Some(0), memory_ms: Some(0), replicas_ms: Some(0) };
    State {
        epoch: Epoch(1),
        tick: Tick(tick),
        observed_at_ms: clock::now(),
        age,
        allocation: Some(allocation),
        windows: Windows { tick: window.clone(), short: window.clone(), long: window },
        ..State::unmeasured(policy)
    }
}

/// An Action of `agent` for `function`.
pub fn action(agent: &str, function: &FunctionId, tick: u64, allocation: Allocation, expires: Timestamp) -> Action {
    let body = serde_json::json!({
        "version": "1.0", "agent": agent, "namespace": function.namespace, "function": function.name, "epoch": 1, "tick": tick,
        "decided_at_ms": clock::now().min(expires), "expires_at_ms": expires, "allocation": allocation,
    });
    serde_json::from_value(body).expect("an Action")
}
