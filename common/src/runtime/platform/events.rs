//! Events of a platform in order. Owns the bounded ring and its numbering; a slow reader sees a gap in the numbers.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use crate::name::FunctionId;
use crate::platform::{EventKind, EventPage, PlatformEvent};
use crate::time::Timestamp;

/// Retained events: a minute of the busiest platform, at about 400 bytes each.
const KEPT: usize = 4_096;

/// The ring of events.
#[derive(Debug)]
pub struct Events {
    ring: Mutex<EventRing>,
    newest: watch::Sender<u64>,
}

#[derive(Debug)]
struct EventRing {
    events: VecDeque<PlatformEvent>,
    next: u64,
}

impl Events {
    /// An empty ring. Numbers start at a million per second since 1970, so that they increase across restarts, and stay
    /// exact in readers with floating-point numbers.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        let first = now.0 / 1_000 * 1_000_000;
        Self { ring: Mutex::new(EventRing { events: VecDeque::new(), next: first }), newest: watch::Sender::new(first.saturating_sub(1)) }
    }

    /// Records that `kind` happened to `function`.
    pub fn record(&self, now: Timestamp, function: &FunctionId, replica: Option<&str>, kind: EventKind, message: String) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let seq = ring.next;
        ring.next += 1;
        if ring.events.len() == KEPT {
            ring.events.pop_front();
        }
        ring.events.push_back(PlatformEvent {
            seq,
            time: now,
            namespace: function.namespace.clone(),
            function: function.name.clone(),
            replica: replica.map(str::to_owned),
            kind,
            message,
        });
        drop(ring);
        self.newest.send_replace(seq);
    }

    /// At most `limit` events after number `after`.
    #[must_use]
    pub fn after(&self, after: u64, limit: usize) -> EventPage {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let start = ring.events.partition_point(|event| event.seq <= after);
        EventPage {
            events: ring.events.iter().skip(start).take(limit).cloned().collect(),
            oldest: ring.events.front().map_or(ring.next, |event| event.seq),
            newest: ring.next.saturating_sub(1),
        }
    }

    /// Notifies of newer events.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_is_bounded_and_its_gap_is_visible() {
        let events = Events::new(Timestamp(1_000));
        let function: FunctionId = "default/f".parse().expect("valid");
        for number in 0..KEPT + 10 {
            events.record(Timestamp(1_000), &function, None, EventKind::ReplicaReady, number.to_string());
        }
        let page = events.after(1_000_000, usize::MAX);
        assert_eq!(page.events.len(), KEPT);
        assert_eq!(page.oldest, 1_000_010);
        assert_eq!(events.after(page.newest, 10).events, []);
        assert_eq!(events.after(page.newest - 3, 2).events.len(), 2);
    }
}
