//! A change that an operator or the promoter made: who, when, what, and the values before and after. Owns the form of an entry of the record of changes;
//! must not write it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use strum::{IntoStaticStr, VariantArray};

use crate::contract::{MAX_PAYLOAD, Version};
use crate::control;
use crate::document::{self, DocumentError};
use crate::name::FunctionId;
use crate::time::Timestamp;

/// Longest name and reason, bytes.
const MAX_TEXT: usize = 1024;

/// One entry of the record of changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChangeRecord {
    /// Version of this value.
    #[serde(default)]
    pub version: Version,
    /// Time of the change, by the clock of its author.
    pub at_ms: Timestamp,
    /// Person or program that made it, as it names itself. The user whose credential it has is part of the subject.
    #[serde(default)]
    pub by: String,
    /// Kind of the change.
    pub kind: ChangeKind,
    /// Changed object: `namespace/function`, `all` for all functions, the name of a model or an agent, or the address of a platform.
    pub target: String,
    /// The object before the change; absent if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<ChangedValue>,
    /// The object after the change; absent if it was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<ChangedValue>,
    /// Reason.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Kind of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, IntoStaticStr, VariantArray)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum ChangeKind {
    /// A ScalingPolicy was created or changed.
    PolicyWritten,
    /// A ScalingPolicy was deleted.
    PolicyDeleted,
    /// A function, or all, were frozen.
    Frozen,
    /// A function, or all, were unfrozen.
    Unfrozen,
    /// A restore was requested.
    RestoreRequested,
    /// A version of a model was stored.
    ModelPushed,
    /// A version of a model was put in use.
    ModelUsed,
    /// An earlier version of a model was put in use again.
    ModelRolledBack,
    /// A candidate was put in use on trial.
    TrialStarted,
    /// A candidate passed its trial.
    TrialConfirmed,
    /// A candidate failed its trial; the version before it is in use again.
    TrialRolledBack,
    /// Fine-tuning of a model was requested, once or periodically, or switched off.
    FinetuneRequested,
    /// A credential was created for an agent.
    AgentAdded,
    /// The credential of an agent was removed.
    AgentRemoved,
    /// The highest fencing token of a platform was replaced.
    LeaseReset,
    /// A kind that a later version added.
    #[serde(other)]
    Other,
}

impl ChangeKind {
    /// Every kind.
    pub const ALL: &'static [ChangeKind] = <Self as VariantArray>::VARIANTS;

    /// Its name in messages.
    #[must_use]
    pub fn word(self) -> &'static str {
        self.into()
    }

    /// Whether the target is a function, or all functions.
    #[must_use]
    pub fn concerns_functions(self) -> bool {
        matches!(self, Self::PolicyWritten | Self::PolicyDeleted | Self::Frozen | Self::Unfrozen | Self::RestoreRequested)
    }

    /// Whether the target is a model.
    #[must_use]
    pub fn concerns_models(self) -> bool {
        let trials = matches!(self, Self::TrialStarted | Self::TrialConfirmed | Self::TrialRolledBack | Self::FinetuneRequested);
        trials || matches!(self, Self::ModelPushed | Self::ModelUsed | Self::ModelRolledBack)
    }
}

/// A value at one revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChangedValue {
    /// Revision in its bucket or store; absent where there are no revisions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// The value; absent if it is not a valid one, or too long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
}

impl ChangedValue {
    /// The JSON `value` at `revision`.
    #[must_use]
    pub fn new(revision: Option<u64>, value: Value) -> Self {
        Self { revision, value: Some(value) }
    }
}

impl ChangeRecord {
    /// Parses an entry; unknown fields of a newer minor version are ignored.
    ///
    /// # Errors
    /// Names the field and the error.
    pub fn from_json(bytes: &[u8]) -> Result<Self, DocumentError> {
        document::parse_json_lenient(bytes)
    }

    /// Serialises the entry, at most [`MAX_PAYLOAD`] bytes: without the values if they are too long.
    ///
    /// # Panics
    /// Never: an entry can be written as JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let encode = |record: &Self| serde_json::to_vec(record).expect("an entry holds only what JSON can write");
        let whole = encode(self);
        if whole.len() <= MAX_PAYLOAD {
            return whole;
        }
        let without_value =
            |changed: &Option<ChangedValue>| changed.as_ref().map(|changed| ChangedValue { value: None, ..changed.clone() });
        encode(&Self {
            by: shortened(&self.by),
            target: shortened(&self.target),
            reason: shortened(&self.reason),
            before: without_value(&self.before),
            after: without_value(&self.after),
            ..self.clone()
        })
    }

    /// Whether it concerns `function`, alone or with all functions.
    #[must_use]
    pub fn concerns(&self, function: &FunctionId) -> bool {
        self.kind.concerns_functions() && (self.target == control::ALL || self.target == function.to_string())
    }
}

/// At most the first [`MAX_TEXT`] bytes of `text`.
fn shortened(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> ChangeRecord {
        ChangeRecord {
            version: Version::CURRENT,
            at_ms: Timestamp(1),
            by: "ada".into(),
            kind: ChangeKind::PolicyWritten,
            target: "default/fib".into(),
            before: None,
            after: Some(ChangedValue::new(Some(7), Value::from("x"))),
            reason: String::new(),
        }
    }

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        for kind in ChangeKind::ALL.iter().copied() {
            let written = ChangeRecord { kind, ..record() };
            assert_eq!(ChangeRecord::from_json(&written.to_json()), Ok(written));
        }
    }

    #[test]
    fn a_kind_of_a_later_version_is_read_and_another_major_version_is_not() {
        let text = String::from_utf8(record().to_json()).expect("JSON is text");
        let later = text.replace("policy_written", "quota_written");
        assert_eq!(ChangeRecord::from_json(later.as_bytes()).expect("readable").kind, ChangeKind::Other);
        assert!(ChangeRecord::from_json(text.replace("\"1.0\"", "\"2.0\"").as_bytes()).is_err());
        assert!(ChangeRecord::from_json(b"[]").is_err() && ChangeRecord::from_json(b"{}").is_err());
    }

    #[test]
    fn a_long_entry_loses_its_values_but_not_its_author() {
        let long = "ä".repeat(MAX_PAYLOAD);
        let value = Some(ChangedValue::new(Some(3), Value::from(long.as_str())));
        let written = ChangeRecord { before: value.clone(), after: value, reason: long.clone(), target: long, ..record() };
        let bytes = written.to_json();
        assert!(bytes.len() <= MAX_PAYLOAD);
        let read = ChangeRecord::from_json(&bytes).expect("valid");
        assert_eq!((read.by.as_str(), read.after), ("ada", Some(ChangedValue { revision: Some(3), value: None })));
    }

    #[test]
    fn a_change_of_all_functions_concerns_each() {
        let function: FunctionId = "fib".parse().expect("a name");
        assert!(record().concerns(&function));
        assert!(!record().concerns(&"other".parse().expect("a name")));
        let all = ChangeRecord { kind: ChangeKind::Frozen, target: control::ALL.into(), ..record() };
        assert!(all.concerns(&function));
        assert!(!ChangeRecord { kind: ChangeKind::ModelUsed, ..all }.concerns(&function));
    }
}
