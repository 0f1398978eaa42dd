//! Outcome: what became of an Action.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

use super::event::EventType;
use super::{Epoch, Message, Provenance, Version};
use crate::name::{FunctionId, Name};
use crate::time::{Tick, Timestamp};
use crate::units::Allocation;

/// What the actuator did with a decision: one Outcome for every Action, and one for whatever the fallback or an operator had done.
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
    /// Who decided.
    pub source: Source,
    /// The agent that decided, or the rule where `source` is `fallback`.
    pub agent: Name,
    /// Policy, model and fallback that decided, as the Action has them.
    #[serde(default, skip_serializing_if = "Provenance::is_empty")]
    pub provenance: Provenance,
    /// What became of it.
    pub effect: Effect,
    /// What was asked for.
    pub requested: Allocation,
    /// What was in force before; absent where that was not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Allocation>,
    /// What the guard let through, whether or not it was applied; absent where the guard held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<Allocation>,
    /// Rules of the guard that changed or stopped the decision, in the order in which they did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub guard: Vec<GuardNote>,
    /// Why, in words for people; no program may parse it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// When the actuator decided this.
    pub decided_at_ms: Timestamp,
    /// Which actuator.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub actuator: String,
    /// How many times applying was tried; zero where nothing was to be applied.
    #[serde(default)]
    pub attempts: u32,
}

/// Who decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, IntoStaticStr, VariantArray)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Source {
    /// The agent that the ScalingPolicy names.
    Agent,
    /// Another agent, whose decisions are recorded and never applied.
    Shadow,
    /// The rule that acts when the agent is silent.
    Fallback,
    /// A person: freeze, restore.
    Operator,
}

/// What became of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, IntoStaticStr, VariantArray)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Effect {
    /// Applied as asked.
    Applied,
    /// Applied after the guard changed it.
    Changed,
    /// Nothing to do: what was asked for is in force.
    Unchanged,
    /// The guard kept what is in force.
    Held,
    /// Judged and published, not applied: the mode is `observe` or `recommend`, or the agent is a shadow.
    Recorded,
    /// Not considered: void, answered before, or of a tick that is not current.
    Refused,
    /// The platform did not take it; it will be tried again until something newer is decided.
    Failed,
}

/// A rule of the guard that took effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuardNote {
    /// The rule.
    pub rule: Rule,
    /// With which values, in words for a person.
    pub detail: String,
}

/// The rules of the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, IntoStaticStr, VariantArray)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Rule {
    /// Everything is frozen, or this function is.
    Freeze,
    /// A restore of the original allocation is in progress.
    RestoreInProgress,
    /// The actuator is disconnected from the bus, so that only increases are applied.
    Disconnected,
    /// The policy is paused.
    Paused,
    /// The mode does not apply what is decided.
    Mode,
    /// The agent is not the one that the policy names.
    NotNamed,
    /// The State is too old to scale down on, or to act on at all.
    StaleState,
    /// The Action is void.
    Expired,
    /// The Action answers a tick that is no longer, or not yet, current, or was answered before.
    WrongTick,
    /// Least and most replicas, CPU or memory.
    Bounds,
    /// How far one step may go.
    StepLimit,
    /// Only more is allowed.
    ScaleUpOnly,
    /// Memory may not fall below what is in use.
    WorkingSet,
    /// So many changes an hour.
    ActionBudget,
    /// So many reversals of direction an hour.
    ReversalBudget,
    /// The platform cannot change CPU and memory.
    HorizontalOnly,
}

impl Message for Outcome {
    const TYPE: EventType = EventType::Outcome;

    fn function(&self) -> FunctionId {
        FunctionId::new(self.namespace.clone(), self.function.clone())
    }

    /// A failed attempt and the success that follows it are two Outcomes of one decision, so the attempt is part of the name.
    fn unique_id(&self) -> String {
        let source = match self.source {
            Source::Agent | Source::Shadow => "agent",
            Source::Fallback => "fallback",
            Source::Operator => "operator",
        };
        format!(
            "outcome.{source}.{}.{}.{}.{}.{}.{:?}.{}",
            self.agent, self.namespace, self.function, self.epoch.0, self.tick, self.effect, self.decided_at_ms.0
        )
    }

    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}
