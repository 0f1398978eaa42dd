//! Outcome: the result of a decision.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

use super::event::EventType;
use super::{Epoch, Message, Provenance, Version};
use crate::name::{FunctionId, Name};
use crate::time::{Tick, Timestamp};
use crate::units::Allocation;

/// Result of a decision. Every Action has an Outcome, and a second one if it is applied after a failed attempt. Decisions of the fallback and of operators
/// have one if they change the allocation, fail to, or are the first of their kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Outcome {
    /// Version of this message.
    pub version: Version,
    /// Namespace of the function.
    pub namespace: Name,
    /// Name of the function's ScalingPolicy.
    pub function: Name,
    /// Epoch of the State that the decision answers.
    pub epoch: Epoch,
    /// Tick of the State that the decision answers.
    pub tick: Tick,
    /// Origin of the decision.
    pub source: DecisionSource,
    /// Agent that decided; the rule if `source` is `fallback`.
    pub agent: Name,
    /// Policy, model and fallback behind the decision, copied from the Action.
    #[serde(default, skip_serializing_if = "Provenance::is_empty")]
    pub provenance: Provenance,
    /// Result of a decision.
    pub effect: Effect,
    /// Requested allocation.
    pub requested: Allocation,
    /// Allocation before; absent if unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Allocation>,
    /// Allocation that the guard allowed, whether or not it was applied; absent if the guard held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<Allocation>,
    /// Guard rules that changed or stopped the decision, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub guard: Vec<GuardNote>,
    /// Reason, for people; programs must not parse it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Time at which the actuator decided.
    pub decided_at_ms: Timestamp,
    /// Instance of the actuator.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub actuator: String,
    /// Number of attempts to apply; 0 if there was nothing to apply.
    #[serde(default)]
    pub attempts: u32,
}

/// Origin of the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, IntoStaticStr, VariantArray)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum DecisionSource {
    /// The agent in the ScalingPolicy.
    Agent,
    /// Another agent, whose decisions are recorded and never applied.
    Shadow,
    /// The rule that takes over from a silent agent.
    Fallback,
    /// An operator: freeze, restore.
    Operator,
    /// A value that a later version added.
    #[serde(other)]
    Other,
}

/// Result of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, IntoStaticStr, VariantArray)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Effect {
    /// Applied as requested.
    Applied,
    /// Applied after the guard changed it.
    Changed,
    /// Nothing to do: the requested allocation is the current one.
    Unchanged,
    /// The guard kept the current allocation.
    Held,
    /// Evaluated and published but not applied: the mode is `observe` or `recommend`, or the agent is a shadow.
    Recorded,
    /// Not evaluated: expired, a duplicate, or for a tick that is not current.
    Refused,
    /// The platform failed to apply it; retried until a newer decision arrives.
    Failed,
    /// A value that a later version added.
    #[serde(other)]
    Other,
}

/// A guard rule that took effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuardNote {
    /// The rule.
    pub rule: GuardRule,
    /// Values involved, for people; programs must not parse it.
    pub detail: String,
}

/// A rule of the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, IntoStaticStr, VariantArray)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum GuardRule {
    /// All functions, or this one, are frozen.
    Freeze,
    /// A restore of the original allocation is in progress.
    RestoreInProgress,
    /// The actuator is disconnected from the bus, so that only increases are applied.
    Disconnected,
    /// The policy is paused.
    Paused,
    /// The mode does not apply decisions.
    Mode,
    /// The agent is not the one in the ScalingPolicy.
    NotNamed,
    /// Measurements are too old to scale down, or to change anything.
    StaleState,
    /// The Action has expired.
    Expired,
    /// The Action is for a tick that is not current, or a duplicate.
    WrongTick,
    /// Minimum and maximum of replicas, CPU and memory.
    Bounds,
    /// Maximum size of one step.
    StepLimit,
    /// Decreases are not allowed.
    ScaleUpOnly,
    /// Memory must not fall below the working set.
    WorkingSet,
    /// Maximum changes per hour.
    ActionBudget,
    /// Maximum reversals of direction per hour.
    ReversalBudget,
    /// The platform cannot resize replicas.
    HorizontalOnly,
    /// A value that a later version added.
    #[serde(other)]
    Other,
}

impl Message for Outcome {
    const TYPE: EventType = EventType::Outcome;

    fn function(&self) -> FunctionId {
        FunctionId::new(self.namespace.clone(), self.function.clone())
    }

    /// A failed attempt and a later success are two Outcomes of one decision, so the id contains effect and time.
    fn unique_id(&self) -> String {
        // An agent that becomes the policy's agent still decides once per State.
        let source = if self.source == DecisionSource::Shadow { DecisionSource::Agent } else { self.source };
        let (source, effect): (&str, &str) = (source.into(), self.effect.into());
        format!(
            "outcome.{source}.{}.{}.{}.{}.{}.{effect}.{}",
            self.agent, self.namespace, self.function, self.epoch.0, self.tick, self.decided_at_ms.0
        )
    }

    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}
