//! Programs started by tests. They end with the test, even if it panics or is killed.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::eventually;

/// A running program of the workspace.
#[derive(Debug)]
pub struct Program {
    child: Child,
}

/// Path of a binary of the workspace, in the folder of the test binaries or above.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    let found = test.ancestors().map(|folder| folder.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is not built; run `cargo build --workspace --bins` with the profile of the tests"))
}

/// Resident memory of a running process, bytes.
///
/// # Panics
/// When it does not run.
#[must_use]
pub fn resident_bytes(pid: u32) -> u64 {
    let process = procfs::process::Process::new(pid.cast_signed()).expect("it runs");
    process.statm().expect("readable").resident * procfs::page_size()
}

/// User and system CPU time of a running process.
///
/// # Panics
/// When there is no such process.
#[must_use]
pub fn cpu_time(pid: u32) -> Duration {
    let stat = stat(pid).expect("the process runs");
    Duration::from_secs_f64((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64)
}

/// Parent of a process; `None` if it ended.
#[must_use]
pub fn parent(pid: u32) -> Option<u32> {
    u32::try_from(stat(pid)?.ppid).ok()
}

/// Leaves the root folder open as the descriptor `number` in the program of `command`, like a careless parent.
pub fn leave_open(command: &mut Command, number: i32) {
    // SAFETY: between fork and exec the closure makes system calls only.
    unsafe {
        command.pre_exec(move || {
            let folder = libc::open(c"/".as_ptr(), libc::O_RDONLY);
            if libc::dup2(folder, number) == number { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        });
    }
}

fn stat(pid: u32) -> Option<procfs::process::Stat> {
    procfs::process::Process::new(pid.cast_signed()).and_then(|process| process.stat()).ok()
}

impl Program {
    /// Starts `program`; standard error goes to `log`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start<A: AsRef<OsStr>>(program: &Path, arguments: impl IntoIterator<Item = A>, log: &Path) -> Self {
        let mut command = Command::new(program);
        command.args(arguments);
        Self::spawn(command, log)
    }

    /// Starts `command`; standard output and error go to `log`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(mut command: Command, log: &Path) -> Self {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(log).expect("the log can be opened");
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("a file can be shared")).stderr(file);
        // SAFETY: prctl with PR_SET_PDEATHSIG is async-signal-safe and touches no memory of the parent.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            });
        }
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self { child }
    }

    /// Process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: kill takes numbers only, and the child has not been waited for, so its id is still its own.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    /// Kills it, like a crash.
    pub fn kill(&mut self) {
        self.signal(libc::SIGKILL);
        self.wait();
    }

    /// Asks it to end and waits for the end.
    ///
    /// # Panics
    /// When the program does not end.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.wait()
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// When the program does not end.
    pub fn wait(&mut self) -> ExitStatus {
        eventually("the end of a program", || self.child.try_wait().expect("a child can be waited for"))
    }

    /// Exit status; `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(libc::SIGTERM);
            let ended = (0..250).any(|_| {
                std::thread::sleep(std::time::Duration::from_millis(20));
                !matches!(self.child.try_wait(), Ok(None))
            });
            if !ended {
                self.signal(libc::SIGKILL);
                // The child is reaped; its status is not needed.
                let _status = self.child.wait();
            }
        }
    }
}

/// Last lines of a log, for the message of a failing test.
#[must_use]
pub fn tail(log: &Path) -> String {
    let mut text = String::new();
    let read = std::fs::File::open(log).and_then(|mut file| file.read_to_string(&mut text));
    if read.is_err() {
        return format!("(no log at {})", log.display());
    }
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
