//! The threshold rule of the reproduced study: scale up above 250m CPU or 256 MiB memory a container, else down. Also
//! the actuator's fallback.
//!
//! Deviations from the study, which had no limits below its threshold and constant load:
//! - usage near the limit counts as above the threshold, since a replica cannot use more than its limit: below 250m the
//!   study's rule could only scale down;
//! - memory is not lowered to a point where the fullest replica would be near its limit;
//! - the last replica is removed only after a short window without arrivals.

use qscale_common::contract::{Choice, Direction, State, Usage};
use qscale_common::time::Timestamp;
use qscale_common::units::{Allocation, Mebibytes, Millicores, Replicas};
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Decision, HoldReason, Memory, Policy, Rule, Scope};

/// The threshold rule and its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Threshold {
    /// Which resources are scaled; set by the policy's name.
    #[serde(skip)]
    pub scope: Scope,
    /// Mean CPU usage of a replica above which the rule scales up.
    pub cpu_millicores: Millicores,
    /// Mean memory usage of a replica above which the rule scales up.
    pub memory_mib: Mebibytes,
    /// Share of a threshold at and below which the rule scales down, 0 to 1; 1 (the study's) leaves no band without change.
    pub down_below: f64,
    /// Share of a replica's limit above which usage counts as above the threshold, more than 0; above 1 the limit is ignored.
    pub saturation: f64,
    /// Replicas added or removed in a step, at least 1.
    pub replicas_step: Replicas,
    /// CPU added to or removed from each replica in a step, at least 1m.
    pub cpu_step_millicores: Millicores,
    /// Memory added to or removed from each replica in a step, at least 1 MiB.
    pub memory_step_mib: Mebibytes,
}

impl Default for Threshold {
    /// Thresholds and steps of 1 replica and 30m are the study's. It never changed memory; 64 MiB covers the default
    /// bounds in a dozen steps. At 90 % of its quota a replica is throttled in most periods.
    fn default() -> Self {
        Self {
            scope: Scope::Horizontal,
            cpu_millicores: Millicores(250),
            memory_mib: Mebibytes(256),
            down_below: 1.0,
            saturation: 0.9,
            replicas_step: Replicas(1),
            cpu_step_millicores: Millicores(30),
            memory_step_mib: Mebibytes(64),
        }
    }
}

impl Policy for Threshold {
    fn name(&self) -> &'static str {
        self.scope.choose(["threshold", "threshold-vertical", "threshold-both"])
    }

    fn model(&self) -> String {
        format!("{}/1 {} {}", self.name(), self.cpu_millicores, self.memory_mib)
    }

    fn decide(&self, state: &State, _: &mut Memory, _: Timestamp, _: &mut dyn Rng) -> Decision {
        self.evaluate(state)
    }
}

impl Rule for Threshold {
    fn named(self, name: &str) -> Self {
        Self { scope: Scope::of_rule(name), ..self }
    }

    fn check(&self) -> Result<(), String> {
        if !(0.0..=1.0).contains(&self.down_below) {
            return Err(format!("down_below = {}, must be from 0 to 1", self.down_below));
        }
        if !(self.saturation.is_finite() && self.saturation > 0.0) {
            return Err(format!("saturation = {}, must be a finite number above 0", self.saturation));
        }
        let steps = [
            ("replicas_step", self.replicas_step.0),
            ("cpu_step_millicores", self.cpu_step_millicores.0),
            ("memory_step_mib", self.memory_step_mib.0),
        ];
        match steps.into_iter().find(|(_, step)| *step == 0) {
            Some((field, _)) => Err(format!("{field} = 0, must be at least 1")),
            None => Ok(()),
        }
    }
}

impl Threshold {
    /// Decides for the function of `state`. The rule needs neither memory nor time nor random numbers.
    #[must_use]
    pub fn evaluate(&self, state: &State) -> Decision {
        let Some(current) = state.allocation else {
            return Decision::hold(HoldReason::NoAllocation, "the current allocation is not known");
        };
        let Some(cpu) = finite(state.windows.tick.cpu_millicores) else {
            return Decision::hold(HoldReason::NoMeasurement, "no CPU measurement in this tick");
        };
        let Some(memory) = finite(state.windows.tick.memory_mib) else {
            return Decision::hold(HoldReason::NoMeasurement, "no memory measurement in this tick");
        };
        let seen = UsageLevels { cpu: self.cpu_level(cpu, current), memory: self.memory_level(memory, current) };
        let reason = self.reason(seen, cpu, memory);
        let Some(direction) = seen.direction() else {
            return Decision::Hold { why: HoldReason::NothingToDo, reason, choices: self.choices(state, current, seen) };
        };
        let (allocation, choices) = (self.step(direction, state, current, seen), self.choices(state, current, seen));
        if allocation == current {
            Decision::Hold { why: HoldReason::NotAllowed, reason: format!("{reason}; bounds allow no step {}", word(direction)), choices }
        } else {
            Decision::Want { allocation, reason, choices }
        }
    }

    fn cpu_level(&self, usage: Usage, current: Allocation) -> UsageLevel {
        let saturated = usage.mean > self.saturation * f64::from(current.cpu_millicores.0);
        self.level(usage.mean, f64::from(self.cpu_millicores.0), saturated)
    }

