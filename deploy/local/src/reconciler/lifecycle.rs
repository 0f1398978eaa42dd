//! Lifecycle of a replica: start, readiness, end and restart until it is asked to stop. Owns its process, port and cgroup.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use qscale_common::platform::{EventKind, FunctionSpec, ReplicaState};
use qscale_common::restart::RestartBackoff;
use qscale_common::runtime::{clock, leftovers};
use qscale_common::units::Allocation;
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::admission::{PlaceId, RequestQueue};
use crate::cgroup::{Cgroup, Cgroups};
use crate::function::ManagedFunction;
use crate::host::Host;
use crate::orphans;
use crate::ports::Port;
use crate::probe::until_ready;
use crate::process::{Launch, Process};
use crate::replica::{ReadyReplica, Replica};
use crate::sandbox::ProcessSandbox;
use crate::upstream::Upstream;

/// Interval at which the load of a draining replica is checked.
const DRAIN_POLL_INTERVAL: Duration = Duration::from_millis(5);
/// Longest wait for the last output of a replica after its end.
const OUTPUT_TIMEOUT: Duration = Duration::from_millis(200);

/// A replica with what its lifecycle needs.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    /// The replica.
    pub replica: Arc<Replica>,
    /// Its function.
    pub function: Arc<ManagedFunction>,
    /// Shared resources.
    pub host: Arc<Host>,
}

/// End of one run of the process.
#[derive(Debug)]
enum RunEnd {
    /// Asked to stop, and stopped.
    Stopped,
    /// Ended unasked, or failed to start.
    Failed {
        kind: EventKind,
        why: String,
        /// Time for which it had been ready.
        healthy: Duration,
    },
}

impl Lifecycle {
    /// Runs the replica until it was asked to stop and has.
    pub async fn run(self, allocation: Allocation) {
        let mut backoff = RestartBackoff::default();
        loop {
            let ended = match self.cgroup(allocation).await {
                Ok(cgroup) => self.run_once(cgroup).await,
                Err(why) => RunEnd::Failed { kind: EventKind::ReplicaStartFailed, why, healthy: Duration::ZERO },
            };
            let RunEnd::Failed { kind, why, healthy } = ended else { break };
            if self.replica.is_stopping() {
                break;
            }
            self.count(kind);
            let wait = backoff.next(healthy);
            self.replica.set_phase(ReplicaState::BackOff);
            self.record(kind, format!("{why}; restarting in {} ms", wait.as_millis()));
            tokio::select! {
                () = self.replica.stopped() => break,
                () = sleep(wait) => {}
            }
            self.replica.count_restart();
            self.replica.set_phase(ReplicaState::Starting);
        }
        self.remove_cgroup().await;
        self.record(EventKind::ReplicaStopped, "stopped".to_owned());
    }

    /// Cgroup of the replica, created with the limits of `allocation` at the first call; `None` where limits cannot be set.
    async fn cgroup(&self, allocation: Allocation) -> Result<Option<Arc<Cgroup>>, String> {
        if self.host.cgroups.is_none() {
            return Ok(None);
        }
        if let Some(cgroup) = self.replica.cgroup() {
            return Ok(Some(cgroup));
        }
        let host = Arc::clone(&self.host);
        let name = format!("{}.{}", self.function.id.namespace, self.replica.id);
        let created = blocking(move || host.cgroups.as_ref().map(|cgroups| create_limited(cgroups, &name, allocation)).transpose());
        let Some(cgroup) = created.await.map_err(|error| error.to_string())?? else { return Ok(None) };
        self.replica.set_cgroup(Arc::clone(&cgroup), allocation.cpu_millicores, allocation.memory_mib);
        Ok(Some(cgroup))
    }

    async fn run_once(&self, cgroup: Option<Arc<Cgroup>>) -> RunEnd {
        let begin = clock::instant();
        let Some(port) = self.host.ports.take() else {
            return failed(EventKind::ReplicaStartFailed, "no port is free", Duration::ZERO);
        };
        let entrances = match entrances(cgroup.clone()).await {
            Ok(entrances) => entrances,
            Err(error) => return failed(EventKind::ReplicaStartFailed, format!("cannot enter its cgroup: {error}"), Duration::ZERO),
        };
        let place = match self.place(port.number()).await {
            Ok(place) => Arc::new(place),
            Err(error) => return failed(EventKind::ReplicaStartFailed, format!("cannot create its folder: {error}"), Duration::ZERO),
        };
        let ended = self.run_in(&place, &port, entrances, cgroup, begin).await;
        // A failure only delays the cleanup to the end of the platform.
        drop(blocking(move || place.remove()).await);
        ended
    }

