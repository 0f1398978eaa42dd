//! CloudEvents attributes and trace context as NATS headers (binary mode), next to the JSON body.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

use super::Message;
use crate::time::Timestamp;

/// Kind of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, IntoStaticStr, VariantArray)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum EventType {
    /// Measurements of a function at one tick.
    State,
    /// Reward of one tick.
    Reward,
    /// Allocation that an agent requests.
    Action,
    /// Result of a decision.
    Outcome,
    /// Load that a generator offered.
    Load,
}

impl EventType {
    /// Every kind, in the order of the loop.
    pub const ALL: &'static [EventType] = <Self as VariantArray>::VARIANTS;

    /// Its token in subjects and event types.
    #[must_use]
    pub fn word(self) -> &'static str {
        self.into()
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// The attributes of one event: CloudEvents 1.0 in binary mode, with W3C trace context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `ce-id`, also `Nats-Msg-Id`; unchanged when a message is published again.
    pub id: String,
    /// `ce-source`: the service and its instance, `/qscale/collector/0`.
    pub source: String,
    /// `ce-type`: `qscale.v1.state`.
    pub kind: EventType,
    /// `ce-subject`: `namespace/function`.
    pub subject: String,
    /// `ce-time`.
    pub time: Timestamp,
    /// `traceparent`.
    pub trace: TraceParent,
}

impl Event {
    /// The attributes of `message`, published by `source` at `time` as part of `trace`.
    #[must_use]
    pub fn of<M: Message>(message: &M, source: &str, time: Timestamp, trace: TraceParent) -> Self {
        Self { id: message.unique_id(), source: source.to_owned(), kind: M::TYPE, subject: message.function().to_string(), time, trace }
    }

    /// The attributes as header names and values.
    #[must_use]
    pub fn headers(&self) -> [(&'static str, String); 9] {
        [
            ("ce-specversion", "1.0".into()),
            ("ce-id", self.id.clone()),
            ("ce-source", self.source.clone()),
            ("ce-type", format!("qscale.v1.{}", self.kind)),
            ("ce-subject", self.subject.clone()),
            ("ce-time", self.time.to_string()),
            ("content-type", "application/json".into()),
            ("traceparent", self.trace.to_string()),
            ("Nats-Msg-Id", self.id.clone()),
        ]
    }
}

/// W3C trace context, version 00. A State, the Actions that answer it and their Outcomes share one trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    /// Identifies the trace; not zero.
    pub trace: u128,
    /// Identifies the step within the trace; not zero.
    pub span: u64,
}

impl TraceParent {
    /// A new trace with ids drawn from `rng`.
    pub fn new(rng: &mut impl rand::Rng) -> Self {
        let wide = (u128::from(rng.next_u64()) << 64) | u128::from(rng.next_u64());
        Self { trace: wide.max(1), span: rng.next_u64().max(1) }
    }

    /// The next step of the same trace.
    #[must_use]
    pub fn child(self, rng: &mut impl rand::Rng) -> Self {
        Self { trace: self.trace, span: rng.next_u64().max(1) }
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-01", self.trace, self.span)
    }
}

impl std::str::FromStr for TraceParent {
    type Err = String;
    /// Parses version 00, and the first four fields of later versions, as the recommendation requires.
    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let mut fields = text.split('-');
            let (version, trace, span, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            let hex = |field: &str, length: usize| {
                field.len() == length && field.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
            };
            let valid = hex(version, 2) && version != "ff" && hex(trace, 32) && hex(span, 16) && hex(flags, 2);
            if !valid || (version == "00" && fields.next().is_some()) {
                return None;
            }
            let parsed = Self { trace: u128::from_str_radix(trace, 16).ok()?, span: u64::from_str_radix(span, 16).ok()? };
            (parsed.trace != 0 && parsed.span != 0).then_some(parsed)
        };
        read().ok_or_else(|| format!("`{}` is no traceparent", text.chars().take(80).collect::<String>()))
    }
}
