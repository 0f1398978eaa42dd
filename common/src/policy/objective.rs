//! The service-level objective of a function. Owns its fields and their ranges.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::text::number;
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
    /// Operating point between violations and cost that a learned agent holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub point: Option<OperatingPoint>,
}

/// Operating point between violations and cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "PointFields", into = "PointFields")]
#[schemars(with = "PointFields")]
pub enum OperatingPoint {
    /// A fixed cost of a violated tick, in units of five seconds of the function's usual cost.
    ViolationCost(ViolationCost),
    /// A share of violated ticks, 0.0001 to 0.5.
    ViolatedShare(TargetShare),
    /// A cost per month of 730 hours, in the currency of the prices.
    BudgetPerMonth(Budget),
}

/// The fields of an [`OperatingPoint`], of which exactly one is given.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "OperatingPoint", extend("minProperties" = 1, "maxProperties" = 1))]
struct PointFields {
    /// Cost of a violated tick in units of 5 s of the usual cost, 10 to 20000.
    #[serde(skip_serializing_if = "Option::is_none")]
    violation_cost: Option<ViolationCost>,
    /// Share of violated ticks that the agent holds, 0.0001 to 0.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    violated_share: Option<TargetShare>,
    /// Cost of 730 hours, in the currency of the prices, that the agent holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    budget_per_month: Option<Budget>,
}

impl TryFrom<PointFields> for OperatingPoint {
    type Error = String;
    fn try_from(fields: PointFields) -> Result<Self, String> {
        match fields {
            PointFields { violation_cost: Some(cost), violated_share: None, budget_per_month: None } => Ok(Self::ViolationCost(cost)),
            PointFields { violation_cost: None, violated_share: Some(share), budget_per_month: None } => Ok(Self::ViolatedShare(share)),
            PointFields { violation_cost: None, violated_share: None, budget_per_month: Some(budget) } => Ok(Self::BudgetPerMonth(budget)),
            _ => Err("must have exactly one of violation_cost, violated_share and budget_per_month".to_owned()),
        }
    }
}

impl From<OperatingPoint> for PointFields {
    fn from(point: OperatingPoint) -> Self {
        match point {
            OperatingPoint::ViolationCost(cost) => Self { violation_cost: Some(cost), ..Self::default() },
            OperatingPoint::ViolatedShare(share) => Self { violated_share: Some(share), ..Self::default() },
            OperatingPoint::BudgetPerMonth(budget) => Self { budget_per_month: Some(budget), ..Self::default() },
        }
    }
}

impl fmt::Display for OperatingPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ViolationCost(cost) => write!(f, "violation cost {}", number(cost.get())),
            Self::ViolatedShare(share) => write!(f, "{} % of the ticks violated", number(share.get() * 100.0)),
            Self::BudgetPerMonth(budget) => write!(f, "{} a month", number(budget.get())),
        }
    }
}

/// Implements a number within a range. `label` precedes the value in errors.
macro_rules! ranged {
    ($(#[$doc:meta])* $name:ident, $label:literal, $least:literal, $most:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize, JsonSchema)]
        #[serde(try_from = "f64", into = "f64")]
        #[schemars(with = "f64", extend("minimum" = $least, "maximum" = $most))]
        pub struct $name(f64);

        impl $name {
            /// Smallest value.
            pub const LEAST: f64 = $least;
            /// Largest value.
            pub const MOST: f64 = $most;

            /// The number.
            #[must_use]
            pub fn get(self) -> f64 {
                self.0
            }
        }

        impl TryFrom<f64> for $name {
            type Error = String;
            fn try_from(value: f64) -> Result<Self, String> {
                if (Self::LEAST..=Self::MOST).contains(&value) {
                    Ok(Self(value))
                } else {
                    Err(format!("{}{}, must be from {} to {}", $label, number(value), number(Self::LEAST), number(Self::MOST)))
                }
            }
        }

        impl From<$name> for f64 {
            fn from(value: $name) -> Self {
                value.0
            }
        }
    };
}

ranged! {
    /// Cost of a violated tick, in units of five seconds of the function's usual cost, 10 to 20000, which is the range of training.
    ViolationCost, "violation_cost = ", 10.0, 20_000.0
}
ranged! {
    /// A share of violated ticks to hold, 0.0001 to 0.5. A smaller one could not be measured within days.
    TargetShare, "", 0.0001, 0.5
}
ranged! {
    /// A cost per month, 0.01 to 1,000,000,000.
    Budget, "", 0.01, 1e9
}

impl Default for Objective {
    /// p95 within 500 ms and 1 % failures: loose enough for an unknown function.
    fn default() -> Self {
        Self { percentile: Percentile(95.0), latency: LatencyBound(Span::millis(500)), failure_share: Share(0.01), point: None }
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
        let meant = if value > 0.0 && value < 1.0 { number(value * 100.0) } else { "95".to_owned() };
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
