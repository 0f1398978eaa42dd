//! The policies `hpa` and `hpa-behavior`: Kubernetes' Horizontal Pod Autoscaler v2. Owns its inputs from a State; the
//! arithmetic is in [`replica_calculator`] and [`behavior`].
//!
//! Deviations from the original, due to data that a State lacks:
//! - pods are counts: all pods of which a metric was sampled use its mean, and a ready pod started long ago;
//! - requests equal limits;
//! - a scaling event is the requested change, whether or not the guard allowed it.

pub mod behavior;
pub mod replica_calculator;

use std::time::Duration;

use qscale_common::contract::{ReplicaCounts, State};
use qscale_common::time::{Span, Timestamp};
use qscale_common::units::{Allocation, Replicas};
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::inputs::{self, Cadence, Meter, check_range, check_span};
use crate::{Decision, HoldReason, Memory, Policy, Rule, Timing};
use behavior::{Behavior, ReplicaBounds, ScalingHistory};
use replica_calculator::{Calculator, CalculatorError, HpaMetricKind, Pod, PodMetric, PodPhase, Proposal, Ready, Tolerance};

/// Parameters of the HPA. Without any target it aims at 80 % of the requested CPU, as the API defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Hpa {
    /// Target CPU utilization, percent of the request, 1 to 1000.
    pub cpu_utilization: Option<u32>,
    /// Target memory utilization, percent of the request, 1 to 1000.
    pub memory_utilization: Option<u32>,
    /// Target requests in flight of a replica, 0.001 to 1e6: a pods metric.
    pub concurrency: Option<f64>,
    /// Target requests a second of a replica, 0.001 to 1e6: an external metric with `averageValue`.
    pub rate_rps: Option<f64>,
    /// Deviation of the usage ratio from 1 that is tolerated, 0 to 1.
    pub tolerance: f64,
    /// Window whose highest recommendation counts if `behavior` is absent, at most 1 h.
    pub downscale_stabilization: Span,
    /// Rate limits and stabilization windows; if absent, the rules from before the field existed.
    pub behavior: Option<Behavior>,
    /// Whether it may scale to zero; needs an external metric.
    pub scale_to_zero: bool,
    /// Time between decisions, 1 s to 1 h.
    pub sync_period: Span,
    /// Span over which the metrics pipeline averages, 1 s to 1 h.
    pub metrics_resolution: Span,
}

/// Memory of an HPA about one function.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HpaMemory {
    cadence: Cadence,
    meters: [Meter; 4],
    history: ScalingHistory,
    scaled_to_zero: bool,
}

impl Default for Hpa {
    /// Defaults of kube-controller-manager, of the API and of metrics-server's manifests.
    fn default() -> Self {
        Self {
            cpu_utilization: None,
            memory_utilization: None,
            concurrency: None,
            rate_rps: None,
            tolerance: 0.1,
            downscale_stabilization: Span::seconds(300),
            behavior: None,
            scale_to_zero: false,
            sync_period: Span::seconds(15),
            metrics_resolution: Span::seconds(15),
        }
    }
}

/// A metric target.
#[derive(Debug, Clone, Copy, PartialEq)]
enum MetricTarget {
    Cpu(u32),
    Memory(u32),
    Concurrency(f64),
    Rate(f64),
}

impl MetricTarget {
    fn meter(self) -> usize {
        match self {
            Self::Cpu(_) => 0,
            Self::Memory(_) => 1,
            Self::Concurrency(_) => 2,
            Self::Rate(_) => 3,
        }
    }
}

