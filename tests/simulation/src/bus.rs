//! Model of a nats-server. Owns what it stores and to whom it delivers; time and randomness are arguments.
//!
//! `tests/real_server.rs` gives the same operations to this model and to a real server and compares the results.

use std::collections::{BTreeMap, HashMap};

use rand::{Rng, RngExt as _};

/// A stream that drops messages whose id it has stored within its window.
#[derive(Debug, Clone)]
pub struct Stream<M> {
    messages: Vec<M>,
    /// Time at which an id was stored, and the sequence number of its message.
    ids: HashMap<String, (u64, u64)>,
    window_ms: u64,
}

/// Acknowledgement of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// Sequence number of the message, from 1.
    pub sequence: u64,
    /// Whether the stream had the id already.
    pub duplicate: bool,
}

impl<M> Stream<M> {
    /// An empty stream that remembers ids for `window_ms`.
    #[must_use]
    pub fn new(window_ms: u64) -> Self {
        Self { messages: Vec::new(), ids: HashMap::new(), window_ms }
    }

    /// Stores `message` unless its `id` was stored within the window before `now` (milliseconds).
    pub fn append(&mut self, id: &str, message: M, now: u64) -> Ack {
        if let Some(&(at, sequence)) = self.ids.get(id)
            && now - at < self.window_ms
        {
            return Ack { sequence, duplicate: true };
        }
        self.messages.push(message);
        let sequence = self.messages.len() as u64;
        self.ids.insert(id.to_owned(), (now, sequence));
        Ack { sequence, duplicate: false }
    }

    /// All messages in order.
    #[must_use]
    pub fn messages(&self) -> &[M] {
        &self.messages
    }
}

/// A key-value bucket.
#[derive(Debug, Clone)]
pub struct Bucket<V> {
    /// Revision and value of each key; a deleted key has no value.
    entries: BTreeMap<String, (u64, Option<V>)>,
    last: u64,
}

/// The key has another revision than expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict;

impl<V> Default for Bucket<V> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), last: 0 }
    }
}

impl<V: Clone> Bucket<V> {
    fn write(&mut self, key: &str, value: Option<V>) -> u64 {
        self.last += 1;
        self.entries.insert(key.to_owned(), (self.last, value));
        self.last
    }

    /// Sets `key`; returns its revision.
    pub fn put(&mut self, key: &str, value: V) -> u64 {
        self.write(key, Some(value))
    }

    /// Sets `key` if it has the revision `expected`, 0 for a key that was never written.
    ///
    /// # Errors
    /// If it has another one.
    pub fn update(&mut self, key: &str, value: V, expected: u64) -> Result<u64, Conflict> {
        let revision = self.entries.get(key).map_or(0, |(revision, _)| *revision);
        if revision == expected { Ok(self.write(key, Some(value))) } else { Err(Conflict) }
    }

    /// Sets `key` if it has no value.
    ///
    /// # Errors
    /// If it has one.
    pub fn create(&mut self, key: &str, value: V) -> Result<u64, Conflict> {
        if self.entries.get(key).is_some_and(|(_, value)| value.is_some()) { Err(Conflict) } else { Ok(self.write(key, Some(value))) }
    }

    /// Removes the value of `key`; returns the revision of the deletion.
    pub fn delete(&mut self, key: &str) -> u64 {
        self.write(key, None)
    }

    /// Revision and value of `key`.
    #[must_use]
    pub fn entry(&self, key: &str) -> Option<(u64, V)> {
        let (revision, value) = self.entries.get(key)?;
        Some((*revision, value.clone()?))
    }

    /// All keys with a value.
    #[must_use]
    pub fn current(&self) -> BTreeMap<String, V> {
        self.entries.iter().filter_map(|(key, (_, value))| Some((key.clone(), value.clone()?))).collect()
    }
}

/// Subscribers of one subject: every one gets a message, but of each queue group only one member does.
#[derive(Debug, Clone)]
pub struct Subscribers<N> {
    members: Vec<(N, Option<&'static str>)>,
}

impl<N> Default for Subscribers<N> {
    fn default() -> Self {
        Self { members: Vec::new() }
    }
}

impl<N: Copy + PartialEq> Subscribers<N> {
    /// Adds `node`, alone or as a member of `group`.
    pub fn add(&mut self, node: N, group: Option<&'static str>) {
        self.members.push((node, group));
    }

    /// Those that get the next message. Only `connected` ones count.
    pub fn receivers(&self, connected: impl Fn(N) -> bool, rng: &mut impl Rng) -> Vec<N> {
        let members: Vec<_> = self.members.iter().copied().filter(|(node, _)| connected(*node)).collect();
        let mut receivers: Vec<N> = members.iter().filter(|(_, group)| group.is_none()).map(|(node, _)| *node).collect();
        let mut groups: Vec<&str> = members.iter().filter_map(|(_, group)| *group).collect();
        groups.sort_unstable();
        groups.dedup();
        for group in groups {
            let of_group: Vec<N> = members.iter().filter(|(_, other)| *other == Some(group)).map(|(node, _)| *node).collect();
            receivers.push(of_group[rng.random_range(0..of_group.len())]);
        }
        receivers
    }
}
