//! From lines to rows: sorts the samples of an exposition by replica and function. Owns the meaning of labels; must not
//! know what a row's values say.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher as _, RandomState};

use qscale_common::hash::fnv1a;
use qscale_common::time::Timestamp;

use super::ExpositionConfig;
use super::labels::LabelNames;
use super::status::is_failure;
use super::syntax::{self, ExpositionText, Labels, Samples, Value};
use crate::metric::{FunctionMetric, Metric, ReplicaMetric};
use crate::reading::Reading;
use crate::rows::{Container, Rows, SourceSample};

/// Labels that name the observer of a series and not what it observes: those that a pair of Prometheus servers adds.
const OBSERVERS: [&[u8]; 2] = [b"prometheus", b"prometheus_replica"];
/// Labels of a scrape target, which Prometheus adds. Every target shows the same value of a whole function and of a container.
const TARGET: [&[u8]; 6] = [ENDPOINT.as_bytes(), b"job", b"service", b"endpoint", b"node", b"metrics_path"];
/// Label of the endpoint that a sample was read from.
const ENDPOINT: &str = "instance";
/// Labels of a target that name the job which reads it.
const JOB: [&[u8]; 4] = [b"job", b"service", b"endpoint", b"metrics_path"];
/// Label of CPU time with the processor, and its value for the sum over all of them.
const PROCESSOR: &str = "cpu";
const ALL_PROCESSORS: &[u8] = b"total";
/// Number of lines by which a text without any known metric is judged to be an exposition.
const JUDGED_LINES: usize = 1_000;

/// The label with the upper bound of a bucket; its name is fixed by the format.
const BOUND: &str = "le";
/// The container that holds the network of a pod.
const NETWORK_CONTAINER: &[u8] = b"POD";

/// Reads the expositions of one source.
#[derive(Debug)]
pub struct ExpositionReader {
    metrics: HashMap<Box<[u8]>, Metric>,
    labels: LabelNames,
    /// Labels with the HTTP status of a response; the first that a sample has counts.
    http_statuses: Vec<String>,
    containers: Vec<String>,
    gateway: String,
    /// Seconds per unit of the bounds of durations.
    unit_seconds: f64,
}

/// Names of the metrics and labels by which a replica counts its requests.
#[cfg(any(feature = "kubernetes", test))]
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct RequestMetrics<'a> {
    /// Histogram of the duration of requests.
    pub duration: &'a str,
    /// Seconds per unit of its bounds.
    pub unit_seconds: f64,
    /// Requests in flight.
    pub in_flight: Option<&'a str>,
    /// Labels with the HTTP status of a response; the first that a sample has counts.
    pub http_statuses: &'a [&'a str],
    /// Label with the gRPC status of a response.
    pub grpc_status: &'a str,
}

impl ExpositionReader {
    /// A reader of the metrics that `config` names.
    #[must_use]
    pub fn new(config: &ExpositionConfig) -> Self {
        Self {
            metrics: config.metrics.table(),
            labels: config.labels.clone(),
            http_statuses: vec![config.labels.http_status.clone()],
            containers: config.containers.clone(),
            gateway: config.gateway.clone(),
            unit_seconds: 1.0,
        }
    }

    /// A reader of the requests of a replica, and of nothing else.
    #[cfg(any(feature = "kubernetes", test))]
    pub(in super::super) fn of_requests(metrics: &RequestMetrics<'_>) -> Self {
        let RequestMetrics { duration, unit_seconds, in_flight, http_statuses, grpc_status } = *metrics;
        let durations = [("_bucket", ReplicaMetric::DurationBucket), ("_count", ReplicaMetric::DurationCount)];
        let named = durations.map(|(suffix, metric)| (format!("{duration}{suffix}"), metric)).into_iter();
        let named = named.chain(in_flight.map(|name| (name.to_owned(), ReplicaMetric::InFlight)));
        Self {
            metrics: named.map(|(name, metric)| (name.into_bytes().into(), Metric::Replica(metric))).collect(),
            labels: LabelNames { grpc_status: grpc_status.to_owned(), ..LabelNames::default() },
            http_statuses: http_statuses.iter().map(|&label| label.to_owned()).collect(),
            containers: Vec::new(),
            gateway: String::new(),
            unit_seconds,
        }
    }

    /// Reads `text`, which was requested at `at`. A sample without a timestamp counts as taken at that time.
    #[must_use]
    pub fn read(&self, text: ExpositionText<'_>, at: Timestamp) -> Reading {
        self.read_samples(text, None, at).0
    }

