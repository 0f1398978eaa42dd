//! Key-value buckets: read completely, edit with compare-and-set. Owns the retry on concurrent edits; must not interpret values beyond parsing them.

use std::collections::BTreeMap;

use super::bus::{Bus, read_current};
use super::signature::{PolicyReader, TrustConfig};
use crate::contract::subject;
use crate::control::Control;
use crate::policy::ScalingPolicy;
use anyhow::Context as _;
use async_nats::jetstream::kv::{Entry, Operation, Store, UpdateErrorKind};

/// Attempts at an edit that concurrent writers keep overtaking.
const EDITS: usize = 8;

/// Opens a bucket.
///
/// # Errors
/// When it does not exist or the server does not answer.
pub async fn open(bus: &Bus, bucket: &str) -> anyhow::Result<Store> {
    bus.jetstream().get_key_value(bucket).await.with_context(|| format!("bucket {bucket}; `qscale up` creates missing buckets"))
}

/// All values of a bucket, by key.
///
/// # Errors
/// When the server stops answering.
pub async fn all(store: &Store) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let values = entries(store).await?.into_iter().filter(|(_, entry)| entry.operation == Operation::Put);
    Ok(values.map(|(key, entry)| (key, entry.value.into())).collect())
}

/// The last entry of every key of a bucket: a value or a deletion marker.
///
/// # Errors
/// When the server stops answering.
pub async fn entries(store: &Store) -> anyhow::Result<BTreeMap<String, Entry>> {
    let info = store.stream.get_info().await.with_context(|| format!("state of bucket {}", store.name))?;
    let read = read_current(store, info.state.subjects_count).await;
    Ok(read.with_context(|| format!("failed to read bucket {}", store.name))?.1)
}

/// Result of an edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edited {
    /// The key had no value before.
    Created {
        /// Revision of the value.
        after: u64,
    },
    /// The key had another value before.
    Changed {
        /// Revision of the value before.
        before: u64,
        /// Revision of the value.
        after: u64,
    },
    /// Nothing was written.
    Unchanged,
}

/// Replaces the value of `key` by the result of `change`, by compare-and-set; `None` leaves it unchanged. `change` runs again after a concurrent write.
///
/// # Errors
/// Errors of `change`; an unreachable server; too many concurrent writes.
pub async fn edit(
    store: &Store,
    key: &str,
    mut change: impl FnMut(Option<&[u8]>) -> anyhow::Result<Option<Vec<u8>>>,
) -> anyhow::Result<Edited> {
    for _ in 0..EDITS {
        let entry = store.entry(key).await.with_context(|| format!("failed to read {key} of bucket {}", store.name))?;
        let revision = entry.as_ref().map_or(0, |entry| entry.revision);
        let current = entry.filter(|entry| entry.operation == Operation::Put).map(|entry| entry.value);
        let Some(value) = change(current.as_deref())? else { return Ok(Edited::Unchanged) };
        match store.update(key, value.into(), revision).await {
            Ok(after) if current.is_some() => return Ok(Edited::Changed { before: revision, after }),
            Ok(after) => return Ok(Edited::Created { after }),
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {}
            Err(error) => return Err(error).with_context(|| format!("failed to write {key} of bucket {}", store.name)),
        }
    }
    anyhow::bail!("failed to write {key} of bucket {}: {EDITS} concurrent writes; try again", store.name)
}

/// All ScalingPolicies by key; one that is invalid, or not signed as `trust` requires, as its error.
///
/// # Errors
/// When the bucket cannot be read.
pub async fn policies(bus: &Bus, trust: &TrustConfig) -> anyhow::Result<BTreeMap<String, Result<ScalingPolicy, String>>> {
    let entries = all(&open(bus, subject::POLICY_BUCKET).await?).await?;
    let mut reader = PolicyReader::new(trust);
    let read = |(key, value): (String, Vec<u8>)| {
        let policy = reader.read(&key, &value);
        (key, policy)
    };
    Ok(entries.into_iter().map(read).collect())
}

/// All controls by key.
///
/// # Errors
/// When the bucket cannot be read.
pub async fn controls(bus: &Bus) -> anyhow::Result<BTreeMap<String, Control>> {
    let entries = all(&open(bus, subject::CONTROL_BUCKET).await?).await?;
    Ok(entries.into_iter().map(|(key, value)| (key, Control::from_json(&value))).collect())
}
