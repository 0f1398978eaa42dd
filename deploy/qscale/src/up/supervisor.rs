//! The processes of one machine: started, restarted when they die, stopped in order. Owns their lives; must not know what they do.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use qscale_common::runtime::clock;

/// How often children are looked after.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Pauses between restarts: short at first, so that the loop recovers within a tick or two, and longer for what keeps dying.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Whoever ran this long starts again from the first pause.
const HEALTHY_AFTER: Duration = Duration::from_secs(20);

/// A process that the system consists of.
#[derive(Debug, Clone)]
pub struct Service {
    /// What it is called; also the name of its log.
    pub name: String,
    /// What runs.
    pub program: PathBuf,
    /// With which arguments.
    pub arguments: Vec<String>,
    /// Environment beside ours.
    pub environment: Vec<(String, String)>,
    /// Where standard error goes, appended.
    pub log: PathBuf,
    /// Where standard output goes, made anew at each start; with the log where absent.
    pub output: Option<PathBuf>,
    /// Whether an end with status 0 is what is expected of it.
    pub ends: bool,
    /// How long it may take to stop before it is killed.
    pub patience: Duration,
}

/// How a service stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It runs.
    Running {
        /// Process id.
        pid: u32,
    },
    /// It died and is about to be started again.
    Restarting,
    /// It ended as it should, with its exit code.
    Ended(i32),
}

/// Status and number of restarts of each service, in the order of their start.
pub type Statuses = BTreeMap<String, (Status, u32)>;

enum Request {
    Start(Box<Service>, Sender<anyhow::Result<()>>),
    StopAll(Sender<()>),
}

/// Keeps services alive. One thread starts them all, as the kernel ends a child with the thread that made it.
#[derive(Debug)]
pub struct Supervisor {
    requests: Sender<Request>,
    statuses: Arc<Mutex<Statuses>>,
    thread: Option<JoinHandle<()>>,
}

impl Supervisor {
    /// A supervisor of nothing yet.
    pub fn new() -> Self {
        let (requests, inbox) = mpsc::channel();
        let statuses = Arc::new(Mutex::new(Statuses::new()));
        let shared = Arc::clone(&statuses);
        let thread = std::thread::Builder::new()
            .name("supervisor".into())
            .spawn(move || Keeper { children: Vec::new(), statuses: shared }.run(&inbox));
        Self { requests, statuses, thread: Some(thread.expect("a thread can be started while the process starts")) }
    }

    /// Starts a service.
    pub fn start(&self, service: Service) -> anyhow::Result<()> {
        let (reply, answer) = mpsc::channel();
        self.send(Request::Start(Box::new(service), reply));
        answer.recv().context("the supervisor ended")?
    }

    /// Stops all services, the last started first.
    pub fn stop_all(&mut self) {
        let (reply, answer) = mpsc::channel();
        self.send(Request::StopAll(reply));
        // An error means that the supervisor ended, and its children with it.
        let _ended = answer.recv();
        if let Some(thread) = self.thread.take() {
            // A panic of the supervisor was reported when it happened.
            let _panicked = thread.join();
        }
    }

    /// How every service stands.
    pub fn statuses(&self) -> Statuses {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn send(&self, request: Request) {
        // An error means that the supervisor ended; the answer that does not come tells it.
        let _ended = self.requests.send(request);
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.stop_all();
        }
    }
}

struct Kept {
    service: Service,
    child: Option<Child>,
    started: Instant,
    start_again: Instant,
    pause: Duration,
    restarts: u32,
    ended: Option<i32>,
}

struct Keeper {
    children: Vec<Kept>,
    statuses: Arc<Mutex<Statuses>>,
}

impl Keeper {
    fn run(mut self, inbox: &Receiver<Request>) {
        loop {
            match inbox.recv_timeout(LOOK_EVERY) {
                Ok(Request::Start(service, reply)) => {
                    let result = self.start(*service);
                    self.report();
                    // Whoever asked may have gone; the child is kept all the same.
                    let _gone = reply.send(result);
                }
                Ok(Request::StopAll(reply)) => {
                    self.children.iter_mut().rev().for_each(stop);
                    self.report();
                    let _gone = reply.send(());
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.children.iter_mut().rev().for_each(stop);
                    return;
                }
            }
            self.look_after();
            self.report();
        }
    }

    fn start(&mut self, service: Service) -> anyhow::Result<()> {
        let child = spawn(&service)?;
        let now = clock::instant();
        let kept = Kept { service, child: Some(child), started: now, start_again: now, pause: FIRST_PAUSE, restarts: 0, ended: None };
        self.children.push(kept);
        Ok(())
    }

    fn look_after(&mut self) {
        for kept in &mut self.children {
            if let Some(child) = &mut kept.child {
                if let Ok(Some(status)) = child.try_wait() {
                    kept.child = None;
                    died(kept, status);
                }
            } else if kept.ended.is_none() && kept.start_again <= clock::instant() {
                kept.started = clock::instant();
                match spawn(&kept.service) {
                    Ok(child) => kept.child = Some(child),
                    Err(_cannot_start) => postpone(kept),
                }
            }
        }
    }

