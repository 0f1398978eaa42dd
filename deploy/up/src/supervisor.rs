//! The processes of one machine: started, restarted when they die or hang, stopped in order; their logs have a limited size. Owns their life cycle; must not know what they do.

mod health_check;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use qscale_common::runtime::{clock, files, private};
use tokio::sync::oneshot;

pub use health_check::HealthCheck;
use health_check::Unanswered;

/// Requests that may wait for the supervisor's thread. Every caller waits for its answer, so more than a few never queue; a full queue makes the next caller wait.
const REQUESTS: usize = 16;
/// Interval at which processes are checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// Pauses between restarts: short at first, so that the system recovers within a tick or two, and longer for a process that keeps dying.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A process that ran this long restarts after the first pause again.
const HEALTHY_AFTER: Duration = Duration::from_secs(20);

/// Size above which a log moves to `<name>.log.1`, in place of an earlier one.
const LOG_BYTES: u64 = 16 << 20;
/// Rounds of checks between two looks at the size of a log, one second.
const LOG_ROUNDS: u32 = 20;

/// A process of the system.
#[derive(Debug, Clone)]
pub struct Service {
    /// Name, also of its log.
    pub name: String,
    /// Program.
    pub program: PathBuf,
    /// Arguments.
    pub arguments: Vec<String>,
    /// Environment variables in addition to those of this process.
    pub environment: Vec<(String, String)>,
    /// File that standard error is appended to.
    pub log: PathBuf,
    /// File that standard output is written to, truncated at each start; the log where it is `None`.
    pub output: Option<PathBuf>,
    /// Whether the process is expected to exit by itself. It is then not restarted, whatever ends it.
    pub ends: bool,
    /// Longest time between SIGTERM and SIGKILL.
    pub stop_timeout: Duration,
    /// Check that finds it hanging, if it has a health endpoint.
    pub health: Option<HealthCheck>,
    /// Work before each start.
    pub prepare: Option<Preparation>,
}

/// Work before each start of a service.
#[derive(Clone)]
pub struct Preparation(pub Arc<dyn Fn() + Send + Sync>);

impl fmt::Debug for Preparation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Preparation")
    }
}

/// Exit code of a process that a signal ended.
pub const KILLED: i32 = -1;

/// State of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Running.
    Running {
        /// Process id.
        pid: u32,
    },
    /// Died, or failed to start; waiting to be started again.
    Restarting,
    /// Ended, and is not restarted: its exit code, or [`KILLED`].
    Ended(i32),
}

/// State of a service with its history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceStatus {
    /// Its state.
    pub status: Status,
    /// Times that it died.
    pub restarts: u32,
    /// Error of the last start; `None` if the process was started.
    pub start_error: Option<String>,
}

/// Services by name.
pub type Statuses = BTreeMap<String, ServiceStatus>;

enum SupervisorRequest {
    Start(Box<Service>, Option<Unanswered>, oneshot::Sender<anyhow::Result<()>>),
    StopAll(oneshot::Sender<()>),
}

/// Keeps services running. One thread starts all of them, because the kernel ends a child together with the thread that created it.
#[derive(Debug)]
pub struct Supervisor {
    requests: SyncSender<SupervisorRequest>,
    statuses: Arc<Mutex<Statuses>>,
    thread: Option<JoinHandle<()>>,
}

impl Supervisor {
    /// A supervisor without services.
    pub fn new() -> Self {
        let (requests, inbox) = mpsc::sync_channel(REQUESTS);
        let statuses = Arc::new(Mutex::new(Statuses::new()));
        let shared = Arc::clone(&statuses);
        let thread = std::thread::Builder::new()
            .name("supervisor".into())
            .spawn(move || SupervisorThread { processes: Vec::new(), rounds: 0, statuses: shared }.run(&inbox));
        Self { requests, statuses, thread: Some(thread.expect("a thread can be started while the process starts")) }
    }

