//! Action: what an agent wants a function to be given.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::event::EventType;
use super::{Epoch, Message, Provenance, StateId, Version};
use crate::name::{FunctionId, Name};
use crate::time::{Tick, Timestamp};
use crate::units::Allocation;

/// An agent's answer to a State. The allocation is absolute, so that applying it twice is harmless.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Action {
    /// Version of this message.
    pub version: Version,
    /// The agent that decided; its name is a token of the subject.
    pub agent: Name,
    /// Which instance of the agent decided.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instance: String,
    /// Policy, model and fallback that decided.
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
    /// When the agent decided.
    pub decided_at_ms: Timestamp,
    /// When this Action is void if it was not applied before.
    pub expires_at_ms: Timestamp,
    /// What the function is to be given.
    pub allocation: Allocation,
    /// Why, in words for people; no program may parse it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What else could have been chosen and what it was worth.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<Choice>,
}

/// One thing that an agent could have done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Choice {
    /// What it is called.
    pub action: String,
    /// What the agent expects of it, in units of reward; absent where the agent does not estimate values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// Why it was not allowed; absent where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masked: Option<String>,
}

impl Action {
    /// Longest `reason`, `instance` or text of `provenance`, in bytes.
    pub const MAX_TEXT: usize = 1024;
    /// Most `choices`.
    pub const MAX_CHOICES: usize = 256;

    /// Which State this answers.
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
        if self.choices.len() > Self::MAX_CHOICES {
            return Err(format!("choices has {} entries, at most {} are allowed", self.choices.len(), Self::MAX_CHOICES));
        }
        Ok(())
    }
}
