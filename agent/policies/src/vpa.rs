//! The policy `vpa`: Kubernetes' Vertical Pod Autoscaler with in-place resizes. Owns its inputs from a State; the
//! arithmetic is in [`recommender`] and [`updater`].
//!
//! Deviations from the original, most of them due to data that a State lacks:
//! - usage is known as mean and maximum over replicas: one used the maximum, the others the rest; of memory only the maximum counts;
//! - requests equal limits, so both change together;
//! - a resource without measurements keeps its request, and memory is resized without measurements of CPU (the original gives the least amount to the
//!   former, and no recommendation for the latter: `kubernetes/autoscaler` issues 8982 and 10211);
//! - all replicas of a function have one size, so all are resized at once, not half of them at a time;
//! - replicas are as old as the rule's memory of the function.

pub mod histogram;
pub mod recommender;
pub mod updater;

use std::time::Duration;

use qscale_common::contract::State;
use qscale_common::time::{Span, Timestamp};
use qscale_common::units::{Allocation, Mebibytes, Millicores};
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::inputs::{self, Cadence, Meter, check_range, check_span, measured};
use crate::{Decision, HoldReason, Memory, Policy, Rule, Timing};
use recommender::{Aggregate, Amounts, Recommendation, Recommender};
use updater::{Priority, Updater};

/// Parameters of the VPA.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Vpa {
    /// Resources that are resized.
    pub controlled: Controlled,
    /// Time between decisions, 1 s to 1 h.
    pub interval: Span,
    /// Half-life of a sample's weight, 1 min to 30 days.
    pub half_life: Span,
    /// Length of the span of which one memory peak counts, 1 min to 30 days.
    pub memory_window: Span,
    /// Percentile of CPU usage that is the target, 0 to 1.
    pub cpu_percentile: f64,
    /// Percentile of memory peaks that is the target, 0 to 1.
    pub memory_percentile: f64,
    /// Percentile of the lower bound, 0 to 1: below it replicas are resized at once.
    pub lower_percentile: f64,
    /// Percentile of the upper bound, 0 to 1: above it replicas are resized at once.
    pub upper_percentile: f64,
    /// Length of the history at which the bounds are tightest, 1 min to 30 days.
    pub confidence_interval: Span,
    /// Least factor of memory after an out-of-memory kill, 1 to 100.
    pub oom_bump_ratio: f64,
    /// Least addition of memory after an out-of-memory kill.
    pub oom_min_bump_mib: Mebibytes,
    /// How recommendations are applied.
    pub update_mode: UpdateMode,
    /// Share added to every estimate, 0 to 10.
    pub margin: f64,
    /// Least CPU that is recommended.
    pub min_cpu_millicores: Millicores,
    /// Least memory that is recommended.
    pub min_memory_mib: Mebibytes,
    /// Number of replicas below which nothing is resized.
    pub min_replicas: u32,
    /// Age at which replicas are resized for a significant change, up to 30 days.
    pub lifetime: Span,
    /// Share of the request that is a significant change, 0 to 1.
    pub min_change: f64,
}

/// How recommendations are applied. The original's modes that differ only if an in-place resize is refused are one
/// mode, since none is refused here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpdateMode {
    /// Not at all.
    Off,
    /// The first one is applied.
    Initial,
    /// Significant ones are applied: `Recreate`, `InPlaceOrRecreate` and `InPlace` of the original.
    #[default]
    Auto,
}

/// Resources that are resized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Controlled {
    /// CPU and memory.
    #[default]
    Both,
    /// Only CPU.
    Cpu,
    /// Only memory.
    Memory,
}

impl Controlled {
    /// Whether CPU and memory are resized.
    fn enabled(self) -> [bool; 2] {
        [self != Self::Memory, self != Self::Cpu]
    }
}

/// Memory of a VPA about one function.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct VpaMemory {
    cadence: Cadence,
    mean: Meter,
    max: Meter,
    memory_max: f64,
    known_since: Option<Timestamp>,
    resized: Option<Timestamp>,
    oom_after_ms: Option<u64>,
    aggregate: Aggregate,
}

impl Default for Vpa {
    /// Defaults of the recommender's and the updater's flags.
    fn default() -> Self {
        Self {
            controlled: Controlled::Both,
            interval: Span::seconds(60),
            half_life: Span::seconds(24 * 3600),
            memory_window: Span::seconds(24 * 3600),
            cpu_percentile: 0.9,
            memory_percentile: 0.9,
            lower_percentile: 0.5,
            upper_percentile: 0.95,
            confidence_interval: Span::seconds(24 * 3600),
            oom_bump_ratio: 1.2,
            oom_min_bump_mib: Mebibytes(100),
            update_mode: UpdateMode::Auto,
            margin: 0.15,
            min_cpu_millicores: Millicores(25),
            min_memory_mib: Mebibytes(250),
            min_replicas: 2,
            lifetime: Span::seconds(12 * 3600),
            min_change: 0.1,
        }
    }
}

