//! The policies `autopilot`, `autopilot-vertical` and `autopilot-both`: percentiles of past usage in decaying windows, with a margin. Own the histograms; the
//! allocation is made by [`DemandSizing`].
//!
//! After Rzadca et al., "Autopilot: workload autoscaling at Google", EuroSys 2020, section 3.2.2: the statistics of its moving-window recommenders are the
//! maximum and weighted percentiles of usage, with weights that decay by half in a half-life, and a margin on top. Deviations:
//! - usage is added at each State and not summed up over five minutes, so that the rule reacts within a tick;
//! - the half-life is the same for CPU and memory, and short enough by default for functions;
//! - after an out-of-memory kill the memory that was too little counts as used, times 1.5.

use std::time::Duration;

use qscale_common::contract::State;
use qscale_common::time::{Span, Timestamp};
use qscale_common::units::{Allocation, Mebibytes, Replicas};
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::inputs::{self, check_range, check_span, measured};
use crate::sizing::{DemandSizing, EstimatedDemand};
use crate::vpa::histogram::{DecayingHistogram, HistogramBuckets};
use crate::{Decision, HoldReason, Memory, Policy, Rule, Scope};

/// Parameters of the rule.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Autopilot {
    /// The parts that are scaled; set by the policy's name.
    #[serde(skip)]
    pub scope: Scope,
    /// Half-life of the weight of a sample, 10 s to 30 days.
    pub half_life: Span,
    /// Percentile of the CPU usage of all replicas that is provided, 0 to 1; 1 is the maximum.
    pub cpu_percentile: f64,
    /// Percentile of the memory usage of the fullest replica that is provided, 0 to 1; 1 is the maximum.
    pub memory_percentile: f64,
    /// Share added to both, 0 to 10.
    pub margin: f64,
}

/// Memory of the rule about one function.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AutopilotMemory {
    cores: DecayingHistogram,
    memory: DecayingHistogram,
}

/// Weight of a sample when it is added. Smaller weights than [`DecayingHistogram::EPSILON`] are forgotten, after some 13 half-lives.
const WEIGHT: f64 = 1.0;
/// Largest growth of memory beyond the percentile that is kept, so that noise does not resize replicas.
const SPARE_MEMORY: f64 = 1.2;
/// Factor of memory after an out-of-memory kill.
const OOM_BUMP: f64 = 1.5;

/// Buckets of 1m to 10,000 cores, each 5 % wider than the one before it.
fn core_buckets() -> HistogramBuckets {
    HistogramBuckets::exponential(10_000.0, 0.001, 1.05)
}

/// Buckets of 1 MiB to 1 TiB.
fn memory_buckets() -> HistogramBuckets {
    HistogramBuckets::exponential(1_048_576.0, 1.0, 1.05)
}

impl Default for Autopilot {
    /// The percentiles for serving jobs and the upper margin of the paper; the half-life is that of minutes, not of half a day.
    fn default() -> Self {
        Self { scope: Scope::Horizontal, half_life: Span::seconds(300), cpu_percentile: 0.95, memory_percentile: 1.0, margin: 0.15 }
    }
}

impl Policy for Autopilot {
    fn name(&self) -> &'static str {
        self.scope.choose(["autopilot", "autopilot-vertical", "autopilot-both"])
    }

    fn model(&self) -> String {
        format!("{}/1 p{} of {}, margin {}", self.name(), self.cpu_percentile * 100.0, self.half_life, self.margin)
    }

    fn lookback(&self) -> Option<Duration> {
        Some(self.half_life.0.saturating_mul(8))
    }

    fn decide(&self, state: &State, memory: &mut Memory, _: Timestamp, _: &mut dyn Rng) -> Decision {
        let memory = memory.of::<AutopilotMemory>();
        self.observe(state, memory);
        let Some(current) = state.allocation else {
            return Decision::hold(HoldReason::NoAllocation, "the current allocation is not known");
        };
        if memory.cores.is_empty() {
            return Decision::hold(HoldReason::NoMeasurement, "no CPU measurement yet");
        }
        let provided = |share: f64| share * (1.0 + self.margin);
        let idle = measured(state.windows.long.rate_rps) == Some(0.0);
        let cores = if idle { 0.0 } else { provided(memory.cores.percentile(&core_buckets(), self.cpu_percentile)) };
        let needed = provided(memory.memory.percentile(&memory_buckets(), self.memory_percentile));
        let now = Allocation { memory_mib: self.memory(current.memory_mib, needed), ..current };
        let sizing = DemandSizing { state, current: now, request_seconds: None, idle: Replicas(0), scope: self.scope };
        let Some(wanted) = sizing.provide(EstimatedDemand { cores, full: 0.0 }) else {
            return Decision::hold(HoldReason::NotAllowed, "there is no replica to resize");
        };
        inputs::propose(state, current, wanted, format!("{cores:.2} cores and {needed:.0}Mi by past usage"))
    }
}

