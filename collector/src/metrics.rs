//! What the collector counts of itself.

use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use qscale_common::name::Name;

use crate::source::Failure;

/// A source.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OfSource(pub Name);

impl EncodeLabelSet for OfSource {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        ("source", self.0.as_str()).encode(encoder.encode_label())
    }
}

/// A source and why it could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OfFailure(pub Name, pub Failure);

impl EncodeLabelSet for OfFailure {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        ("source", self.0.as_str()).encode(encoder.encode_label())?;
        ("reason", self.1.word()).encode(encoder.encode_label())
    }
}

/// Makes histograms of seconds, from what a small endpoint takes to the longest patience.
#[derive(Debug, Clone)]
pub struct Seconds;

impl MetricConstructor<Histogram> for Seconds {
    fn new_metric(&self) -> Histogram {
        Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
    }
}

/// The metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Time that a reading took.
    pub scrape_seconds: Family<OfSource, Histogram, Seconds>,
    /// Readings that failed.
    pub scrape_failures: Family<OfFailure, Counter>,
    /// Samples that were of use.
    pub samples: Family<OfSource, Counter>,
    /// Lines that could not be read.
    pub malformed: Family<OfSource, Counter>,
    /// Readings that came after their tick was published.
    pub late_readings: Family<OfSource, Counter>,
    /// Time from the begin of a tick to the last State that it published.
    pub publish_seconds: Histogram,
    /// Ticks of functions that were not published in time, and never will be.
    pub ticks_missed: Counter,
    /// States that were not published because there was no connection.
    pub states_dropped: Counter,
    /// Rewards that were given up because too many waited.
    pub rewards_dropped: Counter,
    /// Functions that are observed.
    pub functions: Gauge,
    /// Times that the clock was set back.
    pub epochs: Counter,
}

impl Metrics {
    /// The metrics, shown by `registry`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            scrape_seconds: Family::new_with_constructor(Seconds),
            scrape_failures: Family::default(),
            samples: Family::default(),
            malformed: Family::default(),
            late_readings: Family::default(),
            publish_seconds: Seconds.new_metric(),
            ticks_missed: Counter::default(),
            states_dropped: Counter::default(),
            rewards_dropped: Counter::default(),
            functions: Gauge::default(),
            epochs: Counter::default(),
        };
        let seconds = |name: &str| (format!("qscale_collector_{name}"), Unit::Seconds);
        let (name, unit) = seconds("scrape_duration");
        registry.register_with_unit(name, "Time that a reading of a source took", unit, metrics.scrape_seconds.clone());
        let (name, unit) = seconds("publish_delay");
        registry.register_with_unit(name, "Time from the begin of a tick to its last State", unit, metrics.publish_seconds.clone());
        registry.register("qscale_collector_scrape_failures", "Readings that failed, by reason", metrics.scrape_failures.clone());
        registry.register("qscale_collector_samples", "Samples that were of use", metrics.samples.clone());
        registry.register("qscale_collector_malformed_lines", "Lines that could not be read", metrics.malformed.clone());
        registry.register(
            "qscale_collector_late_readings",
            "Readings that came after their tick was published",
            metrics.late_readings.clone(),
        );
        registry.register("qscale_collector_ticks_missed", "Ticks of functions that were never published", metrics.ticks_missed.clone());
        registry.register(
            "qscale_collector_states_dropped",
            "States not published for want of a connection",
            metrics.states_dropped.clone(),
        );
        registry.register("qscale_collector_rewards_dropped", "Rewards given up because too many waited", metrics.rewards_dropped.clone());
        registry.register("qscale_collector_functions", "Functions that are observed", metrics.functions.clone());
        registry.register("qscale_collector_clock_set_back", "Times that the clock was set back", metrics.epochs.clone());
        metrics
    }
}