impl Policy for Hpa {
    fn name(&self) -> &'static str {
        if self.behavior.is_some() { "hpa-behavior" } else { "hpa" }
    }

    fn model(&self) -> String {
        let targets: Vec<String> = self
            .targets()
            .map(|target| match target {
                MetricTarget::Cpu(percent) => format!("cpu {percent}%"),
                MetricTarget::Memory(percent) => format!("memory {percent}%"),
                MetricTarget::Concurrency(value) => format!("concurrency {value}"),
                MetricTarget::Rate(value) => format!("rate {value}"),
            })
            .collect();
        format!("{}/2 {}", self.name(), targets.join(", "))
    }

    fn lookback(&self) -> Option<Duration> {
        let windows = |behavior: &Behavior| {
            let longest = |rules: &behavior::ScalingRules| {
                rules.policies.iter().map(|policy| policy.period).fold(rules.stabilization_window, Span::max)
            };
            longest(&behavior.scale_up).max(longest(&behavior.scale_down))
        };
        let window = self.behavior.as_ref().map_or(self.downscale_stabilization, windows);
        Some(window.0 + (self.sync_period.0 + self.metrics_resolution.0) * 2)
    }

    /// A sync each 15 s (`--horizontal-pod-autoscaler-sync-period`) on metrics-server's last window of 15 s
    /// (`--metric-resolution` of its manifests).
    fn timing(&self) -> Timing {
        Timing { tick: Some(self.sync_period), metric_lag: self.metrics_resolution }
    }

    fn decide(&self, state: &State, memory: &mut Memory, _: Timestamp, _: &mut dyn Rng) -> Decision {
        let memory = memory.of::<HpaMemory>();
        self.sync(state, memory)
    }
}

impl Rule for Hpa {
    fn named(mut self, name: &str) -> Self {
        if name == "hpa-behavior" {
            self.behavior.get_or_insert_default();
        }
        self
    }

    fn check(&self) -> Result<(), String> {
        for (field, percent) in [("cpu_utilization", self.cpu_utilization), ("memory_utilization", self.memory_utilization)] {
            percent.map_or(Ok(()), |percent| check_range(field, f64::from(percent), 1.0, 1000.0))?;
        }
        for (field, value) in [("concurrency", self.concurrency), ("rate_rps", self.rate_rps)] {
            value.map_or(Ok(()), |value| check_range(field, value, 0.001, 1e6))?;
        }
        check_range("tolerance", self.tolerance, 0.0, 1.0)?;
        check_span("downscale_stabilization", self.downscale_stabilization, Span::default(), Behavior::MAX_WINDOW)?;
        check_span("sync_period", self.sync_period, Span::seconds(1), Span::seconds(3600))?;
        check_span("metrics_resolution", self.metrics_resolution, Span::seconds(1), Span::seconds(3600))?;
        if self.scale_to_zero && self.rate_rps.is_none() {
            return Err("scale_to_zero = true, must be false without rate_rps: at zero there is no pod to measure".into());
        }
        self.behavior.as_ref().map_or(Ok(()), Behavior::check)
    }
}

impl Hpa {
    /// Greatest number of pods that is evaluated, about the size of the largest clusters.
    pub const MOST_PODS: u32 = 10_000;

    fn targets(&self) -> impl Iterator<Item = MetricTarget> {
        let given = [
            self.cpu_utilization.map(MetricTarget::Cpu),
            self.memory_utilization.map(MetricTarget::Memory),
            self.concurrency.map(MetricTarget::Concurrency),
            self.rate_rps.map(MetricTarget::Rate),
        ];
        let none = given.iter().all(Option::is_none);
        given.into_iter().flatten().chain(none.then_some(MetricTarget::Cpu(80)))
    }

    /// Records `state`, and decides if a sync is due.
    pub(crate) fn sync(&self, state: &State, memory: &mut HpaMemory) -> Decision {
        self.sync_with(state, memory, |desired| (desired, String::new()))
    }

    /// As [`Hpa::sync`]; `amend` may change the replicas that the metrics ask for before windows and rate limits apply,
    /// and returns an explanation.
    pub(crate) fn sync_with(&self, state: &State, memory: &mut HpaMemory, amend: impl FnOnce(u32) -> (u32, String)) -> Decision {
        let now = inputs::instant(state);
        // A sync sees the values published before it; a tick longer than the pipeline's span is old enough already.
        let late = inputs::tick_length(state) < self.metrics_resolution.0;
        if !late {
            self.meter(state, memory, now);
        }
        let due = memory.cadence.due(now, self.sync_period);
        let decision = if due { self.reconcile(state, memory, now, amend) } else { Cadence::hold(self.sync_period) };
        if late {
            self.meter(state, memory, now);
        }
        decision
    }

