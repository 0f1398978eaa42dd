//! The policy `kpa`: Knative's pod autoscaler. Owns its inputs from a State; the arithmetic is in [`autoscaler`],
//! [`bucketing`] and [`scaler`].
//!
//! Deviations from the original, due to data that a State lacks:
//! - each second of a tick has the tick's mean; if a tick is longer than two seconds, it decides once a tick;
//! - a revision is always reachable, and initialized by the first decision that sees its initial number of pods ready;
//! - values are of all pods, not of a sample; requests queued at the gateway count as the activator's.

pub mod autoscaler;
pub mod bucketing;
pub mod scaler;

use std::time::Duration;

use qscale_common::contract::State;
use qscale_common::time::{Span, Timestamp, millis};
use qscale_common::units::{Allocation, Replicas};
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::inputs::{self, Cadence, check_range, check_span, measured};
use crate::{Decision, HoldReason, Memory, Policy, Rule, Timing};
use autoscaler::{Autoscaler, DeciderSpec};
use bucketing::TimedBuckets;
use scaler::{Activity, Applied, PodCounts, ZeroSpec};

/// Parameters of the KPA.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Kpa {
    /// Metric.
    pub metric: ScalingMetric,
    /// Aggregation of the values of a window.
    pub aggregation: Aggregation,
    /// Capacity of one replica, 0.01 to 1e6; if absent, 100 requests in flight or 200 a second.
    pub target: Option<f64>,
    /// Target utilization of the capacity, percent, 1 to 100.
    pub target_utilization_percentage: f64,
    /// Requests that one replica takes at once, 0 without limit.
    pub container_concurrency: u32,
    /// The long window, 6 s to 1 h.
    pub stable_window: Span,
    /// The short window in percent of the long one, 1 to 100.
    pub panic_window_percentage: f64,
    /// Percent of the ready replicas' target at which panic mode begins, 110 to 1000.
    pub panic_threshold_percentage: f64,
    /// Greatest factor of the ready replicas in one step up, above 1 to 1e6.
    pub max_scale_up_rate: f64,
    /// Greatest divisor of the ready replicas in one step down, above 1 to 1e6.
    pub max_scale_down_rate: f64,
    /// Whether it may scale to zero, if the bounds allow it.
    pub scale_to_zero: bool,
    /// Time for which requests go through the activator before the last replica is removed, up to 1 h.
    pub scale_to_zero_grace_period: Span,
    /// Least time for which the last replica is kept, up to 1 h.
    pub scale_to_zero_pod_retention_period: Span,
    /// Window whose greatest need counts, up to 1 h.
    pub scale_down_delay: Span,
    /// Burst to absorb without the activator, 0 to 1e6; -1 for any.
    pub target_burst_capacity: f64,
    /// Least number of replicas if any are needed, 1 to 10,000.
    pub activation_scale: u32,
    /// Initial replicas, 1 to 10,000: the function is not active before this many were ready, and does not shrink below
    /// before the decision after that.
    pub initial_scale: u32,
    /// Time a function may take to start before it is given up, 1 s to 1 h.
    pub progress_deadline: Span,
}

/// Metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScalingMetric {
    /// Requests in flight.
    #[default]
    Concurrency,
    /// Requests a second.
    Rps,
}

/// Aggregation of the values of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// The mean.
    #[default]
    Linear,
    /// A mean with exponentially decreasing weights of older values.
    WeightedExponential,
}

/// Memory of a KPA about one function.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct KpaMemory {
    cadence: Cadence,
    stable: TimedBuckets,
    panic: TimedBuckets,
    found: Option<RevisionState>,
}

#[derive(Debug, Clone, PartialEq)]
struct RevisionState {
    autoscaler: Autoscaler,
    activity: Activity,
    /// Whether its initial replicas were ready once.
    initialized: bool,
}

impl Default for Kpa {
    /// Defaults of `config-autoscaler`.
    fn default() -> Self {
        Self {
            metric: ScalingMetric::Concurrency,
            aggregation: Aggregation::Linear,
            target: None,
            target_utilization_percentage: 70.0,
            container_concurrency: 0,
            stable_window: Span::seconds(60),
            panic_window_percentage: 10.0,
            panic_threshold_percentage: 200.0,
            max_scale_up_rate: 1000.0,
            max_scale_down_rate: 2.0,
            scale_to_zero: true,
            scale_to_zero_grace_period: Span::seconds(30),
            scale_to_zero_pod_retention_period: Span::default(),
            scale_down_delay: Span::default(),
            target_burst_capacity: 211.0,
            activation_scale: 1,
            initial_scale: 1,
            progress_deadline: Span::seconds(600),
        }
    }
}

