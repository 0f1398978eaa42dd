//! The state folder of one system: addresses, credentials, logs. Owns the layout of the folder; must not start anything.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use qscale_common::name::Name;
use qscale_common::runtime::bus::BusConfig;
use qscale_common::runtime::files::{MAX_DOCUMENT, read_text};
use qscale_common::runtime::health::Condition;
use qscale_common::runtime::lock::{self, FileLock};
use qscale_common::runtime::nats_accounts::User;
use qscale_common::runtime::platform::PlatformClient;
use qscale_common::runtime::platform::token::TOKEN_FILE;
use qscale_common::runtime::signature::{SigningKey, TrustConfig};
use qscale_common::runtime::{http, private};
use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::options::BackendKind;

/// Longest wait for a health endpoint.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Longest wait for the lock on the credentials.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// File of a state folder that holds every user's password.
const CREDENTIALS: &str = "credentials.json";
/// Folder of a state folder with the seeds of the keys that sign.
const KEYS: &str = "keys";

/// Address of the platform where there is none on this machine.
pub(crate) const NO_PLATFORM: &str = "none: a Kubernetes cluster";

/// Addresses of a running system.
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
    /// Process of `qscale up`.
    pub pid: u32,
    /// Speed and origin of its clock, if it is not real time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<String>,
    /// Keys of which one must have signed policies and models, if signatures are required.
    #[serde(default)]
    pub trust: SystemTrust,
}

impl Addresses {
    /// Whether there is a platform with the API of Qscale: a cluster has its own.
    #[must_use]
    pub fn has_platform(&self) -> bool {
        self.platform != NO_PLATFORM
    }
}

/// Keys that a system trusts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SystemTrust {
    /// Keys of ScalingPolicies.
    pub policies: TrustConfig,
    /// Keys of models.
    pub models: TrustConfig,
}

/// The folder of one system.
#[derive(Debug, Clone)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// The folder at `path`, created if it is missing, and accessible to this user alone.
    ///
    /// # Errors
    /// When it cannot be created, or belongs to another user or to other uses.
    pub fn new(path: &Path) -> anyhow::Result<Self> {
        private::folder(path).map(Self).with_context(|| format!("--state-dir {}", path.display()))
    }

    /// The existing folder at `path`, to read from it. Nothing is changed.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        Ok(Self(path.canonicalize().with_context(|| format!("--state-dir {}", path.display()))?))
    }

    /// A file or folder within.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Process of the nats-server of this folder; a stale process number, possibly reused, is ignored.
    pub fn nats_server(&self) -> Option<u32> {
        let pid: u32 = read_text(&self.join("nats/nats.pid"), MAX_DOCUMENT).ok()?.trim().parse().ok()?;
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        // The path of its configuration.
        let in_folder = |argument: &[u8]| Path::new(&*String::from_utf8_lossy(argument)).starts_with(self.join("nats"));
        (pid > 1 && arguments.split(|byte| *byte == 0).any(in_folder)).then_some(pid)
    }

    /// The log of a service.
    pub fn log(&self, service: &str) -> PathBuf {
        self.0.join("logs").join(format!("{service}.log"))
    }

    /// Locks the credentials against other commands until the result is dropped. Waits while another command holds the lock.
    ///
    /// # Errors
    /// When the lock is not released within 10 s; names the process that holds it.
    pub async fn lock_credentials(&self) -> anyhow::Result<FileLock> {
        lock::wait(&self.join("credentials.lock"), LOCK_TIMEOUT).await
    }

    /// The passwords of all users, `agents` included; missing ones are generated.
    ///
    /// # Errors
    /// When the credentials cannot be read or written.
    pub fn passwords<'a>(&self, agents: impl IntoIterator<Item = &'a Name>) -> anyhow::Result<BTreeMap<String, String>> {
        let mut passwords = self.known_passwords()?;
        for user in User::all(agents.into_iter().cloned()) {
            passwords.entry(user.name()).or_insert_with(new_password);
        }
        private::write(&self.join(CREDENTIALS), &serde_json::to_vec_pretty(&passwords)?)?;
        for (user, password) in &passwords {
            private::write(&self.password_file(user), password.as_bytes())?;
        }
        Ok(passwords)
    }

    /// The passwords generated so far, by user.
    ///
    /// # Errors
    /// When the credentials cannot be read.
    pub fn known_passwords(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let path = self.join(CREDENTIALS);
        let Some(text) = private::read(&path)? else { return Ok(BTreeMap::new()) };
        serde_json::from_str(&text).with_context(|| format!("{}: invalid; delete it to generate new credentials", path.display()))
    }

    /// Deletes the password of `user` and returns the others; `None` if there was none.
    ///
    /// # Errors
    /// When the credentials cannot be read or written.
    pub fn forget(&self, user: &str) -> anyhow::Result<Option<BTreeMap<String, String>>> {
        let mut passwords = self.known_passwords()?;
        if passwords.remove(user).is_none() {
            return Ok(None);
        }
        private::write(&self.join(CREDENTIALS), &serde_json::to_vec_pretty(&passwords)?)?;
        // A copy; it is written again from the credentials.
        let _absent = fs::remove_file(self.password_file(user));
        Ok(Some(passwords))
    }

    /// File that holds one user's password, for the configuration of a service.
    pub fn password_file(&self, user: &str) -> PathBuf {
        self.0.join("credentials").join(user)
    }

    /// File that holds the seed of the key with which `user` signs. It exists once signatures were required.
    pub fn signing_key_file(&self, user: &User) -> PathBuf {
        self.join(KEYS).join(user.name())
    }

    /// The key with which `user` signs, if it was made.
    ///
    /// # Errors
    /// When the file of the key cannot be read.
    pub fn signing_key(&self, user: &User) -> anyhow::Result<Option<SigningKey>> {
        let path = self.signing_key_file(user);
        path.exists().then(|| SigningKey::read(&path)).transpose()
    }

    /// Trust in the keys of this folder: policies by the operator, models by operator and promoter. Missing keys are made.
    ///
    /// # Errors
    /// When a key cannot be read or written.
    pub fn own_trust(&self) -> anyhow::Result<SystemTrust> {
        private::folder(&self.join(KEYS))?;
        let public = |user: &User| {
            let key = match self.signing_key(user)? {
                Some(key) => key,
                None => SigningKey::create(&self.signing_key_file(user))?,
            };
            anyhow::Ok(key.public_key())
        };
        let (operator, promoter) = (public(&User::Operator)?, public(&User::Promoter)?);
        Ok(SystemTrust { policies: TrustConfig::of([operator.clone()]), models: TrustConfig::of([operator, promoter]) })
    }

    /// Client of the platform of this folder, whose API is at one of `addresses`.
    ///
    /// # Errors
    /// When the address is invalid.
    pub fn platform(&self, addresses: &Addresses) -> anyhow::Result<PlatformClient> {
        let client = PlatformClient::new(&addresses.platform).with_context(|| self.join("addresses.json").display().to_string())?;
        Ok(client.with_token_file(self.platform_token()))
    }

    /// File that holds the token of the platform's API.
    pub fn platform_token(&self) -> PathBuf {
        self.platform_folder().join(TOKEN_FILE)
    }

    /// State folder of the platform.
    pub fn platform_folder(&self) -> PathBuf {
        self.join("platform")
    }

    /// Settings with which `user` connects to the nats-server at `url`.
    pub fn bus_config(&self, url: &str, user: &str) -> BusConfig {
        BusConfig { url: url.to_owned(), user: user.to_owned(), password_file: Some(self.password_file(user)), ..BusConfig::default() }
    }

    /// Folder of the streams. Simulated worlds have their own, because their time is not that of this machine.
    pub fn store(&self, backend: BackendKind) -> PathBuf {
        self.join(match backend {
            BackendKind::Local => "nats/store",
            BackendKind::Sim => "nats/simulated",
            BackendKind::Kubernetes => "nats/cluster",
        })
    }

    /// The folder of the streams of an earlier start, or that of real functions.
    pub fn existing_store(&self) -> PathBuf {
        let stores = [BackendKind::Local, BackendKind::Kubernetes, BackendKind::Sim].map(|backend| self.store(backend));
        stores.iter().find(|store| store.is_dir()).unwrap_or(&stores[0]).clone()
    }

    /// Addresses of the system that runs in this folder.
    ///
    /// # Errors
    /// When none runs.
    pub fn addresses(&self) -> anyhow::Result<Addresses> {
        let path = self.join("addresses.json");
        let text = read_text(&path, MAX_DOCUMENT)
            .with_context(|| format!("no system runs in {}; start one with `qscale up`, or pass --nats", self.0.display()))?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }
}