    fn meter(&self, state: &State, memory: &mut HpaMemory, now: Timestamp) {
        let window = &state.windows.tick;
        let values =
            [window.cpu_millicores.map(|usage| usage.mean), window.memory_mib.map(|usage| usage.mean), window.concurrency, window.rate_rps];
        for (meter, value) in memory.meters.iter_mut().zip(values) {
            meter.add(now, inputs::tick_length(state), value, self.metrics_resolution);
        }
    }

    fn reconcile(&self, state: &State, memory: &mut HpaMemory, now: Timestamp, amend: impl FnOnce(u32) -> (u32, String)) -> Decision {
        let Some(current_allocation) = state.allocation else {
            return Decision::hold(HoldReason::NoAllocation, "the current allocation is not known");
        };
        let (current, limits) = (current_allocation.replicas.0, self.limits(state));
        memory.history.begin(current, now);
        if current > 0 {
            memory.scaled_to_zero = false;
        }
        let asked = match self.gate(current, limits, memory.scaled_to_zero) {
            Gate::Disabled => return Decision::hold(HoldReason::NothingToDo, "scaling is disabled at zero replicas"),
            Gate::Bound(replicas) => Ok((replicas, format!("{current} replicas are outside the bounds {} to {}", limits.min, limits.max))),
            Gate::Open => self.metrics(state, current_allocation, memory, now, amend),
        };
        let (replicas, reason) = match asked {
            Ok(asked) => asked,
            Err(error) => return Decision::hold(HoldReason::NoMeasurement, error),
        };
        if let Some(behavior) = &self.behavior {
            behavior.record(&mut memory.history, current, replicas, now);
        }
        memory.scaled_to_zero = self.scale_to_zero && replicas == 0;
        inputs::propose(state, current_allocation, Allocation { replicas: Replicas(replicas), ..current_allocation }, reason)
    }

    /// Bounds of an HPA: at least one replica, unless it may scale to zero.
    fn limits(&self, state: &State) -> ReplicaBounds {
        let range = state.bounds.replicas;
        let min = range.min().0.max(u32::from(!self.scale_to_zero));
        ReplicaBounds { min, max: range.max().0.max(min) }
    }

    fn gate(&self, current: u32, limits: ReplicaBounds, scaled_to_zero: bool) -> Gate {
        match current {
            0 if limits.min > 0 || !scaled_to_zero => Gate::Disabled,
            _ if current > limits.max => Gate::Bound(limits.max),
            _ if current < limits.min => Gate::Bound(limits.min),
            _ => Gate::Open,
        }
    }

    fn metrics(
        &self,
        state: &State,
        current_allocation: Allocation,
        memory: &mut HpaMemory,
        now: Timestamp,
        amend: impl FnOnce(u32) -> (u32, String),
    ) -> Result<(u32, String), String> {
        let (current, limits) = (current_allocation.replicas.0, self.limits(state));
        let counts = inputs::counts(state).ok_or("the number of replicas is unknown")?;
        if [counts.ready.0, counts.pending.0, current].iter().any(|count| *count > Self::MOST_PODS) {
            return Err(format!("there are more than {} replicas", Self::MOST_PODS));
        }
        let proposals: Vec<_> = self.targets().map(|target| self.propose(target, current_allocation, counts, memory, now)).collect();
        let asked = combine(current, &proposals).map_err(|error| error.to_string())?;
        let (desired, why) = amend(asked);
        let history = &mut memory.history;
        let replicas = match &self.behavior {
            None => behavior::normalize(history, current, desired, self.downscale_stabilization.0, limits, now),
            Some(behavior) => behavior.normalize(history, current, desired, limits, now),
        };
        let held = if replicas == desired { String::new() } else { format!(", limited to {replicas} by windows and rate limits") };
        Ok((replicas, format!("{} asks for {asked}{why}{held}", self.measured(&proposals))))
    }

