//! Watched buckets: a map that is current while the server can be reached.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::datetime::DateTime;
use async_nats::jetstream::kv::{Entry, Operation, Store, Watch};
use async_nats::jetstream::stream;
use futures::StreamExt;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::Bus;
use crate::contract::subject;
use crate::policy::ScalingPolicy;
use crate::runtime::provision::RESTORING;
use crate::runtime::signature::{PolicyReader, TrustConfig};

/// Entries of a bucket by key; `None` until it was read once.
pub type Bucket<T> = watch::Receiver<Option<Arc<BTreeMap<String, Arc<T>>>>>;

/// Retry delay after a failed read.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// Interval between resynchronisations, which repair anything that an interruption lost.
const RESYNC_INTERVAL: Duration = Duration::from_secs(60);
/// Interval between checks that the bucket still is the one that is watched.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Readiness condition that `bucket` has all entries that were read from it. It fails until they are restored, or the service is restarted to go on without
/// them.
#[must_use]
pub fn entries_condition(bucket: &str) -> String {
    format!("entries of bucket {bucket}")
}

/// A bucket lost entries. The service continues with those that it read before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the bucket lost entries{such_as}; the service continues with those that it read before, restart it to go on with what is left")]
struct LostEntries {
    /// One of them, if it is known.
    such_as: String,
}

impl Bus {
    /// Watches all of `bucket` until `token` is cancelled. An entry that `parse` refuses is logged and left out.
    pub fn watch_bucket<T: Send + Sync + 'static>(
        &self,
        bucket: &'static str,
        parse: impl FnMut(&str, &[u8]) -> Result<T, String> + Send + 'static,
        token: CancellationToken,
    ) -> Bucket<T> {
        let (sender, receiver) = watch::channel(None);
        let bus = self.clone();
        tokio::spawn(async move {
            let mut seen = BucketState { bucket, parse, created: None, entries: BTreeMap::new(), revisions: BTreeMap::new() };
            let mut last = String::new();
            bus.report_bucket(bucket, Err(&anyhow::anyhow!("not read yet")));
            while !token.is_cancelled() && !sender.is_closed() {
                tokio::select! {
                    () = token.cancelled() => {}
                    result = follow(&bus, &mut seen, &sender) => match result {
                        Ok(()) => last.clear(),
                        Err(error) => {
                            bus.report_bucket(bucket, Err(&error));
                            let error = format!("{error:#}");
                            if error != last {
                                tracing::warn!(bucket, error, "failed to read a bucket; keeping its last content and trying again");
                                last = error;
                            }
                            tokio::time::sleep(RETRY_DELAY).await;
                        }
                    }
                }
            }
        });
        receiver
    }

    /// Sets the readiness conditions of `bucket`.
    fn report_bucket(&self, bucket: &str, read: Result<(), &anyhow::Error>) {
        let Some(health) = &self.health else { return };
        let (condition, entries) = (format!("bucket {bucket}"), entries_condition(bucket));
        match read {
            Ok(()) => [condition, entries].iter().for_each(|condition| health.set(condition, true)),
            Err(error) if error.is::<LostEntries>() => health.fail(&entries, error.to_string()),
            Err(error) => health.fail(&condition, format!("{error:#}")),
        }
    }

    /// Watches the ScalingPolicies that are signed as `trust` requires; the key is `<namespace>.<function>`.
    #[must_use]
    pub fn watch_policies(&self, trust: &TrustConfig, token: CancellationToken) -> Bucket<ScalingPolicy> {
        let mut reader = PolicyReader::new(trust);
        self.watch_bucket(subject::POLICY_BUCKET, move |key, value| reader.read(key, value), token)
    }
}

/// Parses the value of a key.
trait Parse<T>: FnMut(&str, &[u8]) -> Result<T, String> {}

impl<T, P: FnMut(&str, &[u8]) -> Result<T, String>> Parse<T> for P {}

struct BucketState<T, P> {
    bucket: &'static str,
    parse: P,
    /// Time at which the bucket was created: another one of the same name has another history.
    created: Option<DateTime>,
    entries: BTreeMap<String, Arc<T>>,
    /// Revision of every key, so that a resynchronisation parses and reports only changes.
    revisions: BTreeMap<String, u64>,
}

type Sender<T> = watch::Sender<Option<Arc<BTreeMap<String, Arc<T>>>>>;

