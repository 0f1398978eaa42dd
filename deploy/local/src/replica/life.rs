//! The life of a replica: start, readiness, end, and start again until it is asked to stop. Owns its process, its port and its cgroup.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use qscale_common::platform::{EventKind, FunctionSpec, ReplicaState};
use qscale_common::runtime::clock;
use qscale_common::units::Allocation;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::{Limits, Replica, Target};
use crate::admission::{Admission, PlaceId};
use crate::backoff::Backoff;
use crate::cgroup::Cgroup;
use crate::function::Function;
use crate::host::Host;
use crate::probe::until_ready;
use crate::process::{Launch, Process};
use crate::upstream::Upstream;

/// How often a draining replica is looked at.
const DRAIN_LOOK: Duration = Duration::from_millis(5);
/// Time that what a replica wrote last is waited for after its end.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// A replica with what it needs to live.
#[derive(Debug, Clone)]
pub struct Life {
    /// The replica.
    pub replica: Arc<Replica>,
    /// Its function.
    pub function: Arc<Function>,
    /// The machine.
    pub host: Arc<Host>,
}

/// How one run of the process ended.
#[derive(Debug)]
enum Ended {
    /// It was asked to stop, and did.
    Stopped,
    /// It ended by itself, or never began.
    Failed {
        kind: EventKind,
        why: String,
        /// For how long it had been ready.
        healthy: Duration,
    },
}

impl Life {
    /// Lives until the replica was asked to stop and has.
    pub async fn live(self, allocation: Allocation) {
        let mut backoff = Backoff::default();
        loop {
            let ended = match self.cgroup(allocation).await {
                Ok(cgroup) => self.run(cgroup.as_deref()).await,
                Err(why) => Ended::Failed { kind: EventKind::ReplicaStartFailed, why, healthy: Duration::ZERO },
            };
            let Ended::Failed { kind, why, healthy } = ended else { break };
            if self.replica.is_stopping() {
                break;
            }
            self.count(kind);
            let wait = backoff.next(healthy);
            self.set_phase(ReplicaState::BackOff);
            self.record(kind, format!("{why}; starts again in {} ms", wait.as_millis()));
            tokio::select! {
                () = self.replica.stop.cancelled() => break,
                () = sleep(wait) => {}
            }
            self.replica.restarts.fetch_add(1, Ordering::Relaxed);
            self.set_phase(ReplicaState::Starting);
        }
        self.remove_cgroup().await;
        self.record(EventKind::ReplicaStopped, "stopped".to_owned());
    }

    /// The replica's cgroup, made with the limits of `allocation` when it is the first time; none where limits cannot be set.
    async fn cgroup(&self, allocation: Allocation) -> Result<Option<Arc<Cgroup>>, String> {
        let Some(cgroups) = &self.host.cgroups else { return Ok(None) };
        if let Some(cgroup) = self.replica.state().cgroup.clone() {
            return Ok(Some(cgroup));
        }
        let name = format!("{}.{}", self.function.id.namespace, self.replica.id);
        let cgroup = Arc::new(cgroups.create(&name).map_err(|error| format!("cannot make its cgroup: {error}"))?);
        let (cpu, memory) = (allocation.cpu_millicores, allocation.memory_mib);
        if let Err(error) = cgroup.set_cpu(cpu).and_then(|()| cgroup.set_memory(memory)) {
            drop(cgroup.remove());
            return Err(format!("cannot limit it to {cpu} {memory}: {error}"));
        }
        let mut state = self.replica.state();
        (state.cgroup, state.limits) = (Some(Arc::clone(&cgroup)), Limits { cpu: Some(cpu), memory: Some(memory) });
        Ok(Some(cgroup))
    }