    fn propose(
        &self,
        target: MetricTarget,
        current_allocation: Allocation,
        counts: ReplicaCounts,
        memory: &HpaMemory,
        now: Timestamp,
    ) -> Result<Proposal, CalculatorError> {
        let reading = memory.meters[target.meter()].read(now, self.metrics_resolution);
        let metric = |scale: f64| {
            let reading = reading?;
            Some(PodMetric { value: (reading.mean * scale).round() as i64, at: reading.at, window: self.metrics_resolution.0 })
        };
        let (calculator, current) = (self.calculator(), current_allocation.replicas.0);
        match target {
            MetricTarget::Cpu(percent) => {
                let pods = pods(counts, counts.without_cpu, metric(1.0), i64::from(current_allocation.cpu_millicores.0), now);
                calculator.utilization(current, percent, HpaMetricKind::Cpu, &pods, now)
            }
            MetricTarget::Memory(percent) => {
                let pods = pods(counts, counts.without_memory, metric(1000.0), i64::from(current_allocation.memory_mib.0) * 1000, now);
                calculator.utilization(current, percent, HpaMetricKind::Other, &pods, now)
            }
            MetricTarget::Concurrency(value) => {
                let pods = pods(counts, Replicas(0), metric(1000.0), 0, now);
                calculator.average(current, (value * 1000.0) as i64, HpaMetricKind::Other, &pods, now)
            }
            MetricTarget::Rate(value) => {
                let usage = metric(1000.0).ok_or(CalculatorError::NoMetrics)?.value;
                Ok(calculator.average_value(counts.ready.0.saturating_add(counts.pending.0), usage, (value * 1000.0) as i64))
            }
        }
    }

    fn calculator(&self) -> Calculator {
        let own = |rules: fn(&Behavior) -> &behavior::ScalingRules| {
            self.behavior.as_ref().and_then(|behavior| rules(behavior).tolerance).unwrap_or(self.tolerance)
        };
        let tolerance = Tolerance { up: own(|behavior| &behavior.scale_up), down: own(|behavior| &behavior.scale_down) };
        Calculator { tolerance, ..Calculator::default() }
    }

    fn measured(&self, proposals: &[Result<Proposal, CalculatorError>]) -> String {
        let measured = self.targets().zip(proposals).filter_map(|(target, proposal)| {
            let measured = proposal.as_ref().ok()?.measured;
            Some(match target {
                MetricTarget::Cpu(percent) => format!("CPU {measured} % of {percent} %"),
                MetricTarget::Memory(percent) => format!("memory {measured} % of {percent} %"),
                MetricTarget::Concurrency(value) => format!("concurrency {} of {value}", measured as f64 / 1000.0),
                MetricTarget::Rate(value) => format!("rate {} of {value} a replica", measured as f64 / 1000.0),
            })
        });
        measured.collect::<Vec<String>>().join(", ")
    }
}

/// Whether the metrics are evaluated.
enum Gate {
    Disabled,
    Bound(u32),
    Open,
}

/// Combines several metrics: the highest proposal. None if a metric is unknown and the others ask for fewer replicas than now.
///
/// # Errors
/// The error of the first unknown metric, if nothing may be done.
pub fn combine(current: u32, proposals: &[Result<Proposal, CalculatorError>]) -> Result<u32, CalculatorError> {
    let error = proposals.iter().find_map(|proposal| proposal.err());
    let most = proposals.iter().flatten().map(|proposal| proposal.replicas).max();
    match (most, error) {
        (None, error) => Err(error.unwrap_or(CalculatorError::NoMetrics)),
        (Some(most), Some(error)) if most < current => Err(error),
        (Some(most), _) => Ok(most),
    }
}

/// Pods reconstructed from their counts: each reporting pod has `metric`, but for those `without` it.
fn pods(counts: ReplicaCounts, without: Replicas, metric: Option<PodMetric>, request: i64, now: Timestamp) -> Vec<Pod> {
    const LONG_AGO: Duration = Duration::from_secs(24 * 3600);
    let pod = |phase, is, metric| {
        let since = now.minus(LONG_AGO);
        Pod { phase, deleted: false, started: Some(since), ready: Some(Ready { is, since }), request: Some(request), metric }
    };
    // If none was scraped within the tick, all are equally late, and the pipeline serves its last values.
    let reporting = match counts.reporting.0.saturating_sub(without.0) {
        0 => counts.ready.0,
        sampled => sampled.min(counts.ready.0),
    };
    let ready = (0..counts.ready.0).map(|index| pod(PodPhase::Running, true, metric.filter(|_| index < reporting)));
    ready.chain((0..counts.pending.0).map(|_| pod(PodPhase::Pending, false, None))).collect()
}

#[cfg(test)]
mod tests;
