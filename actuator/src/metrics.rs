//! Metrics of the actuator. Owns their names and labels, which are closed sets.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use qscale_common::contract::{DecisionSource, Effect, GuardRule, Outcome};
use qscale_common::runtime::telemetry::Label;

use crate::backend::BackendError;

/// The metrics of an actuator.
#[derive(Debug, Clone)]
pub(crate) struct ActuatorMetrics {
    outcomes: Family<OutcomeLabels, Counter>,
    guard: Family<RuleLabels, Counter>,
    requests: Family<RequestLabels, Histogram, fn() -> Histogram>,
    /// 1 while this actuator leads.
    pub(crate) leader: Gauge,
    /// Functions with a policy.
    pub(crate) functions: Gauge,
    /// Functions whose workload the platform does not have.
    pub(crate) missing: Gauge,
    /// Functions whose agent is silent.
    pub(crate) silent: Gauge,
    /// Records that could not be stored.
    pub(crate) not_stored: Counter,
    /// Outcomes dropped because the outbox was full.
    pub(crate) dropped_outcomes: Counter,
    /// Refused Actions without an Outcome.
    pub(crate) unreported_refusals: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    effect: Label<Effect>,
    source: Label<DecisionSource>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RuleLabels {
    rule: Label<GuardRule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    result: &'static str,
}

impl ActuatorMetrics {
    /// Registers all metrics.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        // 1 ms to 1 min: an idle platform answers within milliseconds, a busy one within seconds.
        let requests: fn() -> Histogram = || Histogram::new(exponential_buckets(0.001, 2.0, 17));
        let metrics = Self {
            outcomes: Family::default(),
            guard: Family::default(),
            requests: Family::new_with_constructor(requests),
            leader: Gauge::default(),
            functions: Gauge::default(),
            missing: Gauge::default(),
            silent: Gauge::default(),
            not_stored: Counter::default(),
            dropped_outcomes: Counter::default(),
            unreported_refusals: Counter::default(),
        };
        registry.register("qscale_actuator_outcomes", "Outcomes by effect and by kind of decider", metrics.outcomes.clone());
        registry.register("qscale_actuator_guard", "Decisions that a guard rule changed or stopped, by rule", metrics.guard.clone());
        registry.register("qscale_actuator_apply_seconds", "Duration of a request to the platform, by result", metrics.requests.clone());
        registry.register("qscale_actuator_leader", "1 while this actuator leads", metrics.leader.clone());
        registry.register("qscale_actuator_functions", "Functions with a ScalingPolicy", metrics.functions.clone());
        registry.register(
            "qscale_actuator_missing_workloads",
            "Functions whose workload the platform does not have",
            metrics.missing.clone(),
        );
        registry.register("qscale_actuator_silent_agents", "Functions whose agent is silent", metrics.silent.clone());
        registry.register("qscale_actuator_not_stored", "Records that could not be stored", metrics.not_stored.clone());
        registry.register(
            "qscale_actuator_dropped_outcomes",
            "Outcomes dropped because the outbox to the bus was full",
            metrics.dropped_outcomes.clone(),
        );
        registry.register(
            "qscale_actuator_unreported_refusals",
            "Refused Actions without an Outcome, because their agent had sent too many",
            metrics.unreported_refusals.clone(),
        );
        metrics
    }

    /// Counts an Outcome and its guard rules.
    pub(crate) fn outcome(&self, outcome: &Outcome) {
        self.outcomes.get_or_create(&OutcomeLabels { effect: Label(outcome.effect), source: Label(outcome.source) }).inc();
        for note in &outcome.guard {
            self.guard.get_or_create(&RuleLabels { rule: Label(note.rule) }).inc();
        }
    }

    /// Counts a request to the platform that took `took`.
    pub(crate) fn request<T>(&self, result: &Result<T, BackendError>, took: Duration) {
        let result = match result {
            Ok(_) => "applied",
            Err(error) => error.into(),
        };
        self.requests.get_or_create(&RequestLabels { result }).observe(took.as_secs_f64());
    }
}
