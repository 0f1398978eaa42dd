//! Metrics of functions and of the machine. Owns reading cgroups and `/proc`, on each scrape.

use std::num::NonZero;
use std::sync::Arc;

use qscale_common::platform::NodeCapacity;
use qscale_common::platform::metrics::{self, FunctionView, NodeView, ReplicaView};

use qscale_common::units::{Mebibytes, Millicores};

use crate::function::{Functions, ManagedFunction};
use crate::host::Host;
use crate::replica::Replica;

mod proc;

/// Renders all metrics in Prometheus' text format. Blocks while files are read.
#[must_use]
pub fn render(functions: &Functions, host: &Host) -> String {
    let groups = if host.cgroups.is_none() { proc::groups() } else { proc::GroupUsage::default() };
    let functions: Vec<FunctionView> = functions.all().iter().map(|function| view(function, &groups)).collect();
    metrics::render(&functions, node())
}

fn view(function: &Arc<ManagedFunction>, groups: &proc::GroupUsage) -> FunctionView {
    FunctionView {
        id: function.id.clone(),
        desired: function.desired(),
        counted: function.counted(),
        queued: function.admission.queued() as u64,
        replicas: function.replicas().iter().map(|replica| of_replica(replica, groups)).collect(),
        at_gateway: function.gateway_latency.series(),
    }
}

fn of_replica(replica: &Arc<Replica>, groups: &proc::GroupUsage) -> ReplicaView {
    let snapshot = replica.snapshot();
    let usage = match &snapshot.cgroup {
        Some(cgroup) => cgroup.usage().ok(),
        None => snapshot.pid.and_then(|pid| groups.get(&pid).copied()),
    };
    ReplicaView {
        id: replica.id.clone(),
        state: snapshot.phase,
        usage,
        limited: snapshot.cgroup.is_some(),
        cpu: snapshot.cpu,
        memory: snapshot.memory,
        started: snapshot.started,
        restarts: snapshot.restarts,
        in_flight: replica.load(),
        requests: replica.latency.series(),
    }
}

/// Capacity of this machine.
#[must_use]
pub fn capacity() -> NodeCapacity {
    let (cores, memory) = (cores(), proc::memory());
    NodeCapacity {
        cpu_millicores: cores.and_then(|cores| u32::try_from(cores).ok()?.checked_mul(1000)).map(Millicores),
        memory_mib: memory.map(|(total, _)| Mebibytes((total / f64::from(1 << 20)) as u32)),
    }
}

fn cores() -> Option<usize> {
    std::thread::available_parallelism().ok().map(NonZero::get)
}

fn node() -> NodeView {
    let memory = proc::memory();
    NodeView {
        cpu_cores: cores().map(|cores| cores as f64),
        memory_bytes: memory.map(|(total, _)| total),
        available_bytes: memory.and_then(|(_, available)| available),
        idle_seconds: proc::idle_seconds(),
    }
}
