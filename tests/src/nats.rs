//! A real nats-server for a test, with its own port and store, stopped when dropped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use qscale_common::name::Name;
use qscale_common::runtime::bus::{Bus, BusConfig};
use qscale_common::runtime::nats_accounts::{self, User};
use tokio_util::sync::CancellationToken;

use crate::{Folder, Program, eventually, process, repository};

/// The user of [`NatsServer::start_observed`].
const OBSERVER: &str = "observer";

/// A running nats-server with JetStream.
#[derive(Debug)]
pub struct NatsServer {
    // Dropped before the folder that it writes to.
    program: Option<Program>,
    folder: Folder,
    port: u16,
    passwords: BTreeMap<String, String>,
}

/// Path of nats-server: `NATS_SERVER_BIN`, the one installed by `make tools`, or the one on the PATH.
///
/// # Panics
/// When there is none; tests with NATS are never skipped.
#[must_use]
pub fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("NATS_SERVER_BIN") {
        return path.into();
    }
    let installed = repository().join(".tools/nats/bin/nats-server");
    if installed.is_file() {
        return installed;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join("nats-server"))
        .find(|candidate| candidate.is_file())
        .expect("a nats-server: run `make tools`, put one on the PATH, or set NATS_SERVER_BIN to its path")
}

impl NatsServer {
    /// Starts a server without access control.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(BTreeMap::new())
    }

    /// Starts a server with accounts for the services and for `agents`.
    ///
    /// # Panics
    /// When the server does not start.
    #[must_use]
    pub fn start_with_accounts(agents: &[&str]) -> Self {
        Self::start_with(passwords(agents))
    }

    /// Starts a server with accounts and a user `observer`, who may read and write everything in the account of the services.
    ///
    /// # Panics
    /// When the server does not start.
    #[must_use]
    pub fn start_observed(agents: &[&str]) -> Self {
        let mut passwords = passwords(agents);
        passwords.insert(OBSERVER.to_owned(), "password of observer".to_owned());
        Self::start_with(passwords)
    }

    fn start_with(passwords: BTreeMap<String, String>) -> Self {
        let mut server = Self { program: None, folder: Folder::new("nats"), port: 0, passwords };
        server.launch();
        server
    }

    fn launch(&mut self) {
        let folder = self.folder.path();
        let mut command = Command::new(program());
        let port = if self.port == 0 { "-1".into() } else { self.port.to_string() };
        command.args(["-a", "127.0.0.1", "-p", &port, "-js", "-sd"]).arg(folder.join("store"));
        command.arg("--ports_file_dir").arg(folder);
        if !self.passwords.is_empty() {
            let configuration = folder.join("nats.conf");
            let mut passwords = self.passwords.clone();
            let observer = passwords.remove(OBSERVER).map(|password| format!("users: [ {{ user: {OBSERVER}, password: {password:?} }}"));
            let mut text = nats_accounts::accounts(&passwords).expect("users are those of accounts");
            if let Some(observer) = observer {
                // The account of the services comes first.
                text = text.replacen("users: [", &observer, 1);
            }
            std::fs::write(&configuration, text).expect("the configuration can be written");
            command.arg("-c").arg(configuration);
        }
        self.program = Some(Program::spawn(command, &self.log()));
        self.port = eventually("nats-server to listen", || listening_port(folder));
    }

    /// Kills the server, like a crash.
    pub fn kill(&mut self) {
        if let Some(mut program) = self.program.take() {
            program.kill();
        }
        for file in port_files(self.folder.path()) {
            // The next server writes its own file.
            let _gone = std::fs::remove_file(file);
        }
    }

    /// Restarts it after [`NatsServer::kill`], with the same port and store.
    pub fn restart(&mut self) {
        self.launch();
    }

    /// Address of the server.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Connection settings of `user`; any name works without accounts.
    #[must_use]
    pub fn config(&self, user: &str) -> BusConfig {
        match self.passwords.get(user) {
            Some(password) => BusConfig { url: self.url(), user: user.into(), password: password.clone(), ..BusConfig::default() },
            None => BusConfig { url: self.url(), ..Default::default() },
        }
    }

    /// Creates streams, buckets and the streams of the agents with an account.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn provision(&self) {
        self.provision_for(&nats_accounts::agents(self.passwords.keys())).await;
    }

    /// Answers the reads of agents, as a collector does, until the test ends.
    ///
    /// # Panics
    /// When the server does not answer.
    pub async fn answer_reads(&self) {
        let config = self.config("collector");
        let client = config.connect_once("reads", crate::TIMEOUT).await.expect("the server answers");
        let mut listed = Bus::of_client(client, "/qscale/collector/test").answer_reads(&config, CancellationToken::new());
        let listed = tokio::time::timeout(crate::TIMEOUT, listed.wait_for(|listed| *listed)).await;
        assert!(matches!(listed, Ok(Ok(_))), "the agents are listed");
    }

    /// Creates streams, buckets and the streams of `agents`.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn provision_for(&self, agents: &[Name]) {
        let client = self.config("setup").connect_once("setup", crate::TIMEOUT).await.expect("the server answers");
        let jetstream = async_nats::jetstream::new(client);
        qscale_common::runtime::provision::ensure(&jetstream, agents).await.expect("streams and buckets can be created");
    }

    /// Process of the server.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.program.as_ref().expect("it runs").id()
    }

    /// Path of the server's log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("nats.log")
    }

    /// The end of the server's log.
    #[must_use]
    pub fn tail(&self) -> String {
        process::tail(&self.log())
    }
}

/// A password for each service and each of `agents`.
fn passwords(agents: &[&str]) -> BTreeMap<String, String> {
    let agents = agents.iter().map(|agent| Name::new(*agent).expect("valid agent names"));
    User::all(agents).iter().map(|user| (user.name(), format!("password of {}", user.name()))).collect()
}

fn port_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|ending| ending == "ports")).collect()
}

/// Port of the nats-server that writes its ports file to `folder`.
#[must_use]
pub fn listening_port(folder: &Path) -> Option<u16> {
    let text = std::fs::read_to_string(port_files(folder).first()?).ok()?;
    let ports: serde_json::Value = serde_json::from_str(&text).ok()?;
    ports["nats"][0].as_str()?.rsplit(':').next()?.parse().ok()
}
