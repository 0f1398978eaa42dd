//! What operators ask for, beside policies: freezes and restores. Owns the value behind a key of the control bucket.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::contract::Version;
use crate::document::{self, DocumentError};
use crate::name::FunctionId;
use crate::time::Timestamp;

/// Key under which everything is frozen.
pub const ALL: &str = "all";

/// What an operator asks for one function, or for all of them under the key [`ALL`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Control {
    /// Version of this value.
    #[serde(default)]
    pub version: Version,
    /// Nothing is changed while this is set.
    #[serde(default)]
    pub frozen: bool,
    /// Apply the allocation that was in force before Qscale first acted. Each request bears its own instant and is carried out once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Timestamp>,
    /// Who asked.
    #[serde(default)]
    pub by: String,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// When.
    pub at_ms: Timestamp,
}

impl Control {
    /// Key of `function` in the control bucket.
    #[must_use]
    pub fn key(function: &FunctionId) -> String {
        function.tokens()
    }

    /// Reads the value of a key.
    ///
    /// # Errors
    /// Names the field and what is wrong with it.
    pub fn from_json(bytes: &[u8]) -> Result<Self, DocumentError> {
        document::parse_json_lenient(bytes)
    }

    /// The value of a key.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a control value holds only strings, numbers and booleans, which JSON can write")
    }
}
