//! The training reward. Owns its weights and formula.
//!
//! The collector's reward (`qscale_common::reward`) compares agents; this one is made for learning, with the same optimum:
//! - A violation is determined by the requests that were really late or failed in the tick, whether or not that was
//!   measured. A share of late requests at twice the allowed share counts as 1, less counts quadratically: near the
//!   bound a few more late requests are noise.
//! - Cost is a multiple of the usual cost, the price of the mean load at full utilisation, so that saving a tenth has
//!   the same weight for small and large functions and is independent of the bounds.
//! - Cost counts by time, violations by ticks.

use serde::{Deserialize, Serialize};

/// Weights of the terms, in units of five seconds of the usual cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingReward {
    /// Weight of five seconds of the usual cost.
    pub cost: f64,
    /// Weight of a reversal of direction.
    pub reversal: f64,
    /// Weight of a resize that restarts replicas.
    pub resize: f64,
    /// Weight of an OOM kill or crash, in violated ticks.
    pub kill: f64,
    /// The sum is divided by this times the violation cost to the power of 0.75. A violation then weighs 5 at the
    /// lowest violation cost and 32 at the highest, a tick of the usual cost 0.5 and 0.002.
    pub scale: f64,
}

impl Default for TrainingReward {
    fn default() -> Self {
        Self { cost: 1.0, reversal: 2.0, resize: 1.0, kill: 0.5, scale: 0.376 }
    }
}

/// The reward of one tick and its terms.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct StepReward {
    /// Negated and scaled weighted sum of the terms.
    pub reward: f64,
    /// Degree of violation of the objective, 0 to 1.
    pub violation: f64,
    /// Cost, a multiple of the usual cost.
    pub cost: f64,
    /// 1 if the direction was reversed.
    pub reversal: f64,
    /// OOM kills and crashes.
    pub kills: f64,
}

/// Duration of usual cost that is the unit of all weights, seconds.
pub const UNIT_S: f64 = 5.0;

impl TrainingReward {
    /// # Errors
    /// Names the first weight that is out of range, with its value and range.
    pub fn check(&self) -> Result<(), String> {
        let Self { cost, reversal, resize, kill, scale } = *self;
        for (name, value) in [("cost", cost), ("reversal", reversal), ("resize", resize), ("kill", kill)] {
            if !(0.0..=1e4).contains(&value) {
                return Err(format!("reward.{name} = {value}, must be from 0 to 10000"));
            }
        }
        if (1e-3..=1e3).contains(&scale) { Ok(()) } else { Err(format!("reward.scale = {scale}, must be from 0.001 to 1000")) }
    }

    /// Reward of a second of the usual cost, negated, at `violation_cost`.
    #[must_use]
    pub fn of_usual_cost(&self, violation_cost: f64) -> f64 {
        self.cost / UNIT_S / self.unit(violation_cost)
    }

    /// Reward of `violations` violated ticks, negated, at `violation_cost`.
    #[must_use]
    pub fn of_violations(&self, violations: f64, violation_cost: f64) -> f64 {
        violation_cost * violations / self.unit(violation_cost)
    }

    /// Divisor of the sum of terms.
    fn unit(&self, violation_cost: f64) -> f64 {
        self.scale * violation_cost.powf(0.75)
    }

    /// `step` with its reward: a tick of `tick_s` seconds, where `resize` is 1 if replicas were restarted to resize
    /// them, at `violation_cost`.
    #[must_use]
    pub fn weigh(&self, step: StepReward, resize: f64, tick_s: f64, violation_cost: f64) -> StepReward {
        let StepReward { violation, cost, reversal, kills, .. } = step;
        let sum = violation_cost * (violation + self.kill * kills.min(1.0))
            + self.cost * cost * tick_s / UNIT_S
            + self.reversal * reversal
            + self.resize * resize;
        StepReward { reward: -sum / self.unit(violation_cost), ..step }
    }
}
