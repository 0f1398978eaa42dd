//! Sizing: the allocation that carries an estimated demand. Owns the split into replicas and CPU, and the memory of a replica; must not estimate demand.

use std::str::FromStr;

use qscale_common::contract::State;
use qscale_common::units::{Allocation, Mebibytes, Millicores, Replicas};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::VariantArray;

use crate::inputs::measured;

/// The parts of an allocation that may change.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema, VariantArray, strum::Display,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Scope {
    /// The number of replicas.
    Horizontal,
    /// CPU and memory of each replica.
    Vertical,
    /// All parts.
    #[default]
    #[serde(alias = "both")]
    Joint,
}

impl Scope {
    /// The scope of the rule called `name`, which ends in `-vertical`, `-both` or neither.
    #[must_use]
    pub fn of_rule(name: &str) -> Self {
        match () {
            () if name.ends_with("-vertical") => Self::Vertical,
            () if name.ends_with("-both") => Self::Joint,
            () => Self::Horizontal,
        }
    }

    /// The name for this scope among those of a rule: of the number of replicas, of their size, and of both.
    #[must_use]
    pub fn choose(self, [horizontal, vertical, both]: [&'static str; 3]) -> &'static str {
        match self {
            Self::Horizontal => horizontal,
            Self::Vertical => vertical,
            Self::Joint => both,
        }
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::VARIANTS.iter().find(|scope| scope.to_string() == text);
        found.copied().ok_or_else(|| format!("scope = {text:?}, must be one of horizontal vertical joint"))
    }
}

/// Resources that a load demands.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct EstimatedDemand {
    /// Busy cores.
    pub cores: f64,
    /// Fully occupied replicas, a fraction; 0 if no replica was ever seen at its concurrency limit.
    pub full: f64,
}

/// Share of the latency objective that the CPU time of a request may take; smaller replicas are not offered.
const MAX_CPU_SHARE: f64 = 0.5;
/// Largest ratio of the current CPU to the wanted one at which it stays as it is.
const KEEP_UP_TO: f64 = 1.2;
/// Smallest such ratio.
const KEEP_FROM: f64 = 0.97;

/// A function whose replicas are sized.
#[derive(Debug, Clone, Copy)]
pub struct DemandSizing<'a> {
    /// Its State: bounds, objective and use.
    pub state: &'a State,
    /// Its allocation, with the memory that it is to have.
    pub current: Allocation,
    /// CPU seconds per request; absent if unknown.
    pub request_seconds: Option<f64>,
    /// Replicas that stay without demand.
    pub idle: Replicas,
    /// The parts that change.
    pub scope: Scope,
}

impl DemandSizing<'_> {
    /// The allocation for `demand`, which may exceed the bounds. `None` if CPU alone is to carry it and there is no replica.
    #[must_use]
    pub fn provide(&self, demand: EstimatedDemand) -> Option<Allocation> {
        let (bounds, now) = (&self.state.bounds, self.current);
        let (cores, full) = (demand.cores, demand.full.ceil().max(1.0).min(f64::from(u32::MAX)) as u32);
        let nothing = demand.cores == 0.0 && demand.full == 0.0;
        let cpu = bounds.cpu_millicores.clamp(now.cpu_millicores);
        let most = bounds.cpu_millicores.clamp(on_grid(useful_cores(self.state)));
        let allocation = match self.scope {
            Scope::Vertical if now.replicas.0 == 0 => return None,
            Scope::Vertical => Allocation { cpu_millicores: self.sized(cores, now.replicas.0), ..now },
            _ if nothing => Allocation { replicas: self.idle, ..now },
            Scope::Horizontal => Allocation { replicas: Replicas(replicas(cores, cpu.min(most)).0.max(full)), ..now },
            Scope::Joint => {
                // As few replicas as possible, none larger than the function can use. The current number is kept if it
                // is at most twice that, because CPU changes immediately and replicas do not.
                let fewest = bounds.replicas.clamp(Replicas(replicas(cores, most).0.max(full)));
                let total = |count: Replicas| bounds.cpu_millicores.clamp(self.sized(cores, count.0)).cores() * f64::from(count.0);
                let stays = fewest <= now.replicas
                    && now.replicas.0 <= fewest.0.saturating_mul(2)
                    && total(now.replicas) <= KEEP_UP_TO * total(fewest);
                let count = if stays { now.replicas } else { fewest };
                Allocation { replicas: count, cpu_millicores: self.sized(cores, count.0), ..now }
            }
        };
        Some(self.settled(allocation))
    }

    /// CPU of each of `count` replicas that together provide `cores`, and at least what a request needs to meet the objective.
    fn sized(&self, cores: f64, count: u32) -> Millicores {
        let objective_s = self.state.objective.latency_ms as f64 / 1000.0 * MAX_CPU_SHARE;
        let own = (self.request_seconds.unwrap_or(0.0) / objective_s.max(1e-3)).min(1.0);
        on_grid((cores / f64::from(count.max(1))).max(own).min(1e6))
    }

    /// The current CPU if that of `allocation` is nearly the same, so that noise does not resize replicas.
    fn settled(&self, allocation: Allocation) -> Allocation {
        let (has, wants) = (f64::from(self.current.cpu_millicores.0), f64::from(allocation.cpu_millicores.0));
        let close = allocation.replicas == self.current.replicas && has * KEEP_UP_TO.recip() <= wants && wants * KEEP_FROM <= has;
        if close { Allocation { cpu_millicores: self.current.cpu_millicores, ..allocation } } else { allocation }
    }
}

/// Cores that one replica can presumably use: 1, or 1.5 times the largest use measured.
#[must_use]
pub fn useful_cores(state: &State) -> f64 {
    let used = measured(state.windows.long.cpu_millicores.map(|usage| usage.max)).unwrap_or(0.0).min(1e9) / 1000.0;
    (used * 1.5).max(1.0)
}

/// The current memory if it is 1.2 to 2 times the largest working set, else 1.5 times the working set; 1.5 times the
/// current memory after an OOM kill.
#[must_use]
pub fn fitted_memory(state: &State, current: Mebibytes) -> Mebibytes {
    let windows = &state.windows;
    let clamp = |memory| state.bounds.memory_mib.clamp(memory);
    if windows.tick.oom_kills > 0 {
        return clamp(current.scaled(1.5));
    }
    let usage = [&windows.tick, &windows.short, &windows.long]
        .into_iter()
        .filter_map(|window| measured(window.memory_mib.map(|usage| usage.max)).map(|used| used.min(1e9)));
    let Some(used) = usage.max_by(f64::total_cmp).filter(|used| *used > 0.0) else { return current };
    let margin = f64::from(current.0) / used;
    let killed_lately = windows.long.oom_kills > 0;
    if margin < 1.2 || (margin > 2.0 && !killed_lately) { clamp(Mebibytes((used * 1.5).ceil() as u32)) } else { current }
}

/// Number of replicas of `cpu` that provide `cores`; at least one if there is any demand.
fn replicas(cores: f64, cpu: Millicores) -> Replicas {
    // Tolerates rounding errors above a whole number.
    Replicas((cores / cpu.cores().max(1e-3) - 1e-9).ceil().max(0.0) as u32)
}

/// The smallest step at or above `cores` on a scale of steps of 10 %, so that noise in the estimate does not resize replicas.
fn on_grid(cores: f64) -> Millicores {
    const STEP: f64 = 1.1;
    let least = 0.01;
    let steps = ((cores.max(least) / least).ln() / STEP.ln() - 1e-9).ceil();
    Millicores((least * STEP.powf(steps) * 1000.0).round() as u32)
}