    async fn run(&self, cgroup: Option<&Cgroup>) -> Ended {
        let begin = clock::instant();
        let Some(port) = self.host.ports.take() else {
            return failed(EventKind::ReplicaStartFailed, "no port is free", Duration::ZERO);
        };
        let kills_before = cgroup.map_or(0, Cgroup::oom_kills);
        let launch = match self.launch(port.number(), cgroup) {
            Ok(launch) => launch,
            Err(error) => return failed(EventKind::ReplicaStartFailed, format!("cannot enter its cgroup: {error}"), Duration::ZERO),
        };
        let (mut process, output) = match self.host.spawner.spawn(launch).await {
            Ok(started) => started,
            Err(error) => {
                let why = format!("cannot start `{}`: {error}", self.replica.spec.command.first().map_or("", String::as_str));
                return failed(EventKind::ReplicaStartFailed, why, Duration::ZERO);
            }
        };
        let (function, id) = (Arc::clone(&self.function), self.replica.id.clone());
        let mut words = tokio::spawn(async move { function.logs.follow(&id, output).await });
        self.started(process.pid(), port.number());
        let ended = self.attend(&mut process, port.number(), begin).await;
        // What the process started and left running ends with it.
        match cgroup {
            Some(cgroup) => cgroup.kill(),
            None => process.signal_group(libc::SIGKILL),
        }
        self.ended();
        if timeout(LAST_WORDS, &mut words).await.is_err() {
            words.abort();
        }
        match ended {
            Ended::Failed { kind: EventKind::ReplicaCrashed, why, healthy }
                if cgroup.is_some_and(|cgroup| cgroup.oom_kills() > kills_before) =>
            {
                let limit = self.replica.state().limits;
                Ended::Failed { kind: EventKind::ReplicaOomKilled, why: format!("killed for memory at {limit} ({why})"), healthy }
            }
            other => other,
        }
    }

    fn launch(&self, port: u16, cgroup: Option<&Cgroup>) -> std::io::Result<Launch> {
        let spec: &FunctionSpec = &self.replica.spec;
        let port = port.to_string();
        let mut words = spec.command.iter().map(|word| OsString::from(word.replace("{port}", &port)));
        let mut environment: Vec<(OsString, OsString)> = spec.environment.iter().map(|(key, value)| (key.into(), value.into())).collect();
        environment.push((spec.port_variable.clone().into(), port.clone().into()));
        environment.push(self.host.mark());
        Ok(Launch {
            program: words.next().unwrap_or_default(),
            arguments: words.collect(),
            environment,
            working_directory: spec.working_directory.clone().map(PathBuf::from),
            cgroups: cgroup.map_or_else(|| Ok(Vec::new()), Cgroup::entrances)?,
        })
    }

    /// From the start of the process to its end, whoever brings it about.
    async fn attend(&self, process: &mut Process, port: u16, begin: Instant) -> Ended {
        let spec = &self.replica.spec;
        let address = Replica::address(port);
        let ready = tokio::select! {
            () = self.replica.stop.cancelled() => return self.terminate(process).await,
            ended = process.ended() => return crashed(" before it was ready", &ended, Duration::ZERO),
            ready = timeout(spec.startup_timeout.0, until_ready(address, spec.protocol, spec.health.as_deref())) => ready,
        };
        if ready.is_err() {
            process.signal_group(libc::SIGKILL);
            // Its end follows; how it ended says nothing more.
            drop(process.ended().await);
            return failed(EventKind::ReplicaCrashed, format!("was not ready within {}", spec.startup_timeout), Duration::ZERO);
        }
        let target = Arc::new(Target {
            replica: Arc::clone(&self.replica),
            upstream: Upstream::new(address, spec.protocol),
            protocol: spec.protocol,
        });
        target.upstream.warm().await;
        self.ready(clock::since(begin));
        let since = clock::instant();
        loop {
            let open = Open::new(&self.function.admission, &target);
            self.set_phase(ReplicaState::Ready);
            tokio::select! {
                () = self.replica.stop.cancelled() => {
                    drop(open);
                    return self.drain(process).await;
                }
                ended = process.ended() => return crashed("", &ended, clock::since(since)),
                () = self.replica.suspected.notified() => drop(open),
            }
            self.set_phase(ReplicaState::Starting);
            tokio::select! {
                () = self.replica.stop.cancelled() => return self.drain(process).await,
                ended = process.ended() => return crashed("", &ended, clock::since(since)),
                () = until_ready(address, spec.protocol, spec.health.as_deref()) => {}
            }
        }
    }