    /// Starts a service.
    ///
    /// # Errors
    /// When its program or its log cannot be opened; the service is then not supervised.
    pub async fn start(&self, service: Service) -> anyhow::Result<()> {
        let (reply, answer) = oneshot::channel();
        let unanswered = service.health.clone().map(HealthCheck::start);
        self.send(SupervisorRequest::Start(Box::new(service), unanswered, reply));
        answer.await.context("the supervisor ended")?
    }

    /// Stops all services, the last started first. Blocks for up to the sum of their stop timeouts; call it outside of the runtime's threads.
    pub fn stop_all(&mut self) {
        let (reply, answer) = oneshot::channel();
        self.send(SupervisorRequest::StopAll(reply));
        // An error means that the supervisor ended, and its children with it.
        let _ended = answer.blocking_recv();
        if let Some(thread) = self.thread.take() {
            // A panic of the supervisor was reported when it happened.
            let _panicked = thread.join();
        }
    }

    /// State of every service.
    pub fn statuses(&self) -> Statuses {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// State of one service.
    pub fn status(&self, service: &str) -> Option<Status> {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner).get(service).map(|status| status.status)
    }

    fn send(&self, request: SupervisorRequest) {
        // An error means that the supervisor ended; the caller then gets no answer.
        let _ended = self.requests.send(request);
    }
}

impl Default for Supervisor {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if self.thread.is_some() {
            // Dropping the last sender stops all services; this waits for it without blocking_recv, which panics on a runtime's thread.
            let (closed, _) = mpsc::sync_channel(1);
            drop(std::mem::replace(&mut self.requests, closed));
            if let Some(thread) = self.thread.take() {
                let _panicked = thread.join();
            }
        }
    }
}

struct SupervisedProcess {
    service: Service,
    child: Option<Child>,
    started: Instant,
    start_again: Instant,
    pause: Duration,
    restarts: u32,
    ended: Option<i32>,
    start_error: Option<String>,
    unanswered: Option<Unanswered>,
}

struct SupervisorThread {
    processes: Vec<SupervisedProcess>,
    rounds: u32,
    statuses: Arc<Mutex<Statuses>>,
}

impl SupervisorThread {
    fn run(mut self, inbox: &Receiver<SupervisorRequest>) {
        loop {
            match inbox.recv_timeout(CHECK_INTERVAL) {
                Ok(SupervisorRequest::Start(service, unanswered, reply)) => {
                    let result = self.start(*service, unanswered);
                    self.report();
                    // A caller that no longer waits does not need the answer; the service is kept.
                    let _gone = reply.send(result);
                }
                Ok(SupervisorRequest::StopAll(reply)) => {
                    self.processes.iter_mut().rev().for_each(SupervisedProcess::stop);
                    self.report();
                    let _gone = reply.send(());
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.processes.iter_mut().rev().for_each(SupervisedProcess::stop);
                    return;
                }
            }
            self.processes.iter_mut().for_each(SupervisedProcess::check);
            self.rounds += 1;
            if self.rounds >= LOG_ROUNDS {
                self.rounds = 0;
                self.processes.iter().for_each(|process| limit_log(&process.service.log));
            }
            self.report();
        }
    }

    fn start(&mut self, service: Service, unanswered: Option<Unanswered>) -> anyhow::Result<()> {
        let child = spawn(&service)?;
        let now = clock::instant();
        self.processes.push(SupervisedProcess {
            service,
            child: Some(child),
            started: now,
            start_again: now,
            pause: FIRST_PAUSE,
            restarts: 0,
            ended: None,
            start_error: None,
            unanswered,
        });
        Ok(())
    }

    fn report(&self) {
        let statuses = self.processes.iter().map(|process| (process.service.name.clone(), process.status())).collect();
        *self.statuses.lock().unwrap_or_else(PoisonError::into_inner) = statuses;
    }
}

impl SupervisedProcess {
    fn status(&self) -> ServiceStatus {
        let status = match (&self.child, self.ended) {
            (Some(child), _) => Status::Running { pid: child.id() },
            (None, Some(code)) => Status::Ended(code),
            (None, None) => Status::Restarting,
        };
        ServiceStatus { status, restarts: self.restarts, start_error: self.start_error.clone() }
    }

