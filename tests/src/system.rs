//! A whole system, started with `qscale up`.

use std::ffi::CString;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use async_nats::Client;
use qscale_common::platform::FunctionStatus;
use qscale_common::runtime::bus::{Bus, BusConfig};
use qscale_common::runtime::{clock, http};
use serde_json::Value;

use crate::process::{self, binary, tail};
use crate::{Folder, Program, TIMEOUT, eventually, nats};

/// Time for a start; less than [`TIMEOUT`], so that a failure shows the logs.
const PATIENCE: Duration = Duration::from_secs(55);

/// A running system in its own folder.
#[derive(Debug)]
pub struct System {
    // Dropped in this order: the program before its disk and its folder.
    program: Program,
    arguments: Vec<String>,
    disk: Option<Disk>,
    folder: Folder,
}

impl System {
    /// Runs `qscale up` with `arguments` and waits until it can be reached.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn up(arguments: &[&str]) -> Self {
        Self::up_with(arguments, None, |_| ())
    }

    /// As [`System::up`], with the state folder on a disk of `disk_mib` MiB of its own, and `change` applied to the command.
    ///
    /// # Panics
    /// When it does not start, or the disk cannot be mounted.
    #[must_use]
    pub fn up_with(arguments: &[&str], disk_mib: Option<u32>, change: impl FnOnce(&mut Command)) -> Self {
        let folder = Folder::new("system");
        let disk = disk_mib.map(|mib| Disk::mount(folder.path().join("disk"), mib));
        let state = disk.as_ref().map_or(folder.path(), Disk::path).join("state");
        let mut command = up_command(arguments, &state);
        change(&mut command);
        let program = Program::spawn(command, &folder.path().join("up.log"));
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut system = Self { program, arguments, disk, folder };
        system.until_up();
        system
    }

    /// Stops the system, calls `between` with its state folder, and starts it again.
    ///
    /// # Panics
    /// When it does not stop or start.
    pub fn restart(&mut self, between: impl FnOnce(&Path)) {
        assert!(self.stop(), "{}", self.tail());
        between(&self.state());
        let log = self.folder.path().join("up.log");
        std::fs::remove_file(&log).expect("the log can be removed");
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        self.program = Program::spawn(up_command(&arguments, &self.state()), &log);
        self.until_up();
    }

    fn until_up(&mut self) {
        let began = clock::instant();
        eventually("qscale up to be ready", || {
            assert!(self.program.ended().is_none(), "qscale up ended:\n{}", self.tail());
            assert!(clock::since(began) < PATIENCE, "qscale up is not ready after {PATIENCE:?}:\n{}", self.tail());
            self.printed().contains("[6/6]").then_some(())
        });
    }

    /// Its state folder.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.disk().map_or(self.folder.path(), Disk::path).join("state")
    }

    /// The disk of its state folder, if it has one of its own.
    #[must_use]
    pub fn disk(&self) -> Option<&Disk> {
        self.disk.as_ref()
    }

    /// Everything that `qscale up` printed so far.
    #[must_use]
    pub fn printed(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("up.log")).unwrap_or_default()
    }

    /// Sends `signal` to the service `program`, once it runs; returns its process id.
    ///
    /// # Panics
    /// When the service does not run.
    pub fn signal(&self, program: &str, signal: i32) -> u32 {
        let pid = eventually(program, || self.pid_of(program));
        // SAFETY: kill takes numbers only; the process is a child of the system that this test started.
        unsafe { libc::kill(pid.cast_signed(), signal) };
        pid
    }

    /// Readiness of `service`, such as `agent-threshold`: the conditions, as JSON. Empty if it does not answer.
    ///
    /// # Panics
    /// When the system has no such service.
    pub async fn readiness(&self, service: &str) -> String {
        let address = self.addresses()["health"][service].as_str().unwrap_or_else(|| panic!("no service {service}")).to_owned();
        http::get(&address, "/readyz", TIMEOUT).await.map(|(_, body)| body).unwrap_or_default()
    }

    /// Addresses and process id, as written by `qscale up`.
    ///
    /// # Panics
    /// When they cannot be read.
    #[must_use]
    pub fn addresses(&self) -> Value {
        let text = std::fs::read(self.state().join("addresses.json")).expect("addresses are written before the load starts");
        serde_json::from_slice(&text).expect("addresses are JSON")
    }

    /// Functions of its platform.
    ///
    /// # Panics
    /// When the platform does not answer.
    #[must_use]
    pub fn functions(&self) -> Vec<FunctionStatus> {
        let output = self.qscale(&["function", "list", "--json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("a list of functions")
    }

    /// Runs another command of `qscale` on this system.
    #[must_use]
    pub fn qscale(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(binary("qscale"));
        command.args(arguments).env("QSCALE_STATE", self.state()).env("NATS_SERVER_BIN", nats::program());
        command.output().expect("qscale runs")
    }

    /// Connection settings of an operator.
    #[must_use]
    pub fn operator(&self) -> BusConfig {
        let url = self.addresses()["nats"].as_str().expect("an address").to_owned();
        BusConfig { url, user: "operator".into(), password_file: Some(self.state().join("credentials/operator")), ..BusConfig::default() }
    }

    /// An operator's connection.
    ///
    /// # Panics
    /// When the server does not answer.
    pub async fn client(&self) -> Client {
        self.operator().connect_once("test", TIMEOUT).await.expect("the server answers")
    }

    /// An operator's bus.
    ///
    /// # Panics
    /// When the server does not answer.
    pub async fn bus(&self) -> Bus {
        Bus::of_client(self.client().await, "/qscale/test")
    }

    /// Process id of the service `program`, such as `qscale-agent`; `None` while it is not running.
    #[must_use]
    pub fn pid_of(&self, program: &str) -> Option<u32> {
        children(self.program.id()).into_iter().find(|pid| name(*pid).is_some_and(|name| name == program))
    }

    /// Asks the system to end and waits for the end; returns whether it succeeded.
    pub fn stop(&mut self) -> bool {
        self.program.signal(libc::SIGINT);
        self.program.wait().success()
    }

    /// Whether it succeeded, if it has ended.
    pub fn ended(&mut self) -> Option<bool> {
        self.program.ended().map(|status| status.success())
    }

    /// Last lines of all logs, for the message of a failing test.
    #[must_use]
    pub fn tail(&self) -> String {
        let mut text = format!("--- up\n{}", tail(&self.folder.path().join("up.log")));
        for entry in std::fs::read_dir(self.state().join("logs")).into_iter().flatten().flatten() {
            text += &format!("\n--- {}\n{}", entry.file_name().to_string_lossy(), tail(&entry.path()));
        }
        text
    }
}

fn up_command(arguments: &[&str], state: &Path) -> Command {
    let mut command = Command::new(binary("qscale"));
    command.arg("up").arg("--plain").args(arguments).env("QSCALE_STATE", state).env("NATS_SERVER_BIN", nats::program());
    command
}

/// A disk of its own for a folder, in memory. Unmounted when dropped.
#[derive(Debug)]
pub struct Disk(PathBuf);

impl Disk {
    /// Mounts one of `mib` MiB at `path`, which is created. Only root may.
    ///
    /// # Panics
    /// When it cannot be mounted.
    fn mount(path: PathBuf, mib: u32) -> Self {
        std::fs::create_dir(&path).expect("a folder can be created");
        let target = CString::new(path.as_os_str().as_bytes()).expect("a path has no NUL");
        let options = CString::new(format!("size={mib}m,mode=700")).expect("no NUL");
        // SAFETY: the strings are NUL-terminated and outlive the call.
        let mounted = unsafe { libc::mount(c"tmpfs".as_ptr(), target.as_ptr(), c"tmpfs".as_ptr(), 0, options.as_ptr().cast()) };
        assert_eq!(mounted, 0, "mount: {}", std::io::Error::last_os_error());
        Self(path)
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file until nothing fits any more. [`Disk::free`] removes it.
    ///
    /// # Panics
    /// When it can write without end.
    pub fn fill(&self) {
        let mut file = std::fs::File::create(self.filler()).expect("a file can be created");
        // Smaller and smaller pieces, so that no byte is left.
        for size in [1 << 20, 4096, 1] {
            let piece = vec![0; size];
            while file.write_all(&piece).is_ok() {}
        }
    }

    /// Frees what [`Disk::fill`] took.
    ///
    /// # Panics
    /// When the file cannot be removed.
    pub fn free(&self) {
        std::fs::remove_file(self.filler()).expect("the file can be removed");
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let Ok(target) = CString::new(self.0.as_os_str().as_bytes()) else { return };
        // SAFETY: the string is NUL-terminated and outlives the call. The mount vanishes with its last open file.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    }
}

/// Process ids of the children of `parent`.
#[must_use]
pub fn children(parent: u32) -> Vec<u32> {
    processes().into_iter().filter(|pid| process::parent(*pid) == Some(parent)).collect()
}

/// Process ids of all processes whose command line contains `text`.
#[must_use]
pub fn with_argument(text: &str) -> Vec<u32> {
    let says = |pid: &u32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(text));
    processes().into_iter().filter(says).collect()
}

fn processes() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("/proc can be read").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn name(pid: u32) -> Option<String> {
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    Some(Path::new(&path).file_name()?.to_string_lossy().trim_end_matches(" (deleted)").to_owned())
}
