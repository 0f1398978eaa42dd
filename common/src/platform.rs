//! The messages of the local platform's HTTP API. Owns their fields and ranges; does no I/O. The file of a function is in
//! `spec`.

mod event;
mod limits;
pub mod metric_names;
pub mod metrics;
mod simulated;
mod spec;
mod text;

use serde::{Deserialize, Serialize};

use crate::name::FunctionId;
use crate::units::{Allocation, Mebibytes, Millicores, Replicas};

pub use event::{EventKind, EventPage, LogLine, PlatformEvent};
pub use limits::{Limits, NodeCapacity};
pub use simulated::{SimulatedFunction, SimulatedTrace};
pub use spec::{FunctionSpec, InitialAllocation, InvalidSpec, Protocol};

/// Highest fencing token that a platform accepts, 2^53 - 1. A token is the revision of a lease in NATS, which counts
/// its renewals: at a thousand renewals a second it takes 285,000 years to get there. A higher number is a mistake,
/// which would lock every actuator out. It is also the highest integer that every JSON reader reads exactly.
pub const MAX_LEASE: u64 = (1 << 53) - 1;

/// Body of `PUT /v1/functions/{namespace}/{name}/allocation`: the desired allocation. Absolute and therefore idempotent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllocationRequest {
    /// Replicas; 0 starts the function again on its next request.
    pub replicas: Replicas,
    /// CPU limit of each replica; unchanged if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millicores: Option<Millicores>,
    /// Memory limit of each replica; unchanged if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<Mebibytes>,
    /// Fencing token of the writer, 1 to [`MAX_LEASE`]. A token lower than the highest one seen is refused; requests of
    /// operators have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<u64>,
    /// Whether values that the platform cannot apply are brought to the nearest ones that it can, with a warning;
    /// otherwise the request is refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub clamp: bool,
}

impl AllocationRequest {
    /// A request for the whole `allocation` under `lease`.
    #[must_use]
    pub fn new(allocation: Allocation, lease: Option<u64>) -> Self {
        Self {
            replicas: allocation.replicas,
            cpu_millicores: Some(allocation.cpu_millicores),
            memory_mib: Some(allocation.memory_mib),
            lease,
            clamp: false,
        }
    }
}

/// Reply to an accepted allocation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AllocationReply {
    /// The function after the request; replicas may still be starting or draining.
    pub function: FunctionStatus,
    /// Accepted fields without effect, and why: CPU and memory without cgroups, memory below the use of a replica.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// State of a function on the platform.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FunctionStatus {
    /// The function file.
    pub spec: FunctionSpec,
    /// Desired allocation.
    pub desired: Allocation,
    /// Its replicas.
    pub actual: ActualAllocation,
    /// Whether CPU and memory limits can be set on this machine; otherwise only the number of replicas has an effect.
    pub vertical: bool,
    /// Queued requests.
    pub queued: u32,
    /// Replicas killed at their memory limit.
    pub oom_kills: u64,
    /// Replicas that exited by themselves otherwise, or did not become ready in time.
    pub crashes: u64,
    /// Address of the function at the gateway, with the authority or header to use.
    pub gateway: String,
}

impl FunctionStatus {
    /// Identity of the function.
    #[must_use]
    pub fn id(&self) -> FunctionId {
        self.spec.id()
    }

    /// Current allocation: replicas that are ready or starting, with the smallest limits among them. Limits that cannot
    /// be set, and those of a function without replicas, are the desired ones.
    #[must_use]
    pub fn current(&self) -> Allocation {
        let live = || self.actual.replicas.iter().filter(|replica| replica.state != ReplicaState::Draining);
        Allocation {
            replicas: Replicas(u32::try_from(live().count()).unwrap_or(u32::MAX)),
            cpu_millicores: live().filter_map(|replica| replica.cpu_millicores).min().unwrap_or(self.desired.cpu_millicores),
            memory_mib: live().filter_map(|replica| replica.memory_mib).min().unwrap_or(self.desired.memory_mib),
        }
    }
}

