//! Reading of the messages that a stream retains, in order, for services that rebuild their memory.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use futures::StreamExt;

use super::Bus;
use crate::contract::{EventType, Message, decode, subject};
use crate::runtime::clock;
use crate::time::Timestamp;

/// Timeout for the next pending message.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

impl Bus {
    /// Calls `visit` with every message of kind `M` stored since `since` and before this call; returns their number. Malformed messages are skipped.
    ///
    /// # Errors
    /// If the stream cannot be read to its end.
    pub async fn read_history<M: Message>(&self, since: Timestamp, visit: impl FnMut(M)) -> anyhow::Result<u64> {
        self.read_history_on(subject::all(M::TYPE), since, visit).await
    }

    /// Last message of `stream` on a subject (wildcards allowed) and when it was stored; `None` if there is none.
    ///
    /// # Errors
    /// When the stream cannot be read.
    pub async fn last_message(&self, stream: &str, subject: &str) -> anyhow::Result<Option<(Timestamp, StreamMessage)>> {
        let opened = self.jetstream().get_stream(stream).await.with_context(|| format!("stream {stream}"))?;
        match opened.get_last_raw_message_by_subject(subject).await {
            Ok(message) => {
                let stored = u64::try_from(message.time.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
                Ok(Some((clock::of_wall(Timestamp(stored)), message)))
            }
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("last message on {subject}")),
        }
    }

    /// As [`Bus::read_history`], on `filter_subject` only.
    ///
    /// # Errors
    /// If the stream cannot be read to its end.
    pub async fn read_history_on<M: Message>(
        &self,
        filter_subject: String,
        since: Timestamp,
        mut visit: impl FnMut(M),
    ) -> anyhow::Result<u64> {
        let name = match M::TYPE {
            EventType::State | EventType::Load => subject::LIVE_STREAM,
            EventType::Action | EventType::Outcome | EventType::Reward => subject::RECORD_STREAM,
        };
        let start_time = async_nats::datetime::from_nanos(i128::from(clock::to_wall(since).0) * 1_000_000)
            .map_err(|error| anyhow::anyhow!("{since}: {error}"))?;
        let stream = self.jetstream().get_stream(name).await.with_context(|| format!("stream {name}"))?;
        let configuration =
            pull::OrderedConfig { filter_subject, deliver_policy: DeliverPolicy::ByStartTime { start_time }, ..Default::default() };
        let consumer = stream.create_consumer(configuration).await.with_context(|| format!("read stream {name}"))?;
        let (mut rest, made) = (consumer.cached_info().num_pending, consumer.cached_info().name.clone());
        let mut count = 0;
        let read = async {
            let mut messages = consumer.messages().await.with_context(|| format!("read stream {name}"))?;
            while rest > 0 {
                let next = tokio::time::timeout(ANSWER_WITHIN, messages.next()).await;
                let stored = next
                    .ok()
                    .flatten()
                    .with_context(|| format!("stream {name} stopped answering"))?
                    .with_context(|| format!("read stream {name}"))?;
                // Messages stored in the meantime are left out: a busy stream would never end.
                rest -= 1;
                if let Ok(message) = decode::<M>(&stored.subject, &stored.payload) {
                    visit(message);
                    count += 1;
                }
            }
            anyhow::Ok(())
        }
        .await;
        // The server would keep the consumer for half a minute, and their number is limited.
        if let Err(error) = stream.delete_consumer(&made).await {
            tracing::debug!(%error, stream = name, "the consumer is left to end by itself");
        }
        read?;
        Ok(count)
    }
}