    /// Notices that the process died or hangs, and starts it again once its pause is over.
    fn check(&mut self) {
        if let Some(child) = &mut self.child {
            if let Some(unanswered) = &self.unanswered
                && unanswered.hangs()
            {
                unanswered.reset();
                note(&self.service.log, &format!("process {} does not answer; ending it", child.id()));
                signal(child, libc::SIGKILL);
            }
            if let Ok(Some(status)) = child.try_wait() {
                self.child = None;
                self.died(status);
            }
        } else if self.ended.is_none() && self.start_again <= clock::instant() {
            self.started = clock::instant();
            if let Some(unanswered) = &self.unanswered {
                unanswered.reset();
            }
            match spawn(&self.service) {
                Ok(child) => (self.child, self.start_error) = (Some(child), None),
                Err(error) => {
                    self.start_failed(&error);
                    self.postpone();
                }
            }
        }
    }

    fn died(&mut self, status: ExitStatus) {
        if self.service.ends {
            self.ended = Some(status.code().unwrap_or(KILLED));
            return;
        }
        if clock::since(self.started) > HEALTHY_AFTER {
            self.pause = FIRST_PAUSE;
        }
        self.restarts += 1;
        self.postpone();
    }

    /// Reports a failed start in the service's log and its status, once for each reason.
    fn start_failed(&mut self, error: &anyhow::Error) {
        let reason = format!("{error:#}");
        if self.start_error.as_ref() == Some(&reason) {
            return;
        }
        note(&self.service.log, &format!("{reason}; starting it again"));
        self.start_error = Some(reason);
    }