/// The replicas of a function.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ActualAllocation {
    /// Replicas that accept requests.
    pub ready: u32,
    /// Replicas that are starting, or waiting for a restart.
    pub starting: u32,
    /// Replicas that finish their requests before stopping.
    pub draining: u32,
    /// Each replica, by id.
    pub replicas: Vec<ReplicaStatus>,
}

/// Lifecycle state of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaState {
    /// Started, not yet ready.
    Starting,
    /// Accepts requests.
    Ready,
    /// Exited by itself; waiting for a restart.
    BackOff,
    /// Accepts no new requests and stops when its requests are done.
    Draining,
}

/// One replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// Unique name of the replica; the label `pod` of its metrics.
    pub id: String,
    /// Process id, while it runs.
    pub pid: Option<u32>,
    /// Its loopback port, once assigned.
    pub port: Option<u16>,
    /// Its lifecycle state.
    pub state: ReplicaState,
    /// Current CPU limit; absent if limits cannot be set.
    pub cpu_millicores: Option<Millicores>,
    /// Current memory limit; absent if limits cannot be set.
    pub memory_mib: Option<Mebibytes>,
    /// Requests in flight.
    pub in_flight: u32,
    /// Restarts.
    pub restarts: u64,
    /// Milliseconds from its last start to readiness.
    pub startup_ms: Option<u64>,
    /// Why its limits differ from the desired ones, if they do; the platform retries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resize_pending: Option<String>,
}

/// Body of an error response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// Description with the value and its range.
    pub error: String,
    /// The invalid field, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The highest lease that the platform has seen, if that of the request is lower.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub highest_lease: Option<u64>,
}

/// State of a platform as a whole, reply of `GET /v1/platform`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformStatus {
    /// Highest fencing token that a writer has presented; lower ones are refused.
    pub highest_lease: u64,
    /// Isolation of its functions; absent if they are simulated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
}

/// Body of `PUT /v1/platform/lease`: the highest fencing token is replaced, whatever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseReset {
    /// New highest token, 0 to [`MAX_LEASE`]; lower ones are refused from now on.
    pub highest: u64,
}

/// Reply to [`LeaseReset`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseResetReply {
    /// Highest token before.
    pub before: u64,
    /// Highest token now.
    pub after: u64,
}

/// Isolation of functions from the platform and from each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Isolation {
    /// User as which functions run, for people.
    pub user: String,
    /// Restrictions that the machine does not offer.
    pub missing: Vec<IsolationGap>,
}

/// A restriction of functions that the machine does not offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsolationGap {
    /// The missing restriction and the consequence, for people.
    pub found: String,
    /// Remedy, for people.
    pub remedy: String,
}

/// Addresses of a platform, as written to `addresses.json` in its state folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformAddresses {
    /// Address of the API, host and port.
    pub api: String,
    /// Address of the gateway, host and port.
    pub gateway: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Format;

    #[test]
    fn the_current_allocation_counts_replicas_that_do_not_drain() {
        let spec = FunctionSpec::parse("name = \"f\"\ncommand = [\"x\"]", Format::Toml).expect("valid");
        let replica = |state, cpu| ReplicaStatus {
            id: "f-1".to_owned(),
            pid: None,
            port: None,
            state,
            cpu_millicores: Some(Millicores(cpu)),
            memory_mib: None,
            in_flight: 0,
            restarts: 0,
            startup_ms: None,
            resize_pending: None,
        };
        let replicas = vec![replica(ReplicaState::Ready, 300), replica(ReplicaState::BackOff, 200), replica(ReplicaState::Draining, 100)];
        let status = FunctionStatus {
            spec,
            desired: Allocation::new(3, 400, 64),
            actual: ActualAllocation { replicas, ..ActualAllocation::default() },
            vertical: true,
            queued: 0,
            oom_kills: 0,
            crashes: 0,
            gateway: String::new(),
        };
        assert_eq!(status.current(), Allocation::new(2, 200, 64));
    }
}
