//! Messages that a stream retains, read by direct get: it needs no consumer, of which a stream has a limited number,
//! and its answers reach only the connection that asked. An agent asks a collector, which passes the answers on. Owns the requests; must not decode messages.

use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::{HeaderMap, Message, StatusCode, datetime};
use bytes::Bytes;
use futures::StreamExt;
use serde_json::{Value, json};

use super::Bus;
use crate::contract::{EventType, subject as subjects};
use crate::runtime::clock;
use crate::time::Timestamp;

/// Timeout for the next answer.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages per request; the server answers a request without waiting for its receiver.
const BATCH: u64 = 1000;
/// Status that ends a batch.
const END_OF_BATCH: u16 = 204;
/// Status of an answer that another client than the server sends, as a header.
pub(super) const STATUS: &str = "Qscale-Status";

/// A retained message.
#[derive(Debug, Clone)]
pub struct RetainedMessage {
    /// Its subject.
    pub subject: String,
    /// Its number in the stream.
    pub sequence: u64,
    /// Time at which it was stored, by the clock of this process.
    pub at: Timestamp,
    /// Its body.
    pub payload: Bytes,
    /// Messages on the requested subjects that follow it.
    pending: u64,
}

/// First message to read.
#[derive(Debug, Clone, Copy)]
pub(in crate::runtime) enum Start {
    /// The first one stored at this wall-clock time or later.
    At(Timestamp),
    /// The first one with this number or a greater one.
    Sequence(u64),
}

impl Bus {
    /// The last message of `kind` on `subject` (wildcards allowed); `None` if there is none.
    ///
    /// # Errors
    /// If a stream cannot be read.
    pub async fn last_message(&self, kind: EventType, subject: &str) -> anyhow::Result<Option<RetainedMessage>> {
        let mut last: Option<RetainedMessage> = None;
        for stream in self.streams_of(kind, subject).await? {
            let found = self.last_in(&stream, subject).await?;
            last = last.into_iter().chain(found).max_by_key(|message| message.at);
        }
        Ok(last)
    }

    /// Subject on which this user asks for messages that `stream` retains.
    fn read_subject(&self, stream: &str) -> String {
        self.reads_as.as_ref().map_or_else(|| direct_get(stream), |agent| subjects::read(agent, stream))
    }

    /// The last message of `stream` on `subject` (wildcards allowed); `None` if there is none.
    ///
    /// # Errors
    /// If the stream cannot be read.
    pub(in crate::runtime) async fn last_in(&self, stream: &str, subject: &str) -> anyhow::Result<Option<RetainedMessage>> {
        let request = self.client().request(self.read_subject(stream), encode(&json!({ "last_by_subj": subject })));
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, request).await.with_context(|| format!("stream {stream} does not answer"))?;
        message(&answer.with_context(|| format!("stream {stream}"))?).with_context(|| format!("last message on {subject}"))
    }

    /// Passes the messages of `stream` on `subject` (wildcards allowed) from `start` on to `visit`, in order. Messages
    /// stored after the call are left out: a busy stream would never end. `visit` returns whether to continue.
    ///
    /// # Errors
    /// If the stream cannot be read to its end.
    pub(in crate::runtime) async fn read_retained(
        &self,
        stream: &str,
        subject: &str,
        start: Start,
        mut visit: impl FnMut(RetainedMessage) -> bool,
    ) -> anyhow::Result<()> {
        let (mut start, mut remaining) = (start, None);
        loop {
            let inbox = self.client().new_inbox();
            let mut answers = self.client().subscribe(inbox.clone()).await?;
            self.client().publish_with_reply(self.read_subject(stream), inbox, encode(&start.request(subject))).await?;
            let mut last = None;
            loop {
                let answer = tokio::time::timeout(ANSWER_TIMEOUT, answers.next()).await.ok().flatten();
                let answer = answer.with_context(|| format!("stream {stream} stopped answering"))?;
                let Some(message) = message(&answer).with_context(|| format!("failed to read stream {stream}"))? else { break };
                let left: &mut u64 = remaining.get_or_insert(message.pending.saturating_add(1));
                *left = left.saturating_sub(1);
                last = Some(message.sequence);
                let end = *left == 0 || message.pending == 0;
                if !visit(message) || end {
                    return Ok(());
                }
            }
            let Some(last) = last else { return Ok(()) };
            start = Start::Sequence(last.saturating_add(1));
        }
    }
}

impl Start {
    fn request(self, subject: &str) -> Value {
        let mut request = json!({ "batch": BATCH, "next_by_subj": subject });
        match self {
            Self::At(time) => request["start_time"] = json!(time.to_string()),
            Self::Sequence(sequence) => request["seq"] = json!(sequence),
        }
        request
    }
}

/// Subject of JetStream's direct get.
pub(super) fn direct_get(stream: &str) -> String {
    format!("$JS.API.DIRECT.GET.{stream}")
}

fn encode(request: &Value) -> Bytes {
    request.to_string().into()
}

/// The retained message in an answer; `None` if the answer says that there is none, or no more in the batch.
fn message(answer: &Message) -> anyhow::Result<Option<RetainedMessage>> {
    let passed_on = answer.headers.as_ref().and_then(|headers| headers.get(STATUS)).and_then(|status| status.as_str().parse().ok());
    match answer.status.map(|status| status.as_u16()).or(passed_on) {
        None => {}
        Some(status) if status == StatusCode::NOT_FOUND.as_u16() || status == END_OF_BATCH => return Ok(None),
        Some(status) if status == StatusCode::NO_RESPONDERS.as_u16() => {
            bail!("the stream does not exist, this user may not read it, or no collector runs, which answers agents")
        }
        Some(status) => bail!("status {status}: {}", answer.description.as_deref().unwrap_or("no description")),
    }
    let headers = answer.headers.as_ref().context("an answer without headers")?;
    let stored = datetime::parse_rfc3339(text(headers, "Nats-Time-Stamp")?).map_err(|error| anyhow::anyhow!("Nats-Time-Stamp: {error}"))?;
    Ok(Some(RetainedMessage {
        subject: text(headers, "Nats-Subject")?.to_owned(),
        sequence: number(headers, "Nats-Sequence")?,
        at: clock::of_wall(Timestamp(u64::try_from(stored.unix_timestamp_nanos() / 1_000_000).unwrap_or(0))),
        payload: answer.payload.clone(),
        // Absent in the answer to a request for one message.
        pending: if headers.get("Nats-Num-Pending").is_some() { number(headers, "Nats-Num-Pending")? } else { 0 },
    }))
}

/// The last value of a header: the server adds its own after those with which the message was stored.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> anyhow::Result<&'a str> {
    Ok(headers.get_all(name).last().with_context(|| format!("an answer without {name}"))?.as_str())
}

fn number(headers: &HeaderMap, name: &str) -> anyhow::Result<u64> {
    let value = text(headers, name)?;
    value.parse().with_context(|| format!("{name} = {value}"))
}
