//! The bus of an installation without a state folder, as in a cluster: passwords from a folder with a file for each user, streams and buckets. Owns the
//! form of that folder, and when missing streams are created; accounts and limits belong to `qscale_common::runtime`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::{self, kv};
use futures::TryStreamExt as _;
use qscale_common::contract::subject;
use qscale_common::control;
use qscale_common::name::Name;
use qscale_common::runtime::bus::BusConfig;
use qscale_common::runtime::files::read_text;
use qscale_common::runtime::nats_accounts::{self, User};
use qscale_common::runtime::provision;

use crate::repair::freeze_of_all;

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

    /// Creates missing streams and buckets; returns their names. If the requests of operators alone are lost, all functions are frozen, because a freeze may be
    /// among them. With the first call it also updates existing ones and deletes the Actions of agents without
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
        let expected = provision::storage(&self.agents);
        let missing: Vec<String> = expected.iter().map(|(name, _)| name).filter(|name| !present.contains(name)).cloned().collect();
        if missing.len() < expected.len() && missing.contains(&subject::bucket_stream(subject::CONTROL_BUCKET)) {
            create_frozen(&context).await.context("failed to freeze all functions after the requests of operators were lost")?;
        }
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

/// Creates the bucket of the operators' requests with a freeze of all functions. Nobody reads it before it is updated to its usual description.
async fn create_frozen(context: &jetstream::Context) -> anyhow::Result<()> {
    let controls = provision::buckets().into_iter().find(|bucket| bucket.bucket == subject::CONTROL_BUCKET);
    let closed = kv::Config { description: provision::RESTORING.into(), ..controls.context("the bucket has no definition")? };
    let store = context.create_key_value(closed).await?;
    store.put(control::ALL, freeze_of_all("qscale bus provision").to_json().into()).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use qscale_common::runtime::bus::Bus;
    use qscale_tests::{Folder, NatsServer};

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
    #[tokio::test]
    async fn lost_streams_are_created_again_and_lost_requests_of_operators_freeze_everything() {
        let server = NatsServer::start_with_accounts(&["dqn"]);
        let users = User::all([Name::new("dqn").expect("valid")]);
        let passwords: BTreeMap<_, _> = users.iter().map(|user| (user.name(), server.config(&user.name()).password)).collect();
        let mut provisioning = Provisioning::new(&server.url(), &passwords);
        let all = provision::storage(&[Name::new("dqn").expect("valid")]).len();
        assert_eq!(provisioning.ensure().await.expect("it answers").len(), all);
        assert!(provisioning.ensure().await.expect("it answers").is_empty());

        let client = server.config("operator").connect_once("test", CONNECT_TIMEOUT).await.expect("it answers");
        let bus = Bus::of_client(client, "/test");
        assert!(qscale_common::runtime::kv::controls(&bus).await.expect("readable").is_empty(), "a new system is not frozen");
        let setup = jetstream::new(setup(&server.url(), &passwords).connect_once("test", CONNECT_TIMEOUT).await.expect("it answers"));
        let controls = subject::bucket_stream(subject::CONTROL_BUCKET);
        setup.delete_stream(&controls).await.expect("deleted");
        setup.delete_stream(subject::LIVE_STREAM).await.expect("deleted");
        let mut created = provisioning.ensure().await.expect("it answers");
        created.sort();
        let mut expected = [controls, subject::LIVE_STREAM.to_owned()];
        expected.sort();
        assert_eq!(created, expected);
        let frozen = qscale_common::runtime::kv::controls(&bus).await.expect("readable");
        assert!(frozen[control::ALL].frozen, "{frozen:?}");
    }
}
