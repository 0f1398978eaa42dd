//! A subscription that decodes and counts messages. Owns its queue, which keeps the newest message of each function, or the newest
//! messages; must not grow without bound.

use std::collections::{HashMap, VecDeque};
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
use crate::name::FunctionId;
use crate::runtime::clock;
use crate::runtime::telemetry::RateLimit;

/// Capacity of a queue that keeps all messages; beyond it the oldest is dropped.
const CAPACITY: usize = 131_072;
/// Pause between two log lines about skipped messages.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

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
    queue: Arc<Queue<M>>,
    reader: JoinHandle<()>,
    closing: CancellationToken,
    message: PhantomData<M>,
}

/// Content of the queue while the reader lags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// Every message, up to the capacity.
    All,
    /// The newest message of each function, so that the number of functions is the bound.
    LatestPerFunction,
}

#[derive(Debug)]
struct Queue<M> {
    waiting: Mutex<Waiting<M>>,
    changed: Notify,
}

#[derive(Debug)]
struct Waiting<M> {
    kept: Kept<M>,
    closed: bool,
}

#[derive(Debug)]
enum Kept<M> {
    All {
        messages: VecDeque<Received<M>>,
        capacity: usize,
    },
    /// A function keeps its place in the order when its message is replaced, so that none waits for ever.
    Latest {
        order: VecDeque<FunctionId>,
        messages: HashMap<FunctionId, Received<M>>,
    },
}

/// Result of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pushed {
    Added,
    /// The oldest message was dropped.
    Overrun,
    /// An older message of the same function was replaced.
    Superseded,
}

impl<M: Message> Kept<M> {
    fn new(keep: Keep, capacity: usize) -> Self {
        match keep {
            Keep::All => Self::All { messages: VecDeque::new(), capacity },
            Keep::LatestPerFunction => Self::Latest { order: VecDeque::new(), messages: HashMap::new() },
        }
    }

    fn push(&mut self, received: Received<M>) -> Pushed {
        match self {
            Self::All { messages, capacity } => {
                messages.push_back(received);
                if messages.len() <= *capacity {
                    return Pushed::Added;
                }
                messages.pop_front();
                Pushed::Overrun
            }
            Self::Latest { order, messages } => {
                let function = received.message.function();
                if messages.insert(function.clone(), received).is_some() {
                    return Pushed::Superseded;
                }
                order.push_back(function);
                Pushed::Added
            }
        }
    }

    fn pop(&mut self) -> Option<Received<M>> {
        match self {
            Self::All { messages, .. } => messages.pop_front(),
            Self::Latest { order, messages } => messages.remove(&order.pop_front()?),
        }
    }
}

impl<M: Message + Send + 'static> Subscription<M> {
    pub(super) fn start(subscriber: Subscriber, keep: Keep, counts: Counts) -> Self {
        let waiting = Waiting { kept: Kept::new(keep, CAPACITY), closed: false };
        let queue = Arc::new(Queue { waiting: Mutex::new(waiting), changed: Notify::new() });
        let closing = CancellationToken::new();
        let reader = tokio::spawn(read(subscriber, Arc::clone(&queue), counts, closing.clone()));
        Self { queue, reader, closing, message: PhantomData }
    }

    /// Unsubscribes. Messages in transit are still delivered; then [`Subscription::next`] returns `None`.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// The next message; `None` once the subscription or the connection was closed for good.
    pub async fn next(&mut self) -> Option<Received<M>> {
        loop {
            let changed = self.queue.changed.notified();
            {
                let mut waiting = self.queue.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(received) = waiting.kept.pop() {
                    return Some(received);
                }
                if waiting.closed {
                    return None;
                }
            }
            changed.await;
        }
    }

    /// A queued message; `None` if the queue is empty.
    pub fn try_next(&mut self) -> Option<Received<M>> {
        self.queue.waiting.lock().unwrap_or_else(PoisonError::into_inner).kept.pop()
    }
}

impl<M> Drop for Subscription<M> {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn read<M: Message + Send + 'static>(mut subscriber: Subscriber, queue: Arc<Queue<M>>, counts: Counts, closing: CancellationToken) {
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
                let pushed = queue.push(Received { message, trace });
                counts.add(M::TYPE, "received", 1);
                match pushed {
                    Pushed::Added => {}
                    Pushed::Superseded => counts.add(M::TYPE, "superseded", 1),
                    Pushed::Overrun => {
                        counts.add(M::TYPE, "overrun", 1);
                        warn(&mut log, &raw.subject, "the reader lags; the oldest messages are dropped");
                    }
                }
            }
            Err(error) => {
                counts.add(M::TYPE, error.kind(), 1);
                warn(&mut log, &raw.subject, &explain(&error));
            }
        }
    }
    queue.waiting.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
    queue.changed.notify_one();
}

fn explain(error: &DecodeError) -> String {
    error.to_string().chars().take(500).collect()
}

impl<M: Message> Queue<M> {
    fn push(&self, received: Received<M>) -> Pushed {
        let pushed = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).kept.push(received);
        self.changed.notify_one();
        pushed
    }
}

/// Logs `reason` unless another message was logged within [`LOG_INTERVAL`].
fn warn(log: &mut RateLimit, subject: &str, reason: &str) {
    if let Some(suppressed) = log.admit(clock::instant()) {
        tracing::warn!(subject, reason, suppressed, "message skipped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::State;
    use crate::policy::ScalingPolicy;
    use crate::time::Tick;

    fn state(function: usize, tick: u64) -> Received<State> {
        let policy = ScalingPolicy::new(format!("f-{function}").parse().expect("a function"));
        Received { message: State { tick: Tick(tick), ..State::unmeasured(&policy) }, trace: None }
    }

    fn ticks(kept: &mut Kept<State>) -> Vec<(String, u64)> {
        std::iter::from_fn(|| kept.pop()).map(|received| (received.message.function.to_string(), received.message.tick.0)).collect()
    }

    #[test]
    fn a_lagging_reader_gets_the_newest_state_of_each_function_in_order_of_arrival() {
        let mut kept = Kept::new(Keep::LatestPerFunction, 1);
        let pushed: Vec<Pushed> = [(1, 1), (2, 1), (1, 2), (1, 3)].map(|(function, tick)| kept.push(state(function, tick))).to_vec();
        assert_eq!(pushed, [Pushed::Added, Pushed::Added, Pushed::Superseded, Pushed::Superseded]);
        assert_eq!(ticks(&mut kept), [("f-1".to_owned(), 3), ("f-2".to_owned(), 1)]);
        assert_eq!(kept.push(state(1, 4)), Pushed::Added, "nothing is left of what was read");
    }

    #[test]
    fn what_waits_is_bounded_by_the_number_of_functions() {
        let mut kept = Kept::new(Keep::LatestPerFunction, 1);
        for tick in 0..100 {
            for function in 0..7 {
                kept.push(state(function, tick));
            }
        }
        let Kept::Latest { order, messages } = &kept else { unreachable!("it keeps the latest") };
        assert_eq!((order.len(), messages.len()), (7, 7));
    }

    #[test]
    fn a_full_queue_drops_the_oldest_message() {
        let mut kept = Kept::new(Keep::All, 2);
        let pushed: Vec<Pushed> = (1..=3).map(|tick| kept.push(state(1, tick))).collect();
        assert_eq!(pushed, [Pushed::Added, Pushed::Added, Pushed::Overrun]);
        assert_eq!(ticks(&mut kept), [("f-1".to_owned(), 2), ("f-1".to_owned(), 3)]);
    }
}
