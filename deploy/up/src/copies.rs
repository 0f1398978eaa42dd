//! Copies of the entries that operators and services wrote to buckets, and positions of the streams of messages. Owns the files and the search for losses; must
//! not ask the nats-server.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use async_nats::datetime::DateTime;
use async_nats::jetstream::kv::{Entry, Operation};
use async_nats::jetstream::stream::Info;
use qscale_common::contract::subject;
use qscale_common::runtime::private;
use qscale_common::time::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::state_dir::StateDir;

/// Losses that are kept for `qscale doctor`.
const LOSSES: usize = 32;
/// Beginning of keys of the actuator's bucket that are not copied: it writes them often, and knows them itself.
const NOT_COPIED: &str = "budget.";

/// Copy of the entries of one bucket, by key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BucketCopy {
    /// Creation of the bucket: another one of the same name counts revisions from the beginning.
    created_ms: Timestamp,
    entries: BTreeMap<String, CopiedEntry>,
}

/// Last entry of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct CopiedEntry {
    revision: u64,
    at_ms: Timestamp,
    /// The value; `None` for a key that was deleted.
    value: Option<String>,
}

impl BucketCopy {
    /// A copy of the last `entries` of `bucket`.
    pub fn of(bucket: &str, created: DateTime, entries: &BTreeMap<String, Entry>) -> Self {
        let copied = entries.iter().filter(|(key, _)| bucket != subject::ACTUATOR_BUCKET || !key.starts_with(NOT_COPIED));
        let entries = copied.map(|(key, entry)| {
            let value = (entry.operation == Operation::Put).then(|| String::from_utf8_lossy(&entry.value).into_owned());
            (key.clone(), CopiedEntry { revision: entry.revision, at_ms: timestamp(entry.created), value })
        });
        Self { created_ms: timestamp(created), entries: entries.collect() }
    }

    /// Keys with a value that are missing from `found`, or have an older entry there, and deletions that were undone. Every key of a bucket keeps its last
    /// entry, which for a deleted key is a marker.
    pub fn lost_in(&self, found: &Self) -> Vec<String> {
        let is_lost = |(key, entry): &(&String, &CopiedEntry)| match found.entries.get(*key) {
            // A bucket that was created again has no markers of earlier deletions.
            None => entry.value.is_some() || self.created_ms == found.created_ms,
            Some(other) => !other.is_current(entry, self.created_ms == found.created_ms),
        };
        self.entries.iter().filter(is_lost).map(|(key, _)| key.clone()).collect()
    }

    /// Adds the entries of `found` that are newer.
    pub fn absorb(&mut self, found: &Self) {
        let same = self.created_ms == found.created_ms;
        for (key, entry) in &found.entries {
            if self.entries.get(key).is_none_or(|known| entry.is_current(known, same)) {
                self.entries.insert(key.clone(), entry.clone());
            }
        }
    }

    /// The values, by key.
    pub fn values(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().filter_map(|(key, entry)| Some((key.as_str(), entry.value.as_deref()?)))
    }
}

impl CopiedEntry {
    /// Whether this entry is `known` or was written after it; `same` if both are of the same bucket. The clock of the server may have been set back.
    fn is_current(&self, known: &Self, same: bool) -> bool {
        (same && self.revision >= known.revision) || self.at_ms > known.at_ms || (self.value == known.value && !same)
    }
}

/// Position of a stream of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamPosition {
    created_ms: Timestamp,
    /// First message.
    first: u64,
    /// Last message.
    last: u64,
    /// Time of the last message.
    at_ms: Timestamp,
    /// Messages that are missing between the first and the last one; streams of messages lose only their first ones on purpose.
    missing: u64,
}

/// Result of the comparison of two positions of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PositionComparison {
    /// Nothing is lost.
    Intact,
    /// Messages are lost.
    Lost,
    /// Messages are lost unless the one with this number was written at this time: nats-server numbers new messages from the last one that it could read.
    Ask(u64, Timestamp),
}

impl StreamPosition {
    /// Position of the stream `info`.
    pub fn of(info: &Info) -> Self {
        let (state, created_ms) = (&info.state, timestamp(info.created));
        let (first, last, at_ms) = (state.first_sequence, state.last_sequence, timestamp(state.last_timestamp));
        let missing = (last + 1).saturating_sub(first.max(1)).saturating_sub(state.messages);
        Self { created_ms, first, last, at_ms, missing }
    }

