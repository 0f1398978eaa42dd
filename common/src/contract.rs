//! Messages between services, their subjects, and how a payload is read. Owns the wire format; must not decide anything.
//!
//! Readers ignore unknown fields and refuse unknown major versions. Field names carry their unit.

mod action;
mod event;
mod load;
mod outcome;
mod provenance;
mod reward;
mod state;
pub mod subject;

pub use crate::policy::Direction;
pub use crate::version::Version;
pub use action::{Action, Choice, HeldPoint};
pub use event::{Event, EventType, TraceParent};
pub use load::{Failures, LatencyBucket, Load};
pub use outcome::{DecisionSource, Effect, GuardNote, GuardRule, Outcome};
pub use provenance::{Fallback, FallbackKind, FallbackReason, ModelRef, Provenance};
pub use reward::{DecidedBy, Reward, Term, Terms};
pub use state::{Ages, Changes, Headroom, Latency, ReplicaCounts, State, Usage, Window, Windows, WireObjective};

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantNames};
use thiserror::Error;

use crate::name::{FunctionId, Name};
use crate::time::Tick;

/// Largest payload that a service reads, bytes. The largest message is a Load with a full histogram, about 4 KiB.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// Begin of the observation of a function, milliseconds since 1970: the start of the collector, or a change of the tick length or the workload. Together with
/// the tick it identifies a State for good, even after a clock was set back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// Identity of a State.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateId {
    /// Epoch of the collector that published the State.
    pub epoch: Epoch,
    /// Tick of the State.
    pub tick: Tick,
}

impl StateId {
    /// Whether a State of this identity is newer than the one of `last`, which arrived before: a later tick, or another epoch. A collector that restarts
    /// while its clock is behind has a lower epoch than before.
    #[must_use]
    pub fn follows(self, last: Self) -> bool {
        self.epoch != last.epoch || self.tick > last.tick
    }
}

/// A message of the contract.
pub trait Message: Serialize + DeserializeOwned {
    /// Kind of the message, in CloudEvents' `type` and in schemas.
    const TYPE: EventType;

    /// Function that the message is about.
    fn function(&self) -> FunctionId;

    /// Agent in the message's subject, if the subject contains one.
    fn agent(&self) -> Option<&Name> {
        None
    }

    /// Unique id: a message that is published twice is stored once.
    fn unique_id(&self) -> String;

    /// Checks what the types of the fields cannot express.
    ///
    /// # Errors
    /// Names the field, the value and the range.
    fn check(&self) -> Result<(), String>;

    /// Subject that the message is published on.
    fn subject(&self) -> String {
        let id = self.function();
        match self.agent() {
            Some(agent) => subject::action(agent, &id),
            None => subject::of(Self::TYPE, &id),
        }
    }

    /// The JSON body.
    fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("messages hold only strings, numbers and lists, which JSON can write")
    }
}

/// Why a payload is not a message.
#[derive(Debug, Clone, PartialEq, Eq, Error, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum DecodeError {
    /// Longer than [`MAX_PAYLOAD`].
    #[error("payload of {bytes} bytes, at most {MAX_PAYLOAD} are read")]
    Oversized {
        /// Length of the payload.
        bytes: usize,
    },
    /// Not UTF-8.
    #[error("payload is not UTF-8 from byte {at}")]
    NotUtf8 {
        /// First byte that is not UTF-8.
        at: usize,
    },
    /// A major version that this reader does not know.
    #[error("message has version {found}, this reader knows version {}.x", Version::CURRENT.major)]
    Version {
        /// Version of the message.
        found: String,
    },
    /// Not JSON, a field missing, or a field of the wrong type.
    #[error("field `{field}`: {reason}")]
    Malformed {
        /// Path of the field, `.` for the message as a whole.
        field: String,
        /// Description of the error.
        reason: String,
    },
    /// A value outside its range.
    #[error("{reason}")]
    Invalid {
        /// Field, value and range.
        reason: String,
    },
    /// The subject names another function or agent than the body.
    #[error("subject `{subject}` does not belong to the body, which belongs on `{expected}`")]
    Subject {
        /// Subject of the message.
        subject: String,
        /// Subject that the body requires.
        expected: String,
    },
}

