//! The service-level objective of a function. Owns its fields and their ranges.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::time::Span;

/// Service-level objective.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Objective {
    /// Bounded percentile of latency, at least 1 and below 100.
    pub percentile: Percentile,
    /// Latency bound, at least 1 ms.
    pub latency: LatencyBound,
    /// Allowed share of failed requests, 0 to 1.
    pub failure_share: Share,
}

impl Default for Objective {
    /// p95 within 500 ms and 1 % failures: loose enough for an unknown function.
    fn default() -> Self {
        Self { percentile: Percentile(95.0), latency: LatencyBound(Span::millis(500)), failure_share: Share(0.01) }
    }
}

/// A percentile, at least 1 and below 100.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "f64")]
#[schemars(with = "f64", extend("minimum" = 1, "exclusiveMaximum" = 100))]
pub struct Percentile(f64);

impl Percentile {
    /// The percentile as a number between 1 and 100.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Percentile {
    type Error = String;
    fn try_from(value: f64) -> Result<Self, String> {
        if (1.0..100.0).contains(&value) {
            return Ok(Self(value));
        }
        let meant = if value > 0.0 && value < 1.0 { crate::text::number(value * 100.0) } else { "95".to_owned() };
        Err(format!("{value}, must be a percentile such as {meant}, at least 1 and below 100"))
    }
}

/// A share of a whole, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "f64")]
#[schemars(with = "f64", extend("minimum" = 0, "maximum" = 1))]
pub struct Share(f64);

impl Share {
    /// The share as a number between 0 and 1.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Share {
    type Error = String;
    fn try_from(value: f64) -> Result<Self, String> {
        if (0.0..=1.0).contains(&value) { Ok(Self(value)) } else { Err(format!("{value}, must be from 0 to 1")) }
    }
}

/// A bound on latency, 1 ms to 1 h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Span")]
#[schemars(with = "Span")]
pub struct LatencyBound(Span);

impl LatencyBound {
    /// The bound as a duration.
    #[must_use]
    pub fn get(self) -> std::time::Duration {
        self.0.0
    }
}

impl TryFrom<Span> for LatencyBound {
    type Error = String;
    fn try_from(span: Span) -> Result<Self, String> {
        if (Span::millis(1)..=Span::seconds(3600)).contains(&span) { Ok(Self(span)) } else { Err(format!("{span}, must be 1ms to 1h")) }
    }
}