    /// Compares this position with the later one `now`.
    pub fn compare(self, now: Self) -> PositionComparison {
        let known = (self.created_ms, self.last, self.at_ms);
        match () {
            () if self.created_ms != now.created_ms || self.last == 0 || known == (now.created_ms, now.last, now.at_ms) => {
                PositionComparison::Intact
            }
            () if now.last <= self.last || now.missing > self.missing => PositionComparison::Lost,
            () if now.first > self.last => PositionComparison::Intact,
            () => PositionComparison::Ask(self.last, self.at_ms),
        }
    }
}

/// A loss, with what was done about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// Time at which it was found.
    pub at_ms: Timestamp,
    /// Description.
    pub what: String,
}

/// Positions of the streams by name, and losses.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StreamRecord {
    /// Positions.
    pub positions: BTreeMap<String, StreamPosition>,
    /// Losses, newest last.
    pub losses: Vec<Loss>,
}

impl StreamRecord {
    /// Adds a loss found at `at_ms`.
    pub fn add(&mut self, at_ms: Timestamp, what: String) {
        self.losses.drain(..(self.losses.len() + 1).saturating_sub(LOSSES));
        self.losses.push(Loss { at_ms, what });
    }
}

/// Copies by the name of the bucket.
pub type BucketCopies = BTreeMap<String, BucketCopy>;

/// A file of the state folder that holds a `T`.
#[derive(Debug)]
pub struct StateFile<T> {
    path: PathBuf,
    /// Content of the file.
    pub content: T,
    written: Option<T>,
    /// Why its content cannot be read. It is not replaced before it is set aside.
    damage: Option<String>,
}

/// The copies of the buckets of the nats-server whose files are in `store`.
pub fn bucket_copies(store: &Path) -> anyhow::Result<StateFile<BucketCopies>> {
    StateFile::read(store.with_extension("buckets.json"))
}

/// Positions of the streams, and losses.
pub fn stream_record(state: &StateDir) -> anyhow::Result<StateFile<StreamRecord>> {
    StateFile::read(state.join("nats/streams.json"))
}

impl<T: Clone + PartialEq + Default + Serialize + DeserializeOwned> StateFile<T> {
    fn read(path: PathBuf) -> anyhow::Result<Self> {
        let shown = || path.display().to_string();
        let damaged = |damage: String| Self { damage: Some(damage), content: T::default(), written: None, path: path.clone() };
        let text = match private::read(&path) {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(Self { path, content: T::default(), written: None, damage: None }),
            // Changed bytes may not be text any more.
            Err(error) if error.downcast_ref::<io::Error>().is_some_and(|cause| cause.kind() == io::ErrorKind::InvalidData) => {
                return Ok(damaged(format!("{error:#}")));
            }
            Err(error) => return Err(error).with_context(shown),
        };
        match serde_json::from_str::<T>(&text) {
            Ok(content) => Ok(Self { written: Some(content.clone()), content, damage: None, path }),
            Err(error) => Ok(damaged(format!("{}: {error}", path.display()))),
        }
    }

    /// The path of the file and why its content cannot be read, if it is damaged. The content is then empty.
    pub fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }

    /// Renames a damaged file, so that a new one can be written; returns a description, or `None` if it is not damaged.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub fn set_aside(&mut self) -> anyhow::Result<Option<String>> {
        let Some(damage) = &self.damage else { return Ok(None) };
        let mut aside = self.path.clone().into_os_string();
        aside.push(".damaged");
        std::fs::rename(&self.path, &aside).with_context(|| format!("failed to rename {}", self.path.display()))?;
        let described = format!("{damage}; it is now {} and a new one is written", aside.display());
        self.damage = None;
        Ok(Some(described))
    }

    /// Writes changes.
    ///
    /// # Errors
    /// When the file cannot be written; the next call tries again.
    pub fn save(&mut self) -> anyhow::Result<()> {
        if self.damage.is_none() && self.written.as_ref() != Some(&self.content) {
            private::write(&self.path, &serde_json::to_vec(&self.content)?)?;
            self.written = Some(self.content.clone());
        }
        Ok(())
    }

    /// Deletes the content and the file.
    pub fn clear(&mut self) {
        (self.content, self.written, self.damage) = (T::default(), None, None);
        // It may not exist.
        let _absent = std::fs::remove_file(&self.path);
    }
}