impl DecodeError {
    /// Every [`DecodeError::kind`], in a fixed order.
    pub const KINDS: &'static [&'static str] = <Self as VariantNames>::VARIANTS;

    /// Kind of the error, for counting; one of [`DecodeError::KINDS`].
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.into()
    }
}

/// Decodes a message that was received on `subject`.
///
/// # Errors
/// When the payload is too long, not UTF-8, not JSON, of an unknown major version, lacks a field, has one of a wrong type or outside its range,
/// or is about another function or agent than its subject.
pub fn decode<M: Message>(subject: &str, payload: &[u8]) -> Result<M, DecodeError> {
    let message: M = parse(payload)?;
    let expected = message.subject();
    if subject == expected { Ok(message) } else { Err(DecodeError::Subject { subject: subject.chars().take(300).collect(), expected }) }
}

/// Decodes a message without checking its subject.
///
/// # Errors
/// As [`decode`], except for the subject.
pub fn parse<M: Message>(payload: &[u8]) -> Result<M, DecodeError> {
    if payload.len() > MAX_PAYLOAD {
        return Err(DecodeError::Oversized { bytes: payload.len() });
    }
    let text = std::str::from_utf8(payload).map_err(|error| DecodeError::NotUtf8 { at: error.valid_up_to() })?;
    if !text.trim_start().starts_with('{') {
        return Err(DecodeError::Malformed { field: ".".into(), reason: "a message is a JSON object".into() });
    }
    // The common case takes one pass; only a payload that fails is parsed again to locate the error.
    let message: M = serde_json::from_str(text).map_err(|_| explain::<M>(text))?;
    message.check().map_err(|reason| DecodeError::Invalid { reason })?;
    Ok(message)
}

fn explain<M: Message>(text: &str) -> DecodeError {
    #[derive(Deserialize)]
    struct OnlyVersion {
        version: String,
    }
    if let Ok(OnlyVersion { version }) = serde_json::from_str(text)
        && version.parse().is_ok_and(|version: Version| version.major != Version::CURRENT.major)
    {
        return DecodeError::Version { found: version };
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    match serde_path_to_error::deserialize::<_, M>(&mut deserializer) {
        Err(error) => DecodeError::Malformed { field: error.path().to_string(), reason: error.inner().to_string() },
        Ok(_) => DecodeError::Malformed { field: ".".into(), reason: "text follows the message".into() },
    }
}

/// `value` if it is a finite number of at least `least`.
fn finite(field: &str, value: f64, least: f64) -> Result<(), String> {
    if value.is_finite() && value >= least {
        Ok(())
    } else {
        Err(format!("{field} = {value}, must be a finite number of at least {least}"))
    }
}

/// Serialises floats with four significant digits: the precision of a measurement, in half the bytes.
pub(crate) mod rounded {
    use serde::Serializer;

    /// `value` with four significant digits.
    pub fn round(value: f64) -> f64 {
        if value == 0.0 || !value.is_finite() {
            return value;
        }
        let digits = 3 - value.abs().log10().floor() as i32;
        // Division by an exact power of ten gives the shortest decimal; multiplication by its inverse does not.
        match digits {
            0..=22 => (value * 10f64.powi(digits)).round() / 10f64.powi(digits),
            -22..0 => (value / 10f64.powi(-digits)).round() * 10f64.powi(-digits),
            _ => value,
        }
    }

    pub fn required<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(round(*value))
    }

    pub fn option<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => required(value, serializer),
            None => serializer.serialize_none(),
        }
    }
}

#[cfg(test)]
mod tests;