impl Rule for Autopilot {
    fn named(self, name: &str) -> Self {
        Self { scope: Scope::of_rule(name), ..self }
    }

    fn check(&self) -> Result<(), String> {
        check_span("half_life", self.half_life, Span::seconds(10), Span::seconds(30 * 24 * 3600))?;
        check_range("cpu_percentile", self.cpu_percentile, 0.0, 1.0)?;
        check_range("memory_percentile", self.memory_percentile, 0.0, 1.0)?;
        check_range("margin", self.margin, 0.0, 10.0)
    }
}

impl Autopilot {
    fn observe(&self, state: &State, memory: &mut AutopilotMemory) {
        let (window, now, half_life) = (&state.windows.tick, inputs::instant(state), self.half_life.0);
        if let Some(cores) = measured(state.cores_used(window)) {
            memory.cores.add(&core_buckets(), half_life, cores, WEIGHT, now);
        }
        let killed = state.allocation.filter(|_| window.oom_kills > 0).map(|now| f64::from(now.memory_mib.0) * OOM_BUMP);
        if let Some(held) = killed.or(measured(window.memory_mib.map(|usage| usage.max))).filter(|held| *held > 0.0) {
            memory.memory.add(&memory_buckets(), half_life, held, WEIGHT, now);
        }
    }

    /// Memory for `needed` MiB: `current` while it is enough and not much more.
    fn memory(&self, current: Mebibytes, needed: f64) -> Mebibytes {
        let kept = self.scope == Scope::Horizontal || needed <= 0.0;
        let enough = needed <= f64::from(current.0) && f64::from(current.0) <= needed * SPARE_MEMORY;
        if kept || enough { current } else { Mebibytes(needed.ceil() as u32) }
    }
}

#[cfg(test)]
mod tests {
    use qscale_common::contract::Usage;
    use qscale_common::time::Tick;

    use super::*;
    use crate::fixtures;

    /// The last allocation that `rule` wants while replicas use `cores`, one value each minute.
    fn last(rule: Autopilot, cores: &[f64], start: Allocation) -> Allocation {
        let (mut memory, mut current) = (Memory::default(), start);
        for (minute, cores) in (0..).zip(cores) {
            let mut state = State { tick: Tick(minute), tick_length_ms: 60_000, allocation: Some(current), ..fixtures::state() };
            let each = cores * 1000.0 / f64::from(current.replicas.0);
            state.windows.tick.cpu_millicores = Some(Usage { mean: each, max: each });
            state.windows.tick.memory_mib = Some(Usage { mean: 80.0, max: 100.0 });
            let decision = rule.decide(&state, &mut memory, Timestamp(0), &mut fixtures::rng());
            current = decision.wanted().unwrap_or(current);
        }
        current
    }

    #[test]
    fn an_old_peak_weighs_less_than_usage_after_it() {
        let rule = Autopilot { cpu_percentile: 0.9, half_life: Span::seconds(60), margin: 0.5, ..Autopilot::default() };
        let start = Allocation::new(2, 1000, 200);
        assert_eq!(last(rule, &[1.0, 4.0], start).replicas.0, 7, "a peak and half of it, in steps of 5 %");
        assert_eq!(last(rule, &[4.0, 1.0, 1.0, 1.0, 1.0], start).replicas.0, 2);
        let most = Autopilot { cpu_percentile: 1.0, ..rule };
        assert_eq!(last(most, &[4.0, 1.0, 1.0, 1.0, 1.0], start).replicas.0, 7, "the maximum counts until it is forgotten");
    }

    #[test]
    fn memory_follows_the_fullest_replica() {
        let rule = Autopilot { margin: 0.5, ..Autopilot::default() };
        let vertical = Autopilot { scope: Scope::Vertical, ..rule };
        assert_eq!(last(rule, &[1.0], Allocation::new(2, 1000, 900)).memory_mib.0, 900);
        let fitted = last(vertical, &[1.0], Allocation::new(2, 1000, 900)).memory_mib.0;
        assert!((150..=160).contains(&fitted), "{fitted}");
        assert_eq!(last(vertical, &[1.0], Allocation::new(2, 1000, 170)).memory_mib.0, 170, "nearly the same");
    }
}
