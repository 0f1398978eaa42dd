//! Limits on the size and frequency of changes. Owns their defaults and ranges.

use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::time::Span;

/// Limits on the size and frequency of changes, for any agent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Guardrails {
    /// Maximum replicas added in one step, at least 1.
    pub replicas_up: NonZeroU32,
    /// Maximum replicas removed in one step, at least 1.
    pub replicas_down: NonZeroU32,
    /// Maximum factor by which CPU or memory of a replica may grow or shrink in one step, at least 1.
    pub resize_factor: ResizeFactor,
    /// Maximum changes per hour in any direction, at least 1.
    pub changes_per_hour: NonZeroU32,
    /// Maximum reversals of direction per hour.
    pub reversals_per_hour: u32,
    /// Maximum age of measurements for scaling down; by default three ticks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Span>,
    /// Minimum ratio of memory to the largest working set, at least 1.
    pub working_set_margin: ResizeFactor,
}

impl Default for Guardrails {
    /// Wide enough for a sound agent, tight enough to contain a faulty one for minutes.
    fn default() -> Self {
        let four = NonZeroU32::new(4).expect("four is not zero");
        Self {
            replicas_up: four,
            replicas_down: four,
            resize_factor: ResizeFactor(2.0),
            changes_per_hour: NonZeroU32::new(240).expect("240 is not zero"),
            reversals_per_hour: 60,
            max_age: None,
            working_set_margin: ResizeFactor(1.1),
        }
    }
}

impl Guardrails {
    /// Limits that hinder no policy, except that memory stays above the working set. Stale measurements forbid nothing.
    #[must_use]
    pub fn permissive() -> Self {
        let many = NonZeroU32::new(100_000).expect("it is not zero");
        Self {
            replicas_up: many,
            replicas_down: many,
            resize_factor: ResizeFactor(100.0),
            changes_per_hour: many,
            reversals_per_hour: many.get(),
            max_age: Some(Span::seconds(3600)),
            working_set_margin: Self::default().working_set_margin,
        }
    }
}

/// A factor of at least 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "f64")]
#[schemars(with = "f64", extend("minimum" = 1))]
pub struct ResizeFactor(f64);

impl ResizeFactor {
    /// The factor as a number of at least 1.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for ResizeFactor {
    type Error = String;
    fn try_from(value: f64) -> Result<Self, String> {
        if value.is_finite() && value >= 1.0 { Ok(Self(value)) } else { Err(format!("{value}, must be a finite number of at least 1")) }
    }
}
