//! Messages of the streams in order of time, first those that are stored, then new ones. Owns the merge of the streams;
//! must not decode or filter.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use futures::stream::{self, LocalBoxStream, StreamExt};
use tokio::time::MissedTickBehavior;

use super::Bus;
use crate::contract::EventType;
use crate::runtime::clock;
use crate::time::Timestamp;

/// Timeout for the next message of a stream that has one.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Lifetime of one pull request. A lost server is noticed after about as long, and reading resumes at the same place.
const PULL_EXPIRY: Duration = Duration::from_secs(2);
/// Interval between checks for streams that are new.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Delay before an unreadable stream is opened again.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// Messages of several streams since a time.
pub struct RecordedMessages {
    sources: Vec<StreamReader>,
    /// Subjects with the kind of their messages.
    subjects: Vec<(EventType, String)>,
    /// Wall-clock time from which on messages are read.
    since: Timestamp,
    /// Wall-clock time of the opening: the messages before it are the history.
    until: Timestamp,
}

/// A message of a stream.
#[derive(Debug)]
pub struct RecordedMessage {
    /// Time at which it was stored, by the clock of this process.
    pub at: Timestamp,
    /// Subject and payload.
    pub message: Message,
}

impl From<StoredMessage> for RecordedMessage {
    fn from(stored: StoredMessage) -> Self {
        Self { at: clock::of_wall(stored.at), message: stored.message }
    }
}

impl RecordedMessages {
    /// Opens the streams of `subjects`, each with the kind of its messages, at `since`.
    ///
    /// # Errors
    /// When a stream cannot be read, or `since` is not a date.
    pub async fn open(bus: &Bus, subjects: Vec<(EventType, String)>, since: Timestamp) -> anyhow::Result<Self> {
        // The streams store wall-clock times.
        let (since, until) = (clock::to_wall(since), clock::wall());
        let start_time = async_nats::datetime::from_nanos(i128::from(since.0) * 1_000_000)
            .map_err(|error| anyhow::anyhow!("start at {} ms: {error}", since.0))?;
        let mut sources = Vec::new();
        for (stream, subjects) in by_stream(bus, &subjects).await? {
            sources.push(StreamReader::open(bus, stream, subjects, since, DeliverPolicy::ByStartTime { start_time }).await?);
        }
        Ok(Self { sources, subjects, since, until })
    }

    /// Passes the messages that existed when the streams were opened to `show`, oldest first.
    ///
    /// # Errors
    /// When a stream stops answering; errors of `show`.
    pub async fn history(&mut self, mut show: impl FnMut(&RecordedMessage) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let mut heads = Vec::new();
        for source in &mut self.sources {
            heads.push(source.recorded(self.until).await?);
        }
        loop {
            let oldest = heads.iter().enumerate().filter_map(|(index, head)| head.as_ref().map(|stored| (stored.nanos, index))).min();
            let Some((_, index)) = oldest else { return Ok(()) };
            if let Some(stored) = std::mem::replace(&mut heads[index], self.sources[index].recorded(self.until).await?) {
                show(&stored.into())?;
            }
        }
    }

    /// Passes new messages to `show`, and resumes after interruptions. Streams of agents that are added meanwhile are followed, too.
    ///
    /// # Errors
    /// Those of `show`.
    pub async fn follow(self, bus: &Bus, mut show: impl FnMut(&RecordedMessage) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let next = async |source: &mut StreamReader| source.next(bus).await;
        let mut followed: BTreeSet<String> = self.sources.iter().map(|source| source.stream.clone()).collect();
        let mut live = stream::select_all(self.sources.into_iter().map(|source| items(source, next)));
        let mut check = tokio::time::interval(CHECK_INTERVAL);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(stored) = live.next() => show(&stored.into())?,
                _ = check.tick() => {
                    // Without an answer the next check finds them.
                    let streams = by_stream(bus, &self.subjects).await.unwrap_or_default();
                    for (stream, subjects) in streams.into_iter().filter(|(stream, _)| !followed.contains(stream)).collect::<Vec<_>>() {
                        if let Ok(source) = StreamReader::open(bus, stream.clone(), subjects, self.since, DeliverPolicy::All).await {
                            followed.insert(stream);
                            live.push(items(source, next));
                        }
                    }
                }
            }
        }
    }
}

/// The streams that retain messages on `subjects`, with the subjects of each.
async fn by_stream(bus: &Bus, subjects: &[(EventType, String)]) -> anyhow::Result<BTreeMap<String, Vec<String>>> {
    let mut by_stream: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (kind, subject) in subjects {
        for stream in bus.streams_of(*kind, subject).await? {
            by_stream.entry(stream).or_default().push(subject.clone());
        }
    }
    Ok(by_stream)
}

