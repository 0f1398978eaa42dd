//! Messages between a service's loop and the bus, so that the loop never waits for the bus. Must not know what a message means.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::task::JoinHandle;

use super::queue::{Pushed, Queue, Retention};
use super::{Bus, LOG_INTERVAL};
use crate::contract::{Message, TraceParent};
use crate::runtime::clock;
use crate::runtime::telemetry::RateLimit;

/// Records messages in the order in which they are pushed, on a task of its own. If the bus is slower than the loop,
/// the oldest messages are dropped and counted.
#[derive(Debug)]
pub struct Outbox<M> {
    queue: Arc<Queue<(M, TraceParent)>>,
    sender: JoinHandle<()>,
    capacity: usize,
    dropped: Counter,
    log: Mutex<RateLimit>,
}

impl<M: Message + Send + Sync + 'static> Outbox<M> {
    /// An outbox for at most `capacity` waiting messages; `dropped` counts those that had to go.
    #[must_use]
    pub fn start(bus: Bus, capacity: usize, dropped: Counter) -> Self {
        let queue = Arc::new(Queue::new(Retention::All { capacity }));
        let sender = tokio::spawn(send(bus, Arc::clone(&queue)));
        Self { queue, sender, capacity, dropped, log: Mutex::new(RateLimit::new(LOG_INTERVAL)) }
    }

    /// Queues `message`. Never waits.
    pub fn push(&self, message: M, trace: TraceParent) {
        // Every message has the size 1, so that the capacity is a number of messages.
        if let Pushed::Overrun(dropped) = self.queue.push((message, trace), 1, None, |(message, _)| message.function()) {
            self.dropped.inc_by(dropped);
            if let Some(suppressed) = self.log.lock().unwrap_or_else(PoisonError::into_inner).admit(clock::instant()) {
                tracing::warn!(kind = %M::TYPE, capacity = self.capacity, suppressed, "outbox is full; dropping the oldest messages");
            }
        }
    }

    /// Hands the remaining messages to the bus; returns the number that are left after `timeout`.
    pub async fn close(mut self, timeout: Duration) -> usize {
        self.queue.close();
        // Whether it ended or ran out of time, the number of waiting messages says what is left.
        let _ended = tokio::time::timeout(timeout, &mut self.sender).await;
        self.queue.len()
    }
}

impl<M> Drop for Outbox<M> {
    fn drop(&mut self) {
        self.sender.abort();
    }
}

async fn send<M: Message + Send + Sync>(bus: Bus, queue: Arc<Queue<(M, TraceParent)>>) {
    while let Some((message, trace)) = queue.next().await {
        bus.record(&message, trace).await;
    }
}