/// Reads the bucket and follows its changes until the next resynchronisation.
async fn follow<T>(bus: &Bus, seen: &mut BucketState<T, impl Parse<T>>, sender: &Sender<T>) -> anyhow::Result<()> {
    let store: Store = bus.jetstream().get_key_value(seen.bucket).await.context("open")?;
    // Every subject of the bucket has one last message: a value or a deletion marker.
    let status = store.status().await.context("status")?;
    let created = status.info.created;
    anyhow::ensure!(status.info.config.description.as_deref() != Some(RESTORING), "the bucket is being restored");
    if seen.created.replace(created).is_some_and(|before| before != created) {
        // The revisions of another bucket of the same name begin again.
        seen.revisions.clear();
    }
    seen.check_stream(&status.info.state)?;
    let (mut watch, found) = read_current(&store, status.info.state.subjects_count).await?;
    seen.check(&found)?;
    for entry in found.into_values() {
        seen.take(entry);
    }
    publish(seen, sender);
    bus.report_bucket(seen.bucket, Ok(()));
    let end = tokio::time::sleep(RESYNC_INTERVAL);
    tokio::pin!(end);
    let mut check = tokio::time::interval(CHECK_INTERVAL);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = &mut end => return Ok(()),
            // A deleted bucket ends no watch.
            _ = check.tick() => {
                // `status` of the client shows what the bucket was when it was opened.
                let now = store.stream.get_info().await.context("status")?;
                anyhow::ensure!(now.created == created, "the bucket was deleted and created again");
                seen.check_stream(&now.state)?;
            }
            entry = watch.next() => {
                let entry = entry.context("the watch ended")?.context("watch")?;
                if seen.take(entry) {
                    publish(seen, sender);
                }
            }
        }
    }
}

/// Reads the current entries of a bucket, of each of its `keys` the last one, a value or a deletion marker; also returns the watch, which goes on from there.
/// An entry that is replaced meanwhile is left out by the server, and its replacement follows: the number of keys shows the end, not that of pending messages.
pub(in crate::runtime) async fn read_current(store: &Store, keys: u64) -> anyhow::Result<(Watch, BTreeMap<String, Entry>)> {
    let mut watch = store.watch_with_history(">").await.context("watch")?;
    let mut found = BTreeMap::new();
    while (found.len() as u64) < keys {
        let entry = tokio::time::timeout(super::REQUEST_WITHIN, watch.next()).await.context("the bucket stopped answering")?;
        let entry = entry.context("the watch ended")?.context("watch")?;
        found.insert(entry.key.clone(), entry);
    }
    Ok((watch, found))
}

fn publish<T, P>(seen: &BucketState<T, P>, sender: &Sender<T>) {
    sender.send_if_modified(|current| {
        let same = current.as_ref().is_some_and(|map| {
            map.len() == seen.entries.len() && map.iter().zip(&seen.entries).all(|(old, new)| old.0 == new.0 && Arc::ptr_eq(old.1, new.1))
        });
        if !same {
            *current = Some(Arc::new(seen.entries.clone()));
        }
        !same
    });
}

impl<T, P: Parse<T>> BucketState<T, P> {
    /// Refuses the entries `found` of a bucket that has lost some: every key keeps its last entry, and that of a deleted key is a marker.
    fn check(&self, found: &BTreeMap<String, Entry>) -> Result<(), LostEntries> {
        let is_lost = |(key, revision): &(&String, &u64)| found.get(*key).is_none_or(|entry| entry.revision < **revision);
        let lost = self.revisions.iter().find(is_lost);
        lost.map_or(Ok(()), |(key, _)| Err(LostEntries { such_as: format!(", such as {key}") }))
    }

    /// As [`BucketState::check`], by the state of the stream alone.
    fn check_stream(&self, stream: &stream::State) -> Result<(), LostEntries> {
        let (keys, last) = (self.revisions.len() as u64, self.revisions.values().max().copied().unwrap_or(0));
        let complete = stream.subjects_count >= keys && stream.last_sequence >= last;
        if complete { Ok(()) } else { Err(LostEntries { such_as: String::new() }) }
    }

    /// Applies one change; returns whether anything changed.
    fn take(&mut self, entry: Entry) -> bool {
        if self.revisions.get(&entry.key).is_some_and(|known| *known >= entry.revision) {
            return false;
        }
        self.revisions.insert(entry.key.clone(), entry.revision);
        if !matches!(entry.operation, Operation::Put) {
            return self.entries.remove(&entry.key).is_some();
        }
        match (self.parse)(&entry.key, &entry.value) {
            Ok(value) => {
                self.entries.insert(entry.key, Arc::new(value));
                true
            }
            Err(reason) => {
                tracing::warn!(bucket = self.bucket, key = entry.key, reason, "entry is refused; keeping the previous one");
                false
            }
        }
    }
}
