//! Prices of an allocation and weights of the reward. Owns their defaults and ranges.

use std::cmp::Ordering;
use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::units::Allocation;

/// A weight, price or factor: a finite number of at least 0.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "f64")]
#[schemars(with = "f64", extend("minimum" = 0))]
pub struct Weight(f64);

impl Weight {
    /// The weight as a number.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Weight {
    type Error = String;
    fn try_from(value: f64) -> Result<Self, String> {
        if value.is_finite() && value >= 0.0 { Ok(Self(value)) } else { Err(format!("{value}, must be a finite number of at least 0")) }
    }
}

/// Direction of a change, by cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Increase.
    Up,
    /// Decrease.
    Down,
}

/// Prices of an allocation. The defaults are list prices of serverless containers of a large cloud, in USD.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Prices {
    /// Price of a core-hour.
    pub cpu_core_hour: Weight,
    /// Price of a GiB-hour.
    pub memory_gib_hour: Weight,
    /// Currency, an ISO 4217 code.
    #[serde(deserialize_with = "currency")]
    pub currency: String,
}

fn currency<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let code = String::deserialize(deserializer)?;
    if code.len() == 3 && code.bytes().all(|letter| letter.is_ascii_uppercase()) {
        return Ok(code);
    }
    Err(D::Error::custom(format!("`{code}`, must be an ISO 4217 code of three capital letters, such as USD or EUR")))
}

impl Default for Prices {
    fn default() -> Self {
        Self { cpu_core_hour: Weight(0.04048), memory_gib_hour: Weight(0.004445), currency: "USD".into() }
    }
}

impl Prices {
    /// Price of `allocation` per hour.
    #[must_use]
    pub fn per_hour(&self, allocation: Allocation) -> f64 {
        allocation.total_cores() * self.cpu_core_hour.0 + allocation.total_gibibytes() * self.memory_gib_hour.0
    }

    /// Direction from `before` to `after`: up is the higher cost per hour. At equal cost, up is the growth of any part; `None` if nothing changes.
    #[must_use]
    pub fn direction(&self, before: Allocation, after: Allocation) -> Option<Direction> {
        let by_part = if before.is_lower_than(after) { Direction::Up } else { Direction::Down };
        let by_cost = self.per_hour(after).partial_cmp(&self.per_hour(before));
        (before != after).then_some(match by_cost {
            Some(Ordering::Greater) => Direction::Up,
            Some(Ordering::Less) => Direction::Down,
            Some(Ordering::Equal) | None => by_part,
        })
    }
}

/// Weights of the terms of the reward.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RewardWeights {
    /// Weight of a violation of the objective.
    pub violation: Weight,
    /// Weight of cost.
    pub cost: Weight,
    /// Weight of a resize that restarts replicas.
    pub resize: Weight,
    /// Weight of a reversal of direction.
    pub reversal: Weight,
    /// Weight of a crash or a kill for memory.
    pub kill: Weight,
    /// Maximum ticks between two opposite changes that count as a reversal, at least 1.
    pub reversal_ticks: NonZeroU32,
}

impl Default for RewardWeights {
    fn default() -> Self {
        const A_MINUTE_OF_TICKS: NonZeroU32 = NonZeroU32::new(12).expect("twelve is not zero");
        Self {
            violation: Weight(1.0),
            cost: Weight(0.3),
            resize: Weight(0.05),
            reversal: Weight(0.2),
            kill: Weight(1.0),
            reversal_ticks: A_MINUTE_OF_TICKS,
        }
    }
}
