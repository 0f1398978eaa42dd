//! Metrics of the collector. Owns their names and labels.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use qscale_common::name::Name;

use crate::metric::Metric;
use crate::source::SourceError;

/// Labels of a source.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct SourceLabels {
    source: String,
}

impl SourceLabels {
    pub(crate) fn new(source: &Name) -> Self {
        Self { source: source.to_string() }
    }
}

/// Labels of a source and of the reason why it could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct FailureLabels {
    source: String,
    reason: &'static str,
}

impl FailureLabels {
    pub(crate) fn new(source: &Name, reason: &SourceError) -> Self {
        Self { source: source.to_string(), reason: reason.into() }
    }
}

/// Labels of a source and of a metric that it shows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DroppedLabels {
    source: String,
    metric: &'static str,
}

impl DroppedLabels {
    pub(crate) fn new(source: &Name, metric: Metric) -> Self {
        Self { source: source.to_string(), metric: metric.label() }
    }
}

/// Makes histograms of seconds, from the response time of a small endpoint to the longest timeout.
#[derive(Debug, Clone)]
pub(crate) struct Seconds;

impl MetricConstructor<Histogram> for Seconds {
    fn new_metric(&self) -> Histogram {
        Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
    }
}

/// The metrics.
#[derive(Debug, Clone)]
pub(crate) struct CollectorMetrics {
    /// Duration of a reading.
    pub(crate) scrape_seconds: Family<SourceLabels, Histogram, Seconds>,
    /// Readings that failed.
    pub(crate) scrape_failures: Family<FailureLabels, Counter>,
    /// Samples used.
    pub(crate) samples: Family<SourceLabels, Counter>,
    /// Samples that could not be decoded.
    pub(crate) malformed: Family<SourceLabels, Counter>,
    /// Values that cannot be true.
    pub(crate) dropped_values: Family<DroppedLabels, Counter>,
    /// Readings that missed their tick.
    pub(crate) late_readings: Family<SourceLabels, Counter>,
    /// Time from the start of a tick to its last State.
    pub(crate) publish_seconds: Histogram,
    /// Ticks of functions that were never published.
    pub(crate) ticks_missed: Counter,
    /// Rewards dropped because the outbox was full.
    pub(crate) rewards_dropped: Counter,
    /// Observed functions.
    pub(crate) functions: Gauge,
    /// New epochs because the clock was set back.
    pub(crate) epochs: Counter,
}

impl CollectorMetrics {
    /// Registers all metrics.
    #[must_use]
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            scrape_seconds: Family::new_with_constructor(Seconds),
            scrape_failures: Family::default(),
            samples: Family::default(),
            malformed: Family::default(),
            dropped_values: Family::default(),
            late_readings: Family::default(),
            publish_seconds: Seconds.new_metric(),
            ticks_missed: Counter::default(),
            rewards_dropped: Counter::default(),
            functions: Gauge::default(),
            epochs: Counter::default(),
        };
        let seconds = |name: &str| (format!("qscale_collector_{name}"), Unit::Seconds);
        let (name, unit) = seconds("scrape_duration");
        registry.register_with_unit(name, "Duration of a reading of a source", unit, metrics.scrape_seconds.clone());
        let (name, unit) = seconds("publish_delay");
        registry.register_with_unit(name, "Time from the start of a tick to its last State", unit, metrics.publish_seconds.clone());
        registry.register("qscale_collector_scrape_failures", "Failed readings, by reason", metrics.scrape_failures.clone());
        registry.register("qscale_collector_samples", "Samples used", metrics.samples.clone());
        registry.register("qscale_collector_malformed_lines", "Samples that could not be decoded", metrics.malformed.clone());
        registry.register(
            "qscale_collector_dropped_values",
            "Values that cannot be true and were dropped, by metric",
            metrics.dropped_values.clone(),
        );
        registry.register("qscale_collector_late_readings", "Readings that missed their tick", metrics.late_readings.clone());
        registry.register("qscale_collector_ticks_missed", "Ticks of functions that were never published", metrics.ticks_missed.clone());
        registry.register(
            "qscale_collector_rewards_dropped",
            "Rewards dropped because the outbox to the bus was full",
            metrics.rewards_dropped.clone(),
        );
        registry.register("qscale_collector_functions", "Observed functions", metrics.functions.clone());
        registry.register("qscale_collector_clock_set_back", "New epochs because the clock was set back", metrics.epochs.clone());
        metrics
    }
}
