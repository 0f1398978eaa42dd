//! Names of subjects, streams and buckets. Nothing else in the repository spells one.

use super::event::EventType;
use crate::name::{FunctionId, Name};

/// Prefix of every subject of this major version.
pub const PREFIX: &str = "qscale.v1";

/// Stream of State and Load, bounded in size; the oldest are dropped.
pub const LIVE_STREAM: &str = "QSCALE_LIVE";
/// Stream of Outcome and Reward: acknowledged, bounded in age and size.
pub const RECORD_STREAM: &str = "QSCALE_RECORD";
/// Stream of changes that operators and the promoter made: append-only, bounded in size.
pub const CHANGE_STREAM: &str = "QSCALE_CHANGES";
/// Key-value bucket of ScalingPolicies; the key is `<namespace>.<function>`.
pub const POLICY_BUCKET: &str = "qscale_policies";
/// Key-value bucket of operator requests: freezes, restores.
pub const CONTROL_BUCKET: &str = "qscale_control";
/// Key-value bucket of the actuator's records: the allocation before Qscale acted, spent budgets.
pub const ACTUATOR_BUCKET: &str = "qscale_actuator";
/// Key-value bucket of leases.
pub const LEASE_BUCKET: &str = "qscale_leases";
/// Key-value bucket of model promotion: the record of a model has its name as key, the request of operators `request.<model>`.
pub const FINETUNE_BUCKET: &str = "qscale_finetune";
/// First token of the keys of the actuators' leases in [`LEASE_BUCKET`]: `actuator.<backend>`.
pub const ACTUATOR_LEASE: &str = "actuator";
/// Key of the promoter's lease in [`LEASE_BUCKET`].
pub const PROMOTER_LEASE: &str = "promoter";
/// First token of the key of a request in [`FINETUNE_BUCKET`].
pub const PROMOTION_REQUEST: &str = "request";
/// Object store of trained models.
pub const MODEL_STORE: &str = "qscale_models";

/// Subject of a State, Reward, Outcome or Load of `function`.
#[must_use]
pub fn of(kind: EventType, function: &FunctionId) -> String {
    format!("{PREFIX}.{kind}.{}", function.tokens())
}

/// Subject of an Action of `agent` for `function`.
#[must_use]
pub fn action(agent: &Name, function: &FunctionId) -> String {
    format!("{PREFIX}.{}.{agent}.{}", EventType::Action, function.tokens())
}

/// Wildcard for all messages of one kind.
#[must_use]
pub fn all(kind: EventType) -> String {
    format!("{PREFIX}.{kind}.>")
}

/// Wildcard for all Actions of one agent.
#[must_use]
pub fn all_of_agent(agent: &Name) -> String {
    format!("{PREFIX}.{}.{agent}.>", EventType::Action)
}

/// Prefix of the subjects on which agents ask for retained messages.
const READS: &str = "read";

/// Subject on which `agent` asks for messages that `stream` retains.
#[must_use]
pub fn read(agent: &Name, stream: &str) -> String {
    format!("{PREFIX}.{READS}.{agent}.{stream}")
}

/// Wildcard for all reads of `agent`.
#[must_use]
pub fn reads_of(agent: &Name) -> String {
    read(agent, "*")
}

/// Wildcard for the reads of all agents.
#[must_use]
pub fn all_reads() -> String {
    format!("{PREFIX}.{READS}.*.*")
}

/// Agent and stream of a read on `subject`.
#[must_use]
pub fn read_of(subject: &str) -> Option<(Name, &str)> {
    let rest = subject.strip_prefix(PREFIX)?.strip_prefix('.')?.strip_prefix(READS)?.strip_prefix('.')?;
    let (agent, stream) = rest.split_once('.')?;
    Some((Name::new(agent).ok()?, stream))
}

/// Prefix of the subjects of changes.
const CHANGES: &str = "change";

/// Subject of the changes that are made with the credential of `user`, who alone may publish it.
#[must_use]
pub fn changes_of(user: &str) -> String {
    format!("{PREFIX}.{CHANGES}.{user}")
}

/// Wildcard for all changes.
#[must_use]
pub fn all_changes() -> String {
    changes_of("*")
}

/// User whose credential published a change on `subject`.
#[must_use]
pub fn author_of(subject: &str) -> Option<&str> {
    subject.strip_prefix(PREFIX)?.strip_prefix('.')?.strip_prefix(CHANGES)?.strip_prefix('.')
}

/// Stream that holds a key-value bucket.
#[must_use]
pub fn bucket_stream(bucket: &str) -> String {
    format!("KV_{bucket}")
}

/// Stream that holds the model store.
#[must_use]
pub fn model_stream() -> String {
    format!("OBJ_{MODEL_STORE}")
}

/// Prefix of the names of streams of Actions.
const ACTION_STREAM: &str = "QSCALE_ACTION_";

/// Stream of the Actions of one agent: acknowledged, bounded in age and size.
#[must_use]
pub fn action_stream(agent: &Name) -> String {
    format!("{ACTION_STREAM}{agent}")
}

/// The agent whose Actions are in `stream`; `None` if it holds other messages.
#[must_use]
pub fn agent_of_stream(stream: &str) -> Option<Name> {
    Name::new(stream.strip_prefix(ACTION_STREAM)?).ok()
}

/// The agent whose Actions are on `subject`; `None` if they may be of several agents.
#[must_use]
pub fn agent_of(subject: &str) -> Option<Name> {
    let rest = subject.strip_prefix(PREFIX)?.strip_prefix('.')?.strip_prefix(EventType::Action.word())?.strip_prefix('.')?;
    Name::new(rest.split('.').next()?).ok()
}

/// Queue group that shares the States among the instances of an agent.
#[must_use]
pub fn agent_group(agent: &Name) -> String {
    format!("agent.{agent}")
}

/// Kind of message on `subject`; `None` if the subject is not part of the contract.
#[must_use]
pub fn kind(subject: &str) -> Option<EventType> {
    let rest = subject.strip_prefix(PREFIX)?.strip_prefix('.')?;
    let word = rest.split('.').next()?;
    EventType::ALL.iter().copied().find(|kind| kind.word() == word)
}
