//! Answers the reads of agents: retained States and Loads, and models. Owns the bounds of what an agent reads at once.
//!
//! JetStream's own direct get is not for agents: one small request makes the server prepare any number of messages, whether or not the requester takes
//! them, so that a flood of requests fills its memory. Here each agent has a short queue, of which one request at a time is answered.

use std::collections::HashMap;

use anyhow::Context as _;
use async_nats::{Client, HeaderMap, Message};
use bytes::Bytes;
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::BusConfig;
use super::retained::{ANSWER_TIMEOUT, STATUS, direct_get};
use crate::contract::subject;
use crate::name::Name;

/// Queue group of the collectors, of which one answers each request.
const GROUP: &str = "reads";
/// Requests of one agent that wait; more are dropped, and the agent repeats them.
const WAITING: usize = 16;
/// Messages that the client holds for the connection before it drops some.
const CAPACITY: usize = 256;
/// Largest number of messages in one answer.
const MOST_MESSAGES: u64 = 1000;
/// Largest size of one answer, bytes.
const MOST_BYTES: u64 = 1 << 20;

/// A request, as for a direct get; other fields are not passed on.
#[derive(Debug, Deserialize, Serialize)]
struct ReadRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_by_subj: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_by_subj: Option<String>,
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    max_bytes: Option<u64>,
}

impl ReadRequest {
    fn parse(payload: &[u8]) -> Option<Self> {
        let mut request: Self = serde_json::from_slice(payload).ok()?;
        if request.batch.is_some() {
            request.batch = request.batch.map(|batch| batch.clamp(1, MOST_MESSAGES));
            request.max_bytes = Some(MOST_BYTES);
        }
        Some(request)
    }
}

impl BusConfig {
    /// Answers the reads of agents until `token` is cancelled, over a connection of its own, so that a flood of requests delays nothing else.
    ///
    /// # Errors
    /// If the address is malformed or the password file cannot be read.
    pub async fn answer_reads(&self, token: CancellationToken) -> anyhow::Result<()> {
        let options = self.options()?.name("qscale-reads").subscription_capacity(CAPACITY);
        let client = options.connect(self.urls()).await.with_context(|| format!("nats.url = {}", self.url))?;
        let mut requests = client.queue_subscribe(subject::all_reads(), GROUP.into()).await.context("subscribe to reads of agents")?;
        tokio::spawn(token.run_until_cancelled_owned(async move {
            let mut agents: HashMap<Name, mpsc::Sender<(String, Message)>> = HashMap::new();
            while let Some(request) = requests.next().await {
                let Some((agent, stream)) = subject::read_of(&request.subject).filter(|(_, stream)| is_readable(stream)) else { continue };
                let stream = stream.to_owned();
                let queue = agents.entry(agent).or_insert_with(|| start(client.clone()));
                // A full queue drops the request.
                let _dropped = queue.try_send((stream, request));
            }
        }));
        Ok(())
    }
}

/// Whether agents may read `stream`.
fn is_readable(stream: &str) -> bool {
    stream == subject::LIVE_STREAM || stream == subject::model_stream()
}

/// Starts to answer the requests of one agent, one after the other.
fn start(client: Client) -> mpsc::Sender<(String, Message)> {
    let (sender, mut requests) = mpsc::channel::<(String, Message)>(WAITING);
    tokio::spawn(async move {
        while let Some((stream, request)) = requests.recv().await {
            if let Err(error) = answer(&client, &stream, &request).await {
                tracing::debug!(subject = %request.subject, error = format!("{error:#}"), "failed to answer a read");
            }
        }
    });
    sender
}

/// Passes the server's answer to `request` on.
async fn answer(client: &Client, stream: &str, request: &Message) -> anyhow::Result<()> {
    let Some(reply) = request.reply.clone() else { return Ok(()) };
    let Some(read) = ReadRequest::parse(&request.payload) else {
        client.publish_with_headers(reply, status(400), Bytes::new()).await?;
        return Ok(());
    };
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await?;
    client.publish_with_reply(direct_get(stream), inbox, serde_json::to_vec(&read)?.into()).await?;
    loop {
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, answers.next()).await.ok().flatten().context("the stream does not answer")?;
        if let Some(code) = answer.status {
            client.publish_with_headers(reply, status(code.as_u16()), Bytes::new()).await?;
            return Ok(());
        }
        let single = read.batch.is_none();
        client.publish_with_headers(reply.clone(), answer.headers.unwrap_or_default(), answer.payload).await?;
        if single {
            return Ok(());
        }
    }
}

/// A client cannot send a status line; it is a header instead.
fn status(code: u16) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(STATUS, code.to_string());
    headers
}
