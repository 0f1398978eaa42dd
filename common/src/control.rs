//! Requests of operators: freezes and restores. Owns the value behind a key of the control bucket.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::contract::Version;
use crate::document::{self, DocumentError};
use crate::name::FunctionId;
use crate::text;
use crate::time::Timestamp;

/// Key of the request for all functions.
pub const ALL: &str = "all";
/// Name under which the Outcome of a restore is published, in place of an agent.
pub const RESTORE: &str = "restore";

/// Whether an operator has frozen `function`, alone or with all functions.
#[must_use]
pub fn is_frozen<C: Borrow<Control>>(controls: &BTreeMap<String, C>, function: &FunctionId) -> bool {
    let frozen = |key: &str| controls.get(key).is_some_and(|control| control.borrow().frozen);
    frozen(ALL) || frozen(&Control::key(function))
}

/// Request of an operator for one function, or for all of them under the key [`ALL`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Control {
    /// Version of this value.
    #[serde(default)]
    pub version: Version,
    /// Suspends all changes.
    #[serde(default)]
    pub frozen: bool,
    /// Applies the allocation from before Qscale first acted. A request is identified by its time and carried out once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Timestamp>,
    /// Operator.
    #[serde(default)]
    pub by: String,
    /// Reason.
    #[serde(default)]
    pub reason: String,
    /// Time of the request.
    pub at_ms: Timestamp,
    /// Whether the value of the key cannot be read; `reason` says why.
    #[serde(skip)]
    pub malformed: bool,
}

impl Control {
    /// Key of `function` in the control bucket.
    #[must_use]
    pub fn key(function: &FunctionId) -> String {
        function.tokens()
    }

    /// Parses the value of a key. A malformed one counts as a freeze: it may have been meant as one.
    #[must_use]
    pub fn from_json(bytes: &[u8]) -> Self {
        let freeze =
            |error: DocumentError| Self { frozen: true, malformed: true, reason: format!("invalid request: {error}"), ..Self::default() };
        document::parse_json_lenient(bytes).unwrap_or_else(freeze)
    }

    /// Operator, time and reason of this request, as far as known.
    #[must_use]
    pub fn provenance(&self) -> String {
        if self.malformed {
            return format!(" by an {}", text::clean(&self.reason));
        }
        let by = if self.by.is_empty() { String::new() } else { format!(" by {}", text::clean(&self.by)) };
        let reason = if self.reason.is_empty() { String::new() } else { format!(": {}", text::clean(&self.reason)) };
        format!("{by} since {} {}{reason}", text::day(self.at_ms), text::clock(self.at_ms))
    }

    /// Serialises the value of a key.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a control value holds only strings, numbers and booleans, which JSON can write")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn provenance_shows_operator_time_and_reason() {
        let control = Control {
            version: Version::CURRENT,
            frozen: true,
            restore: None,
            by: "ada".into(),
            reason: "in\x1bcident".into(),
            at_ms: Timestamp(1_763_880_784_123),
            malformed: false,
        };
        assert_eq!(control.provenance(), " by ada since 2025-11-23 06:53:04.123: in\\u{1b}cident");
    }

    #[test]
    fn a_function_is_frozen_alone_or_with_all_and_by_a_malformed_request() {
        let function: FunctionId = "fib".parse().expect("a name");
        let frozen = |key: &str, value: &[u8]| is_frozen(&BTreeMap::from([(key.to_owned(), Control::from_json(value))]), &function);
        let key = Control::key(&function);
        for key in [ALL, &key] {
            assert!(frozen(key, br#"{"frozen": true, "at_ms": 1}"#) && frozen(key, b"{"));
            assert!(!frozen(key, br#"{"at_ms": 1}"#));
        }
        assert!(!frozen("default.other", b"{"));
    }
}