    /// Runs the process in its place, once.
    async fn run_in(
        &self,
        place: &Arc<ProcessSandbox>,
        port: &Port,
        entrances: Vec<File>,
        cgroup: Option<Arc<Cgroup>>,
        begin: Instant,
    ) -> RunEnd {
        let kills_before = oom_kills(cgroup.clone()).await;
        let (mut process, pipe) = match self.host.spawner.spawn(self.launch(port.number(), entrances, place)).await {
            Ok(started) => started,
            Err(error) => {
                let program = self.replica.spec.command.first().map_or("", String::as_str);
                let user = place.user.map_or_else(String::new, |user| format!(" as user {user}"));
                let why = format!("cannot start `{program}`{user}: {error}");
                return failed(EventKind::ReplicaStartFailed, why, Duration::ZERO);
            }
        };
        let (function, id) = (Arc::clone(&self.function), self.replica.id.clone());
        let mut output = tokio::spawn(async move { function.logs.follow(&id, pipe).await });
        self.started(process.pid(), port.number());
        let ended = self.supervise(&mut process, port.number(), place.own_user(), begin).await;
        // Kills what the process started and left running.
        match cgroup.clone() {
            // A failure is retried and reported when the cgroup is removed.
            Some(cgroup) => drop(blocking(move || cgroup.kill()).await),
            None => self.kill_group_and_leavers(&process, place).await,
        }
        self.replica.clear_process();
        if timeout(OUTPUT_TIMEOUT, &mut output).await.is_err() {
            output.abort();
        }
        let crashed = matches!(ended, RunEnd::Failed { kind: EventKind::ReplicaCrashed, .. });
        let out_of_memory = crashed && oom_kills(cgroup).await > kills_before;
        match ended {
            RunEnd::Failed { why, healthy, .. } if out_of_memory => {
                let limit = self.replica.limits();
                RunEnd::Failed { kind: EventKind::ReplicaOomKilled, why: format!("out of memory at {limit} ({why})"), healthy }
            }
            other => other,
        }
    }

    /// Kills what the process started, also what called `setsid` and so left its group.
    async fn kill_group_and_leavers(&self, process: &Process, place: &Arc<ProcessSandbox>) {
        process.signal_group(libc::SIGKILL);
        let (sandbox, replica, place) = (Arc::clone(&self.host.sandbox), self.replica.id.clone(), Arc::clone(place));
        // Fails only while the platform ends; the next one finds them.
        drop(blocking(move || orphans::kill(|| sandbox.processes(&replica, &place))).await);
    }

    async fn place(&self, port: u16) -> io::Result<ProcessSandbox> {
        let (sandbox, replica) = (Arc::clone(&self.host.sandbox), self.replica.id.clone());
        blocking(move || sandbox.place(&replica, port)).await?
    }

    fn launch(&self, port: u16, cgroups: Vec<File>, place: &ProcessSandbox) -> Launch {
        let spec: &FunctionSpec = &self.replica.spec;
        let port = port.to_string();
        let mut words = spec.command.iter().map(|word| OsString::from(word.replace("{port}", &port)));
        let mut environment: Vec<(OsString, OsString)> = ["HOME", "TMPDIR"].map(|key| (key.into(), place.folder.clone().into())).into();
        environment.extend(spec.environment.iter().map(|(key, value)| (key.into(), value.into())));
        environment.push((spec.port_variable.clone().into(), port.clone().into()));
        environment.push(self.host.sandbox.mark());
        environment.push((leftovers::REPLICA_MARK.into(), self.replica.id.clone().into()));
        Launch {
            program: words.next().unwrap_or_default(),
            arguments: words.collect(),
            environment,
            working_directory: spec.working_directory.clone().map(PathBuf::from),
            cgroups,
            confinement: Arc::clone(&place.confinement),
        }
    }

