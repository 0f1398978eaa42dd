//! One replica: its process, limits and load. Owns its state; [`reconciler`](crate::reconciler) starts and stops it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qscale_common::platform::{FunctionSpec, Protocol, ReplicaState, ReplicaStatus};
use qscale_common::time::Timestamp;
use qscale_common::units::{Mebibytes, Millicores};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::cgroup::Cgroup;
use crate::latency::LatencyHistograms;
use crate::upstream::Upstream;

/// One replica.
#[derive(Debug)]
pub struct Replica {
    /// Id, unique on the platform and across its restarts.
    pub id: String,
    /// Function file that it runs.
    pub spec: Arc<FunctionSpec>,
    /// Version of the function file.
    pub generation: u64,
    /// Requests in flight.
    pub in_flight: Arc<AtomicU32>,
    /// Latencies of its requests.
    pub latency: LatencyHistograms,
    restarts: AtomicU64,
    state: Mutex<ReplicaProcess>,
    stop: CancellationToken,
    suspected: Notify,
}

#[derive(Debug)]
struct ReplicaProcess {
    phase: ReplicaState,
    pid: Option<u32>,
    port: Option<u16>,
    startup: Option<Duration>,
    started: Option<Timestamp>,
    cgroup: Option<Arc<Cgroup>>,
    limits: AppliedLimits,
    resize_pending: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct AppliedLimits {
    cpu: Option<Millicores>,
    memory: Option<Mebibytes>,
}

/// A ready replica as the gateway uses it.
#[derive(Debug)]
pub struct ReadyReplica {
    /// The replica.
    pub replica: Arc<Replica>,
    /// Connections to it.
    pub upstream: Arc<Upstream>,
    /// Protocol that it serves.
    pub protocol: Protocol,
}

/// Outcome of setting limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resized {
    /// Unchanged: already current, or limits cannot be set here.
    Unchanged,
    /// Set; with the old and new limits as text.
    Changed(String),
    /// At least one was refused.
    Refused {
        /// Reason as text.
        reason: String,
        /// Whether the limits were not already pending.
        first: bool,
    },
}

/// Snapshot of a replica for the metrics.
#[derive(Debug, Clone)]
pub struct ReplicaSnapshot {
    /// Phase of its lifecycle.
    pub phase: ReplicaState,
    /// Process id.
    pub pid: Option<u32>,
    /// Start of its counters: that of its process, or of the first one in its cgroup, which counts on over restarts.
    pub started: Option<Timestamp>,
    /// Its cgroup.
    pub cgroup: Option<Arc<Cgroup>>,
    /// Current CPU limit.
    pub cpu: Option<Millicores>,
    /// Current memory limit.
    pub memory: Option<Mebibytes>,
    /// Restarts of its process.
    pub restarts: u64,
}

impl Replica {
    /// A replica before its first start.
    #[must_use]
    pub fn new(id: String, spec: Arc<FunctionSpec>, generation: u64) -> Arc<Self> {
        Arc::new(Self {
            id,
            spec,
            generation,
            in_flight: Arc::default(),
            latency: LatencyHistograms::default(),
            restarts: AtomicU64::new(0),
            state: Mutex::new(ReplicaProcess {
                phase: ReplicaState::Starting,
                pid: None,
                port: None,
                startup: None,
                started: None,
                cgroup: None,
                limits: AppliedLimits::default(),
                resize_pending: None,
            }),
            stop: CancellationToken::new(),
            suspected: Notify::new(),
        })
    }

    /// Asks it to finish its requests and end.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Whether it was asked to end.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Marks it as unreachable for the gateway: it must pass its readiness probe again.
    pub fn suspect(&self) {
        self.suspected.notify_one();
    }

    /// Waits until it is asked to end.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Waits until the gateway fails to connect to it.
    pub async fn suspected(&self) {
        self.suspected.notified().await;
    }

