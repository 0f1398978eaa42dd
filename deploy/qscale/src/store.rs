//! Buckets and streams as commands use them: read whole, edited without losing what somebody else wrote meanwhile. Decides nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::kv::{Operation, Store, UpdateErrorKind};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use futures::StreamExt;
use qscale_common::contract::subject;
use qscale_common::control::{self, Control};
use qscale_common::name::FunctionId;
use qscale_common::policy::ScalingPolicy;
use qscale_common::runtime::bus::Bus;
use qscale_common::runtime::clock;
use qscale_common::time::Timestamp;

/// How long the next entry of a bucket is awaited.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How often an edit is made anew on what somebody else wrote meanwhile.
const EDITS: usize = 8;

/// Opens a bucket.
///
/// # Errors
/// When it does not exist or the server does not answer.
pub async fn open(bus: &Bus, bucket: &str) -> anyhow::Result<Store> {
    bus.jetstream().get_key_value(bucket).await.with_context(|| format!("bucket {bucket}; `qscale up` makes what is missing"))
}

/// Everything that a bucket holds, by key.
///
/// # Errors
/// When the server stops answering.
pub async fn all(store: &Store) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let mut entries = BTreeMap::new();
    // Every key holds one last message, be it a value or the mark of a deletion.
    let mut rest = store.status().await.context("status of the bucket")?.values() > 0;
    if !rest {
        return Ok(entries);
    }
    let mut watch = store.watch_with_history(">").await.with_context(|| format!("read bucket {}", store.name))?;
    while rest {
        let next =
            tokio::time::timeout(ANSWER_WITHIN, watch.next()).await.with_context(|| format!("bucket {} stopped answering", store.name))?;
        let entry = next.with_context(|| format!("bucket {} ended", store.name))?.with_context(|| format!("read bucket {}", store.name))?;
        rest = entry.delta > 0;
        if entry.operation == Operation::Put {
            entries.insert(entry.key, entry.value.into());
        } else {
            entries.remove(&entry.key);
        }
    }
    Ok(entries)
}

/// What became of an edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edited {
    /// There was no value before.
    Created,
    /// There was another one.
    Changed,
    /// Nothing was written.
    Unchanged,
}

/// Writes what `change` makes of the value of `key`; `None` from it leaves the value as it is. Made anew where somebody else wrote meanwhile.
///
/// # Errors
/// Those of `change`, and when the server does not take the value.
pub async fn edit(
    store: &Store,
    key: &str,
    mut change: impl FnMut(Option<&[u8]>) -> anyhow::Result<Option<Vec<u8>>>,
) -> anyhow::Result<Edited> {
    for _ in 0..EDITS {
        let entry = store.entry(key).await.with_context(|| format!("read {key} of bucket {}", store.name))?;
        let revision = entry.as_ref().map_or(0, |entry| entry.revision);
        let current = entry.filter(|entry| entry.operation == Operation::Put).map(|entry| entry.value);
        let Some(value) = change(current.as_deref())? else { return Ok(Edited::Unchanged) };
        match store.update(key, value.into(), revision).await {
            Ok(_) => return Ok(if current.is_some() { Edited::Changed } else { Edited::Created }),
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {}
            Err(error) => return Err(error).with_context(|| format!("write {key} of bucket {}", store.name)),
        }
    }
    anyhow::bail!("{key} of bucket {} was changed by somebody else {EDITS} times meanwhile; try again", store.name)
}

/// All ScalingPolicies by key; those that cannot be read say why.
///
/// # Errors
/// When the bucket cannot be read.
pub async fn policies(bus: &Bus) -> anyhow::Result<BTreeMap<String, Result<ScalingPolicy, String>>> {
    let entries = all(&open(bus, subject::POLICY_BUCKET).await?).await?;
    Ok(entries.into_iter().map(|(key, value)| (key, ScalingPolicy::from_json(&value).map_err(|error| error.to_string()))).collect())
}

/// All controls by key; those that cannot be read say why.
///
/// # Errors
/// When the bucket cannot be read.
pub async fn controls(bus: &Bus) -> anyhow::Result<BTreeMap<String, Result<Control, String>>> {
    let entries = all(&open(bus, subject::CONTROL_BUCKET).await?).await?;
    Ok(entries.into_iter().map(|(key, value)| (key, Control::from_json(&value).map_err(|error| error.to_string()))).collect())
}

/// Whether an operator froze `function`, alone or with all others.
///
/// # Errors
/// When the bucket cannot be read.
pub async fn is_frozen(bus: &Bus, function: &FunctionId) -> anyhow::Result<bool> {
    let controls = controls(bus).await?;
    let frozen = |key: &str| controls.get(key).is_some_and(|control| control.as_ref().is_ok_and(|control| control.frozen));
    Ok(frozen(control::ALL) || frozen(&Control::key(function)))
}

/// The last message of `stream` on a subject, wildcards allowed, and when it was stored; `None` where there is none.
///
/// # Errors
/// When the stream cannot be read.
pub async fn last(bus: &Bus, stream: &str, subject: &str) -> anyhow::Result<Option<(Timestamp, StreamMessage)>> {
    let opened = bus.jetstream().get_stream(stream).await.with_context(|| format!("stream {stream}"))?;
    match opened.get_last_raw_message_by_subject(subject).await {
        Ok(message) => {
            let stored = u64::try_from(message.time.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
            Ok(Some((clock::of_wall(Timestamp(stored)), message)))
        }
        Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("last message on {subject}")),
    }
}
