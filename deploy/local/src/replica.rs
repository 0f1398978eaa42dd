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
use crate::latency::Latency;
use crate::upstream::Upstream;

/// One replica.
#[derive(Debug)]
pub struct Replica {
    /// Name, unique on the platform.
    pub id: String,
    /// What it runs.
    pub spec: Arc<FunctionSpec>,
    /// Which version of the function's file that is.
    pub generation: u64,
    /// Requests that it is working on.
    pub in_flight: Arc<AtomicU32>,
    /// How long its requests took.
    pub latency: Latency,
    restarts: AtomicU64,
    state: Mutex<State>,
    stop: CancellationToken,
    suspected: Notify,
}

#[derive(Debug)]
struct State {
    phase: ReplicaState,
    pid: Option<u32>,
    port: Option<u16>,
    startup: Option<Duration>,
    started: Option<Timestamp>,
    cgroup: Option<Arc<Cgroup>>,
    limits: Limits,
    resize_pending: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Limits {
    cpu: Option<Millicores>,
    memory: Option<Mebibytes>,
}

/// What a request is given of a replica that is ready.
#[derive(Debug)]
pub struct Target {
    /// The replica.
    pub replica: Arc<Replica>,
    /// The connections to it.
    pub upstream: Arc<Upstream>,
    /// What it speaks.
    pub protocol: Protocol,
}

/// What became of new limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resized {
    /// They were in force already, or limits cannot be set here.
    Unchanged,
    /// They are in force now; in words, from what to what.
    Changed(String),
    /// Not all could be set; in words, why. `first` says that it was not known before.
    Refused {
        /// Why.
        reason: String,
        /// Whether this is the first refusal for this reason.
        first: bool,
    },
}

/// What the metrics show of a replica.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Where it is in its life.
    pub phase: ReplicaState,
    /// Its process.
    pub pid: Option<u32>,
    /// When its process was started.
    pub started: Option<Timestamp>,
    /// Its cgroup.
    pub cgroup: Option<Arc<Cgroup>>,
    /// CPU limit in force.
    pub cpu: Option<Millicores>,
    /// Memory limit in force.
    pub memory: Option<Mebibytes>,
    /// Times it was restarted.
    pub restarts: u64,
}

impl Replica {
    /// A replica that is about to be started.
    #[must_use]
    pub fn new(id: String, spec: Arc<FunctionSpec>, generation: u64) -> Arc<Self> {
        Arc::new(Self {
            id,
            spec,
            generation,
            in_flight: Arc::default(),
            latency: Latency::default(),
            restarts: AtomicU64::new(0),
            state: Mutex::new(State {
                phase: ReplicaState::Starting,
                pid: None,
                port: None,
                startup: None,
                started: None,
                cgroup: None,
                limits: Limits::default(),
                resize_pending: None,
            }),
            stop: CancellationToken::new(),
            suspected: Notify::new(),
        })
    }

    /// Asks it to take no more requests, finish those it has, and end.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Whether it was asked to end.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// The gateway could not connect: it has to prove again that it is ready.
    pub fn suspect(&self) {
        self.suspected.notify_one();
    }

    /// Waits until it is asked to end.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Waits until the gateway could not connect to it.
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

    /// Notes that the process `pid` was started at `now` and serves on `port`.
    pub fn set_process(&self, pid: u32, port: u16, now: Timestamp) {
        let mut state = self.state();
        (state.pid, state.port, state.started) = (Some(pid), Some(port), Some(now));
    }

    /// Notes that its process has ended.
    pub fn clear_process(&self) {
        let mut state = self.state();
        (state.pid, state.port) = (None, None);
    }

    /// Notes the time from the start of its process to ready.
    pub fn set_startup(&self, startup: Duration) {
        self.state().startup = Some(startup);
    }

    /// Its cgroup; `None` before the first start and where limits cannot be set.
    #[must_use]
    pub fn cgroup(&self) -> Option<Arc<Cgroup>> {
        self.state().cgroup.clone()
    }

    /// Notes its cgroup, which limits it to `cpu` and `memory`.
    pub fn set_cgroup(&self, cgroup: Arc<Cgroup>, cpu: Millicores, memory: Mebibytes) {
        let mut state = self.state();
        state.limits = Limits { cpu: Some(cpu), memory: Some(memory) };
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

    /// Where it is in its life.
    #[must_use]
    pub fn phase(&self) -> ReplicaState {
        // One that is asked to stop is draining from then on, even before its own task has seen it.
        if self.is_stopping() { ReplicaState::Draining } else { self.state().phase }
    }

    /// Requests that it is working on.
    #[must_use]
    pub fn load(&self) -> u32 {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Everything that the API tells of it.
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

    /// Everything that the metrics tell of it, but for its latencies.
    #[must_use]
    pub fn reading(&self) -> Reading {
        let phase = self.phase();
        let state = self.state();
        Reading {
            phase,
            pid: state.pid,
            started: state.started,
            cgroup: state.cgroup.clone(),
            cpu: state.limits.cpu,
            memory: state.limits.memory,
            restarts: self.restarts.load(Ordering::Relaxed),
        }
    }

    /// Puts new limits into force, without a restart. Blocks while the kernel reclaims memory.
    pub fn resize(&self, cpu: Millicores, memory: Mebibytes) -> Resized {
        let (cgroup, before, pending) = {
            let state = self.state();
            let Some(cgroup) = state.cgroup.clone() else { return Resized::Unchanged };
            (cgroup, state.limits, state.resize_pending.clone())
        };
        let wanted = Limits { cpu: Some(cpu), memory: Some(memory) };
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
            // How much is in use differs from try to try, so any refusal after one is the same.
            Some(reason) => Resized::Refused { reason, first: pending.is_none() },
            None => Resized::Changed(format!("{before} to {now}")),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a replica serves on `port`.
    #[must_use]
    pub fn address(port: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }
}

impl std::fmt::Display for Limits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.cpu, self.memory) {
            (Some(cpu), Some(memory)) => write!(f, "{cpu} {memory}"),
            (Some(cpu), None) => write!(f, "{cpu} and unlimited memory"),
            (None, Some(memory)) => write!(f, "unlimited CPU and {memory}"),
            (None, None) => f.write_str("unlimited"),
        }
    }
}
