//! Where a running system is: the folder that `qscale up` keeps, or addresses given by hand. Owns that folder's layout.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use qscale_common::runtime::bus::{Bus, BusConfig};
use qscale_common::runtime::nats_permissions::Account;
use qscale_common::runtime::platform::PlatformClient;
use qscale_common::runtime::{clock, http};
use qscale_replay::SettingsFolder;
use rand::RngExt;
use serde::{Deserialize, Serialize};

/// Timeout of requests to servers.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// File of a state folder that holds every user's password.
const CREDENTIALS: &str = "credentials.json";

/// Where the system is.
#[derive(Debug, Clone, Args)]
pub struct Locate {
    /// Folder in which `qscale up` keeps its state
    #[arg(long, global = true, env = "QSCALE_STATE", default_value = ".qscale", value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub state_dir: PathBuf,
    /// Address of the nats-server, where it is not the one of `qscale up`: nats://user:password@host:port
    #[arg(long, global = true, env = "QSCALE_NATS", value_name = "URL", hide_env_values = true)]
    pub nats: Option<String>,
    /// Address of the local platform's API, where it is not the one of `qscale up`
    #[arg(long, global = true, env = "QSCALE_PLATFORM", value_name = "HOST:PORT")]
    pub platform: Option<String>,
}

/// Addresses of a system that is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// The nats-server, `nats://127.0.0.1:4222`.
    pub nats: String,
    /// API of the local platform, `127.0.0.1:8701`.
    pub platform: String,
    /// The gateway, `127.0.0.1:8700`.
    pub gateway: String,
    /// Health and metrics of each service, by name.
    pub health: BTreeMap<String, String>,
    /// Process that runs the system.
    pub pid: u32,
    /// How fast it lives, where that is not real time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<String>,
}