    /// Counts a restart.
    pub fn count_restart(&self) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }

    /// Enters `phase`.
    pub fn set_phase(&self, phase: ReplicaState) {
        self.state().phase = phase;
    }

    /// Sets its process, started at `now` and serving on `port`.
    pub fn set_process(&self, pid: u32, port: u16, now: Timestamp) {
        let mut state = self.state();
        let kept = state.started.filter(|_| state.cgroup.is_some());
        (state.pid, state.port, state.started) = (Some(pid), Some(port), Some(kept.unwrap_or(now)));
    }

    /// Clears its process after its end.
    pub fn clear_process(&self) {
        let mut state = self.state();
        (state.pid, state.port) = (None, None);
    }

    /// Sets the time from the start of its process to ready.
    pub fn set_startup(&self, startup: Duration) {
        self.state().startup = Some(startup);
    }

    /// Its cgroup; `None` before the first start and where limits cannot be set.
    #[must_use]
    pub fn cgroup(&self) -> Option<Arc<Cgroup>> {
        self.state().cgroup.clone()
    }

    /// Sets its cgroup, whose limits are `cpu` and `memory`.
    pub fn set_cgroup(&self, cgroup: Arc<Cgroup>, cpu: Millicores, memory: Mebibytes) {
        let mut state = self.state();
        state.limits = AppliedLimits { cpu: Some(cpu), memory: Some(memory) };
        state.cgroup = Some(cgroup);
    }

    /// Takes its cgroup, to remove it.
    pub fn take_cgroup(&self) -> Option<Arc<Cgroup>> {
        self.state().cgroup.take()
    }

    /// Its current limits.
    #[must_use]
    pub fn limits(&self) -> impl std::fmt::Display {
        self.state().limits
    }

    /// Phase of its lifecycle.
    #[must_use]
    pub fn phase(&self) -> ReplicaState {
        // Draining begins with the request to stop, even before the replica's task notices it.
        if self.is_stopping() { ReplicaState::Draining } else { self.state().phase }
    }

    /// Requests in flight.
    #[must_use]
    pub fn load(&self) -> u32 {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Status for the API.
    #[must_use]
    pub fn status(&self) -> ReplicaStatus {
        let phase = self.phase();
        let state = self.state();
        ReplicaStatus {
            id: self.id.clone(),
            pid: state.pid,
            port: state.port,
            state: phase,
            cpu_millicores: state.limits.cpu,
            memory_mib: state.limits.memory,
            in_flight: self.load(),
            restarts: self.restarts.load(Ordering::Relaxed),
            startup_ms: state.startup.map(qscale_common::time::millis),
            resize_pending: state.resize_pending.clone(),
        }
    }

    /// Snapshot for the metrics, without latencies.
    #[must_use]
    pub fn snapshot(&self) -> ReplicaSnapshot {
        let phase = self.phase();
        let state = self.state();
        ReplicaSnapshot {
            phase,
            pid: state.pid,
            started: state.started,
            cgroup: state.cgroup.clone(),
            cpu: state.limits.cpu,
            memory: state.limits.memory,
            restarts: self.restarts.load(Ordering::Relaxed),
        }
    }

    /// Sets new limits without a restart. Blocks while the kernel reclaims memory.
    pub fn resize(&self, cpu: Millicores, memory: Mebibytes) -> Resized {
        let (cgroup, before, pending) = {
            let state = self.state();
            let Some(cgroup) = state.cgroup.clone() else { return Resized::Unchanged };
            (cgroup, state.limits, state.resize_pending.clone())
        };
        let wanted = AppliedLimits { cpu: Some(cpu), memory: Some(memory) };
        if before == wanted {
            self.state().resize_pending = None;
            return Resized::Unchanged;
        }
        let mut now = before;
        let mut errors = Vec::new();
        if before.cpu != wanted.cpu {
            match cgroup.set_cpu(cpu) {
                Ok(()) => now.cpu = wanted.cpu,
                Err(error) => errors.push(format!("cpu_millicores = {}: {error}", cpu.0)),
            }
        }
        if before.memory != wanted.memory {
            match cgroup.set_memory(memory) {
                Ok(()) => now.memory = wanted.memory,
                Err(error) => errors.push(error.to_string()),
            }
        }
        let reason = (!errors.is_empty()).then(|| errors.join("; "));
        let mut state = self.state();
        state.limits = now;
        state.resize_pending.clone_from(&reason);
        drop(state);
        match reason {
            // The memory in use differs between attempts, so any refusal after another counts as the same one.
            Some(reason) => Resized::Refused { reason, first: pending.is_none() },
            None => Resized::Changed(format!("{before} to {now}")),
        }
    }

    fn state(&self) -> MutexGuard<'_, ReplicaProcess> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Address of a replica that serves on `port`.
    #[must_use]
    pub fn address(port: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }
}

impl std::fmt::Display for AppliedLimits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.cpu, self.memory) {
            (Some(cpu), Some(memory)) => write!(f, "{cpu} {memory}"),
            (Some(cpu), None) => write!(f, "{cpu} and unlimited memory"),
            (None, Some(memory)) => write!(f, "unlimited CPU and {memory}"),
            (None, None) => f.write_str("unlimited"),
        }
    }
}
