//! What a tick is worth to whoever learns in the simulator. Owns the weights and the formula.
//!
//! The collector's reward is one ruler for every agent; this is another, made for learning, with its optimum where users have theirs:
//! - violations are counted by the requests that were really late or failed in the tick, whatever of it was measured, late or lost. A share of late requests
//!   at twice what the objective allows counts in full, less by its square: near the bound a few requests more are no accident yet;
//! - cost is told in multiples of what the usual load costs at full use, so that saving a tenth is worth as much of a small function as of a large one, however
//!   wide its bounds are;
//! - cost counts by time, violations by ticks, as a promise is broken once, however often one looks.

use qscale_sim::{Nanos, Simulation, Totals};
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

    /// What the tick was worth that `cell` just lived through, with what happened in it. `waited` says whether requests queued when it began, and
    /// `usual_price` what the usual load costs an hour; a violated tick costs `caution`, in units of five seconds of the usual cost.
    #[must_use]
    pub fn judge(&self, cell: &Simulation, totals: &Totals, waited: bool, usual_price: f64, caution: f64) -> Tick {
        let policy = &cell.setup().policy;
        let tick_s = policy.tick.duration().as_secs_f64();
        let objective = &policy.objective;
        let bound = Nanos::from(objective.latency.get());
        let ended = totals.completed + totals.unanswered();
        let violation = if ended == 0 {
            // Nothing came back all through a tick that is longer than the bound.
            f64::from(u8::from(waited && cell.function().queued() > 0 && policy.tick.duration() > objective.latency.get()))
        } else {
            let late = totals.violations(bound) / ended as f64;
            let failed = totals.unanswered() as f64 / ended as f64;
            violation((late, 1.0 - objective.percentile.get() / 100.0), (failed, objective.failure_share.get()))
        };
        let prices = &policy.prices;
        let spent = (totals.core_seconds * prices.cpu_core_hour.get() + totals.gibibyte_seconds * prices.memory_gib_hour.get()) / 3600.0;
        let cost = spent * 3600.0 / (usual_price * tick_s);
        let terms = &cell.reward().terms;
        let (reversal, resize) = (terms.reversal.value.unwrap_or(0.0), terms.resize.value.unwrap_or(0.0));
        let kills = (totals.oom_kills + totals.crashes) as f64;
        self.weigh(Tick { reward: 0.0, violation, cost, reversal, kills }, resize, tick_s, caution)
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

/// How far the objective was violated, 0 to 1, where such a share of the requests that ended was late, failed ones among them, and such a share failed, each beside
/// the share that is allowed.
#[must_use]
pub fn violation(late: (f64, f64), failed: (f64, f64)) -> f64 {
    let twice = |(share, allowed): (f64, f64)| (share / (2.0 * allowed.max(1e-3))).min(1.0).powi(2);
    twice(late).max(twice(failed))
}