/// The nats-server: `NATS_SERVER_BIN`, the one that `make tools` installed, or one on the PATH.
pub fn find_nats_server() -> Option<PathBuf> {
    let named = std::env::var_os("NATS_SERVER_BIN").map(PathBuf::from);
    let own = std::env::current_exe().unwrap_or_default();
    let installed = own.ancestors().map(|folder| folder.join(".tools/nats/bin/nats-server"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<_> = std::env::split_paths(&path).map(|folder| folder.join("nats-server")).collect();
    named.into_iter().chain(installed).chain(on_path).find(|candidate| candidate.is_file())
}

#[expect(clippy::disallowed_methods, reason = "passwords need the system's random generator")]
fn new_password() -> String {
    let mut rng = rand::rng();
    (0..32).map(|_| char::from(rng.sample(rand::distr::Alphanumeric))).collect()
}

/// The readiness conditions of the service whose health endpoint is at `address`; `None` if it does not answer.
pub async fn conditions(address: &str) -> Option<BTreeMap<String, Condition>> {
    let (_, body) = http::get(address, "/readyz", ANSWER_WITHIN).await.ok()?;
    serde_json::from_str(&body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_process_number_is_ignored() {
        let folder = qscale_tests::Folder::new("agent");
        let state = StateDir::new(folder.path()).expect("a folder");
        assert_eq!(state.nats_server(), None);
        private::write(&state.join("nats/nats.pid"), std::process::id().to_string().as_bytes()).expect("written");
        assert_eq!(state.nats_server(), None, "this test is not a nats-server");
        let other = folder.path().join("nats-server");
        std::os::unix::fs::symlink("/bin/sleep", &other).expect("linked");
        let mut other = std::process::Command::new(other).arg("1000").spawn().expect("started");
        private::write(&state.join("nats/nats.pid"), other.id().to_string().as_bytes()).expect("written");
        let found = state.nats_server();
        other.kill().and_then(|()| other.wait()).expect("ended");
        assert_eq!(found, None, "another nats-server got the process number");
    }
}
