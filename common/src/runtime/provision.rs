//! Streams, buckets and the model store: created once, updated without loss, each with its limits.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use async_nats::jetstream::{Context, ErrorCode, kv, object_store};
use futures::TryStreamExt as _;

use super::bus::ConnectError;
use crate::contract::{EventType, MAX_PAYLOAD, subject};
use crate::name::Name;

const MIB: i64 = 1 << 20;
/// State and Load: about a day of ten functions at 5 s, or 20 minutes of a thousand.
const LIVE_BYTES: i64 = 256 * MIB;
/// Outcome and Reward: bounded by size, and by an age of a week.
const RECORD_BYTES: i64 = 768 * MIB;
/// Actions of one agent, about a day of ten functions at 5 s: the agent's quota, so that a flood removes nothing but its sender's own Actions.
const ACTION_BYTES: i64 = 128 * MIB;
/// Most Actions of one agent, for the memory that the server needs for the index of small messages.
const ACTION_MESSAGES: i64 = 200_000;
/// Changes by operators and the promoter: some hundred thousand of a few hundred bytes, and as many large ones as fit.
const CHANGE_BYTES: i64 = 64 * MIB;
const RECORD_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Window for duplicates of a message; longer than a publisher retries.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// A policy or another small value in a bucket.
const VALUE_BYTES: i32 = 64 * 1024;
/// Time for which ids of Actions are remembered, in memory. Short, because an agent can send many with long ids; an Action counts once anyway.
const ACTION_DUPLICATES: Duration = Duration::from_secs(2);
const BUCKET_BYTES: i64 = 64 * MIB;
const MODEL_BYTES: i64 = 512 * MIB;

/// Description of a bucket while lost entries are restored. Nobody reads the bucket until then: without them it could lack a freeze.
pub const RESTORING: &str = "being restored";

/// Oldest supported nats-server: older ones cannot create the buckets and ignore filters.
pub const OLDEST_SERVER: (u64, u64, u64) = (2, 11, 0);

fn stream() -> Config {
    Config {
        storage: StorageType::File,
        discard: DiscardPolicy::Old,
        max_message_size: MAX_PAYLOAD as i32,
        allow_direct: true,
        ..Default::default()
    }
}

/// Configuration of the stream of `agent`'s Actions. It has a stream of its own because the server drops messages whose id the stream has seen: in a shared
/// stream an agent could take the ids of others.
fn action_stream(agent: &Name) -> Config {
    Config {
        name: subject::action_stream(agent),
        description: Some(format!("Actions of agent {agent}: acknowledged, read by replay and learning")),
        subjects: vec![subject::all_of_agent(agent)],
        max_bytes: ACTION_BYTES,
        max_messages: ACTION_MESSAGES,
        duplicate_window: ACTION_DUPLICATES,
        ..recorded()
    }
}

fn recorded() -> Config {
    Config { max_age: RECORD_AGE, duplicate_window: DUPLICATE_WINDOW, ..stream() }
}

/// Configuration of the streams of messages, the shared ones first: an earlier version kept Actions in one of them, and a subject can have one stream only.
#[must_use]
pub fn streams(agents: &[Name]) -> Vec<Config> {
    let shared = [
        Config {
            name: subject::LIVE_STREAM.into(),
            description: Some("State and Load: newest wins, published without waiting".into()),
            subjects: [EventType::State, EventType::Load].map(subject::all).into(),
            max_bytes: LIVE_BYTES,
            no_ack: true,
            ..stream()
        },
        Config {
            name: subject::RECORD_STREAM.into(),
            description: Some("Outcome and Reward: acknowledged, read by replay and learning".into()),
            subjects: [EventType::Outcome, EventType::Reward].map(subject::all).into(),
            max_bytes: RECORD_BYTES,
            ..recorded()
        },
        Config {
            name: subject::CHANGE_STREAM.into(),
            description: Some("Changes by operators and the promoter: acknowledged, append-only".into()),
            subjects: vec![subject::all_changes()],
            max_bytes: CHANGE_BYTES,
            deny_delete: true,
            deny_purge: true,
            ..stream()
        },
    ];
    shared.into_iter().chain(agents.iter().map(action_stream)).collect()
}

