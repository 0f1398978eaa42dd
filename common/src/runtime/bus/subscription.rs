//! A subscription that decodes and counts messages. Must not interpret them.

use std::sync::Arc;

use async_nats::Subscriber;
use futures::StreamExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::queue::{Pushed, Queue, Retention};
use super::{Delivery, LOG_INTERVAL, MessageCounts};
use crate::contract::{DecodeError, Message, TraceParent, decode};
use crate::runtime::clock;
use crate::runtime::telemetry::RateLimit;

/// Largest total size of the messages in a queue that keeps all of them, bytes: decoded size and size of the body.
/// Beyond it the oldest are dropped. It holds 46,000 Actions with a body of 1 KiB.
pub(super) const CAPACITY: usize = 64 << 20;

/// A message and the trace it belongs to.
#[derive(Debug, Clone)]
pub struct Received<M> {
    /// The message.
    pub message: M,
    /// The trace, if the publisher sent a valid one.
    pub trace: Option<TraceParent>,
}

/// A running subscription; ends when it is dropped.
#[derive(Debug)]
pub struct Subscription<M> {
    queue: Arc<Queue<Received<M>>>,
    reader: JoinHandle<()>,
    closing: CancellationToken,
}

impl<M: Message + Send + 'static> Subscription<M> {
    pub(super) fn start(subscriber: Subscriber, retention: Retention, counts: MessageCounts) -> Self {
        let queue = Arc::new(Queue::new(retention));
        let closing = CancellationToken::new();
        let reader = tokio::spawn(read(subscriber, Arc::clone(&queue), counts, closing.clone()));
        Self { queue, reader, closing }
    }

    /// Unsubscribes. Messages in transit are still delivered; then [`Subscription::next`] returns `None`.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// The next message; `None` once the subscription or the connection was closed for good.
    pub async fn next(&mut self) -> Option<Received<M>> {
        self.queue.next().await
    }

    /// A queued message; `None` if the queue is empty.
    pub fn try_next(&mut self) -> Option<Received<M>> {
        self.queue.try_next()
    }
}

impl<M> Drop for Subscription<M> {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn read<M: Message + Send + 'static>(
    mut subscriber: Subscriber,
    queue: Arc<Queue<Received<M>>>,
    counts: MessageCounts,
    closing: CancellationToken,
) {
    let mut log = RateLimit::new(LOG_INTERVAL);
    let mut open = true;
    loop {
        let raw = tokio::select! {
            raw = subscriber.next() => raw,
            () = closing.cancelled(), if open => {
                open = false;
                // Without a connection no more messages arrive anyway.
                if subscriber.drain().await.is_ok() {
                    continue;
                }
                None
            }
        };
        let Some(raw) = raw else { break };
        match decode::<M>(&raw.subject, &raw.payload) {
            Ok(message) => {
                let trace =
                    raw.headers.as_ref().and_then(|headers| headers.get("traceparent")).and_then(|value| value.as_str().parse().ok());
                let size = size_of::<Received<M>>() + raw.payload.len();
                let sender = message.agent().cloned();
                let pushed = queue.push(Received { message, trace }, size, sender, |received| received.message.function());
                counts.add(M::TYPE, Delivery::Received, 1);
                match pushed {
                    Pushed::Added => {}
                    Pushed::Superseded => counts.add(M::TYPE, Delivery::Superseded, 1),
                    Pushed::Overrun(dropped) => {
                        counts.add(M::TYPE, Delivery::Overrun, dropped);
                        warn(&mut log, &raw.subject, "the reader lags; the oldest messages are dropped");
                    }
                }
            }
            Err(error) => {
                counts.add(M::TYPE, &error, 1);
                warn(&mut log, &raw.subject, &explain(&error));
            }
        }
    }
    queue.close();
}

fn explain(error: &DecodeError) -> String {
    error.to_string().chars().take(500).collect()
}

/// Logs `reason` unless another message was logged within [`LOG_INTERVAL`].
fn warn(log: &mut RateLimit, subject: &str, reason: &str) {
    if let Some(suppressed) = log.admit(clock::instant()) {
        tracing::warn!(subject, reason, suppressed, "message skipped");
    }
}