    /// Supervises the process from its start to its end.
    async fn supervise(&self, process: &mut Process, port: u16, owner: Option<u32>, begin: Instant) -> RunEnd {
        let spec = &self.replica.spec;
        let address = Replica::address(port);
        let ready = tokio::select! {
            () = self.replica.stopped() => return self.terminate(process).await,
            ended = process.ended() => return crashed(" before ready", &ended, Duration::ZERO),
            ready = timeout(spec.startup_timeout.0, until_ready(address, spec.protocol, spec.health.as_deref(), owner)) => ready,
        };
        if ready.is_err() {
            process.signal_group(libc::SIGKILL);
            // The exit status says nothing beyond the timeout.
            drop(process.ended().await);
            return failed(EventKind::ReplicaCrashed, format!("not ready within {}", spec.startup_timeout), Duration::ZERO);
        }
        let target = Arc::new(ReadyReplica {
            replica: Arc::clone(&self.replica),
            upstream: Upstream::new(address, spec.protocol),
            protocol: spec.protocol,
        });
        target.upstream.warm().await;
        self.ready(clock::since(begin));
        let since = clock::instant();
        loop {
            let open = Open::new(&self.function.admission, &target);
            self.replica.set_phase(ReplicaState::Ready);
            tokio::select! {
                () = self.replica.stopped() => {
                    drop(open);
                    return self.drain(process).await;
                }
                ended = process.ended() => return crashed("", &ended, clock::since(since)),
                () = self.replica.suspected() => drop(open),
            }
            self.replica.set_phase(ReplicaState::Starting);
            tokio::select! {
                () = self.replica.stopped() => return self.drain(process).await,
                ended = process.ended() => return crashed("", &ended, clock::since(since)),
                () = until_ready(address, spec.protocol, spec.health.as_deref(), owner) => {}
            }
        }
    }

    /// Finishes the requests in flight within `drain_timeout`, then terminates the process. No new requests arrive.
    async fn drain(&self, process: &mut Process) -> RunEnd {
        self.replica.set_phase(ReplicaState::Draining);
        let in_flight = self.replica.load();
        self.record(EventKind::ReplicaDraining, format!("{in_flight} requests in flight"));
        let done = async {
            while self.replica.load() > 0 {
                sleep(DRAIN_POLL_INTERVAL).await;
            }
        };
        tokio::select! {
            () = done => {}
            () = sleep(self.replica.spec.drain_timeout.0) => {
                warn!(replica = self.replica.id, left = self.replica.load(), "drain_timeout exceeded; stopping with requests in flight");
            }
            () = self.host.abort.cancelled() => {}
            _ = process.ended() => return RunEnd::Stopped,
        }
        self.terminate(process).await
    }

    /// Sends SIGTERM, then SIGKILL after `kill_grace`.
    async fn terminate(&self, process: &mut Process) -> RunEnd {
        process.signal_group(libc::SIGTERM);
        let asked = tokio::select! {
            ended = timeout(self.host.kill_grace, process.ended()) => ended.is_ok(),
            () = self.host.abort.cancelled() => false,
        };
        if !asked {
            process.signal_group(libc::SIGKILL);
            drop(process.ended().await);
        }
        RunEnd::Stopped
    }

    fn started(&self, pid: u32, port: u16) {
        self.replica.set_process(pid, port, clock::now());
        self.record(EventKind::ReplicaStarted, format!("process {pid}, port {port}"));
    }

    fn ready(&self, startup: Duration) {
        self.replica.set_startup(startup);
        self.function.count_startup(startup);
        self.record(EventKind::ReplicaReady, format!("ready after {} ms", startup.as_millis()));
    }

    fn count(&self, kind: EventKind) {
        if kind == EventKind::ReplicaOomKilled { self.function.count_oom_kill() } else { self.function.count_crash() }
    }

    fn record(&self, kind: EventKind, message: String) {
        self.host.record(&self.function.id, Some(&self.replica.id), kind, message);
    }

    async fn remove_cgroup(&self) {
        let Some(cgroup) = self.replica.take_cgroup() else { return };
        if let Ok(Err(left)) = blocking(move || cgroup.remove()).await {
            warn!(replica = self.replica.id, left, "failed to remove cgroup; retried when the platform stops or starts");
        }
    }
}