    fn report(&self) {
        let status = |kept: &Kept| match (&kept.child, kept.ended) {
            (Some(child), _) => Status::Running { pid: child.id() },
            (None, Some(code)) => Status::Ended(code),
            (None, None) => Status::Restarting,
        };
        let statuses = self.children.iter().map(|kept| (kept.service.name.clone(), (status(kept), kept.restarts))).collect();
        *self.statuses.lock().unwrap_or_else(PoisonError::into_inner) = statuses;
    }
}

fn died(kept: &mut Kept, status: ExitStatus) {
    match status.code() {
        Some(code) if kept.service.ends => kept.ended = Some(code),
        _ => {
            if clock::since(kept.started) > HEALTHY_AFTER {
                kept.pause = FIRST_PAUSE;
            }
            kept.restarts += 1;
            postpone(kept);
        }
    }
}

fn postpone(kept: &mut Kept) {
    kept.start_again = clock::instant() + kept.pause;
    kept.pause = (kept.pause * 2).min(LONGEST_PAUSE);
}

fn spawn(service: &Service) -> anyhow::Result<Child> {
    let append = |path: &PathBuf| {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        OpenOptions::new().create(true).append(true).open(path).with_context(|| path.display().to_string())
    };
    let log = append(&service.log)?;
    let output = match &service.output {
        Some(path) => std::fs::File::create(path).with_context(|| path.display().to_string())?,
        None => append(&service.log)?,
    };
    let mut command = Command::new(&service.program);
    command.args(&service.arguments).envs(service.environment.iter().cloned()).stdin(Stdio::null()).stdout(output).stderr(log);
    // A group of its own keeps the terminal's Ctrl-C from it: we decide on the order of the stop.
    command.process_group(0);
    // SAFETY: prctl with PR_SET_PDEATHSIG is async-signal-safe and touches no memory of the parent.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        });
    }
    command.spawn().with_context(|| format!("cannot start {} ({})", service.name, service.program.display()))
}

fn stop(kept: &mut Kept) {
    let Some(mut child) = kept.child.take() else {
        kept.ended.get_or_insert(0);
        return;
    };
    signal(&child, libc::SIGTERM);
    let asked = clock::instant();
    let mut status = None;
    while status.is_none() && clock::since(asked) < kept.service.patience {
        status = child.try_wait().ok().flatten();
        if status.is_none() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    if status.is_none() {
        signal(&child, libc::SIGKILL);
        status = child.wait().ok();
    }
    kept.ended = Some(status.and_then(|status| status.code()).unwrap_or(-1));
}

fn signal(child: &Child, signal: i32) {
    // SAFETY: kill takes numbers only, and the child has not been waited for, so its id is still its own.
    unsafe { libc::kill(child.id() as i32, signal) };
}

#[cfg(test)]
mod tests {
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
            patience: Duration::from_secs(10),
        }
    }

    #[test]
    fn a_service_that_dies_is_started_again() {
        let folder = Folder::new("supervisor");
        let mut supervisor = Supervisor::new();
        supervisor.start(shell(&folder, "one", "exec sleep 1000", false)).expect("started");
        let Status::Running { pid } = supervisor.statuses()["one"].0 else { panic!("it was just started") };
        // SAFETY: kill takes numbers only; the process is the child just started.
        unsafe { libc::kill(pid as i32, libc::SIGKILL) };
        eventually("a new process", || match supervisor.statuses()["one"] {
            (Status::Running { pid: new }, 1) if new != pid => Some(()),
            _ => None,
        });
        supervisor.stop_all();
    }

    #[test]
    fn a_service_that_ends_as_it_should_stays_ended() {
        let folder = Folder::new("supervisor");
        let supervisor = Supervisor::new();
        supervisor.start(shell(&folder, "one", "exit 3", true)).expect("started");
        eventually("its end", || (supervisor.statuses()["one"] == (Status::Ended(3), 0)).then_some(()));
    }

    #[test]
    fn services_stop_in_the_reverse_order_of_their_start() {
        let folder = Folder::new("supervisor");
        let trace = folder.path().join("trace");
        let script = |name: &str| {
            format!("trap 'echo {name} >> {0}; exit 0' TERM; echo ready-{name} >> {0}; while :; do sleep 0.02; done", trace.display())
        };
        let mut supervisor = Supervisor::new();
        for name in ["first", "second"] {
            supervisor.start(shell(&folder, name, &script(name), false)).expect("started");
            eventually("the trap to be set", || std::fs::read_to_string(&trace).ok()?.contains(&format!("ready-{name}")).then_some(()));
        }
        supervisor.stop_all();
        let text = std::fs::read_to_string(&trace).expect("the trace was written");
        let order: Vec<_> = text.lines().filter(|line| !line.starts_with("ready")).collect();
        assert_eq!(order, ["second", "first"]);
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let folder = Folder::new("supervisor");
        let supervisor = Supervisor::new();
        let mut service = shell(&folder, "one", "", false);
        service.program = "/no/such/program".into();
        let error = supervisor.start(service).expect_err("there is no such program");
        assert!(format!("{error:#}").contains("/no/such/program"), "{error:#}");
    }
}