    /// Reads `text`, which the replica of this name in this namespace shows of itself alone. All its samples are of that replica, whatever their labels say.
    /// `None` if none of them is of the duration of requests, unless most lines cannot be read.
    #[cfg(any(feature = "kubernetes", test))]
    pub(in super::super) fn read_replica(
        &self,
        text: ExpositionText<'_>,
        (namespace, replica): (&str, &str),
        at: Timestamp,
    ) -> Option<Reading> {
        let (reading, durations) = self.read_samples(text, Some((namespace.as_bytes(), replica.as_bytes())), at);
        (durations || reading.unreadable).then_some(reading)
    }

    /// The reading, and whether it has samples of the duration of requests.
    fn read_samples<'a>(&'a self, text: ExpositionText<'a>, shown_by: Option<Replica<'a>>, at: Timestamp) -> (Reading, bool) {
        let sorter = || Sorter { shown_by, ..Sorter::new(self, at) };
        let mut sorted = self.sort(text, sorter());
        if !sorted.newer.is_empty() {
            // Some series have several samples: only the newest of each counts.
            let newest = std::mem::take(&mut sorted.newer);
            sorted = self.sort(text, Sorter { newest, hasher: sorted.hasher, ..sorter() });
        }
        let sorter = sorted;
        let (samples, nameless, durations) = (sorter.rows.samples, sorter.nameless, sorter.durations);
        let reading = sorter.rows.into_reading();
        // Lines of which not even the name can be read are those of other metrics, if there are lines of the metrics that are read.
        let unreadable = reading.unreadable || (samples == 0 && !is_exposition(text));
        (Reading { unreadable, malformed: reading.malformed + nameless, ..reading }, durations)
    }

    fn sort<'a>(&self, text: ExpositionText<'a>, mut sorter: Sorter<'a>) -> Sorter<'a> {
        let mut labels = Labels::default();
        // The lines of a family follow each other, so that one look-up serves many lines.
        let mut family: (&[u8], Option<Metric>) = (b"", None);
        for sample in Samples::new(text) {
            let Ok(sample) = sample else {
                sorter.nameless += 1;
                continue;
            };
            if family.0 != sample.name {
                family = (sample.name, self.metrics.get(sample.name).copied());
            }
            let Some(metric) = family.1 else { continue };
            let bucket = metric == Metric::Replica(ReplicaMetric::DurationBucket);
            if bucket && sorter.add_to_same_series(&sample) {
                continue;
            }
            sorter.bucket_of = None;
            match sample.read(&mut labels) {
                Ok(value) => sorter.add(metric, &labels, value),
                Err(_) => sorter.add_malformed(metric, &labels),
            }
            if bucket {
                sorter.series =
                    sample.before_last(BOUND, &labels).zip(sorter.bucket_of).map(|(before, (replica, hash))| (before, replica, hash));
            }
        }
        sorter
    }

    /// Whether the container called `name` counts.
    fn counts_container(&self, name: &[u8]) -> bool {
        if self.containers.is_empty() {
            name != NETWORK_CONTAINER
        } else {
            self.containers.iter().any(|container| container.as_bytes() == name)
        }
    }
}

/// Namespace and name of a replica.
type Replica<'a> = (&'a [u8], &'a [u8]);

/// Whether most lines of `text` are samples.
fn is_exposition(text: ExpositionText<'_>) -> bool {
    let mut labels = Labels::default();
    let lines = Samples::new(text).take(JUDGED_LINES);
    let well_formed = lines.map(|sample| sample.and_then(|sample| sample.read(&mut labels)).is_ok());
    well_formed.map(|good| if good { 1 } else { -1 }).sum::<i32>() >= 0
}

impl From<Value> for SourceSample {
    fn from(Value { number, at_ms }: Value) -> Self {
        Self { number: Some(number), at_ms }
    }
}

/// Sorts samples into rows.
struct Sorter<'a> {
    reader: &'a ExpositionReader,
    /// The replica that shows all samples of itself; `None` if their labels name it.
    shown_by: Option<Replica<'a>>,
    rows: Rows<'a>,
    /// Number of lines of which the name could not be read.
    nameless: u64,
    /// Whether a sample is of the duration of requests.
    durations: bool,
    hasher: RandomState,
    /// Label sets that were read, by metric, and the time of their sample: a repeated one counts once.
    seen: HashMap<u64, Timestamp>,
    /// Times of the newest samples of the label sets that have several; others of them do not count.
    newest: HashMap<u64, Timestamp>,
    /// Times of the samples that came after an older one of their label set.
    newer: HashMap<u64, Timestamp>,
    /// The replica whose histogram the last bucket was added to, and the hash of its series; `None` if it was not added.
    bucket_of: Option<(usize, u64)>,
    /// The common beginning of the lines of the last bucket's series, its replica and its hash. Most lines of an
    /// exposition are buckets, so their labels are read once a series.
    series: Option<(&'a [u8], usize, u64)>,
}