/// Items of a source, forever. Merged with others it makes progress also while they have items: its `next` is never
/// dropped before it completes.
fn items<'a, S: 'a, T: 'a>(source: S, next: impl AsyncFn(&mut S) -> T + Copy + 'a) -> LocalBoxStream<'a, T> {
    stream::unfold(source, move |mut source| async move {
        let item = next(&mut source).await;
        Some((item, source))
    })
    .boxed_local()
}

/// A message of a stream with its wall-clock time.
struct StoredMessage {
    at: Timestamp,
    /// The same instant in nanoseconds: an Action and its Outcome may share a millisecond.
    nanos: i128,
    message: Message,
}

/// One stream, read in order.
struct StreamReader {
    stream: String,
    subjects: Vec<String>,
    messages: pull::Ordered,
    /// Whether recorded messages remain.
    remaining: bool,
    /// Sequence number of the last message.
    last: u64,
    /// Messages stored earlier are skipped, also after reading resumes.
    since: Timestamp,
}

impl StreamReader {
    async fn open(
        bus: &Bus,
        stream: String,
        subjects: Vec<String>,
        since: Timestamp,
        deliver_policy: DeliverPolicy,
    ) -> anyhow::Result<Self> {
        let opened = bus.jetstream().get_stream(&stream).await.with_context(|| format!("stream {stream}"))?;
        let configuration =
            pull::OrderedConfig { filter_subjects: subjects.clone(), deliver_policy, max_expires: PULL_EXPIRY, ..Default::default() };
        let consumer = opened.create_consumer(configuration).await.with_context(|| format!("failed to read stream {stream}"))?;
        let remaining = consumer.cached_info().num_pending > 0;
        let messages = consumer.messages().await.with_context(|| format!("failed to read stream {stream}"))?;
        Ok(Self { stream, subjects, messages, remaining, last: 0, since })
    }

    /// The next message stored before `until`; `None` after the last.
    async fn recorded(&mut self, until: Timestamp) -> anyhow::Result<Option<StoredMessage>> {
        if !self.remaining {
            return Ok(None);
        }
        let next = tokio::time::timeout(READ_TIMEOUT, self.messages.next()).await;
        let message = next.ok().flatten().with_context(|| format!("stream {} stopped answering", self.stream))?;
        let (stored, pending) = self.take(message.with_context(|| format!("failed to read stream {}", self.stream))?)?;
        self.remaining = pending > 0 && stored.at < until;
        Ok(Some(stored))
    }

    /// The next message; waits, and survives interruptions.
    async fn next(&mut self, bus: &Bus) -> StoredMessage {
        loop {
            if let Some(Ok(message)) = self.messages.next().await
                && let Ok((stored, _)) = self.take(message)
            {
                if stored.at < self.since {
                    continue;
                }
                return stored;
            }
            tokio::time::sleep(RETRY_DELAY).await;
            // Without a message read so far, reading resumes with new messages.
            let start = if self.last == 0 { DeliverPolicy::New } else { DeliverPolicy::ByStartSequence { start_sequence: self.last + 1 } };
            if let Ok(reopened) = Self::open(bus, self.stream.clone(), self.subjects.clone(), self.since, start).await {
                *self = Self { last: self.last, ..reopened };
            }
        }
    }

    fn take(&mut self, message: Message) -> anyhow::Result<(StoredMessage, u64)> {
        let info = message.info().map_err(|error| anyhow::anyhow!("stream {}: {error}", self.stream))?;
        let nanos = info.published.unix_timestamp_nanos();
        self.last = info.stream_sequence;
        let pending = info.pending;
        let at = Timestamp(u64::try_from(nanos / 1_000_000).unwrap_or(0));
        Ok((StoredMessage { at, nanos, message }, pending))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_busy_source_does_not_interrupt_a_slow_one() {
        let (busy, slow) = (Duration::from_millis(1), Duration::from_millis(100));
        let next = async |pause: &mut Duration| {
            tokio::time::sleep(*pause).await;
            *pause
        };
        let merged = stream::select_all([busy, slow].map(|pause| items(pause, next)));
        let mut slow_items = merged.filter(|pause| std::future::ready(*pause == slow));
        let item = tokio::time::timeout(Duration::from_secs(20), slow_items.next()).await;
        assert_eq!(item, Ok(Some(slow)));
    }
}
