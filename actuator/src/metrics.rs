//! What the actuator counts. Owns metric names and labels, all of closed sets.

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
pub struct Metrics {
    outcomes: Family<OutcomeLabels, Counter>,
    guard: Family<RuleLabels, Counter>,
    attempts: Family<AttemptLabels, Histogram, fn() -> Histogram>,
    /// 1 while this actuator leads.
    pub leader: Gauge,
    /// Functions with a policy.
    pub functions: Gauge,
    /// Functions whose workload the platform does not have.
    pub missing: Gauge,
    /// Functions whose agent is silent.
    pub silent: Gauge,
    /// Records that could not be stored.
    pub not_stored: Counter,
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
struct AttemptLabels {
    result: &'static str,
}

impl Metrics {
    /// Registers all metrics.
    pub fn register(registry: &mut Registry) -> Self {
        // From a millisecond to a minute: the platform answers within a few, a busy one within seconds.
        let attempts: fn() -> Histogram = || Histogram::new(exponential_buckets(0.001, 2.0, 17));
        let metrics = Self {
            outcomes: Family::default(),
            guard: Family::default(),
            attempts: Family::new_with_constructor(attempts),
            leader: Gauge::default(),
            functions: Gauge::default(),
            missing: Gauge::default(),
            silent: Gauge::default(),
            not_stored: Counter::default(),
        };
        registry.register("qscale_actuator_outcomes", "Outcomes by effect and by who decided", metrics.outcomes.clone());
        registry.register("qscale_actuator_guard", "Decisions that a rule of the guard changed or stopped", metrics.guard.clone());
        registry.register("qscale_actuator_apply_seconds", "Time that the platform took to answer an attempt", metrics.attempts.clone());
        registry.register("qscale_actuator_leader", "1 while this actuator leads", metrics.leader.clone());
        registry.register("qscale_actuator_functions", "Functions with a ScalingPolicy", metrics.functions.clone());
        registry.register(
            "qscale_actuator_missing_workloads",
            "Functions whose workload the platform does not have",
            metrics.missing.clone(),
        );
        registry.register("qscale_actuator_silent_agents", "Functions whose agent is silent", metrics.silent.clone());
        registry.register("qscale_actuator_not_stored", "Records that could not be stored", metrics.not_stored.clone());
        metrics
    }

    /// Counts an Outcome and the rules that it names.
    pub fn outcome(&self, outcome: &Outcome) {
        self.outcomes.get_or_create(&OutcomeLabels { effect: Label(outcome.effect), source: Label(outcome.source) }).inc();
        for note in &outcome.guard {
            self.guard.get_or_create(&RuleLabels { rule: Label(note.rule) }).inc();
        }
    }

    /// Counts an attempt that took `took`.
    pub fn attempt<T>(&self, result: &Result<T, BackendError>, took: Duration) {
        let result = match result {
            Ok(_) => "applied",
            Err(BackendError::Unavailable(_)) => "unavailable",
            Err(BackendError::StaleLease(_)) => "stale_lease",
            Err(BackendError::NotFound(_)) => "not_found",
            Err(BackendError::Invalid(_)) => "invalid",
        };
        self.attempts.get_or_create(&AttemptLabels { result }).observe(took.as_secs_f64());
    }
}