impl<'a> Sorter<'a> {
    fn new(reader: &'a ExpositionReader, at: Timestamp) -> Self {
        Self {
            reader,
            shown_by: None,
            rows: Rows::new(at),
            nameless: 0,
            durations: false,
            hasher: RandomState::new(),
            seen: HashMap::new(),
            newest: HashMap::new(),
            newer: HashMap::new(),
            bucket_of: None,
            series: None,
        }
    }

    /// Adds a bucket if it belongs to the same series as the last one; returns whether it does.
    fn add_to_same_series(&mut self, sample: &syntax::ExpositionSample<'a>) -> bool {
        let Some((before, replica, series)) = self.series else { return false };
        let Some((bound, value)) = sample.read_last(before) else { return false };
        let Some(seconds) = self.seconds(bound) else { return false };
        if self.counts(self.hasher.hash_one((series, seconds.to_bits())), value.at_ms) {
            self.rows.add_bucket(replica, false, seconds, value.into());
            self.rows.samples += 1;
        }
        true
    }

    /// Counts a malformed line. Of a series that is known, the value is missing; otherwise that of all series that it may show.
    fn add_malformed(&mut self, metric: Metric, labels: &Labels<'a>) {
        self.rows.malformed += 1;
        let missing = SourceSample { number: None, at_ms: None };
        if labels.are_complete() {
            if self.is_counted(metric, labels, None) {
                self.sort(metric, labels, missing);
            }
            return;
        }
        let names = &self.reader.labels;
        let [namespace, function] = [&names.namespace, &names.function].map(|name| labels.non_empty(name));
        match (metric, namespace.zip(function), self.replica(labels)) {
            (Metric::Function(_), Some(_), _) | (Metric::Node(_), ..) => self.sort(metric, labels, missing),
            (Metric::Function(metric), None, _) => self.rows.lacks_of_functions(metric),
            (Metric::Replica(metric), _, Some(key)) if key.1 != self.reader.gateway.as_bytes() => {
                let place = self.rows.replica(key, None);
                self.rows.lacks(Some(place), metric);
            }
            (Metric::Replica(metric), ..) => self.rows.lacks(None, metric),
        }
    }

    fn add(&mut self, metric: Metric, labels: &Labels<'a>, value: Value) {
        if self.is_counted(metric, labels, value.at_ms) {
            self.rows.samples += 1;
            self.durations |= matches!(metric, Metric::Replica(ReplicaMetric::DurationBucket | ReplicaMetric::DurationCount));
            self.sort(metric, labels, value.into());
        }
    }

    /// Whether a sample of this label set counts: the newest one, or the first of several.
    fn is_counted(&mut self, metric: Metric, labels: &Labels<'a>, at_ms: Option<i64>) -> bool {
        let series = self.series(metric, labels);
        let bound = labels.get(BOUND).filter(|_| metric == Metric::Replica(ReplicaMetric::DurationBucket));
        let hash = bound.map_or(series, |bound| match self.seconds(bound) {
            Some(seconds) => self.hasher.hash_one((series, seconds.to_bits())),
            None => self.hasher.hash_one((series, bound)),
        });
        self.counts(hash, at_ms)
    }

    /// Whether a sample of the series of this hash counts.
    fn counts(&mut self, series: u64, at_ms: Option<i64>) -> bool {
        let at = self.rows.taken(at_ms);
        if self.newest.get(&series).is_some_and(|newest| at < *newest) {
            return false;
        }
        match self.seen.entry(series) {
            Entry::Vacant(entry) => {
                entry.insert(at);
                true
            }
            Entry::Occupied(mut entry) => {
                if at > *entry.get() {
                    entry.insert(at);
                    self.newer.insert(series, at);
                }
                false
            }
        }
    }

    fn sort(&mut self, metric: Metric, labels: &Labels<'a>, sample: SourceSample) {
        match metric {
            Metric::Node(metric) => self.rows.add_to_node(metric, sample),
            Metric::Function(metric) => self.add_to_function(metric, labels, sample),
            Metric::Replica(metric) => self.add_to_replica(metric, labels, sample),
        }
    }

    /// Hash of a metric and its labels in any order, but for a bucket's bound, for labels that name an observer, and
    /// for empty ones, which equal missing ones.
    fn series(&self, metric: Metric, labels: &Labels<'a>) -> u64 {
        let names = &self.reader.labels;
        let replica = names.replica.as_bytes();
        let of_target = |name: &[u8]| match metric {
            // Its replica label names the exporter.
            Metric::Function(metric) if metric.describes_whole_function() => TARGET.contains(&name) || name == replica,
            Metric::Replica(metric) if metric.is_of_container() => TARGET.contains(&name),
            // Several jobs may read one target.
            Metric::Function(_) | Metric::Replica(_) | Metric::Node(_) => JOB.contains(&name),
        };
        let named = |name: &[u8]| [&names.namespace, &names.function].iter().any(|label| label.as_bytes() == name);
        // A replica that shows itself may give these labels any meaning.
        let names_observer = |name: &[u8]| OBSERVERS.contains(&name) || (!named(name) && of_target(name));
        let counts = |name: &[u8]| name != BOUND.as_bytes() && (self.shown_by.is_some() || !names_observer(name));
        let counted = labels.iter().filter(|(name, value)| !value.is_empty() && counts(name));
        let hashes = counted.map(|label| self.hasher.hash_one(label));
        hashes.fold(self.hasher.hash_one(metric), u64::wrapping_add)
    }

