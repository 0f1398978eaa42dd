//! Time of the core for one tick of a function: a State, the Action that answers it, and the commands for both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use divan::Bencher;
use qscale_actuator::backend::{WorkloadId, WorkloadStatus};
use qscale_actuator::core::{Core, CoreCommand, Lead, Settings};
use qscale_common::contract::{Action, Ages, Epoch, State, Usage, Window, Windows};
use qscale_common::name::FunctionId;
use qscale_common::policy::{Mode, ScalingPolicy, WorkloadKind};
use qscale_common::time::{Tick, Timestamp};
use qscale_common::units::Allocation;

const FUNCTIONS: usize = 10_000;
const TICK_MS: u64 = 5_000;
const START: Timestamp = Timestamp(1_800_000_000_000);

fn main() {
    divan::main();
}

/// One of ten thousand functions, every tenth of which changes.
#[divan::bench]
fn tick(bencher: Bencher<'_, '_>) {
    let policies: Vec<ScalingPolicy> = (0..FUNCTIONS).map(policy).collect();
    let mut core = leading(&policies);
    let mut turn = 0;
    bencher
        .with_inputs(|| {
            turn += 1;
            let (index, tick) = (turn % FUNCTIONS, (turn / FUNCTIONS) as u64 + 1);
            let now = Timestamp(START.0 + tick * TICK_MS);
            let replicas = 4 + u32::from(turn % 10 == 0);
            (state(&policies[index], tick, now), action(&policies[index], tick, now, replicas), now)
        })
        .bench_local_values(|(state, action, now)| {
            core.on_state(state, None, now);
            core.on_action(action, None, now);
            let commands = core.take_commands();
            answer(&mut core, &commands, now);
            commands
        });
}

fn policy(index: usize) -> ScalingPolicy {
    let mut policy = ScalingPolicy::new(format!("f-{index}").parse::<FunctionId>().expect("a name"));
    policy.mode = Mode::Active;
    policy
}

fn leading(policies: &[ScalingPolicy]) -> Core {
    let settings = Settings {
        actuator: "a".into(),
        max_retry_delay: Duration::from_secs(10),
        flush_interval: Duration::from_secs(10),
        reconcile: Duration::from_secs(10),
        kinds: vec![WorkloadKind::Local],
        seed: 1,
    };
    let mut core = Core::new(settings);
    let by_key: BTreeMap<String, Arc<ScalingPolicy>> =
        policies.iter().map(|policy| (policy.function().tokens(), Arc::new(policy.clone()))).collect();
    core.set_policies(&by_key, START);
    core.set_controls(&BTreeMap::new(), START);
    core.set_records(&BTreeMap::new(), START);
    core.set_lead(Lead::Leading(1), START);
    let id = |policy: &ScalingPolicy| WorkloadId { kind: WorkloadKind::Local, name: policy.function() };
    let workload = |policy: &ScalingPolicy| WorkloadStatus { id: id(policy), desired: Allocation::new(4, 500, 256), vertical: true };
    let workloads: Vec<WorkloadStatus> = policies.iter().map(workload).collect();
    core.on_listed(&workloads, START, START);
    let _listing_asked_for_again = core.take_commands();
    core
}

/// Executes commands immediately.
fn answer(core: &mut Core, commands: &[CoreCommand], now: Timestamp) {
    for command in commands {
        match command {
            CoreCommand::Apply(order) => {
                let workload = WorkloadStatus { id: order.workload.clone(), desired: order.allocation, vertical: true };
                core.on_applied(&order.function, order.number, Ok(workload), now);
            }
            CoreCommand::Store(function, record) => core.on_stored(function, record.clone(), Some(record.clone()), now),
            CoreCommand::Publish(..)
            | CoreCommand::Forget(_)
            | CoreCommand::Released(..)
            | CoreCommand::List
            | CoreCommand::StepDown { .. } => {}
        }
    }
}

fn state(policy: &ScalingPolicy, tick: u64, now: Timestamp) -> State {
    let used = |used: f64| Some(Usage { mean: used, max: used });
    let window = Window { cpu_millicores: used(250.0), memory_mib: used(50.0), rate_rps: Some(10.0), ..Window::default() };
    let age = Ages { requests_ms: Some(0), cpu_ms: Some(0), memory_ms: Some(0), replicas_ms: Some(0) };
    State {
        epoch: Epoch(1),
        tick: Tick(tick),
        observed_at_ms: now,
        age,
        windows: Windows { tick: window.clone(), short: window.clone(), long: window },
        ..State::unmeasured(policy)
    }
}

fn action(policy: &ScalingPolicy, tick: u64, now: Timestamp, replicas: u32) -> Action {
    let body = serde_json::json!({
        "version": "1.0", "agent": policy.agent, "namespace": policy.namespace, "function": policy.name, "epoch": 1, "tick": tick,
        "decided_at_ms": now, "expires_at_ms": now.plus(Duration::from_secs(10)), "allocation": Allocation::new(replicas, 500, 256),
    });
    serde_json::from_value(body).expect("an Action")
}
