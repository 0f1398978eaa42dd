//! Reward of one tick, by one formula for every agent.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::event::EventType;
use super::outcome::DecisionSource;
use super::{Epoch, Message, Provenance, Version, rounded};
use crate::name::{FunctionId, Name};
use crate::time::{Tick, Timestamp};
use crate::units::Allocation;

/// Reward of one tick of one function.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Reward {
    /// Version of this message.
    pub version: Version,
    /// Namespace of the function.
    pub namespace: Name,
    /// Name of the function's ScalingPolicy.
    pub function: Name,
    /// Epoch of the collector.
    pub epoch: Epoch,
    /// Tick that the Reward is of.
    pub tick: Tick,
    /// Time of the measurement.
    pub measured_at_ms: Timestamp,
    /// Allocation during the tick; absent if unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation: Option<Allocation>,
    /// Decision behind that allocation; absent if there was none since the collector started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<DecidedBy>,
    /// Negated weighted sum of the terms; 0 is best. Absent if a term could not be measured.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "rounded::option")]
    pub value: Option<f64>,
    /// Its terms.
    pub terms: Terms,
    /// Share of the ended requests that succeeded, 0 to 1; absent if none ended.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "rounded::option")]
    pub completion: Option<f64>,
    /// The objective's latency percentile, milliseconds; absent if no request succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "rounded::option")]
    pub latency_ms: Option<f64>,
    /// Cost of the allocation per hour at the ScalingPolicy's prices; absent if the allocation is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "rounded::option")]
    pub cost_per_hour: Option<f64>,
}

/// Terms of the reward; 0 is best.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Terms {
    /// 1 - completion x min(1, bound / latency percentile).
    pub violation: Term,
    /// Cost of the allocation divided by the cost of the largest allowed one.
    pub cost: Term,
    /// 1 if replicas were restarted to resize them.
    pub resize: Term,
    /// 1 if the direction of change was reversed within the ScalingPolicy's window.
    pub reversal: Term,
    /// Crashes and OOM kills.
    pub kill: Term,
}

impl Terms {
    /// Terms of which none was measured.
    pub const UNMEASURED: Self = {
        const TERM: Term = Term { value: None, weight: 0.0 };
        Self { violation: TERM, cost: TERM, resize: TERM, reversal: TERM, kill: TERM }
    };

    /// All terms with their names.
    #[must_use]
    pub fn all(&self) -> [(&'static str, Term); 5] {
        let Self { violation, cost, resize, reversal, kill } = *self;
        [("violation", violation), ("cost", cost), ("resize", resize), ("reversal", reversal), ("kill", kill)]
    }
}

/// One term of the reward.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Term {
    /// Measured value; absent if it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "rounded::option")]
    pub value: Option<f64>,
    /// Its weight.
    pub weight: f64,
}

/// Decision behind an allocation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DecidedBy {
    /// Agent, fallback or operator.
    pub source: DecisionSource,
    /// Name of the agent or rule.
    pub agent: Name,
    /// Policy, model and fallback behind the decision.
    #[serde(default, skip_serializing_if = "Provenance::is_empty")]
    pub provenance: Provenance,
    /// Tick of the State that the decision answered.
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
