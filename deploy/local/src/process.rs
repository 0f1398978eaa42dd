//! Processes. Owns the thread that forks and the steps between fork and exec; must not know replicas.
//!
//! The kernel kills a child when the thread that forked it ends (`PR_SET_PDEATHSIG`), so one thread that lives as long
//! as the platform forks all of them.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::sandbox::{Confinement, Executable};

/// A process to start.
#[derive(Debug)]
pub struct Launch {
    /// Name or path of the program.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Environment variables, besides the search path, language and time zone of the platform.
    pub environment: Vec<(OsString, OsString)>,
    /// Folder to start in.
    pub working_directory: Option<PathBuf>,
    /// `cgroup.procs` files, open for writing, that the process enters before it runs the program.
    pub cgroups: Vec<std::fs::File>,
    /// Restrictions of the process.
    pub confinement: Arc<Confinement>,
}

/// A running process, the leader of its own session and process group. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pid: u32,
}

/// Capacity of the queue to the thread. Callers wait while it is full.
const QUEUE_LENGTH: usize = 64;

/// The thread that starts processes.
#[derive(Debug, Clone)]
pub struct Spawner(mpsc::Sender<LaunchOrder>);

#[derive(Debug)]
struct LaunchOrder {
    launch: Launch,
    reply: oneshot::Sender<io::Result<(Process, pipe::Receiver)>>,
}

impl Spawner {
    /// Starts the thread. It ends when the last clone of the spawner is dropped.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(runtime: Handle) -> io::Result<Self> {
        let (sender, mut orders) = mpsc::channel::<LaunchOrder>(QUEUE_LENGTH);
        std::thread::Builder::new().name("spawner".to_owned()).spawn(move || {
            let _context = runtime.enter();
            while let Some(LaunchOrder { launch, reply }) = orders.blocking_recv() {
                // A receiver that is gone drops the process, which kills it.
                drop(reply.send(spawn(launch)));
            }
        })?;
        Ok(Self(sender))
    }

    /// Starts a process. The pipe carries its standard output and error, in order.
    ///
    /// # Errors
    /// When it cannot be forked, cannot enter its cgroups or the program cannot be run.
    pub async fn spawn(&self, launch: Launch) -> io::Result<(Process, pipe::Receiver)> {
        let (reply, started) = oneshot::channel();
        let gone = || io::Error::other("the platform is stopping");
        self.0.send(LaunchOrder { launch, reply }).await.map_err(|_| gone())?;
        started.await.map_err(|_| gone())?
    }
}

fn spawn(launch: Launch) -> io::Result<(Process, pipe::Receiver)> {
    let (output, input) = io::pipe()?;
    let inherited: Vec<_> = std::env::vars_os().filter(|(key, _)| is_inherited(key)).collect();
    let path = launch.environment.iter().chain(&inherited).find(|(key, _)| key == "PATH").map(|(_, value)| value.clone());
    let program = Executable::find(&launch.program, &path.unwrap_or_default(), launch.working_directory.as_deref());
    let mut command = Command::new(program.path());
    command.arg0(&launch.program).args(&launch.arguments);
    command.stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input).kill_on_drop(true);
    command.env_clear().envs(inherited).envs(launch.environment);
    if let Some(folder) = launch.working_directory {
        command.current_dir(folder);
    }
    let (cgroups, confinement, script) = (launch.cgroups, launch.confinement, program.script());
    // SAFETY: getpid only reads; it cannot fail.
    let parent = unsafe { libc::getpid() };
    // SAFETY: between fork and exec the closure makes system calls only; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(move || prepare(parent, &cgroups, &confinement, script)) };
    let child = command.spawn()?;
    let pid = child.id().ok_or_else(|| io::Error::other("a process that was just started has no id"))?;
    Ok((Process { child, pid }, pipe::Receiver::from_owned_fd(output.into())?))
}

/// Whether functions have the variable `key` of the platform. Others may hold secrets.
fn is_inherited(key: &OsStr) -> bool {
    ["PATH", "LANG", "LANGUAGE", "TZ"].iter().any(|name| key == *name) || key.as_encoded_bytes().starts_with(b"LC_")
}

/// Runs in the new process before the program does.
fn prepare(parent: libc::pid_t, cgroups: &[std::fs::File], confinement: &Confinement, script: Option<i32>) -> io::Result<()> {
    crate::cgroup::enter(cgroups)?;
    // A session of its own has no terminal, to which a function could type.
    // SAFETY: the call takes nothing.
    if unsafe { libc::setsid() } < 0 {
        return Err(io::Error::last_os_error());
    }
    confinement.enter(script)?;
    // After the change of the user, which clears it.
    // SAFETY: both calls take plain integers.
    let orphaned = unsafe {
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
            return Err(io::Error::last_os_error());
        }
        libc::getppid() != parent
    };
    // The platform ended before PR_SET_PDEATHSIG was set.
    if orphaned { Err(io::Error::from_raw_os_error(libc::ESRCH)) } else { Ok(()) }
}

impl Process {
    /// Process id, equal to the process group id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until the process ends.
    ///
    /// # Errors
    /// When the kernel no longer knows the process.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Sends `signal` to every process of the group. Ignored if the group is gone.
    pub fn signal_group(&self, signal: i32) {
        let Ok(group) = libc::pid_t::try_from(self.pid) else { return };
        // SAFETY: kill takes plain integers.
        unsafe { libc::kill(-group, signal) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    fn shell(script: &str) -> Launch {
        Launch {
            program: "sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: vec![("GREETING".into(), "hello".into())],
            working_directory: Some("/".into()),
            cgroups: Vec::new(),
            confinement: Arc::default(),
        }
    }

    #[tokio::test]
    async fn a_process_has_its_environment_folder_group_and_one_output() {
        let spawner = Spawner::start(Handle::current()).expect("thread");
        let script = "echo $GREETING; pwd >&2; cut -d' ' -f5 /proc/$$/stat";
        let (mut process, mut output) = spawner.spawn(shell(script)).await.expect("sh");
        let mut text = String::new();
        output.read_to_string(&mut text).await.expect("utf-8");
        assert_eq!(text, format!("hello\n/\n{}\n", process.pid()));
        assert!(process.ended().await.expect("waited").success());
    }

    #[tokio::test]
    async fn a_program_that_does_not_exist_is_an_error() {
        let spawner = Spawner::start(Handle::current()).expect("thread");
        let launch = Launch { program: "/no/such/program".into(), ..shell("") };
        assert_eq!(spawner.spawn(launch).await.expect_err("missing").kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_signal_reaches_the_whole_group() {
        let spawner = Spawner::start(Handle::current()).expect("thread");
        let (mut process, mut output) = spawner.spawn(shell("sleep 1000 & echo started; wait")).await.expect("sh");
        let mut started = [0; 8];
        output.read_exact(&mut started).await.expect("started");
        process.signal_group(libc::SIGKILL);
        assert!(!process.ended().await.expect("waited").success());
        // The pipe ends only when the background child has closed it, too.
        assert_eq!(output.read(&mut started).await.expect("end"), 0);
    }
}