impl Policy for Kpa {
    fn name(&self) -> &'static str {
        "kpa"
    }

    fn model(&self) -> String {
        let (target, total) = self.resolve();
        let metric = match self.metric {
            ScalingMetric::Concurrency => "concurrency",
            ScalingMetric::Rps => "rps",
        };
        format!("kpa/1.23 {metric} {target:.2} of {total}, window {}", self.stable_window)
    }

    fn lookback(&self) -> Option<Duration> {
        // Panic lasts a stable window after its last cause; scaling to zero takes another one and the grace period.
        let zero = self.scale_to_zero_grace_period.max(self.scale_to_zero_pod_retention_period);
        Some(self.stable_window.0 * 3 + zero.0 + self.scale_down_delay.0)
    }

    /// A decision each 2 s (`tickInterval`) on statistics that pods report each second (the autoscaler's scrape period).
    fn timing(&self) -> Timing {
        Timing { tick: Some(Self::TICK), metric_lag: Span::seconds(1) }
    }

    fn decide(&self, state: &State, memory: &mut Memory, _: Timestamp, _: &mut dyn Rng) -> Decision {
        let memory = memory.of::<KpaMemory>();
        self.take(state, memory);
        let now = end(state);
        if memory.cadence.due(now, Self::TICK) { self.scale(state, memory, now) } else { Cadence::hold(Self::TICK) }
    }
}

/// End of the tick that `state` closes.
fn end(state: &State) -> Timestamp {
    inputs::instant(state).plus(inputs::tick_length(state))
}

impl Rule for Kpa {
    fn check(&self) -> Result<(), String> {
        let hour = Span::seconds(3600);
        self.target.map_or(Ok(()), |target| check_range("target", target, Self::LEAST_TARGET, 1e6))?;
        check_range("target_utilization_percentage", self.target_utilization_percentage, 1.0, 100.0)?;
        check_span("stable_window", self.stable_window, Span::seconds(6), hour)?;
        for (field, span) in [("stable_window", self.stable_window), ("scale_down_delay", self.scale_down_delay)] {
            if span.0.subsec_nanos() != 0 {
                return Err(format!("{field} = {span}, must be whole seconds"));
            }
        }
        check_range("panic_window_percentage", self.panic_window_percentage, 1.0, 100.0)?;
        check_range("panic_threshold_percentage", self.panic_threshold_percentage, 110.0, 1000.0)?;
        for (field, rate) in [("max_scale_up_rate", self.max_scale_up_rate), ("max_scale_down_rate", self.max_scale_down_rate)] {
            if !(rate > 1.0 && rate <= 1e6) {
                return Err(format!("{field} = {rate}, must be greater than 1 and at most 1000000"));
            }
        }
        for (field, span) in
            [("scale_to_zero_pod_retention_period", self.scale_to_zero_pod_retention_period), ("scale_down_delay", self.scale_down_delay)]
        {
            check_span(field, span, Span::default(), hour)?;
        }
        check_span("scale_to_zero_grace_period", self.scale_to_zero_grace_period, Span::millis(1), hour)?;
        if self.target_burst_capacity != -1.0 {
            check_range("target_burst_capacity", self.target_burst_capacity, 0.0, 1e6).map_err(|error| format!("{error}, or -1"))?;
        }
        check_range("activation_scale", f64::from(self.activation_scale), 1.0, 10_000.0)?;
        check_range("initial_scale", f64::from(self.initial_scale), 1.0, 10_000.0)?;
        check_span("progress_deadline", self.progress_deadline, Span::seconds(1), hour)
    }
}

impl Kpa {
    /// Time between decisions.
    pub const TICK: Span = Span::seconds(2);
    /// Default capacity of a pod.
    const CONCURRENCY: f64 = 100.0;
    const RPS: f64 = 200.0;
    /// Least target.
    const LEAST_TARGET: f64 = 0.01;
    /// Added to the progress deadline, so that the platform gives up first.
    const ACTIVATION_BUFFER: Duration = Duration::from_secs(30);

    /// Target and capacity of one replica.
    #[must_use]
    pub fn resolve(&self) -> (f64, f64) {
        let hard = Some(f64::from(self.container_concurrency)).filter(|hard| self.metric == ScalingMetric::Concurrency && *hard > 0.0);
        let total = match (self.metric, self.target, hard) {
            (_, Some(target), Some(hard)) => target.min(hard),
            (_, Some(target), None) => target,
            (_, None, Some(hard)) => hard,
            (ScalingMetric::Concurrency, None, None) => Self::CONCURRENCY,
            (ScalingMetric::Rps, None, None) => Self::RPS,
        };
        ((total * self.target_utilization_percentage / 100.0).max(Self::LEAST_TARGET), total)
    }

