//! Reward: what a tick under an allocation was worth, measured with one ruler for every agent.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::event::EventType;
use super::outcome::Source;
use super::{Epoch, Message, Provenance, Version, rounded};
use crate::name::{FunctionId, Name};
use crate::time::{Tick, Timestamp};
use crate::units::Allocation;

/// What one tick of one function was worth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Reward {
    /// Version of this message.
    pub version: Version,
    /// Namespace of the function.
    pub namespace: Name,
    /// Name of the function's ScalingPolicy.
    pub function: Name,
    /// Epoch of the collector that measured.
    pub epoch: Epoch,
    /// The tick that was judged.
    pub tick: Tick,
    /// When it was judged.
    pub measured_at_ms: Timestamp,
    /// Allocation in force during the tick; absent where it was not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation: Option<Allocation>,
    /// Who decided that allocation; absent where nobody did since the collector began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<Decider>,
    /// Sum of the terms, each times its weight, negated: 0 is best. Absent where a term could not be measured.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "rounded::option")]
    pub value: Option<f64>,
    /// The terms, one by one.
    pub terms: Terms,
    /// Share of the requests answered well, 0 to 1; absent where none was answered.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "rounded::option")]
    pub completion: Option<f64>,
    /// The objective's percentile of latency, milliseconds; absent where no request was answered well.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "rounded::option")]
    pub latency_ms: Option<f64>,
    /// What the allocation costs an hour at the policy's prices; absent where the allocation was not known.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "rounded::option")]
    pub cost_per_hour: Option<f64>,
}

/// The terms of the reward. Each is 0 where all is well.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Terms {
    /// 1 - completion x min(1, bound / latency percentile).
    pub violation: Term,
    /// Cost of the allocation over the cost of the largest that is allowed.
    pub cost: Term,
    /// 1 where replicas were restarted in order to resize them.
    pub resize: Term,
    /// 1 where the direction of change was reversed within the policy's reversal window.
    pub reversal: Term,
    /// Crashes and kills for memory.
    pub kill: Term,
}

/// One term of the reward.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Term {
    /// What was measured; absent where it was not.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "rounded::option")]
    pub value: Option<f64>,
    /// What it weighs.
    pub weight: f64,
}

/// Who decided the allocation that was in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Decider {
    /// Agent, fallback or operator.
    pub source: Source,
    /// Name of the agent or rule.
    pub agent: Name,
    /// Policy, model and fallback that decided.
    #[serde(default, skip_serializing_if = "Provenance::is_empty")]
    pub provenance: Provenance,
    /// Tick that the decision answered.
    pub tick: Tick,
}

impl Message for Reward {
    const TYPE: EventType = EventType::Reward;

    fn function(&self) -> FunctionId {
        FunctionId::new(self.namespace.clone(), self.function.clone())
    }

    fn unique_id(&self) -> String {
        format!("reward.{}.{}.{}.{}", self.namespace, self.function, self.epoch.0, self.tick)
    }

    fn check(&self) -> Result<(), String> {
        match self.value {
            Some(value) if !value.is_finite() => Err(format!("value = {value}, must be finite")),
            _ => Ok(()),
        }
    }
}
