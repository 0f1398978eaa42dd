//! How functions stand when metrics are asked for. Owns reading cgroups and `/proc`, when it is asked, so that nothing is read for nobody.

use std::sync::Arc;

use qscale_common::platform::metrics::{self, FunctionView, NodeView, ReplicaView};

use crate::function::{Function, Functions};
use crate::host::Host;
use crate::replica::Replica;

mod proc;

/// Everything, as Prometheus' text. Blocks while files are read.
#[must_use]
pub fn render(functions: &Functions, host: &Host) -> String {
    let groups = if host.cgroups.is_none() { proc::groups() } else { proc::Groups::default() };
    let functions: Vec<FunctionView> = functions.all().iter().map(|function| view(function, &groups)).collect();
    metrics::render(&functions, node())
}

fn view(function: &Arc<Function>, groups: &proc::Groups) -> FunctionView {
    FunctionView {
        id: function.id.clone(),
        desired: function.desired(),
        counted: function.counted(),
        queued: function.admission.queued() as u64,
        replicas: function.replicas().iter().map(|replica| of_replica(replica, groups)).collect(),
        at_gateway: function.gateway_latency.series(),
    }
}

fn of_replica(replica: &Arc<Replica>, groups: &proc::Groups) -> ReplicaView {
    let reading = replica.reading();
    let usage = match &reading.cgroup {
        Some(cgroup) => cgroup.usage().ok(),
        None => reading.pid.and_then(|pid| groups.get(&pid).copied()),
    };
    ReplicaView {
        id: replica.id.clone(),
        state: reading.phase,
        usage,
        limited: reading.cgroup.is_some(),
        cpu: reading.cpu,
        memory: reading.memory,
        started: reading.started,
        restarts: reading.restarts,
        in_flight: replica.load(),
        requests: replica.latency.series(),
    }
}

fn node() -> NodeView {
    NodeView {
        cpu_cores: std::thread::available_parallelism().ok().map(|cores| cores.get() as f64),
        memory_bytes: proc::memory("MemTotal:"),
        available_bytes: proc::memory("MemAvailable:"),
        idle_seconds: proc::idle_seconds(),
    }
}
