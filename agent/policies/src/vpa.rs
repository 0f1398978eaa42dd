//! The policy `vpa`: Kubernetes' Vertical Pod Autoscaler, resizing in place. Owns what it sees of a State; the arithmetic is in [`recommender`] and
//! [`updater`].
//!
//! Deviations from the original, for want of what a State does not tell:
//! - of the replicas it knows mean and maximum: one used the maximum, the others what is left; of memory, the maximum alone counts;
//! - what a replica may use is what it requests, so both change together;
//! - the replicas of a function have one size, so all are resized at once rather than half of them at a time;
//! - they are as old as the rule has known their function.

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

/// The VPA and its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Vpa {
    /// What is resized.
    pub controlled: Controlled,
    /// How often it decides, 1 s to 1 h.
    pub interval: Span,
    /// Time after which a sample weighs half, 1 min to 30 days.
    pub half_life: Span,
    /// One peak of memory counts in each span of this length, 1 min to 30 days.
    pub memory_window: Span,
    /// Percentile of CPU that is the target, 0 to 1.
    pub cpu_percentile: f64,
    /// Percentile of the peaks of memory that is the target, 0 to 1.
    pub memory_percentile: f64,
    /// Percentile of the lower bound, 0 to 1: below it replicas are resized at once.
    pub lower_percentile: f64,
    /// Percentile of the upper bound, 0 to 1: above it replicas are resized at once.
    pub upper_percentile: f64,
    /// History of this length makes the bounds as tight as they become, 1 min to 30 days.
    pub confidence_interval: Span,
    /// What memory is multiplied by at least after a kill for it, 1 to 100.
    pub oom_bump_ratio: f64,
    /// Memory added at least after a kill for it.
    pub oom_min_bump_mib: Mebibytes,
    /// What becomes of a recommendation.
    pub update_mode: UpdateMode,
    /// Share added to every estimate, 0 to 10.
    pub margin: f64,
    /// Least CPU that is recommended.
    pub min_cpu_millicores: Millicores,
    /// Least memory that is recommended.
    pub min_memory_mib: Mebibytes,
    /// Replicas below which nothing is touched.
    pub min_replicas: u32,
    /// Replicas that are known for this long are resized for a change that matters, up to 30 days.
    pub lifetime: Span,
    /// Share of what is requested from which on a change matters, 0 to 1.
    pub min_change: f64,
}

/// What becomes of a recommendation. The modes that evict where a resize in place is refused are one here: nothing refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpdateMode {
    /// Nothing.
    Off,
    /// It is given once, when the first is known.
    Initial,
    /// It is given when it matters: `Recreate`, `InPlaceOrRecreate` and `InPlace` of the original.
    #[default]
    Auto,
}

/// What is resized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Controlled {
    /// CPU and memory.
    #[default]
    Both,
    /// CPU alone.
    Cpu,
    /// Memory alone.
    Memory,
}

impl Controlled {
    /// Whether CPU and whether memory is resized.
    fn heeded(self) -> [bool; 2] {
        [self != Self::Memory, self != Self::Cpu]
    }
}

/// What a VPA remembers of one function.
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
    /// The defaults of the recommender's and the updater's flags.
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
        // After eight half-lives or windows a sample weighs next to nothing: so long the original reads back too.
        Some(self.half_life.max(self.memory_window).0 * 8)
    }

    /// Recommender and updater run each minute (`--recommender-interval`, `--updater-interval`) on what metrics-server says then; here each run sees the mean of
    /// its own interval.
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
        check_span("confidence_interval", self.confidence_interval, minute, month)?;
        check_range("oom_bump_ratio", self.oom_bump_ratio, 1.0, 100.0)?;
        check_range("margin", self.margin, 0.0, 10.0)?;
        check_range("min_change", self.min_change, 0.0, 1.0)
    }
}

impl Vpa {
    /// Samples that one interval adds at most: what a function of many replicas needs not, a State of absurd numbers must not.
    const MOST_SAMPLES: u32 = 1000;

    /// Takes `state` in and decides where it is due.
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
            // The mean of a span ends within a tick before the run that sees it, and is seen by that run alone.
            && now.since(mean.at) < self.interval.0
        {
            let replicas = inputs::counts(state).map_or(0, |counts| counts.reporting.0).clamp(1, Self::MOST_SAMPLES);
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
            return Decision::hold(HoldReason::NoAllocation, "the allocation in force is not known");
        };
        if memory.aggregate.is_empty() {
            return Decision::hold(HoldReason::NoMeasurement, "no CPU was measured yet");
        }
        let requests =
            Amounts { cpu_millicores: i64::from(current.cpu_millicores.0), memory_bytes: bytes(f64::from(current.memory_mib.0)) };
        let recommendation = self.allowed(state, memory.aggregate.recommend(&self.recommender(), 1));
        let priority = Priority::of(&[(requests, recommendation)], self.controlled.heeded());
        let reason = format!(
            "recommended {}m {}Mi, at least {}m {}Mi, at most {}m {}Mi",
            recommendation.target.cpu_millicores,
            mebibytes(recommendation.target.memory_bytes),
            recommendation.lower.cpu_millicores,
            mebibytes(recommendation.lower.memory_bytes),
            recommendation.upper.cpu_millicores,
            mebibytes(recommendation.upper.memory_bytes),
        );
        let ready = inputs::counts(state).map_or(0, |counts| counts.ready.0);
        if ready < self.min_replicas {
            return Decision::hold(HoldReason::NotAllowed, format!("{reason}; {ready} replicas are too few to touch one"));
        }
        let age = now.since(memory.known_since.unwrap_or(now));
        let first = self.update_mode == UpdateMode::Initial && memory.resized.is_none();
        if self.update_mode == UpdateMode::Off || (self.update_mode == UpdateMode::Initial && !first) {
            return Decision::hold(HoldReason::NothingToDo, format!("{reason}; it is only recommended"));
        }
        if !first && !self.updater().eligible(&priority, age, memory.oom_after_ms.map(Duration::from_millis)) {
            return Decision::hold(HoldReason::NothingToDo, reason);
        }
        memory.oom_after_ms = None;
        memory.resized = Some(now);
        inputs::propose(state, current, self.resized(current, &recommendation), reason)
    }

    /// `current` with what is controlled as recommended.
    fn resized(&self, current: Allocation, recommendation: &Recommendation) -> Allocation {
        let [cpu, memory] = self.controlled.heeded();
        let target = recommendation.target;
        let cpu = cpu.then(|| Millicores(u32::try_from(target.cpu_millicores).unwrap_or(u32::MAX)));
        let memory = memory.then(|| Mebibytes(mebibytes(target.memory_bytes)));
        Allocation { cpu_millicores: cpu.unwrap_or(current.cpu_millicores), memory_mib: memory.unwrap_or(current.memory_mib), ..current }
    }

    /// The recommendation within the bounds, which are what the VPA calls allowed.
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

fn bytes(mebibytes: f64) -> i64 {
    (mebibytes * f64::from(1 << 20)) as i64
}

/// The next whole number of MiB, which a limit needs to hold so many bytes.
fn mebibytes(bytes: i64) -> u32 {
    Mebibytes::from_bytes(bytes.max(0) as u64).0
}

#[cfg(test)]
mod tests;
