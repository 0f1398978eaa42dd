//! The bus of an installation without a state folder, as in a cluster: passwords from a folder with a file for each user, streams and buckets. Owns the
//! form of that folder, and when missing streams are created; accounts and limits belong to `qscale_common::runtime`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream;
use futures::TryStreamExt as _;
use qscale_common::name::Name;
use qscale_common::runtime::bus::BusConfig;
use qscale_common::runtime::files::read_text;
use qscale_common::runtime::nats_accounts::{self, User};
use qscale_common::runtime::provision;

/// Longest wait for the nats-server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest password, bytes.
const MAX_PASSWORD: u64 = 4096;

/// Passwords by user, from a folder with a file for each user, such as `collector` and `agent-dqn`, as a mounted Secret has. Files whose name begins with
/// a dot are not read.
///
/// # Errors
/// When a file cannot be read, is empty or belongs to no user, or a service has none.
pub fn passwords(folder: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let mut passwords = BTreeMap::new();
    for entry in fs::read_dir(folder).with_context(|| format!("folder {}", folder.display()))? {
        let path = entry?.path();
        let Some(user) = path.file_name().and_then(|name| name.to_str()).filter(|name| !name.starts_with('.')) else { continue };
        User::of_name(user).with_context(|| format!("{}: name a file after its user, such as collector or agent-dqn", path.display()))?;
        let password = read_text(&path, MAX_PASSWORD)?.trim().to_owned();
        anyhow::ensure!(!password.is_empty(), "{} is empty; write the password of user {user}", path.display());
        passwords.insert(user.to_owned(), password);
    }
    let missing: Vec<String> = User::SERVICES.iter().map(User::name).filter(|user| !passwords.contains_key(user)).collect();
    anyhow::ensure!(missing.is_empty(), "{} has no password of {}; add a file for each", folder.display(), missing.join(", "));
    Ok(passwords)
}

/// The connection that may create streams, with the password of `passwords`.
fn setup(url: &str, passwords: &BTreeMap<String, String>) -> BusConfig {
    let user = User::Setup.name();
    let password = passwords.get(&user).cloned().unwrap_or_default();
    BusConfig { url: url.to_owned(), user, password, ..BusConfig::default() }
}

/// Streams and buckets of one nats-server, for the agents that have a password.
#[derive(Debug)]
pub struct Provisioning {
    config: BusConfig,
    agents: Vec<Name>,
    connected: Option<jetstream::Context>,
}

impl Provisioning {
    /// The streams for the users of `passwords` at `url`.
    #[must_use]
    pub fn new(url: &str, passwords: &BTreeMap<String, String>) -> Self {
        Self { config: setup(url, passwords), agents: nats_accounts::agents(passwords.keys()), connected: None }
    }

    /// Creates missing streams and buckets; returns their names. With the first call it also updates existing ones and deletes the Actions of agents without
    /// a password.
    ///
    /// # Errors
    /// When the nats-server does not answer, is too old, or refuses.
    pub async fn ensure(&mut self) -> anyhow::Result<Vec<String>> {
        let first = self.connected.is_none();
        let context = match &self.connected {
            Some(context) => context.clone(),
            None => jetstream::new(self.config.connect_once("qscale-bus", CONNECT_TIMEOUT).await?),
        };
        let present: Vec<String> = context.stream_names().try_collect().await.context("failed to list the streams")?;
        let expected = provision::storage(&self.agents).into_iter().map(|(name, _)| name);
        let missing: Vec<String> = expected.filter(|name| !present.contains(name)).collect();
        if first || !missing.is_empty() {
            provision::ensure(&context, &self.agents).await.context("failed to create streams and buckets")?;
        }
        if first {
            provision::remove_other_agents(&context, &self.agents).await?;
        }
        self.connected = Some(context);
        Ok(missing)
    }
}

#[cfg(test)]
mod tests {
    use qscale_tests::Folder;

    use super::*;

    fn write(folder: &Folder, users: &[(&str, &str)]) {
        users.iter().for_each(|(user, password)| fs::write(folder.path().join(user), password).expect("written"));
    }

    #[test]
    fn passwords_come_from_a_file_for_each_user() {
        let folder = Folder::new("mounted-credentials");
        let read = || passwords(folder.path()).map_err(|error| format!("{error:#}"));
        write(&folder, &[("collector", "a\n"), ("agent-dqn", "b"), ("..data", "ignored")]);
        let error = read().expect_err("services are missing");
        assert!(error.ends_with("has no password of setup, actuator, loadgen, promoter, operator; add a file for each"), "{error}");
        write(&folder, &[("setup", "c"), ("actuator", "d"), ("loadgen", "e"), ("promoter", "f"), ("operator", "g")]);
        let known = read().expect("complete");
        assert_eq!((known["collector"].as_str(), known["agent-dqn"].as_str(), known.len()), ("a", "b", 7));
        write(&folder, &[("stranger", "h")]);
        assert!(read().expect_err("no such user").contains("stranger: name a file after its user"));
        fs::remove_file(folder.path().join("stranger")).expect("removed");
        write(&folder, &[("agent-hpa", " \n")]);
        assert!(read().expect_err("empty").contains("agent-hpa is empty"));
    }
}