impl Policy for Vpa {
    fn name(&self) -> &'static str {
        "vpa"
    }

    fn model(&self) -> String {
        format!(
            "vpa/1.7 p{:.0} of CPU, p{:.0} of memory, margin {}",
            self.cpu_percentile * 100.0,
            self.memory_percentile * 100.0,
            self.margin
        )
    }

    fn lookback(&self) -> Option<Duration> {
        // After eight half-lives or windows the weight of a sample is negligible; the original reads back as far.
        Some(self.half_life.max(self.memory_window).0 * 8)
    }

    /// Recommender and updater run each minute (`--recommender-interval`, `--updater-interval`) on the current values
    /// of metrics-server; here each run sees the mean of its own interval.
    fn timing(&self) -> Timing {
        Timing { tick: Some(self.interval), metric_lag: self.interval }
    }

    fn decide(&self, state: &State, memory: &mut Memory, _: Timestamp, _: &mut dyn Rng) -> Decision {
        let memory = memory.of::<VpaMemory>();
        self.run(state, memory)
    }
}

impl Rule for Vpa {
    fn check(&self) -> Result<(), String> {
        let (minute, month) = (Span::seconds(60), Span::seconds(30 * 24 * 3600));
        check_span("interval", self.interval, Span::seconds(1), Span::seconds(3600))?;
        check_span("half_life", self.half_life, minute, month)?;
        check_span("memory_window", self.memory_window, minute, month)?;
        check_span("lifetime", self.lifetime, Span::default(), month)?;
        check_range("cpu_percentile", self.cpu_percentile, 0.0, 1.0)?;
        check_range("memory_percentile", self.memory_percentile, 0.0, 1.0)?;
        check_range("lower_percentile", self.lower_percentile, 0.0, 1.0)?;
        check_range("upper_percentile", self.upper_percentile, 0.0, 1.0)?;
        if self.lower_percentile > self.upper_percentile {
            let (lower, upper) = (self.lower_percentile, self.upper_percentile);
            return Err(format!("lower_percentile = {lower}, must be at most upper_percentile = {upper}"));
        }
        check_span("confidence_interval", self.confidence_interval, minute, month)?;
        check_range("oom_bump_ratio", self.oom_bump_ratio, 1.0, 100.0)?;
        check_range("margin", self.margin, 0.0, 10.0)?;
        check_range("min_change", self.min_change, 0.0, 1.0)
    }
}

impl Vpa {
    /// Greatest number of samples of one interval, so that a State with absurd counts costs little.
    const MOST_SAMPLES: u32 = 1000;

    /// Records `state`, and decides if a decision is due.
    pub(crate) fn run(&self, state: &State, memory: &mut VpaMemory) -> Decision {
        let now = inputs::instant(state);
        self.observe(state, memory, now);
        if !memory.cadence.due(now, self.interval) {
            return Cadence::hold(self.interval);
        }
        self.sample(state, memory, now);
        self.update(state, memory, now)
    }

    fn observe(&self, state: &State, memory: &mut VpaMemory, now: Timestamp) {
        let (window, tick) = (&state.windows.tick, inputs::tick_length(state));
        let known_since = *memory.known_since.get_or_insert(now);
        memory.mean.add(now, tick, window.cpu_millicores.map(|usage| usage.mean), self.interval);
        memory.max.add(now, tick, window.cpu_millicores.map(|usage| usage.max), self.interval);
        let held = measured(window.memory_mib.map(|usage| usage.max)).unwrap_or(0.0);
        memory.memory_max = memory.memory_max.max(held);
        if window.oom_kills > 0
            && let Some(current) = state.allocation
        {
            memory.aggregate.add_oom(&self.recommender(), bytes(f64::from(current.memory_mib.0)), now);
            let age = now.since(memory.resized.unwrap_or(known_since));
            memory.oom_after_ms = Some(qscale_common::time::millis(age));
        }
    }

    /// One sample of each replica.
    fn sample(&self, state: &State, memory: &mut VpaMemory, now: Timestamp) {
        let recommender = self.recommender();
        if let (Some(mean), Some(max)) = (memory.mean.read(now, self.interval), memory.max.read(now, self.interval))
            // A span ends within the tick before the run that sees it, and only that run sees it.
            && now.since(mean.at) < self.interval.0
        {
            let replicas = inputs::counts(state)
                .map_or(0, |counts| counts.reporting.0.saturating_sub(counts.without_cpu.0))
                .clamp(1, Self::MOST_SAMPLES);
            let others = ((mean.mean * f64::from(replicas) - max.mean) / f64::from((replicas - 1).max(1))).max(0.0);
            let used = std::iter::once(max.mean).chain((1..replicas).map(|_| others));
            memory.aggregate.add_cpu(&recommender, used.map(|millicores| millicores / 1000.0), now);
        }
        let held = std::mem::take(&mut memory.memory_max);
        if held > 0.0 {
            memory.aggregate.add_memory(&recommender, bytes(held), now);
        }
    }