/// Admits requests to a replica until dropped.
struct Open<'a> {
    admission: &'a RequestQueue<Arc<ReadyReplica>>,
    place: PlaceId,
}

impl<'a> Open<'a> {
    fn new(admission: &'a Arc<RequestQueue<Arc<ReadyReplica>>>, target: &Arc<ReadyReplica>) -> Self {
        let place = admission.open(Arc::clone(target), Arc::clone(&target.replica.in_flight));
        Self { admission, place }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.admission.close(self.place);
    }
}

/// Runs `work` on a blocking thread: access to cgroup files is synchronous, and the kernel may make it wait.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

/// Creates a cgroup with the limits of `allocation`; removes it again where they cannot be set.
fn create_limited(cgroups: &Cgroups, name: &str, allocation: Allocation) -> Result<Arc<Cgroup>, String> {
    let cgroup = cgroups.create(name).map_err(|error| format!("cannot create its cgroup: {error}"))?;
    let (cpu, memory) = (allocation.cpu_millicores, allocation.memory_mib);
    if let Err(error) = cgroup.set_cpu(cpu).and_then(|()| cgroup.set_memory(memory)) {
        // A remainder is removed when the platform stops.
        drop(cgroup.remove());
        return Err(format!("cannot set limits {cpu} {memory}: {error}"));
    }
    Ok(Arc::new(cgroup))
}

async fn oom_kills(cgroup: Option<Arc<Cgroup>>) -> u64 {
    let Some(cgroup) = cgroup else { return 0 };
    blocking(move || cgroup.oom_kills()).await.unwrap_or(0)
}

async fn entrances(cgroup: Option<Arc<Cgroup>>) -> io::Result<Vec<File>> {
    let Some(cgroup) = cgroup else { return Ok(Vec::new()) };
    blocking(move || cgroup.entrances()).await?
}

fn failed(kind: EventKind, why: impl Into<String>, healthy: Duration) -> RunEnd {
    RunEnd::Failed { kind, why: why.into(), healthy }
}

fn crashed(when: &str, status: &io::Result<ExitStatus>, healthy: Duration) -> RunEnd {
    let how = match status {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    failed(EventKind::ReplicaCrashed, format!("ended{when}: {how}"), healthy)
}

#[cfg(test)]
mod tests {
    use qscale_common::document::Format;
    use tokio::runtime::Handle;
    use tokio::sync::Notify;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::ports::Ports;
    use crate::process::Spawner;
    use crate::sandbox::Sandbox;

    fn lifecycle(cgroups: Cgroups, folder: &std::path::Path) -> Lifecycle {
        let spec = FunctionSpec::parse("name = \"f\"\ncommand = [\"true\"]", Format::Toml).expect("a function file");
        let spawner = Spawner::start(Handle::current()).expect("a thread");
        let ports = Ports::new(19_400, 19_499, 0);
        let sandbox = Sandbox::open(folder, None, &[]).expect("processes can be confined");
        let host = Host::new(spawner, ports, Some(cgroups), sandbox, Duration::ZERO, CancellationToken::new(), 1);
        let allocation = Allocation::from(spec.allocation);
        let replica = Replica::new("f-1".to_owned(), Arc::new(spec.clone()), 0);
        Lifecycle { replica, function: ManagedFunction::new(spec, allocation, Arc::new(Notify::new())), host: Arc::new(host) }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn other_tasks_run_while_a_busy_cgroup_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        // A folder like a cgroup whose process is slow to leave: limits cannot be set in it, and it cannot be removed while `process` is there.
        let cgroup = folder.path().join("default.f-1");
        std::fs::create_dir(&cgroup).expect("created");
        std::fs::write(cgroup.join("process"), "").expect("written");
        let process = cgroup.join("process");
        let leaving = tokio::spawn(async move { std::fs::remove_file(process).expect("removed") });
        let lifecycle = lifecycle(Cgroups::in_folder(folder.path()), folder.path());
        lifecycle.cgroup(Allocation::new(1, 100, 64)).await.expect_err("limits cannot be set in a plain folder");
        leaving.await.expect("joined");
        assert!(!cgroup.exists(), "the removal blocked the task that it waited for");
    }
}
