//! A subscription that reads, checks and counts messages, and keeps the newest where its reader lags.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::Subscriber;
use futures::StreamExt;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Counts;
use crate::contract::{DecodeError, Message, TraceParent, decode};
use crate::runtime::clock;

/// Messages that wait for a reader; beyond it the oldest is dropped. A State a function of a cluster of this size fits.
const WAITING: usize = 131_072;
/// What is wrong with messages is logged at most this often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// A message and the trace it belongs to.
#[derive(Debug, Clone)]
pub struct Received<M> {
    /// The message.
    pub message: M,
    /// The trace, where the publisher sent a valid one.
    pub trace: Option<TraceParent>,
}

/// A running subscription; ends when it is dropped.
#[derive(Debug)]
pub struct Subscription<M> {
    queue: Arc<Queue<M>>,
    reader: JoinHandle<()>,
    closing: CancellationToken,
    message: PhantomData<M>,
}

#[derive(Debug)]
struct Queue<M> {
    waiting: Mutex<(VecDeque<Received<M>>, bool)>,
    changed: Notify,
}

impl<M: Message + Send + 'static> Subscription<M> {
    pub(super) fn start(subscriber: Subscriber, counts: Counts) -> Self {
        let queue = Arc::new(Queue { waiting: Mutex::new((VecDeque::new(), false)), changed: Notify::new() });
        let closing = CancellationToken::new();
        let reader = tokio::spawn(read(subscriber, Arc::clone(&queue), counts, closing.clone()));
        Self { queue, reader, closing, message: PhantomData }
    }

    /// Asks for no more messages. Those that the server has sent already are still delivered; then [`Subscription::next`] gives `None`.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// The next message; `None` once the subscription or the connection was closed for good.
    pub async fn next(&mut self) -> Option<Received<M>> {
        loop {
            let changed = self.queue.changed.notified();
            {
                let mut waiting = self.queue.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(received) = waiting.0.pop_front() {
                    return Some(received);
                }
                if waiting.1 {
                    return None;
                }
            }
            changed.await;
        }
    }

    /// A message that already waits; `None` where none does.
    pub fn try_next(&mut self) -> Option<Received<M>> {
        self.queue.waiting.lock().unwrap_or_else(PoisonError::into_inner).0.pop_front()
    }
}

impl<M> Drop for Subscription<M> {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn read<M: Message + Send + 'static>(mut subscriber: Subscriber, queue: Arc<Queue<M>>, counts: Counts, closing: CancellationToken) {
    let mut complaints = Complaints::default();
    let mut open = true;
    loop {
        let raw = tokio::select! {
            raw = subscriber.next() => raw,
            () = closing.cancelled(), if open => {
                open = false;
                // Where there is no connection nothing more comes anyway.
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
                let dropped = queue.push(Received { message, trace });
                counts.add(M::TYPE, "received", 1);
                if dropped {
                    counts.add(M::TYPE, "overrun", 1);
                    complaints.raise(&raw.subject, "the reader lags; the oldest messages are dropped");
                }
            }
            Err(error) => {
                counts.add(M::TYPE, error.kind(), 1);
                complaints.raise(&raw.subject, &explain(&error));
            }
        }
    }
    queue.waiting.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
    queue.changed.notify_one();
}

fn explain(error: &DecodeError) -> String {
    error.to_string().chars().take(500).collect()
}

impl<M> Queue<M> {
    /// Adds a message, and says whether the oldest one had to go for it.
    fn push(&self, received: Received<M>) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.0.push_back(received);
        let overrun = waiting.0.len() > WAITING;
        if overrun {
            waiting.0.pop_front();
        }
        drop(waiting);
        self.changed.notify_one();
        overrun
    }
}

/// Speaks up once in a while, and says how often it kept quiet.
#[derive(Default)]
struct Complaints {
    last: Option<std::time::Instant>,
    kept: u64,
}

impl Complaints {
    fn raise(&mut self, subject: &str, reason: &str) {
        if self.last.is_some_and(|last| last.elapsed() < COMPLAIN_EVERY) {
            self.kept += 1;
            return;
        }
        tracing::warn!(subject, reason, others = self.kept, "message skipped");
        self.last = Some(clock::instant());
        self.kept = 0;
    }
}
