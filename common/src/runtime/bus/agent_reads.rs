//! Answers the reads of agents: retained States and Loads, models, and the Actions of each for itself. Owns the bounds of what an agent reads at once.
//!
//! JetStream's own direct get is not for agents: one small request makes the server prepare any number of messages, whether or not the requester takes
//! them, so that a flood of requests fills its memory. Here one request of an agent at a time is answered.

use anyhow::Context as _;
use async_nats::{Client, HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::retained::{ANSWER_TIMEOUT, STATUS, direct_get};
use super::{Bus, BusConfig};
use crate::contract::subject;
use crate::name::Name;
use crate::runtime::nats_accounts::READ_MESSAGES;

/// Queue group of the collectors, of which one answers each request.
const GROUP: &str = "reads";
/// Requests of an agent that wait, and messages of an answer; more are dropped, and the agent repeats its request.
const CAPACITY: usize = 1024;
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
            request.batch = request.batch.map(|batch| batch.clamp(1, READ_MESSAGES));
            request.max_bytes = Some(MOST_BYTES);
        }
        Some(request)
    }
}

impl Bus {
    /// Answers the reads of agents until `token` is cancelled, each over a connection of its own with `config`, so that a flood of requests delays those of its
    /// sender only. The receiver shows whether the agents were listed once.
    pub fn answer_reads(&self, config: &BusConfig, token: CancellationToken) -> watch::Receiver<bool> {
        let (bus, config) = (self.clone(), config.clone());
        self.follow_agents(token, move |agent, follower| {
            let (bus, config) = (bus.clone(), config.clone());
            async move {
                let own = bus.on_connection(&config, &format!("qscale-reads-{agent}"), CAPACITY).await?;
                let client = own.client().clone();
                let requests =
                    client.queue_subscribe(subject::reads_of(&agent), GROUP.into()).await.context("failed to subscribe to reads")?;
                own.flush().await;
                tokio::spawn(follower.run_until_cancelled_owned(answer_all(client, agent, requests)));
                Ok(())
            }
        })
    }
}

/// Answers the requests of one agent, one after the other.
async fn answer_all(client: Client, agent: Name, mut requests: Subscriber) {
    while let Some(request) = requests.next().await {
        let Some((_, stream)) = subject::read_of(&request.subject).filter(|(_, stream)| is_readable(&agent, stream)) else { continue };
        if let Err(error) = answer(&client, stream, &request).await {
            tracing::debug!(subject = %request.subject, error = format!("{error:#}"), "failed to answer a read");
        }
    }
}

/// Whether `agent` may read `stream`: States and Loads, models, and its own Actions.
fn is_readable(agent: &Name, stream: &str) -> bool {
    stream == subject::LIVE_STREAM || stream == subject::model_stream() || stream == subject::action_stream(agent)
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
