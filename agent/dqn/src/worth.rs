//! What a tick is worth to whoever learns in the simulator. Owns the weights and the formula.
//!
//! The collector's reward is one ruler for every agent; this is another, made for learning, with its optimum where users have theirs:
//! - violations are counted by the requests that were really late or failed in the tick, whatever of it was measured, late or lost. A share of late requests
//!   at twice what the objective allows counts in full, less by its square: near the bound a few requests more are no accident yet;
//! - cost is told in multiples of what the usual load costs at full use, so that saving a tenth is worth as much of a small function as of a large one, however
//!   wide its bounds are;
//! - cost counts by time, violations by ticks, as a promise is broken once, however often one looks.

use serde::{Deserialize, Serialize};

/// What the terms weigh, in units of five seconds of the usual cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Worth {
    /// Of five seconds at the usual cost.
    pub cost: f64,
    /// Of a reversal of direction.
    pub reversal: f64,
    /// Of a resize that restarts.
    pub resize: f64,
    /// Of a kill for memory or a crash, in violated ticks.
    pub kill: f64,
    /// What the sum is divided by, times the caution to the power of three quarters: a violation then weighs 5 at the least caution and 32 at the most, and
    /// a tick at the usual cost 0.5 and 0.002.
    pub scale: f64,
}

impl Default for Worth {
    fn default() -> Self {
        Self { cost: 1.0, reversal: 2.0, resize: 1.0, kill: 0.5, scale: 0.376 }
    }
}

/// What one tick was worth, and why.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Tick {
    /// The sum of the terms with their weights, negated and scaled.
    pub reward: f64,
    /// How far the objective was violated, 0 to 1.
    pub violation: f64,
    /// Cost, in multiples of the usual.
    pub cost: f64,
    /// Whether the direction was reversed.
    pub reversal: f64,
    /// Kills and crashes.
    pub kills: f64,
}

/// The time that the unit of cost stands for, seconds.
pub const UNIT_S: f64 = 5.0;

impl Worth {
    /// # Errors
    /// Names the first that lies outside its range.
    pub fn check(&self) -> Result<(), String> {
        let Self { cost, reversal, resize, kill, scale } = *self;
        for (name, value) in [("cost", cost), ("reversal", reversal), ("resize", resize), ("kill", kill)] {
            if !(0.0..=1e4).contains(&value) {
                return Err(format!("worth.{name} = {value}, must be from 0 to 10000"));
            }
        }
        if (1e-3..=1e3).contains(&scale) { Ok(()) } else { Err(format!("worth.scale = {scale}, must be from 0.001 to 1000")) }
    }

    /// What a second at the usual cost is worth, where a violated tick costs `caution`.
    #[must_use]
    pub fn of_usual_cost(&self, caution: f64) -> f64 {
        self.cost / UNIT_S / self.unit(caution)
    }

    /// What so many violated ticks weigh in a reward, where one costs `caution`.
    #[must_use]
    pub fn of_violations(&self, violations: f64, caution: f64) -> f64 {
        caution * violations / self.unit(caution)
    }

    /// What sums of terms are divided by.
    fn unit(&self, caution: f64) -> f64 {
        self.scale * caution.powf(0.75)
    }

    /// `tick` with what it was worth: one of `tick_s` seconds in which `resize` says whether replicas were restarted in order to resize them, where a violated
    /// tick costs `caution`.
    #[must_use]
    pub fn weigh(&self, tick: Tick, resize: f64, tick_s: f64, caution: f64) -> Tick {
        let Tick { violation, cost, reversal, kills, .. } = tick;
        let sum = caution * (violation + self.kill * kills.min(1.0))
            + self.cost * cost * tick_s / UNIT_S
            + self.reversal * reversal
            + self.resize * resize;
        Tick { reward: -sum / self.unit(caution), ..tick }
    }
}
