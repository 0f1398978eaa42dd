//! A whole system, started with `qscale up`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_nats::Client;
use qscale_common::platform::FunctionStatus;
use qscale_common::runtime::bus::{Bus, BusConfig};
use serde_json::Value;

use crate::process::{self, binary, tail};
use crate::{Folder, PATIENCE, Program, eventually, nats};

/// A running system in its own folder.
#[derive(Debug)]
pub struct System {
    // Dropped in this order: the program before its folder, and last the lock.
    program: Program,
    folder: Folder,
    _alone: MutexGuard<'static, ()>,
}

/// Lock for running a whole system: one at a time, because two would compete for the cores.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // A test that panicked with the lock has stopped its system, too.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl System {
    /// Runs `qscale up` with `arguments` and waits until it can be reached.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn up(arguments: &[&str]) -> Self {
        let alone = alone();
        let folder = Folder::new("system");
        let mut command = Command::new(binary("qscale"));
        command
            .arg("up")
            .arg("--plain")
            .args(arguments)
            .env("QSCALE_STATE", folder.path().join("state"))
            .env("NATS_SERVER_BIN", nats::program());
        let program = Program::spawn(command, &folder.path().join("up.log"));
        let mut system = Self { program, folder, _alone: alone };
        eventually("qscale up to be ready", || {
            assert!(system.program.ended().is_none(), "qscale up ended:\n{}", system.tail());
            let log = std::fs::read_to_string(system.folder.path().join("up.log")).ok()?;
            log.contains("[6/6]").then_some(())
        });
        system
    }

    /// Its state folder.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
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
        self.operator().connect_once("test", PATIENCE).await.expect("the server answers")
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