/// The folder of one system.
#[derive(Debug, Clone)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// The folder at `path`.
    pub fn new(path: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("--state-dir {}: cannot be made", path.display()))?;
        Ok(Self(path.canonicalize().with_context(|| format!("--state-dir {}", path.display()))?))
    }

    /// A file or folder within.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The log of a service.
    pub fn log(&self, service: &str) -> PathBuf {
        self.0.join("logs").join(format!("{service}.log"))
    }

    /// Holds every other command off the credentials for as long as the file that it returns is open, so that none writes over what another wrote.
    pub fn lock_credentials(&self) -> anyhow::Result<File> {
        let path = self.join("credentials.lock");
        let lock = File::create(&path).with_context(|| path.display().to_string())?;
        lock.lock().with_context(|| path.display().to_string())?;
        Ok(lock)
    }

    /// The passwords of all users, `agents` included; those that are missing are drawn.
    pub fn passwords(&self, agents: &[qscale_common::name::Name]) -> anyhow::Result<BTreeMap<String, String>> {
        let mut passwords = self.known_passwords()?;
        for account in Account::all(agents.iter().cloned()) {
            passwords.entry(account.user()).or_insert_with(new_password);
        }
        write_private(&self.join(CREDENTIALS), &serde_json::to_vec_pretty(&passwords)?)?;
        for (user, password) in &passwords {
            write_private(&self.password_file(user), password.as_bytes())?;
        }
        Ok(passwords)
    }

    /// The passwords that were drawn so far, by user.
    pub fn known_passwords(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let path = self.join(CREDENTIALS);
        match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).with_context(|| format!("{}: delete it to have new credentials made", path.display()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    /// Forgets the password of `user` and returns the others; `None` where there was none.
    pub fn forget(&self, user: &str) -> anyhow::Result<Option<BTreeMap<String, String>>> {
        let mut passwords = self.known_passwords()?;
        if passwords.remove(user).is_none() {
            return Ok(None);
        }
        write_private(&self.join(CREDENTIALS), &serde_json::to_vec_pretty(&passwords)?)?;
        // The file is a copy, made anew from what was just written.
        let _absent = fs::remove_file(self.password_file(user));
        Ok(Some(passwords))
    }

    /// File that holds one user's password, for the configuration of a service.
    pub fn password_file(&self, user: &str) -> PathBuf {
        self.0.join("credentials").join(user)
    }

    /// Addresses of the system that is up here.
    pub fn addresses(&self) -> anyhow::Result<Addresses> {
        let path = self.join("addresses.json");
        let bytes = fs::read(&path)
            .with_context(|| format!("no system is up in {}; start one with `qscale up`, or name one with --nats", self.0.display()))?;
        serde_json::from_slice(&bytes).with_context(|| path.display().to_string())
    }
}

/// The nats-server: named by `NATS_SERVER_BIN`, brought by `make tools`, or on the PATH.
pub fn find_nats_server() -> Option<PathBuf> {
    let named = std::env::var_os("NATS_SERVER_BIN").map(PathBuf::from);
    let own = std::env::current_exe().unwrap_or_default();
    let brought = own.ancestors().map(|folder| folder.join(".tools/nats/bin/nats-server"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<_> = std::env::split_paths(&path).map(|folder| folder.join("nats-server")).collect();
    named.into_iter().chain(brought).chain(on_path).find(|candidate| candidate.is_file())
}

/// Writes a file that only its owner may read, whole or not at all.
pub fn write_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let folder = path.parent().context("a file within the state folder has a parent")?;
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let temporary = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .with_context(|| temporary.display().to_string())?;
    file.write_all(content).with_context(|| temporary.display().to_string())?;
    fs::rename(&temporary, path).with_context(|| path.display().to_string())
}

#[expect(clippy::disallowed_methods, reason = "passwords are drawn from the system's generator")]
fn new_password() -> String {
    let mut rng = rand::rng();
    (0..32).map(|_| char::from(rng.sample(rand::distr::Alphanumeric))).collect()
}

impl Locate {
    /// The state folder of a system that is, or was, up.
    pub fn state(&self) -> anyhow::Result<StateDir> {
        anyhow::ensure!(
            self.state_dir.is_dir(),
            "no system is up in {}; start one with `qscale up`, or name one with --nats",
            self.state_dir.display()
        );
        StateDir::new(&self.state_dir)
    }

    /// Has this process live as fast as the system that is up, so that both mean the same by an age.
    pub fn follow_clock(&self) -> anyhow::Result<()> {
        if self.nats.is_some() || !self.state_dir.is_dir() {
            return Ok(());
        }
        // Without a system there is no clock to follow; whoever needs one says so.
        let Ok(addresses) = self.state().and_then(|state| state.addresses()) else { return Ok(()) };
        if let Some(text) = addresses.clock {
            clock::follow(
                text.parse().map_err(|error: String| anyhow::anyhow!("{}/addresses.json: clock: {error}", self.state_dir.display()))?,
            );
        }
        Ok(())
    }

    /// Configurations of the agents of the system in the state folder.
    pub fn agent_settings(&self) -> SettingsFolder {
        SettingsFolder(self.nats.is_none().then(|| self.state_dir.join("config")))
    }

    /// How the operator reaches the bus.
    pub fn bus_config(&self) -> anyhow::Result<BusConfig> {
        if let Some(url) = &self.nats {
            return split_url(url);
        }
        let state = self.state()?;
        let url = state.addresses()?.nats;
        Ok(BusConfig { url, user: "operator".into(), password: String::new(), password_file: Some(state.password_file("operator")) })
    }

    /// Connects to the bus as operator.
    pub async fn bus(&self) -> anyhow::Result<Bus> {
        let client = self.bus_config()?.connect_once("qscale", ANSWER_WITHIN).await?;
        qscale_common::runtime::provision::check_server(&client)?;
        Ok(Bus::of_client(client, "/qscale/operator"))
    }

    /// The local platform's API.
    pub fn platform(&self) -> anyhow::Result<PlatformClient> {
        let address = match &self.platform {
            Some(address) => address.clone(),
            None => self.state()?.addresses()?.platform,
        };
        PlatformClient::new(&address).with_context(|| format!("platform {address}"))
    }
}

/// Readiness conditions that the service with the health endpoint `address` reports; `None` if it does not answer.
pub async fn conditions(address: &str) -> Option<BTreeMap<String, bool>> {
    let (_, body) = http::get(address, "/readyz", ANSWER_WITHIN).await.ok()?;
    serde_json::from_str(&body).ok()
}

/// Takes user and password out of an address, where they stand in it.
fn split_url(url: &str) -> anyhow::Result<BusConfig> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
    let Some((credentials, host)) = rest.rsplit_once('@') else {
        return Ok(BusConfig { url: format!("{scheme}://{rest}"), ..Default::default() });
    };
    let (user, password) = credentials.split_once(':').context("--nats: write user and password as nats://user:password@host:port")?;
    Ok(BusConfig { url: format!("{scheme}://{host}"), user: user.into(), password: password.into(), password_file: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_taken_out_of_the_address() {
        let config = split_url("nats://operator:a@b@127.0.0.1:4222").expect("valid");
        assert_eq!((config.url.as_str(), config.user.as_str(), config.password.as_str()), ("nats://127.0.0.1:4222", "operator", "a@b"));
        assert_eq!(split_url("127.0.0.1:4222").expect("valid").url, "nats://127.0.0.1:4222");
        assert!(split_url("nats://operator@host").is_err());
    }
}
