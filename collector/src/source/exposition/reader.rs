//! From samples to rows: sorts the samples of an exposition by replica and function. Owns the meaning of labels; must not know what a row's values
//! say.

use std::collections::HashMap;

use qscale_common::time::Timestamp;

use super::ExpositionConfig;
use super::metrics::{FunctionMetric, LabelNames, Metric, ReplicaMetric};
use super::rows::{FunctionRow, Key, ReplicaRow, Rows};
use super::status::is_failure;
use super::syntax::{Labels, Sample, Samples};
use crate::reading::Reading;

/// The label with the upper bound of a bucket; its name is fixed by the format.
const BOUND: &str = "le";

/// Reads the expositions of one source.
#[derive(Debug)]
pub struct Reader {
    metrics: HashMap<Box<[u8]>, Metric>,
    labels: LabelNames,
    containers: Vec<String>,
    gateway: String,
}

impl Reader {
    /// A reader of the metrics that `config` names.
    #[must_use]
    pub fn new(config: &ExpositionConfig) -> Self {
        Self {
            metrics: config.metrics.table(),
            labels: config.labels.clone(),
            containers: config.containers.clone(),
            gateway: config.gateway.clone(),
        }
    }

    /// Reads `body`, which was requested at `at`. A sample without a timestamp counts as taken at that time.
    #[must_use]
    pub fn read(&self, body: &[u8], at: Timestamp) -> Reading {
        let mut sorter = Sorter::new(self);
        let mut labels = Labels::default();
        // The lines of a family follow each other, so that one look-up serves many lines.
        let mut family: (&[u8], Option<Metric>) = (b"", None);
        for sample in Samples::new(body) {
            let Ok(sample) = sample else {
                sorter.rows.malformed += 1;
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
                // NaN means that the value was not measured.
                Ok(value) if value.number.is_nan() => {}
                Ok(value) => sorter.add(metric, &labels, value.number, value.at_ms),
                Err(_) => sorter.rows.malformed += 1,
            }
            if bucket {
                sorter.series = sample.before_last(BOUND, &labels).zip(sorter.bucket_of);
            }
        }
        sorter.rows.into_reading(at)
    }

    /// Whether a sample with the container label `name` counts.
    fn counts_container(&self, name: &[u8]) -> bool {
        if self.containers.is_empty() {
            // cAdvisor shows the sum over a pod with an empty name, and the container that holds the pod's network as `POD`.
            return !matches!(name, b"" | b"POD");
        }
        self.containers.iter().any(|container| container.as_bytes() == name)
    }
}

/// Sorts samples into rows.
struct Sorter<'a> {
    reader: &'a Reader,
    rows: Rows<'a>,
    function_index: HashMap<Key<'a>, usize>,
    last_function: usize,
    replica_index: HashMap<Key<'a>, usize>,
    last_replica: usize,
    /// The replica whose histogram the last bucket was added to; `None` if it was not added.
    bucket_of: Option<usize>,
    /// The common beginning of the lines of the last bucket's series, and its replica. Most lines of an exposition are buckets, so their labels are
    /// read once a series.
    series: Option<(&'a [u8], usize)>,
}

impl<'a> Sorter<'a> {
    fn new(reader: &'a Reader) -> Self {
        Self {
            reader,
            rows: Rows::default(),
            function_index: HashMap::new(),
            last_function: 0,
            replica_index: HashMap::new(),
            last_replica: 0,
            bucket_of: None,
            series: None,
        }
    }

    /// Adds a bucket if it belongs to the same series as the last one; returns whether it does.
    fn add_to_same_series(&mut self, sample: &Sample<'a>) -> bool {
        let Some((before, replica)) = self.series else { return false };
        let Some((bound, value)) = sample.read_last(before) else { return false };
        let Some(bound) = seconds(bound) else { return false };
        self.rows.replicas[replica].add_bucket(bound, value.number, value.at_ms);
        self.rows.samples += 1;
        true
    }

    fn add(&mut self, metric: Metric, labels: &Labels<'a>, number: f64, at_ms: Option<i64>) {
        self.rows.samples += 1;
        match metric {
            Metric::Node(metric) => self.rows.node.add(metric, number),
            Metric::Function(metric) => self.add_to_function(metric, labels, number, at_ms),
            Metric::Replica(metric) => self.add_to_replica(metric, labels, number, at_ms),
        }
    }

    fn add_to_function(&mut self, metric: FunctionMetric, labels: &Labels<'a>, number: f64, at_ms: Option<i64>) {
        let names = &self.reader.labels;
        let (Some(namespace), Some(function)) = (labels.get(&names.namespace), labels.get(&names.function)) else { return };
        let row = self.function((namespace, function));
        self.rows.functions[row].add(metric, number, at_ms);
    }

    fn add_to_replica(&mut self, metric: ReplicaMetric, labels: &Labels<'a>, number: f64, at_ms: Option<i64>) {
        let names = &self.reader.labels;
        let (Some(namespace), Some(replica)) = (labels.get(&names.namespace), labels.get(&names.replica)) else { return };
        let function = labels.get(&names.function).map(|function| self.function((namespace, function)));
        if replica == self.reader.gateway.as_bytes() {
            return self.add_to_gateway(metric, function, labels, number);
        }
        if labels.get(&names.container).is_some_and(|container| !self.reader.counts_container(container)) {
            return;
        }
        let place = self.replica((namespace, replica));
        let row = &mut self.rows.replicas[place];
        row.owner = row.owner.or(function);
        match metric {
            ReplicaMetric::DurationCount => row.add_requests(number, failed(names, labels), at_ms),
            ReplicaMetric::DurationBucket if failed(names, labels) => {}
            ReplicaMetric::DurationBucket => match labels.get(BOUND).and_then(seconds) {
                Some(bound) => {
                    row.add_bucket(bound, number, at_ms);
                    self.bucket_of = Some(place);
                }
                None => self.rows.malformed += 1,
            },
            metric => row.add(metric, number, at_ms),
        }
    }

    /// Of the requests that reached no replica only failures count: a request that succeeded was answered by a replica.
    fn add_to_gateway(&mut self, metric: ReplicaMetric, function: Option<usize>, labels: &Labels<'a>, number: f64) {
        if let (ReplicaMetric::DurationCount, Some(function)) = (metric, function)
            && failed(&self.reader.labels, labels)
        {
            self.rows.functions[function].refused += number.max(0.0);
        }
    }

    fn function(&mut self, key: Key<'a>) -> usize {
        let functions = &mut self.rows.functions;
        if functions.get(self.last_function).is_none_or(|row| row.key != key) {
            self.last_function = *self.function_index.entry(key).or_insert_with(|| {
                functions.push(FunctionRow::new(key));
                functions.len() - 1
            });
        }
        self.last_function
    }

    fn replica(&mut self, key: Key<'a>) -> usize {
        let replicas = &mut self.rows.replicas;
        if replicas.get(self.last_replica).is_none_or(|row| row.key != key) {
            self.last_replica = *self.replica_index.entry(key).or_insert_with(|| {
                replicas.push(ReplicaRow::new(key));
                replicas.len() - 1
            });
        }
        self.last_replica
    }
}

fn failed(names: &LabelNames, labels: &Labels<'_>) -> bool {
    is_failure(labels.get(&names.http_status), labels.get(&names.grpc_status))
}

fn seconds(bound: &[u8]) -> Option<f64> {
    std::str::from_utf8(bound).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