    /// No new requests come; those under way are finished, as far as the time allows.
    async fn drain(&self, process: &mut Process) -> Ended {
        self.set_phase(ReplicaState::Draining);
        let under_way = self.replica.load();
        self.record(EventKind::ReplicaDraining, format!("{under_way} requests under way"));
        let done = async {
            while self.replica.load() > 0 {
                sleep(DRAIN_LOOK).await;
            }
        };
        tokio::select! {
            () = done => {}
            () = sleep(self.replica.spec.drain_timeout.0) => {
                warn!(replica = self.replica.id, left = self.replica.load(), "stopped before its requests were done: drain_timeout is over");
            }
            () = self.host.hurry.cancelled() => {}
            _ = process.ended() => return Ended::Stopped,
        }
        self.terminate(process).await
    }

    /// Asks the process to end, and ends it when it does not.
    async fn terminate(&self, process: &mut Process) -> Ended {
        process.signal_group(libc::SIGTERM);
        let asked = tokio::select! {
            ended = timeout(self.host.kill_grace, process.ended()) => ended.is_ok(),
            () = self.host.hurry.cancelled() => false,
        };
        if !asked {
            process.signal_group(libc::SIGKILL);
            drop(process.ended().await);
        }
        Ended::Stopped
    }

    fn started(&self, pid: u32, port: u16) {
        let mut state = self.replica.state();
        (state.pid, state.port, state.started) = (Some(pid), Some(port), Some(clock::now()));
        drop(state);
        self.record(EventKind::ReplicaStarted, format!("process {pid}, port {port}"));
    }

    fn ready(&self, startup: Duration) {
        self.replica.state().startup = Some(startup);
        self.function.count_startup(startup);
        self.record(EventKind::ReplicaReady, format!("ready after {} ms", startup.as_millis()));
    }

    fn ended(&self) {
        let mut state = self.replica.state();
        (state.pid, state.port) = (None, None);
    }

    fn count(&self, kind: EventKind) {
        if kind == EventKind::ReplicaOomKilled { self.function.count_oom_kill() } else { self.function.count_crash() }
    }

    fn set_phase(&self, phase: ReplicaState) {
        self.replica.state().phase = phase;
    }

    fn record(&self, kind: EventKind, message: String) {
        self.host.record(&self.function.id, Some(&self.replica.id), kind, message);
    }

    async fn remove_cgroup(&self) {
        let Some(cgroup) = self.replica.state().cgroup.take() else { return };
        let removed = tokio::task::spawn_blocking(move || cgroup.remove()).await;
        if let Ok(Err(left)) = removed {
            warn!(replica = self.replica.id, left, "a cgroup could not be removed; it is tried again when the platform stops or starts");
        }
    }
}

/// A replica that takes requests, until this is dropped.
struct Open<'a> {
    admission: &'a Admission<Arc<Target>>,
    place: PlaceId,
}

impl<'a> Open<'a> {
    fn new(admission: &'a Arc<Admission<Arc<Target>>>, target: &Arc<Target>) -> Self {
        let place = admission.open(Arc::clone(target), Arc::clone(&target.replica.in_flight));
        Self { admission, place }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.admission.close(self.place);
    }
}

fn failed(kind: EventKind, why: impl Into<String>, healthy: Duration) -> Ended {
    Ended::Failed { kind, why: why.into(), healthy }
}

fn crashed(when: &str, status: &std::io::Result<ExitStatus>, healthy: Duration) -> Ended {
    let how = match status {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    failed(EventKind::ReplicaCrashed, format!("ended{when}: {how}"), healthy)
}
