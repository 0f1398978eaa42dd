//! A bounded queue between one producer, which never waits, and one consumer. Owns order, bound and the choice of the
//! dropped entries; must not know what an entry means.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::name::{FunctionId, Name};

/// Content of a queue while its consumer lags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retention {
    /// The newest entries, up to a total size. The consumer takes the entries of different senders in turn, and beyond
    /// the bound the sender with the most loses its oldest, so that a flood costs its sender only.
    All {
        /// Largest total size, in the unit of [`Queue::push`].
        capacity: usize,
    },
    /// The newest entry of each function, so that the number of functions is the bound.
    LatestPerFunction,
}

/// Result of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pushed {
    /// Nothing was dropped.
    Added,
    /// The oldest entries were dropped, this many.
    Overrun(u64),
    /// An older entry of the same function was replaced.
    Superseded,
}

/// A queue. Closing it ends the consumer once it is empty.
#[derive(Debug)]
pub(super) struct Queue<T> {
    state: Mutex<QueueState<T>>,
    changed: Notify,
}

#[derive(Debug)]
struct QueueState<T> {
    entries: QueuedEntries<T>,
    closed: bool,
}

#[derive(Debug)]
enum QueuedEntries<T> {
    All {
        senders: BTreeMap<Option<Name>, Backlog<T>>,
        /// Senders with entries, the next one first.
        turns: VecDeque<Option<Name>>,
        size: usize,
        capacity: usize,
    },
    /// A function keeps its place in the order when its entry is replaced, so that none waits for ever.
    Latest { order: VecDeque<FunctionId>, entries: HashMap<FunctionId, T> },
}

/// Entries of one sender with their sizes; at least one.
#[derive(Debug)]
struct Backlog<T> {
    entries: VecDeque<(T, usize)>,
    size: usize,
}

impl<T> Queue<T> {
    pub(super) fn new(retention: Retention) -> Self {
        let entries = match retention {
            Retention::All { capacity } => QueuedEntries::All { senders: BTreeMap::new(), turns: VecDeque::new(), size: 0, capacity },
            Retention::LatestPerFunction => QueuedEntries::Latest { order: VecDeque::new(), entries: HashMap::new() },
        };
        Self { state: Mutex::new(QueueState { entries, closed: false }), changed: Notify::new() }
    }

    /// Adds `entry` of `size`, from `sender`, about `function`. Drops older entries beyond the bound, but never `entry` itself.
    pub(super) fn push(&self, entry: T, size: usize, sender: Option<Name>, function: impl FnOnce(&T) -> FunctionId) -> Pushed {
        let pushed = self.lock().entries.push(entry, size, sender, function);
        self.changed.notify_one();
        pushed
    }

    /// The next entry; `None` once the queue was closed and is empty.
    pub(super) async fn next(&self) -> Option<T> {
        loop {
            let changed = self.changed.notified();
            {
                let mut state = self.lock();
                if let Some(next) = state.entries.pop() {
                    return Some(next);
                }
                if state.closed {
                    return None;
                }
            }
            changed.await;
        }
    }

    /// The next entry; `None` if the queue is empty.
    pub(super) fn try_next(&self) -> Option<T> {
        self.lock().entries.pop()
    }