    fn update(&self, state: &State, memory: &mut VpaMemory, now: Timestamp) -> Decision {
        let Some(current) = state.allocation else {
            return Decision::hold(HoldReason::NoAllocation, "the current allocation is not known");
        };
        let (enabled, measured) = (self.controlled.enabled(), memory.aggregate.measured());
        let resized = [enabled[0] && measured[0], enabled[1] && measured[1]];
        if resized == [false, false] {
            let awaited = match self.controlled {
                Controlled::Both => "no CPU or memory measurement yet",
                Controlled::Cpu => "no CPU measurement yet",
                Controlled::Memory => "no memory measurement yet",
            };
            return Decision::hold(HoldReason::NoMeasurement, awaited);
        }
        let requests =
            Amounts { cpu_millicores: i64::from(current.cpu_millicores.0), memory_bytes: bytes(f64::from(current.memory_mib.0)) };
        let recommendation = self.allowed(state, memory.aggregate.recommend(&self.recommender(), 1));
        let priority = Priority::of(&[(requests, recommendation)], resized);
        let Recommendation { target, lower, upper } = recommendation;
        let [target_text, lower_text, upper_text] = [target, lower, upper].map(|amounts| described(amounts, measured));
        let reason = format!("recommended {target_text}, at least {lower_text}, at most {upper_text}");
        let ready = inputs::counts(state).map_or(0, |counts| counts.ready.0);
        if ready < self.min_replicas {
            return Decision::hold(HoldReason::NotAllowed, format!("{reason}; {ready} replicas are too few to resize"));
        }
        let age = now.since(memory.known_since.unwrap_or(now));
        let first = self.update_mode == UpdateMode::Initial && memory.resized.is_none();
        if self.update_mode == UpdateMode::Off || (self.update_mode == UpdateMode::Initial && !first) {
            return Decision::hold(HoldReason::NothingToDo, format!("{reason}; recommendations are not applied"));
        }
        if !first && !self.updater().eligible(&priority, age, memory.oom_after_ms.map(Duration::from_millis)) {
            return Decision::hold(HoldReason::NothingToDo, reason);
        }
        memory.oom_after_ms = None;
        memory.resized = Some(now);
        inputs::propose(state, current, with_target(current, target, resized), reason)
    }

    /// The recommendation within the State's bounds, the VPA's `minAllowed` and `maxAllowed`.
    fn allowed(&self, state: &State, recommendation: Recommendation) -> Recommendation {
        let (cpu, memory) = (state.bounds.cpu_millicores, state.bounds.memory_mib);
        let clamp = |amounts: Amounts| Amounts {
            cpu_millicores: amounts.cpu_millicores.clamp(i64::from(cpu.min().0), i64::from(cpu.max().0)),
            memory_bytes: amounts.memory_bytes.clamp(bytes(f64::from(memory.min().0)), bytes(f64::from(memory.max().0))),
        };
        let Recommendation { target, lower, upper } = recommendation;
        Recommendation { target: clamp(target), lower: clamp(lower), upper: clamp(upper) }
    }

    fn recommender(&self) -> Recommender {
        Recommender {
            half_life: self.half_life.0,
            memory_window: self.memory_window.0,
            cpu_percentile: self.cpu_percentile,
            memory_percentile: self.memory_percentile,
            margin: self.margin,
            min_cpu_millicores: i64::from(self.min_cpu_millicores.0),
            min_memory_bytes: bytes(f64::from(self.min_memory_mib.0)),
            oom_min_bump_bytes: bytes(f64::from(self.oom_min_bump_mib.0)),
            oom_bump_ratio: self.oom_bump_ratio,
            confidence_interval: self.confidence_interval.0,
            lower_percentile: self.lower_percentile,
            upper_percentile: self.upper_percentile,
        }
    }

    fn updater(&self) -> Updater {
        Updater { lifetime: self.lifetime.0, min_change: self.min_change, min_replicas: self.min_replicas, ..Updater::default() }
    }
}

/// `current` with the target of CPU and memory, each if it is `resized`.
fn with_target(current: Allocation, target: Amounts, resized: [bool; 2]) -> Allocation {
    let cpu = resized[0].then(|| Millicores(u32::try_from(target.cpu_millicores).unwrap_or(u32::MAX)));
    let memory = resized[1].then(|| Mebibytes(mebibytes(target.memory_bytes)));
    Allocation { cpu_millicores: cpu.unwrap_or(current.cpu_millicores), memory_mib: memory.unwrap_or(current.memory_mib), ..current }
}

/// The amounts of the resources that were measured.
fn described(amounts: Amounts, measured: [bool; 2]) -> String {
    let cpu = measured[0].then(|| format!("{}m", amounts.cpu_millicores));
    let memory = measured[1].then(|| format!("{}Mi", mebibytes(amounts.memory_bytes)));
    [cpu, memory].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn bytes(mebibytes: f64) -> i64 {
    (mebibytes * f64::from(1 << 20)) as i64
}

/// Rounds bytes up to MiB.
fn mebibytes(bytes: i64) -> u32 {
    Mebibytes::from_bytes(bytes.max(0) as u64).0
}

#[cfg(test)]
mod tests;