    fn postpone(&mut self) {
        self.start_again = clock::instant() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    fn stop(&mut self) {
        let Some(mut child) = self.child.take() else {
            self.ended.get_or_insert(0);
            return;
        };
        signal(&child, libc::SIGTERM);
        let asked = clock::instant();
        let mut status = None;
        while status.is_none() && clock::since(asked) < self.service.stop_timeout {
            status = child.try_wait().ok().flatten();
            if status.is_none() {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        if status.is_none() {
            signal(&child, libc::SIGKILL);
            status = child.wait().ok();
        }
        // A program that has just started may not handle the signal yet; it ends as it was asked to.
        let obeyed = status.is_some_and(|status| status.signal() == Some(libc::SIGTERM));
        self.ended = Some(if obeyed { 0 } else { status.and_then(|status| status.code()).unwrap_or(KILLED) });
    }
}

/// Adds a line of the supervisor to `log`. The log itself may be what cannot be opened; the status then still says why.
fn note(log: &Path, text: &str) {
    let _unwritable = private::append(log).map(|mut log| writeln!(log, "supervisor: {text}"));
}

/// Moves the content of a log that is too large to `<name>.log.1`. The process keeps its file, so lines that it writes in between are lost.
fn limit_log(log: &Path) {
    let length = std::fs::symlink_metadata(log).map_or(0, |found| found.len());
    if length > LOG_BYTES {
        let old = private::create(&log.with_extension("log.1"));
        // On a full disk the copy fails; the space is needed all the more.
        let _incomplete = old.and_then(|mut old| Ok(io::copy(&mut files::open(log, u64::MAX)?.take(length), &mut old)?));
        let _unchanged = private::create(log);
    }
}

fn spawn(service: &Service) -> anyhow::Result<Child> {
    if let Some(Preparation(prepare)) = &service.prepare {
        prepare();
    }
    let log = private::append(&service.log)?;
    let output = match &service.output {
        Some(path) => private::create(path)?,
        None => private::append(&service.log)?,
    };
    let mut command = Command::new(&service.program);
    command.args(&service.arguments).envs(service.environment.iter().cloned()).stdin(Stdio::null()).stdout(output).stderr(log);
    // Its own process group keeps the terminal's Ctrl-C from it: the supervisor decides the order of the stop.
    command.process_group(0);
    // SAFETY: prctl with PR_SET_PDEATHSIG is async-signal-safe and touches no memory of the parent.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        });
    }
    command.spawn().with_context(|| format!("failed to start {} ({})", service.name, service.program.display()))
}

fn signal(child: &Child, signal: i32) {
    // SAFETY: kill takes numbers only, and the child has not been waited for, so its id is still its own.
    unsafe { libc::kill(child.id() as i32, signal) };
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use qscale_tests::{Folder, eventually};

    fn shell(folder: &Folder, name: &str, script: &str, ends: bool) -> Service {
        Service {
            name: name.into(),
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: Vec::new(),
            log: folder.path().join(format!("{name}.log")),
            output: None,
            ends,
            stop_timeout: Duration::from_secs(10),
            health: None,
            prepare: None,
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_service_that_stops_answering_is_started_again() {
        let folder = Folder::new("supervisor");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let answering = tokio::spawn(async move {
            let router = axum::Router::new().route("/healthz", axum::routing::get(async || "ok"));
            axum::serve(listener, router).await
        });
        let supervisor = Supervisor::new();
        let short = Duration::from_millis(50);
        let health = HealthCheck { interval: short, timeout: Duration::from_secs(5), ..HealthCheck::http(&address) };
        let service = Service { health: Some(health), ..shell(&folder, "one", "exec sleep 1000", false) };
        let log = service.log.clone();
        supervisor.start(service).await.expect("started");
        tokio::time::sleep(20 * short).await;
        assert_eq!(supervisor.statuses()["one"].restarts, 0, "it answers");
        answering.abort();
        eventually("a restart", || (supervisor.statuses()["one"].restarts == 1).then_some(()));
        let text = std::fs::read_to_string(log).expect("a log");
        assert!(text.contains("does not answer"), "{text}");
        tokio::time::sleep(20 * short).await;
        assert_eq!(supervisor.statuses()["one"].restarts, 1, "a process that never answered may still be starting");
    }

    #[tokio::test]
    async fn a_large_log_moves_and_the_process_goes_on_writing() {
        let folder = Folder::new("supervisor");
        let supervisor = Supervisor::new();
        let service = shell(&folder, "one", "head -c 17000000 /dev/zero; while :; do echo line; sleep 0.1; done", false);
        let log = service.log.clone();
        supervisor.start(service).await.expect("started");
        eventually("the old log", || log.with_extension("log.1").exists().then_some(()));
        eventually("lines in the new log", || {
            let text = std::fs::read(&log).ok()?;
            (text.len() < 1_000_000 && text.starts_with(b"line\n")).then_some(())
        });
    }

    #[test]
    fn a_link_in_the_place_of_an_old_log_is_not_followed() {
        let folder = Folder::new("supervisor");
        let (log, victim) = (folder.path().join("one.log"), folder.path().join("victim"));
        std::fs::File::create(&log).and_then(|log| log.set_len(LOG_BYTES + 1)).expect("a large log");
        std::fs::write(&victim, "kept").expect("written");
        symlink(&victim, log.with_extension("log.1")).expect("linked");
        limit_log(&log);
        assert_eq!(std::fs::metadata(&log).expect("a log").len(), 0);
        assert_eq!(std::fs::read_to_string(&victim).expect("read"), "kept");
    }

    fn kill(supervisor: &Supervisor, name: &str) -> u32 {
        let Some(Status::Running { pid }) = supervisor.status(name) else { panic!("{name} was just started") };
        // SAFETY: kill takes numbers only; the process is a child of the supervisor.
        unsafe { libc::kill(pid as i32, libc::SIGKILL) };
        pid
    }

    #[tokio::test]
    async fn a_service_that_dies_is_started_again() {
        let folder = Folder::new("supervisor");
        let supervisor = Supervisor::new();
        supervisor.start(shell(&folder, "one", "exec sleep 1000", false)).await.expect("started");
        let pid = kill(&supervisor, "one");
        eventually("a new process", || match &supervisor.statuses()["one"] {
            ServiceStatus { status: Status::Running { pid: new }, restarts: 1, .. } if *new != pid => Some(()),
            _ => None,
        });
    }

    #[tokio::test]
    async fn a_service_that_exits_as_expected_stays_ended() {
        let folder = Folder::new("supervisor");
        let supervisor = Supervisor::new();
        supervisor.start(shell(&folder, "one", "exit 3", true)).await.expect("started");
        eventually("its end", || (supervisor.status("one") == Some(Status::Ended(3))).then_some(()));
        assert_eq!(supervisor.statuses()["one"].restarts, 0);
    }

    #[tokio::test]
    async fn a_service_that_is_stopped_before_it_handles_signals_has_not_failed() {
        let folder = Folder::new("supervisor");
        let mut supervisor = Supervisor::new();
        supervisor.start(shell(&folder, "one", "exec sleep 1000", true)).await.expect("started");
        let stopped = tokio::task::spawn_blocking(move || {
            supervisor.stop_all();
            supervisor.status("one")
        });
        assert_eq!(stopped.await.expect("stopped"), Some(Status::Ended(0)));
    }

    #[tokio::test]
    async fn a_service_that_ends_is_not_restarted_after_a_signal() {
        let folder = Folder::new("supervisor");
        let supervisor = Supervisor::new();
        supervisor.start(shell(&folder, "one", "exec sleep 1000", true)).await.expect("started");
        kill(&supervisor, "one");
        eventually("its end", || (supervisor.status("one") == Some(Status::Ended(KILLED))).then_some(()));
        assert_eq!(supervisor.statuses()["one"].restarts, 0);
    }

    #[tokio::test]
    async fn services_stop_in_the_reverse_order_of_their_start() {
        let folder = Folder::new("supervisor");
        let trace = folder.path().join("trace");
        let script = |name: &str| {
            format!("trap 'echo {name} >> {0}; exit 0' TERM; echo ready-{name} >> {0}; while :; do sleep 0.02; done", trace.display())
        };
        let mut supervisor = Supervisor::new();
        for name in ["first", "second"] {
            supervisor.start(shell(&folder, name, &script(name), false)).await.expect("started");
            eventually("the trap to be set", || std::fs::read_to_string(&trace).ok()?.contains(&format!("ready-{name}")).then_some(()));
        }
        tokio::task::spawn_blocking(move || supervisor.stop_all()).await.expect("stopped");
        let text = std::fs::read_to_string(&trace).expect("the trace was written");
        let order: Vec<_> = text.lines().filter(|line| !line.starts_with("ready")).collect();
        assert_eq!(order, ["second", "first"]);
    }

    #[tokio::test]
    async fn a_program_that_does_not_exist_is_named() {
        let folder = Folder::new("supervisor");
        let supervisor = Supervisor::new();
        let mut service = shell(&folder, "one", "", false);
        service.program = "/no/such/program".into();
        let error = supervisor.start(service).await.expect_err("there is no such program");
        assert!(format!("{error:#}").contains("/no/such/program"), "{error:#}");
    }

    #[tokio::test]
    async fn a_service_that_cannot_be_restarted_says_why_until_it_runs() {
        let folder = Folder::new("supervisor");
        let program = folder.path().join("program");
        let install = || symlink("/bin/sh", &program).expect("linked");
        install();
        let supervisor = Supervisor::new();
        let service = Service { program: program.clone(), ..shell(&folder, "one", "exec sleep 1000", false) };
        let log = service.log.clone();
        supervisor.start(service).await.expect("started");
        std::fs::remove_file(&program).expect("removed");
        kill(&supervisor, "one");
        let reason = eventually("the reason", || supervisor.statuses()["one"].start_error.clone());
        let shown = program.display().to_string();
        assert!(reason.contains(&shown), "{reason}");
        assert_eq!(supervisor.status("one"), Some(Status::Restarting));
        let text = std::fs::read_to_string(log).expect("a log");
        assert_eq!(text.matches(&shown).count(), 1, "one line for one reason: {text}");
        install();
        eventually("a new process", || matches!(supervisor.status("one"), Some(Status::Running { .. })).then_some(()));
        assert_eq!(supervisor.statuses()["one"].start_error, None);
    }
}
