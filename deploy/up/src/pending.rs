//! Changes of agents that were made while no system ran. Owns their file in the state folder; the next start of the system appends them to the record of
//! changes.

use anyhow::Context as _;
use qscale_common::change::ChangeKind;
use qscale_common::name::Name;
use qscale_common::runtime::author::Author;
use qscale_common::runtime::bus::Bus;
use qscale_common::runtime::nats_accounts::User;
use qscale_common::runtime::private;
use qscale_common::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::say;
use crate::state_dir::StateDir;

/// File of a state folder with the changes.
const FILE: &str = "changes.json";

/// A change of an agent that is not recorded yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnrecordedChange {
    /// Its kind.
    pub kind: ChangeKind,
    /// The agent.
    pub agent: Name,
    /// Name of the operator who made it.
    pub by: String,
    /// Time at which it was made.
    pub at_ms: Timestamp,
}

/// Keeps `change` until the next start. Requires the lock of the credentials.
///
/// # Errors
/// When the file cannot be read or written.
pub fn keep(state: &StateDir, change: UnrecordedChange) -> anyhow::Result<()> {
    let mut changes = read(state)?;
    changes.push(change);
    private::write(&state.join(FILE), &serde_json::to_vec_pretty(&changes)?)
}

/// Appends the kept changes to the record of changes over `bus`, and keeps those that could not be appended. The file is changed last: an interrupted start
/// records a change twice rather than never.
///
/// # Errors
/// When the file cannot be read, written or deleted.
pub async fn record(state: &StateDir, bus: &Bus) -> anyhow::Result<()> {
    let _lock = state.lock_credentials().await?;
    let (changes, mut left) = (read(state)?, Vec::new());
    if changes.is_empty() {
        return Ok(());
    }
    for change in changes {
        let author = Author::new(bus, User::Operator, &change.by).reporting(|error| say(format_args!("warning: {error}")));
        if !author.record_change(change.kind, change.agent.as_str(), None, None, change.at_ms).await {
            left.push(change);
        }
    }
    if left.is_empty() {
        return std::fs::remove_file(state.join(FILE)).with_context(|| state.join(FILE).display().to_string());
    }
    private::write(&state.join(FILE), &serde_json::to_vec_pretty(&left)?)
}

fn read(state: &StateDir) -> anyhow::Result<Vec<UnrecordedChange>> {
    let path = state.join(FILE);
    let Some(text) = private::read(&path)? else { return Ok(Vec::new()) };
    let invalid = || format!("{} is invalid; delete it to go on without the changes of agents that it holds", path.display());
    serde_json::from_str(&text).with_context(invalid)
}

#[cfg(test)]
mod tests {
    use qscale_common::contract::subject;
    use qscale_common::runtime::{changes, provision};
    use qscale_tests::{Folder, NatsServer, TIMEOUT};

    use super::*;

    #[tokio::test]
    async fn a_change_made_while_no_system_ran_is_recorded_once_by_the_next_start() {
        let (server, folder) = (NatsServer::start_with_accounts(&[]), Folder::new("pending"));
        let setup = server.config("setup").connect_once("test", TIMEOUT).await.expect("it answers");
        provision::ensure(&async_nats::jetstream::new(setup), &[]).await.expect("created");
        let operator = server.config("operator").connect_once("test", TIMEOUT).await.expect("it answers");
        let (bus, state) = (Bus::of_client(operator, "/qscale/operator"), StateDir::new(folder.path()).expect("a folder"));
        let made = |kind, at| UnrecordedChange { kind, agent: "mine".parse().expect("valid"), by: "ann".into(), at_ms: Timestamp(at) };
        record(&state, &bus).await.expect("nothing to record");
        keep(&state, made(ChangeKind::AgentAdded, 1_000)).expect("kept");
        keep(&state, made(ChangeKind::AgentRemoved, 2_000)).expect("kept");
        for _start in 0..2 {
            record(&state, &bus).await.expect("recorded");
            let found = changes::since(&bus, Timestamp(0)).await.expect("readable").into_iter().map(|stored| stored.record.expect("valid"));
            let found: Vec<_> = found.map(|record| (record.kind, record.target, record.by, record.at_ms)).collect();
            let expected = [(ChangeKind::AgentAdded, 1_000), (ChangeKind::AgentRemoved, 2_000)];
            assert_eq!(found, expected.map(|(kind, at)| (kind, "mine".to_owned(), "ann".to_owned(), Timestamp(at))));
        }
        keep(&state, made(ChangeKind::AgentAdded, 3_000)).expect("kept");
        let setup = server.config("setup").connect_once("test", TIMEOUT).await.expect("it answers");
        async_nats::jetstream::new(setup).delete_stream(subject::CHANGE_STREAM).await.expect("deleted");
        record(&state, &bus).await.expect("the file is there");
        assert_eq!(read(&state).expect("readable"), [made(ChangeKind::AgentAdded, 3_000)], "what is not recorded is kept");
        private::write(&state.join(FILE), b"[").expect("written");
        let error = format!("{:#}", record(&state, &bus).await.expect_err("damaged"));
        assert!(error.contains("changes.json is invalid; delete it"), "{error}");
    }
}