    fn add_to_function(&mut self, metric: FunctionMetric, labels: &Labels<'a>, sample: SourceSample) {
        let names = &self.reader.labels;
        let (Some(namespace), Some(function)) = (labels.non_empty(&names.namespace), labels.non_empty(&names.function)) else { return };
        let place = self.rows.function((namespace, function));
        if metric == FunctionMetric::Arrived {
            let gateway = labels.non_empty(ENDPOINT).or(labels.non_empty(&names.replica));
            self.rows.add_arrived(place, fingerprint(gateway), sample);
        } else {
            self.rows.add_to_function(place, metric, sample);
        }
    }

    fn add_to_replica(&mut self, metric: ReplicaMetric, labels: &Labels<'a>, sample: SourceSample) {
        let names = &self.reader.labels;
        let Some((namespace, replica)) = self.replica(labels) else { return };
        let shown = self.shown_by.is_some();
        let named = |label: &str| labels.non_empty(label).filter(|_| !shown);
        let function = named(&names.function).map(|function| self.rows.function((namespace, function)));
        if named(&names.replica) == Some(self.reader.gateway.as_bytes()) {
            return self.add_to_gateway(metric, function, labels, sample);
        }
        let container = named(&names.container).unwrap_or_default();
        let counts = container.is_empty() || self.reader.counts_container(container);
        // The container that holds the pod's network is not what the sum over a pod is about.
        if !counts && (!metric.is_of_container() || container == NETWORK_CONTAINER) {
            return;
        }
        let place = self.rows.replica((namespace, replica), function);
        match metric {
            _ if !counts => self.rows.shown_by_other(place, metric),
            ReplicaMetric::InFlight => self.rows.add_in_flight(place, sample),
            ReplicaMetric::DurationCount => self.rows.add_requests(place, self.failed(labels), sample),
            ReplicaMetric::DurationBucket => match labels.get(BOUND).and_then(|bound| self.seconds(bound)) {
                Some(bound) => {
                    let failed = self.failed(labels);
                    self.rows.add_bucket(place, failed, bound, sample);
                    self.bucket_of = (!failed).then(|| (place, self.series(Metric::Replica(metric), labels)));
                }
                None => self.rows.malformed += 1,
            },
            metric => {
                let label = |name: &str| labels.get(name).unwrap_or_default();
                let container = Container { name: container, id: label(&names.container_id), runtime_name: label(&names.runtime_name) };
                if metric == ReplicaMetric::CpuSeconds {
                    self.rows.add_cpu(place, container, labels.get(PROCESSOR) == Some(ALL_PROCESSORS), sample);
                } else {
                    self.rows.add_to_container(place, container, metric, sample);
                }
            }
        }
    }

    /// The replica that a sample is of.
    fn replica(&self, labels: &Labels<'a>) -> Option<Replica<'a>> {
        let names = &self.reader.labels;
        self.shown_by.or_else(|| labels.non_empty(&names.namespace).zip(labels.non_empty(&names.replica)))
    }

    fn failed(&self, labels: &Labels<'_>) -> bool {
        let http = self.reader.http_statuses.iter().find_map(|label| labels.get(label));
        is_failure(http, labels.get(&self.reader.labels.grpc_status))
    }

    /// The bound of a bucket, seconds.
    fn seconds(&self, bound: &[u8]) -> Option<f64> {
        let bound: f64 = std::str::from_utf8(bound).ok()?.parse().ok()?;
        Some(bound * self.reader.unit_seconds)
    }

    /// Of the requests that reached no replica only failures count: a request that succeeded was answered by a replica.
    fn add_to_gateway(&mut self, metric: ReplicaMetric, function: Option<usize>, labels: &Labels<'a>, sample: SourceSample) {
        if let (ReplicaMetric::DurationCount, Some(function)) = (metric, function)
            && self.failed(labels)
        {
            self.rows.add_refused(function, fingerprint(labels.non_empty(ENDPOINT)), sample);
        }
    }
}

/// Fingerprint of a gateway by its name, which one alone may lack.
fn fingerprint(gateway: Option<&[u8]>) -> u64 {
    fnv1a(gateway.unwrap_or_default().iter().copied())
}

#[cfg(test)]
mod tests;
