//! Action: the allocation that an agent requests for a function.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::event::EventType;
use super::{Epoch, Message, Provenance, StateId, Version};
use crate::name::{FunctionId, Name};
use crate::policy::OperatingPoint;
use crate::time::{Tick, Timestamp};
use crate::units::Allocation;

/// An agent's answer to a State. The allocation is absolute, so that applying it twice is harmless.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Action {
    /// Version of this message.
    pub version: Version,
    /// Agent that decided; its name is a token of the subject.
    pub agent: Name,
    /// Instance of the agent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instance: String,
    /// Policy, model and fallback behind the decision.
    #[serde(default, skip_serializing_if = "Provenance::is_empty")]
    pub provenance: Provenance,
    /// Namespace of the function.
    pub namespace: Name,
    /// Name of the function's ScalingPolicy.
    pub function: Name,
    /// Epoch of the State that this answers.
    pub epoch: Epoch,
    /// Tick of the State that this answers. An Action counts once for (agent, function, tick).
    pub tick: Tick,
    /// Time of the decision.
    pub decided_at_ms: Timestamp,
    /// Expiry: later, the Action is refused.
    pub expires_at_ms: Timestamp,
    /// Requested allocation.
    pub allocation: Allocation,
    /// Reason, for people; programs must not parse it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Candidate actions with their estimated values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<Choice>,
    /// Operating point that the agent holds; absent if the ScalingPolicy states none, or the agent holds none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point: Option<HeldPoint>,
}

/// An operating point that an agent holds. After a restart it continues from the last one that it published.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HeldPoint {
    /// Operating point of the ScalingPolicy.
    pub target: OperatingPoint,
    /// Cost of a violated tick at which the agent decided, in units of five seconds of the function's usual cost.
    pub violation_cost: f64,
    /// Mean of the held quantity over the last day, or since the agent first saw the function: a share of violated ticks, or a cost per month; absent before
    /// the first measurement, and for a fixed violation cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<f64>,
    /// Hours over which it is the mean, at most 24.
    #[serde(default)]
    pub measured_hours: f64,
    /// Whether the target is out of reach: the violation cost is at an end of its range, and the quantity still on the wrong side.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub out_of_reach: bool,
}

/// A candidate action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Choice {
    /// Its name.
    pub action: String,
    /// Q-value in units of the training reward; absent if the agent does not estimate values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// Why it was masked; absent if it was allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masked: Option<String>,
}

impl Action {
    /// Maximum length of `reason`, `instance` and each text of `provenance`, bytes.
    pub const MAX_TEXT: usize = 1024;
    /// Maximum number of `choices`.
    pub const MAX_CHOICES: usize = 256;

    /// `text`, cut to [`Action::MAX_TEXT`] at a character boundary.
    #[must_use]
    pub fn cut(mut text: String) -> String {
        text.truncate(text.floor_char_boundary(Self::MAX_TEXT));
        text
    }

    /// Identity of the State that this answers.
    #[must_use]
    pub fn state_id(&self) -> StateId {
        StateId { epoch: self.epoch, tick: self.tick }
    }
}

impl Message for Action {
    const TYPE: EventType = EventType::Action;

    fn function(&self) -> FunctionId {
        FunctionId::new(self.namespace.clone(), self.function.clone())
    }

    fn agent(&self) -> Option<&Name> {
        Some(&self.agent)
    }

    fn unique_id(&self) -> String {
        format!("action.{}.{}.{}.{}.{}", self.agent, self.namespace, self.function, self.epoch.0, self.tick)
    }

    fn check(&self) -> Result<(), String> {
        if self.expires_at_ms < self.decided_at_ms {
            return Err(format!("expires_at_ms = {}, must not lie before decided_at_ms = {}", self.expires_at_ms.0, self.decided_at_ms.0));
        }
        for (field, text) in [("reason", self.reason.as_str()), ("instance", &self.instance)].into_iter().chain(self.provenance.texts()) {
            if text.len() > Self::MAX_TEXT {
                return Err(format!("{field} has {} bytes, at most {} are allowed", text.len(), Self::MAX_TEXT));
            }
        }
        if let Some(HeldPoint { violation_cost, measured, measured_hours, .. }) = self.point {
            for (field, value) in
                [("violation_cost", Some(violation_cost)), ("measured", measured), ("measured_hours", Some(measured_hours))]
            {
                if value.is_some_and(|value| !(value.is_finite() && value >= 0.0)) {
                    return Err(format!("point.{field} = {}, must be finite and at least 0", value.unwrap_or_default()));
                }
            }
        }
        if self.choices.len() > Self::MAX_CHOICES {
            return Err(format!("choices has {} entries, at most {} are allowed", self.choices.len(), Self::MAX_CHOICES));
        }
        Ok(())
    }
}