    /// The short window: at least a second.
    fn panic_window(&self) -> Duration {
        self.stable_window.0.mul_f64(self.panic_window_percentage / 100.0).max(Duration::from_secs(1))
    }

    /// Records the tick's measurement for each of its seconds.
    fn take(&self, state: &State, memory: &mut KpaMemory) {
        let value = match self.metric {
            ScalingMetric::Concurrency => inputs::in_flight(state),
            ScalingMetric::Rps => measured(state.windows.tick.rate_rps),
        };
        let Some(value) = value else { return };
        let (begin, end) = (inputs::instant(state).0, end(state).0);
        for (buckets, window) in [(&mut memory.stable, self.stable_window.0), (&mut memory.panic, self.panic_window())] {
            let size = millis(window).div_ceil(1000).max(1);
            for second in (begin / 1000).max((end / 1000).saturating_sub(size))..end.div_ceil(1000) {
                let within = end.min(second * 1000 + 1000) - begin.max(second * 1000);
                buckets.record(second, value * within as f64 / 1000.0, size as usize);
            }
        }
    }

    fn scale(&self, state: &State, memory: &mut KpaMemory, now: Timestamp) -> Decision {
        let (Some(current), Some(counts)) = (state.allocation, inputs::counts(state)) else {
            return Decision::hold(HoldReason::NoAllocation, "the current allocation is not known");
        };
        let second = now.0.saturating_sub(1) / 1000;
        if memory.stable.is_empty(second) {
            return Decision::hold(HoldReason::NoMeasurement, "nothing was measured within the stable window");
        }
        let average = |buckets: &TimedBuckets| match self.aggregation {
            Aggregation::Linear => buckets.window_average(second),
            Aggregation::WeightedExponential => buckets.weighted_average(second),
        };
        let (stable, panic) = (average(&memory.stable), average(&memory.panic));
        let ready = counts.ready.0;
        let found = memory.found.get_or_insert_with(|| RevisionState {
            autoscaler: Autoscaler::new(ready, now),
            activity: Activity::found(ready, current.replicas.0, now),
            initialized: false,
        });
        let result = found.autoscaler.scale(&self.decider(), ready, stable, panic, now);
        let panics = if found.autoscaler.panics_since().is_some() { " in panic" } else { "" };
        let reason = format!("{stable:.2} over the stable and {panic:.2} over the panic window asks for {}{panics}", result.desired);
        // The decision that sees the initial scale reached still keeps it.
        let fewest = if found.initialized { 0 } else { self.initial_scale };
        found.initialized |= ready >= self.initial_scale;
        let bounded = state.bounds.replicas.clamp(Replicas(result.desired.max(fewest)));
        let pods = PodCounts { ready, needed: state.bounds.replicas.min().0.max(fewest).max(1) };
        match found.activity.reconcile(&self.zero(), Some(bounded.0), pods, result.excess_burst_capacity, now) {
            Applied::Scale(replicas) => inputs::propose(state, current, Allocation { replicas: Replicas(replicas), ..current }, reason),
            Applied::Keep => Decision::hold(HoldReason::NothingToDo, format!("{reason}; the last replica is kept for now")),
        }
    }

    fn decider(&self) -> DeciderSpec {
        let (target, total) = self.resolve();
        DeciderSpec {
            target,
            total,
            target_burst_capacity: self.target_burst_capacity,
            panic_threshold: self.panic_threshold_percentage / 100.0,
            max_scale_up_rate: self.max_scale_up_rate,
            max_scale_down_rate: self.max_scale_down_rate,
            activation_scale: self.activation_scale,
            stable_window: self.stable_window.0,
            scale_down_delay: self.scale_down_delay.0,
            reachable: true,
        }
    }

    fn zero(&self) -> ZeroSpec {
        ZeroSpec {
            enabled: self.scale_to_zero,
            stable_window: self.stable_window.0,
            grace: self.scale_to_zero_grace_period.0,
            retention: self.scale_to_zero_pod_retention_period.0,
            activation_timeout: self.progress_deadline.0.saturating_add(Self::ACTIVATION_BUFFER),
            backed: true,
        }
    }
}

#[cfg(test)]
mod tests;