/// Configuration of the buckets.
#[must_use]
pub fn buckets() -> [kv::Config; 5] {
    let bucket = |name: &str, description: &str, history| kv::Config {
        bucket: name.into(),
        description: description.into(),
        max_value_size: VALUE_BYTES,
        max_bytes: BUCKET_BYTES,
        history,
        ..Default::default()
    };
    [
        bucket(subject::POLICY_BUCKET, "ScalingPolicies, key <namespace>.<function>", 8),
        bucket(subject::CONTROL_BUCKET, "Freezes and restores, key all or <namespace>.<function>", 8),
        bucket(subject::ACTUATOR_BUCKET, "What the actuator must not forget", 1),
        bucket(subject::LEASE_BUCKET, "Who leads", 1),
        bucket(subject::FINETUNE_BUCKET, "Where fine-tuning stands, key <model>", 8),
    ]
}

/// Storage that the streams of messages, those of `agents` included, the buckets and the model store may take, bytes, by the name of the stream.
#[must_use]
pub fn storage(agents: &[Name]) -> Vec<(String, u64)> {
    let streams = streams(agents).into_iter().map(|stream| (stream.name, stream.max_bytes));
    let buckets = buckets().into_iter().map(|bucket| (subject::bucket_stream(&bucket.bucket), bucket.max_bytes));
    let models = (subject::model_stream(), MODEL_BYTES);
    streams.chain(buckets).chain([models]).map(|(name, bytes)| (name, bytes.unsigned_abs())).collect()
}

/// Creates missing streams, those of `agents` included, buckets and stores, and updates existing ones. Idempotent.
///
/// # Errors
/// If the server is older than [`OLDEST_SERVER`], has no JetStream, or refuses.
pub async fn ensure(jetstream: &Context, agents: &[Name]) -> anyhow::Result<()> {
    check_server(&jetstream.client())?;
    for stream in streams(agents) {
        let name = stream.name.clone();
        jetstream.create_or_update_stream(stream).await.with_context(|| format!("stream {name}"))?;
    }
    for bucket in buckets() {
        let name = bucket.bucket.clone();
        jetstream.create_or_update_key_value(bucket).await.with_context(|| format!("bucket {name}"))?;
    }
    ensure_models(jetstream).await
}

/// Creates the model store if it is missing.
///
/// # Errors
/// If the server refuses.
pub async fn ensure_models(jetstream: &Context) -> anyhow::Result<()> {
    if jetstream.get_object_store(subject::MODEL_STORE).await.is_err() {
        let store = object_store::Config {
            bucket: subject::MODEL_STORE.into(),
            description: Some("Trained models, versioned".into()),
            max_bytes: MODEL_BYTES,
            ..Default::default()
        };
        jetstream.create_object_store(store).await.with_context(|| format!("object store {}", subject::MODEL_STORE))?;
    }
    Ok(())
}

/// Deletes the stream of `agent`'s Actions, if it exists.
///
/// # Errors
/// If the server refuses or does not answer.
pub async fn remove_agent(jetstream: &Context, agent: &Name) -> anyhow::Result<()> {
    let name = subject::action_stream(agent);
    match jetstream.delete_stream(&name).await {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.kind(), GetStreamErrorKind::JetStream(cause) if cause.error_code() == ErrorCode::STREAM_NOT_FOUND) => {
            Ok(())
        }
        Err(error) => Err(error).with_context(|| format!("failed to delete stream {name}")),
    }
}

/// Deletes the streams of agents that are not among `agents`: those that were removed while the server did not run. Returns the agents.
///
/// # Errors
/// If the server refuses or does not answer.
pub async fn remove_other_agents(jetstream: &Context, agents: &[Name]) -> anyhow::Result<Vec<Name>> {
    let names: Vec<String> = jetstream.stream_names().try_collect().await.context("failed to list the streams")?;
    let others: Vec<Name> =
        names.iter().filter_map(|name| subject::agent_of_stream(name)).filter(|agent| !agents.contains(agent)).collect();
    for agent in &others {
        remove_agent(jetstream, agent).await?;
    }
    Ok(others)
}

/// Refuses a server that is too old.
///
/// # Errors
/// [`ConnectError::TooOld`].
pub fn check_server(client: &async_nats::Client) -> Result<(), ConnectError> {
    let (major, minor, patch) = OLDEST_SERVER;
    if client.is_server_compatible(major as i64, minor as i64, patch as i64) {
        return Ok(());
    }
    Err(ConnectError::TooOld { found: client.server_info().version, oldest: format!("{major}.{minor}") })
}