/// `time` of a server.
pub fn timestamp(time: DateTime) -> Timestamp {
    Timestamp(u64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREATED: Timestamp = Timestamp(1_000);

    fn copy(created_ms: Timestamp, entries: &[(&str, u64, u64, Option<&str>)]) -> BucketCopy {
        let entries = entries.iter().map(|(key, revision, at, value)| {
            ((*key).to_owned(), CopiedEntry { revision: *revision, at_ms: Timestamp(*at), value: value.map(str::to_owned) })
        });
        BucketCopy { created_ms, entries: entries.collect() }
    }

    #[test]
    fn missing_and_older_entries_are_lost() {
        let before = copy(CREATED, &[("a", 5, 50, Some("1")), ("b", 6, 60, None), ("c", 7, 70, Some("3")), ("d", 8, 80, Some("4"))]);
        assert_eq!(before.lost_in(&before), Vec::<String>::new());
        let after = copy(CREATED, &[("a", 9, 90, Some("2")), ("c", 3, 30, Some("0")), ("d", 8, 80, Some("4"))]);
        assert_eq!(before.lost_in(&after), ["b", "c"]);
        let undone = copy(CREATED, &[("a", 5, 50, Some("1")), ("b", 2, 20, Some("x")), ("c", 7, 70, Some("3")), ("d", 8, 80, Some("4"))]);
        assert_eq!(before.lost_in(&undone), ["b"]);
    }

    #[test]
    fn an_entry_written_after_a_loss_is_current_whatever_its_revision_or_the_clock() {
        let before = copy(CREATED, &[("a", 5, 50, Some("1"))]);
        for after in [copy(CREATED, &[("a", 3, 51, Some("2"))]), copy(CREATED, &[("a", 6, 10, Some("2"))])] {
            assert_eq!(before.lost_in(&after), Vec::<String>::new());
            let mut absorbed = before.clone();
            absorbed.absorb(&after);
            assert_eq!(absorbed.values().collect::<Vec<_>>(), [("a", "2")]);
        }
    }

    #[test]
    fn a_bucket_that_was_created_again_has_lost_what_it_lacks() {
        let before = copy(CREATED, &[("a", 5, 50, Some("1")), ("b", 6, 60, None), ("c", 7, 70, Some("3"))]);
        let again = Timestamp(2_000);
        assert_eq!(before.lost_in(&copy(again, &[])), ["a", "c"]);
        assert_eq!(before.lost_in(&copy(again, &[("a", 1, 99, Some("1")), ("c", 2, 99, Some("3"))])), Vec::<String>::new());
        assert_eq!(before.lost_in(&copy(again, &[("a", 1, 99, Some("other")), ("c", 2, 99, Some("3"))])), Vec::<String>::new());
    }

    #[test]
    fn a_stream_that_goes_back_or_gains_gaps_lost_messages() {
        let at = |last, at, missing| StreamPosition { created_ms: CREATED, first: 1, last, at_ms: Timestamp(at), missing };
        let before = at(10, 100, 1);
        for (now, expected) in [
            (before, PositionComparison::Intact),
            (at(4, 40, 1), PositionComparison::Lost),
            (at(10, 110, 1), PositionComparison::Lost),
            (at(12, 120, 2), PositionComparison::Lost),
            (at(12, 120, 1), PositionComparison::Ask(10, Timestamp(100))),
            (StreamPosition { first: 11, ..at(12, 120, 0) }, PositionComparison::Intact),
            (StreamPosition { created_ms: Timestamp(5_000), ..at(1, 130, 0) }, PositionComparison::Intact),
        ] {
            assert_eq!(before.compare(now), expected, "{now:?}");
        }
        assert_eq!(at(0, 0, 0).compare(at(3, 30, 0)), PositionComparison::Intact, "there was nothing to lose");
    }

    #[test]
    fn a_file_keeps_its_content_and_losses_are_bounded() {
        let folder = qscale_tests::Folder::new("copies");
        let state = StateDir::new(folder.path()).expect("a folder");
        let mut file = stream_record(&state).expect("no file yet");
        (0..100).for_each(|number| file.content.add(Timestamp(number), format!("loss {number}")));
        file.save().expect("written");
        let read = stream_record(&state).expect("a file");
        assert_eq!((read.content.losses.len(), read.content.losses.last()), (LOSSES, file.content.losses.last()));
        let store = folder.path().join("store");
        let mut copies = bucket_copies(&store).expect("no file yet");
        copies.content.insert("b".into(), copy(CREATED, &[("a", 5, 50, Some("1"))]));
        copies.save().expect("written");
        assert_eq!(bucket_copies(&store).expect("a file").content, copies.content);
        assert_eq!(bucket_copies(&folder.path().join("simulated")).expect("no file").content, BucketCopies::new());
        copies.clear();
        assert_eq!(bucket_copies(&store).expect("no file").content, BucketCopies::new());
    }
}
