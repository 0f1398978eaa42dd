//! Subjects, streams and buckets. The only place where one is spelt.

use super::event::EventType;
use crate::name::{FunctionId, Name};

/// Everything of this major version begins with it.
pub const PREFIX: &str = "qscale.v1";

/// Stream of State and Load: newest wins, bounded in size.
pub const LIVE_STREAM: &str = "QSCALE_LIVE";
/// Stream of Action, Outcome and Reward: acknowledged, bounded in age and size.
pub const RECORD_STREAM: &str = "QSCALE_RECORD";
/// Key-value bucket of ScalingPolicies; the key is `<namespace>.<function>`.
pub const POLICY_BUCKET: &str = "qscale_policies";
/// Key-value bucket of what operators ask for: freezes, restores.
pub const CONTROL_BUCKET: &str = "qscale_control";
/// Key-value bucket of what the actuator must not forget: the allocation before Qscale acted, budgets spent.
pub const ACTUATOR_BUCKET: &str = "qscale_actuator";
/// Key-value bucket of leases.
pub const LEASE_BUCKET: &str = "qscale_leases";
/// Key-value bucket of where fine-tuning stands; the key is the model's name.
pub const FINETUNE_BUCKET: &str = "qscale_finetune";
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

/// All subjects of one kind of message.
#[must_use]
pub fn all(kind: EventType) -> String {
    format!("{PREFIX}.{kind}.>")
}

/// All Actions of one agent.
#[must_use]
pub fn all_of_agent(agent: &Name) -> String {
    format!("{PREFIX}.{}.{agent}.>", EventType::Action)
}

/// Queue group in which the instances of an agent share its functions.
#[must_use]
pub fn agent_group(agent: &Name) -> String {
    format!("agent.{agent}")
}

/// The kind of message that `subject` carries; `None` for a subject that is not of the contract.
#[must_use]
pub fn kind(subject: &str) -> Option<EventType> {
    let rest = subject.strip_prefix(PREFIX)?.strip_prefix('.')?;
    let word = rest.split('.').next()?;
    EventType::ALL.iter().copied().find(|kind| kind.word() == word)
}