    /// Lets the consumer end after the remaining entries.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        match &self.lock().entries {
            QueuedEntries::All { senders, .. } => senders.values().map(|backlog| backlog.entries.len()).sum(),
            QueuedEntries::Latest { order, .. } => order.len(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> QueuedEntries<T> {
    fn push(&mut self, entry: T, added: usize, sender: Option<Name>, function: impl FnOnce(&T) -> FunctionId) -> Pushed {
        match self {
            Self::All { senders, turns, size, capacity } => {
                let backlog = senders.entry(sender.clone()).or_insert_with(|| {
                    turns.push_back(sender);
                    Backlog { entries: VecDeque::new(), size: 0 }
                });
                backlog.entries.push_back((entry, added));
                backlog.size += added;
                *size += added;
                let mut dropped = 0;
                while *size > *capacity
                    && let Some(largest) = senders.values_mut().max_by_key(|backlog| backlog.size)
                    // A single entry is the one just added, or others are smaller than it.
                    && largest.entries.len() > 1
                {
                    let oldest = largest.entries.pop_front().map_or(0, |(_, oldest)| oldest);
                    largest.size -= oldest;
                    *size -= oldest;
                    dropped += 1;
                }
                if dropped == 0 { Pushed::Added } else { Pushed::Overrun(dropped) }
            }
            Self::Latest { order, entries } => {
                let function = function(&entry);
                if entries.insert(function.clone(), entry).is_some() {
                    return Pushed::Superseded;
                }
                order.push_back(function);
                Pushed::Added
            }
        }
    }

    fn pop(&mut self) -> Option<T> {
        match self {
            Self::All { senders, turns, size, .. } => {
                let sender = turns.pop_front()?;
                let backlog = senders.get_mut(&sender)?;
                let (entry, removed) = backlog.entries.pop_front()?;
                backlog.size -= removed;
                *size -= removed;
                if backlog.entries.is_empty() {
                    senders.remove(&sender);
                } else {
                    turns.push_back(sender);
                }
                Some(entry)
            }
            Self::Latest { order, entries } => entries.remove(&order.pop_front()?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Entry = (usize, u64);

    fn function((number, _): &Entry) -> FunctionId {
        format!("f-{number}").parse().expect("a function")
    }

    fn push(queue: &Queue<Entry>, entry: Entry, size: usize) -> Pushed {
        queue.push(entry, size, None, function)
    }

    fn rest(queue: &Queue<Entry>) -> Vec<Entry> {
        std::iter::from_fn(|| queue.try_next()).collect()
    }

    #[test]
    fn the_newest_entry_of_each_function_is_kept_in_order_of_arrival() {
        let queue = Queue::new(Retention::LatestPerFunction);
        let pushed = [(1, 1), (2, 1), (1, 2), (1, 3)].map(|entry| push(&queue, entry, 1));
        assert_eq!(pushed, [Pushed::Added, Pushed::Added, Pushed::Superseded, Pushed::Superseded]);
        assert_eq!(rest(&queue), [(1, 3), (2, 1)]);
        assert_eq!(push(&queue, (1, 4), 1), Pushed::Added, "entries that were read are gone");
    }

    #[test]
    fn the_number_of_functions_bounds_the_latest_entries() {
        let queue = Queue::new(Retention::LatestPerFunction);
        for tick in 0..100 {
            for number in 0..7 {
                push(&queue, (number, tick), 1);
            }
        }
        assert_eq!(queue.len(), 7);
    }

    #[test]
    fn the_total_size_bounds_all_entries() {
        let queue = Queue::new(Retention::All { capacity: 10 });
        let pushed = [(4, 1), (6, 2), (1, 3), (9, 4)].map(|(size, tick)| push(&queue, (1, tick), size));
        assert_eq!(pushed, [Pushed::Added, Pushed::Added, Pushed::Overrun(1), Pushed::Overrun(1)]);
        assert_eq!(rest(&queue), [(1, 3), (1, 4)]);
        assert_eq!(push(&queue, (1, 5), 10), Pushed::Added, "entries that were read take no space");
        assert_eq!(push(&queue, (1, 6), 11), Pushed::Overrun(1), "the newest entry stays, whatever its size");
        assert_eq!(rest(&queue), [(1, 6)]);
    }

    #[test]
    fn a_flood_of_one_sender_drops_its_own_entries_only() {
        let queue = Queue::new(Retention::All { capacity: 10 });
        let [flood, quiet] = ["flood", "quiet"].map(|name| Some(Name::new(name).expect("valid")));
        assert_eq!(queue.push((1, 0), 1, quiet.clone(), function), Pushed::Added);
        for tick in 1..=50 {
            queue.push((1, tick), 1, flood.clone(), function);
        }
        assert_eq!(queue.push((1, 100), 1, quiet, function), Pushed::Overrun(1));
        assert_eq!(queue.len(), 10);
        assert_eq!(rest(&queue)[..4], [(1, 0), (1, 43), (1, 100), (1, 44)], "the senders take turns");
    }

    #[tokio::test]
    async fn a_closed_queue_ends_after_its_entries() {
        let queue = Queue::new(Retention::All { capacity: 10 });
        push(&queue, (1, 1), 1);
        queue.close();
        assert_eq!(queue.next().await, Some((1, 1)));
        assert_eq!(queue.next().await, None);
    }
}
