//! A bounded queue between a service's loop and the bus, so that the loop never waits for the bus. Owns order, bound and what is dropped; must
//! not know what a message means.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::Bus;
use crate::contract::{Message, TraceParent};
use crate::runtime::clock;
use crate::runtime::telemetry::RateLimit;

/// Minimum interval between two log lines about dropped messages.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Records messages in the order in which they are pushed, on a task of its own. If the bus is slower than the loop, the oldest messages are
/// dropped and counted.
#[derive(Debug)]
pub struct Outbox<M> {
    queue: Arc<Queue<M>>,
    sender: JoinHandle<()>,
    dropped: Counter,
}

#[derive(Debug)]
struct Queue<M> {
    backlog: Mutex<Backlog<(M, TraceParent)>>,
    changed: Notify,
}

#[derive(Debug)]
struct Backlog<T> {
    waiting: VecDeque<T>,
    capacity: usize,
    closed: bool,
    log: RateLimit,
}

impl<M: Message + Send + Sync + 'static> Outbox<M> {
    /// An outbox for at most `capacity` waiting messages; `dropped` counts those that had to go.
    #[must_use]
    pub fn start(bus: Bus, capacity: usize, dropped: Counter) -> Self {
        let queue = Arc::new(Queue { backlog: Mutex::new(Backlog::new(capacity)), changed: Notify::new() });
        let sender = tokio::spawn(send(bus, Arc::clone(&queue)));
        Self { queue, sender, dropped }
    }

    /// Queues `message`. Never waits.
    pub fn push(&self, message: M, trace: TraceParent) {
        let mut backlog = self.queue.lock();
        if backlog.push((message, trace)) {
            self.dropped.inc();
            if let Some(suppressed) = backlog.log.admit(clock::instant()) {
                tracing::warn!(kind = %M::TYPE, capacity = backlog.capacity, dropped = suppressed + 1, "outbox is full; dropping the oldest messages");
            }
        }
        drop(backlog);
        self.queue.changed.notify_one();
    }

    /// Hands the remaining messages to the bus; returns the number that are left after `timeout`.
    pub async fn close(mut self, timeout: Duration) -> usize {
        self.queue.lock().closed = true;
        self.queue.changed.notify_one();
        // Whether it ended or ran out of time, the number of waiting messages says what is left.
        let _ended = tokio::time::timeout(timeout, &mut self.sender).await;
        self.queue.lock().waiting.len()
    }
}

impl<M> Drop for Outbox<M> {
    fn drop(&mut self) {
        self.sender.abort();
    }
}

async fn send<M: Message + Send + Sync>(bus: Bus, queue: Arc<Queue<M>>) {
    while let Some((message, trace)) = queue.next().await {
        bus.record(&message, trace).await;
    }
}

impl<M> Queue<M> {
    fn lock(&self) -> MutexGuard<'_, Backlog<(M, TraceParent)>> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next message; `None` once the outbox was closed and is empty.
    async fn next(&self) -> Option<(M, TraceParent)> {
        loop {
            let changed = self.changed.notified();
            {
                let mut backlog = self.lock();
                if let Some(next) = backlog.waiting.pop_front() {
                    return Some(next);
                }
                if backlog.closed {
                    return None;
                }
            }
            changed.await;
        }
    }
}

impl<T> Backlog<T> {
    fn new(capacity: usize) -> Self {
        Self { waiting: VecDeque::new(), capacity: capacity.max(1), closed: false, log: RateLimit::new(LOG_INTERVAL) }
    }

    /// Adds an entry; returns whether the oldest one was dropped for it.
    fn push(&mut self, entry: T) -> bool {
        let full = self.waiting.len() >= self.capacity;
        if full {
            self.waiting.pop_front();
        }
        self.waiting.push_back(entry);
        full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_backlog_drops_the_oldest_entry() {
        let mut backlog = Backlog::new(3);
        let dropped: Vec<bool> = (0..5).map(|entry| backlog.push(entry)).collect();
        assert_eq!(dropped, [false, false, false, true, true]);
        assert_eq!(backlog.waiting, [2, 3, 4]);
    }
}