    /// More replicas do not lower the memory of a full one, so nearness to the limit counts only if the limit can be raised.
    fn memory_level(&self, usage: Usage, current: Allocation) -> UsageLevel {
        let saturated = self.scope != Scope::Horizontal && usage.max > self.saturation * f64::from(current.memory_mib.0);
        self.level(usage.mean, f64::from(self.memory_mib.0), saturated)
    }

    fn level(&self, used: f64, threshold: f64, saturated: bool) -> UsageLevel {
        match () {
            () if used > threshold => UsageLevel::Above,
            () if saturated => UsageLevel::Saturated,
            () if used <= threshold * self.down_below => UsageLevel::Below,
            () => UsageLevel::Within,
        }
    }

    /// One step from `current` within the State's bounds. Upwards only the scarce resource grows; downwards all shrink.
    fn step(&self, direction: Direction, state: &State, current: Allocation, seen: UsageLevels) -> Allocation {
        let mut next = current;
        if self.scope != Scope::Vertical {
            next.replicas.0 = moved(direction, current.replicas.0, self.replicas_step.0);
        }
        if self.scope != Scope::Horizontal {
            let down = direction == Direction::Down;
            if down || seen.cpu.is_short() {
                next.cpu_millicores.0 = moved(direction, current.cpu_millicores.0, self.cpu_step_millicores.0);
            }
            if down || seen.memory.is_short() {
                next.memory_mib.0 = moved(direction, current.memory_mib.0, self.memory_step_mib.0);
            }
        }
        let mut next = state.bounds.clamp(next);
        if direction == Direction::Down {
            next.memory_mib = next.memory_mib.max(self.memory_floor(state).min(current.memory_mib));
            if next.replicas.0 == 0 && state.windows.short.rate_rps != Some(0.0) {
                next.replicas = current.replicas.min(Replicas(1));
            }
        }
        state.bounds.clamp(next)
    }

    /// Memory at which the fullest replica of the last windows stays just below saturation.
    fn memory_floor(&self, state: &State) -> Mebibytes {
        let windows = [&state.windows.tick, &state.windows.short, &state.windows.long];
        let most = windows.into_iter().filter_map(|window| finite(window.memory_mib)).map(|usage| usage.max).fold(0.0, f64::max);
        Mebibytes((most / self.saturation).ceil() as u32)
    }

    fn choices(&self, state: &State, current: Allocation, seen: UsageLevels) -> Vec<Choice> {
        let choice = |direction| {
            // The direction not taken is evaluated as if every resource asked for it.
            let seen =
                if seen.direction() == Some(direction) { seen } else { UsageLevels { cpu: UsageLevel::Above, memory: UsageLevel::Above } };
            let stays = self.step(direction, state, current, seen) == current;
            Choice { action: word(direction).into(), value: None, masked: stays.then(|| "at the bound".into()) }
        };
        vec![choice(Direction::Up), choice(Direction::Down)]
    }

    fn reason(&self, seen: UsageLevels, cpu: Usage, memory: Usage) -> String {
        let cpu_text = format!("CPU {:.0}m a replica", cpu.mean);
        let memory_text = format!("memory {:.0}Mi a replica", memory.mean);
        let (cpu_most, memory_most) = (self.cpu_millicores, self.memory_mib);
        match (seen.cpu, seen.memory) {
            (UsageLevel::Above, _) => format!("{cpu_text} is above {cpu_most}"),
            (_, UsageLevel::Above) => format!("{memory_text} is above {memory_most}"),
            (UsageLevel::Saturated, _) => format!("{cpu_text} is near its limit"),
            (_, UsageLevel::Saturated) => format!("memory {:.0}Mi of the fullest replica is near its limit", memory.max),
            (UsageLevel::Below, UsageLevel::Below) => format!("{cpu_text} and {memory_text} are not above {cpu_most} and {memory_most}"),
            _ => {
                format!("{cpu_text} and {memory_text} lie within {:.0} % of {cpu_most} and {memory_most}", (1.0 - self.down_below) * 100.0)
            }
        }
    }
}

/// A measurement relative to its threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UsageLevel {
    Above,
    Saturated,
    Within,
    Below,
}

impl UsageLevel {
    fn is_short(self) -> bool {
        matches!(self, Self::Above | Self::Saturated)
    }
}

#[derive(Debug, Clone, Copy)]
struct UsageLevels {
    cpu: UsageLevel,
    memory: UsageLevel,
}

impl UsageLevels {
    /// Up if either resource is scarce, down if both have spare capacity.
    fn direction(self) -> Option<Direction> {
        if self.cpu.is_short() || self.memory.is_short() {
            Some(Direction::Up)
        } else if self.cpu == UsageLevel::Below && self.memory == UsageLevel::Below {
            Some(Direction::Down)
        } else {
            None
        }
    }
}

fn word(direction: Direction) -> &'static str {
    match direction {
        Direction::Up => "up",
        Direction::Down => "down",
    }
}

fn moved(direction: Direction, from: u32, step: u32) -> u32 {
    match direction {
        Direction::Up => from.saturating_add(step),
        Direction::Down => from.saturating_sub(step),
    }
}

/// A measurement with finite values.
fn finite(usage: Option<Usage>) -> Option<Usage> {
    usage.filter(|usage| usage.mean.is_finite() && usage.max.is_finite())
}

#[cfg(test)]
mod tests;
