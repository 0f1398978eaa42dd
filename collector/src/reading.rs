//! From samples to Scrapes: which metric says what of which replica. Owns the meaning of names, labels and statuses; does no I/O.

mod histogram;
mod status;

use std::collections::HashMap;

use qscale_common::contract::Headroom;
use qscale_common::scrape::{CpuCounters, FunctionScrape, IngressReading, PlatformReading, RequestCounters, Scrape};
use qscale_common::time::Timestamp;
use qscale_common::units::{Allocation, Mebibytes, Millicores, Replicas};

use self::histogram::Histogram;
use crate::config::{LabelNames, SourceConfig};
use crate::exposition::{Labels, Sample, Samples};

pub use status::failed;

/// What one endpoint showed at one time.
#[derive(Debug, Default)]
pub struct Reading {
    /// By workload, written `namespace/name`.
    pub functions: HashMap<String, FunctionScrape>,
    /// Replicas of which no sample said whose they are, by `namespace/replica`.
    pub unowned: Vec<(String, Scrape)>,
    /// What the nodes have beyond what the functions of this endpoint shall have.
    pub headroom: Option<Headroom>,
    /// Samples that were of use.
    pub samples: u64,
    /// Lines that could not be read.
    pub malformed: u64,
}

/// The metrics that mean something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Metric {
    Function(FunctionMetric),
    Replica(ReplicaMetric),
    NodeCores,
    NodeMemory,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FunctionMetric {
    Queued,
    Arrived,
    Desired,
    Ready,
    Pending,
    DesiredCpu,
    DesiredMemory,
    OomKills,
    Crashes,
    StartupSum,
    StartupCount,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReplicaMetric {
    CpuSeconds,
    CpuPeriods,
    CpuThrottledPeriods,
    WorkingSet,
    OomEvents,
    Restarts,
    InFlight,
    DurationBucket,
    DurationCount,
}

/// Reads expositions of one source.
#[derive(Debug)]
pub struct Reader {
    metrics: HashMap<Box<[u8]>, Metric>,
    labels: LabelNames,
    containers: Vec<String>,
    gateway: String,
}

impl Reader {
    /// A reader of what `config` names.
    #[must_use]
    pub fn new(config: &SourceConfig) -> Self {
        use FunctionMetric as F;
        use ReplicaMetric as R;
        let names = &config.metrics;
        let of_function = |name: &str, metric| (name.to_owned(), Metric::Function(metric));
        let of_replica = |name: &str, metric| (name.to_owned(), Metric::Replica(metric));
        let part = |name: &str, suffix: &str| if name.is_empty() { String::new() } else { format!("{name}{suffix}") };
        let metrics = [
            of_replica(&names.cpu_seconds, R::CpuSeconds),
            of_replica(&names.cpu_periods, R::CpuPeriods),
            of_replica(&names.cpu_throttled_periods, R::CpuThrottledPeriods),
            of_replica(&names.working_set_bytes, R::WorkingSet),
            of_replica(&names.oom_events, R::OomEvents),
            of_replica(&names.restarts, R::Restarts),
            of_replica(&names.in_flight, R::InFlight),
            of_replica(&part(&names.duration, "_bucket"), R::DurationBucket),
            of_replica(&part(&names.duration, "_count"), R::DurationCount),
            of_function(&names.queued, F::Queued),
            of_function(&names.arrived, F::Arrived),
            of_function(&names.desired, F::Desired),
            of_function(&names.ready, F::Ready),
            of_function(&names.pending, F::Pending),
            of_function(&names.desired_cpu_millicores, F::DesiredCpu),
            of_function(&names.desired_memory_bytes, F::DesiredMemory),
            of_function(&names.oom_kills, F::OomKills),
            of_function(&names.crashes, F::Crashes),
            of_function(&part(&names.startup, "_sum"), F::StartupSum),
            of_function(&part(&names.startup, "_count"), F::StartupCount),
            (names.node_cores.clone(), Metric::NodeCores),
            (names.node_memory_bytes.clone(), Metric::NodeMemory),
        ];
        let metrics =
            metrics.into_iter().filter(|(name, _)| !name.is_empty()).map(|(name, metric)| (name.into_bytes().into(), metric)).collect();
        Self { metrics, labels: config.labels.clone(), containers: config.containers.clone(), gateway: config.gateway.clone() }
    }

    /// Reads `body`, which was asked for at `at`: no sample in it is older than that, unless it says so itself.
    #[must_use]
    pub fn read(&self, body: &[u8], at: Timestamp) -> Reading {
        let mut rows = Rows::new(self);
        let mut labels = Labels::default();
        // Families come in one piece, so that one look-up serves many lines.
        let mut family: (&[u8], Option<Metric>) = (b"", None);
        for sample in Samples::new(body) {
            let Ok(sample) = sample else {
                rows.malformed += 1;
                continue;
            };
            if family.0 != sample.name {
                family = (sample.name, self.metrics.get(sample.name).copied());
            }
            let Some(metric) = family.1 else { continue };
            let bucket = metric == Metric::Replica(ReplicaMetric::DurationBucket);
            if bucket && rows.add_to_same_series(&sample) {
                continue;
            }
            rows.bucket_of = None;
            match sample.read(&mut labels) {
                // What is no number was not measured.
                Ok(value) if value.number.is_nan() => {}
                Ok(value) => rows.add(metric, &labels, value.number, value.at_ms),
                Err(_) => rows.malformed += 1,
            }
            if bucket {
                rows.series = sample.before_last(BOUND, &labels).zip(rows.bucket_of);
            }
        }
        rows.finish(at)
    }

    /// Whether a sample counts that says that it is of the container `name`.
    fn counts_container(&self, name: &[u8]) -> bool {
        if self.containers.is_empty() {
            // cAdvisor shows the sum over a pod without a name, and the one that holds its network as `POD`.
            return !matches!(name, b"" | b"POD");
        }
        self.containers.iter().any(|container| container.as_bytes() == name)
    }
}

/// The label that says the upper bound of a bucket; Prometheus calls it so, and no exporter can call it otherwise.
const BOUND: &str = "le";

/// Namespace and name, as they stand in the body.
type Key<'a> = (&'a [u8], &'a [u8]);

struct Rows<'a> {
    reader: &'a Reader,
    functions: Vec<FunctionRow<'a>>,
    function_index: HashMap<Key<'a>, usize>,
    last_function: usize,
    replicas: Vec<ReplicaRow<'a>>,
    replica_index: HashMap<Key<'a>, usize>,
    last_replica: usize,
    /// The replica whose histogram the last bucket was added to; `None` where it counts nowhere.
    bucket_of: Option<usize>,
    /// What the lines of the same series begin with, and its replica. Most lines of an exposition are buckets, whose labels are worth reading once.
    series: Option<(&'a [u8], usize)>,
    node_cores: Option<f64>,
    node_memory: Option<f64>,
    samples: u64,
    malformed: u64,
}

#[derive(Default)]
struct FunctionRow<'a> {
    key: Key<'a>,
    at_ms: Option<i64>,
    queued: Option<f64>,
    arrived: Option<f64>,
    refused: f64,
    desired: Option<f64>,
    ready: Option<f64>,
    pending: Option<f64>,
    cpu: Option<f64>,
    memory: Option<f64>,
    oom_kills: Option<f64>,
    crashes: Option<f64>,
    startup_sum: Option<f64>,
    startup_count: Option<f64>,
}

#[derive(Default)]
struct ReplicaRow<'a> {
    key: Key<'a>,
    owner: Option<usize>,
    at_ms: Option<i64>,
    cpu_seconds: Option<f64>,
    cpu_periods: Option<f64>,
    cpu_throttled_periods: Option<f64>,
    working_set: Option<f64>,
    oom_events: Option<f64>,
    restarts: Option<f64>,
    in_flight: Option<f64>,
    answered: bool,
    completed: f64,
    failed: f64,
    durations: Histogram,
}

impl<'a> Rows<'a> {
    fn new(reader: &'a Reader) -> Self {
        Self {
            reader,
            functions: Vec::new(),
            function_index: HashMap::new(),
            last_function: 0,
            replicas: Vec::new(),
            replica_index: HashMap::new(),
            last_replica: 0,
            bucket_of: None,
            series: None,
            node_cores: None,
            node_memory: None,
            samples: 0,
            malformed: 0,
        }
    }

    /// Adds a bucket of the series that the last one was of; says whether it is one.
    fn add_to_same_series(&mut self, sample: &Sample<'a>) -> bool {
        let Some((before, replica)) = self.series else { return false };
        let Some((bound, value)) = sample.read_last(before) else { return false };
        let Some(bound) = seconds(bound) else { return false };
        let row = &mut self.replicas[replica];
        row.at_ms = row.at_ms.max(value.at_ms);
        row.durations.add(bound, value.number);
        self.samples += 1;
        true
    }

    fn add(&mut self, metric: Metric, labels: &Labels<'a>, number: f64, at_ms: Option<i64>) {
        self.samples += 1;
        match metric {
            Metric::NodeCores => sum(&mut self.node_cores, number),
            Metric::NodeMemory => sum(&mut self.node_memory, number),
            Metric::Function(metric) => self.add_to_function(metric, labels, number, at_ms),
            Metric::Replica(metric) => self.add_to_replica(metric, labels, number, at_ms),
        }
    }

    fn add_to_function(&mut self, metric: FunctionMetric, labels: &Labels<'a>, number: f64, at_ms: Option<i64>) {
        let names = &self.reader.labels;
        let (Some(namespace), Some(function)) = (labels.get(&names.namespace), labels.get(&names.function)) else { return };
        let row = self.function((namespace, function));
        let row = &mut self.functions[row];
        row.at_ms = row.at_ms.max(at_ms);
        let slot = match metric {
            FunctionMetric::Queued => &mut row.queued,
            FunctionMetric::Arrived => &mut row.arrived,
            FunctionMetric::Desired => &mut row.desired,
            FunctionMetric::Ready => &mut row.ready,
            FunctionMetric::Pending => &mut row.pending,
            FunctionMetric::DesiredCpu => &mut row.cpu,
            FunctionMetric::DesiredMemory => &mut row.memory,
            FunctionMetric::OomKills => &mut row.oom_kills,
            FunctionMetric::Crashes => &mut row.crashes,
            FunctionMetric::StartupSum => &mut row.startup_sum,
            FunctionMetric::StartupCount => &mut row.startup_count,
        };
        sum(slot, number);
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
        let row = &mut self.replicas[place];
        row.owner = row.owner.or(function);
        row.at_ms = row.at_ms.max(at_ms);
        match metric {
            ReplicaMetric::CpuSeconds => sum(&mut row.cpu_seconds, number),
            ReplicaMetric::CpuPeriods => sum(&mut row.cpu_periods, number),
            ReplicaMetric::CpuThrottledPeriods => sum(&mut row.cpu_throttled_periods, number),
            ReplicaMetric::WorkingSet => sum(&mut row.working_set, number),
            ReplicaMetric::OomEvents => sum(&mut row.oom_events, number),
            ReplicaMetric::Restarts => sum(&mut row.restarts, number),
            ReplicaMetric::InFlight => sum(&mut row.in_flight, number),
            ReplicaMetric::DurationCount => {
                row.answered = true;
                *if ended_badly(names, labels) { &mut row.failed } else { &mut row.completed } += number.max(0.0);
            }
            ReplicaMetric::DurationBucket if ended_badly(names, labels) => {}
            ReplicaMetric::DurationBucket => match labels.get(BOUND).and_then(seconds) {
                Some(bound) => {
                    row.durations.add(bound, number);
                    self.bucket_of = Some(place);
                }
                None => self.malformed += 1,
            },
        }
    }

    /// Of requests that reached no replica only the failures count: one that was answered well was answered by a replica.
    fn add_to_gateway(&mut self, metric: ReplicaMetric, function: Option<usize>, labels: &Labels<'a>, number: f64) {
        if let (ReplicaMetric::DurationCount, Some(function)) = (metric, function)
            && ended_badly(&self.reader.labels, labels)
        {
            self.functions[function].refused += number.max(0.0);
        }
    }

    fn function(&mut self, key: Key<'a>) -> usize {
        if self.functions.get(self.last_function).is_none_or(|row| row.key != key) {
            let functions = &mut self.functions;
            self.last_function = *self.function_index.entry(key).or_insert_with(|| {
                functions.push(FunctionRow { key, ..FunctionRow::default() });
                functions.len() - 1
            });
        }
        self.last_function
    }

    fn replica(&mut self, key: Key<'a>) -> usize {
        if self.replicas.get(self.last_replica).is_none_or(|row| row.key != key) {
            let replicas = &mut self.replicas;
            self.last_replica = *self.replica_index.entry(key).or_insert_with(|| {
                replicas.push(ReplicaRow { key, ..ReplicaRow::default() });
                replicas.len() - 1
            });
        }
        self.last_replica
    }

    fn finish(mut self, at: Timestamp) -> Reading {
        let mut reading = Reading { headroom: self.headroom(), samples: self.samples, ..Reading::default() };
        let mut scrapes: Vec<FunctionScrape> = self.functions.iter().map(|row| row.scrape(at)).collect();
        for row in &self.replicas {
            match (row.scrape(at), row.owner, path(row.key)) {
                (Some(scrape), Some(owner), _) => scrapes[owner].replicas.push(scrape),
                (Some(scrape), None, Some(path)) => reading.unowned.push((path, scrape)),
                _ => self.malformed += 1,
            }
        }
        for (row, scrape) in self.functions.iter().zip(scrapes) {
            match path(row.key) {
                Some(path) => drop(reading.functions.insert(path, scrape)),
                None => self.malformed += 1,
            }
        }
        reading.malformed = self.malformed;
        reading
    }

    fn headroom(&self) -> Option<Headroom> {
        let (cores, memory) = (self.node_cores?, self.node_memory?);
        let allocated = |each: fn(&FunctionRow) -> Option<f64>| -> f64 {
            self.functions.iter().filter_map(|row| Some(row.desired? * each(row)?)).filter(|amount| amount.is_finite()).sum()
        };
        let millicores = cores * 1000.0 - allocated(|row| row.cpu);
        let bytes = memory - allocated(|row| row.memory);
        // A float becomes the nearest whole number that fits: what is over-committed leaves nothing.
        Some(Headroom { cpu_millicores: Millicores(millicores as u32), memory_mib: Mebibytes((bytes / f64::from(1 << 20)) as u32) })
    }
}

impl FunctionRow<'_> {
    fn scrape(&self, at: Timestamp) -> FunctionScrape {
        let at = taken(self.at_ms, at);
        let ingress = self.arrived.map(|arrived| IngressReading {
            at,
            arrived: whole(arrived),
            failed: whole(self.refused),
            // No number where the queue is not shown.
            queued: self.queued.unwrap_or(f64::NAN),
        });
        FunctionScrape { platform: self.platform(at), ingress, replicas: Vec::new() }
    }

    fn platform(&self, at: Timestamp) -> Option<PlatformReading> {
        let replicas = |number: f64| Replicas(number as u32);
        Some(PlatformReading {
            at,
            allocation: Allocation {
                replicas: replicas(self.desired?),
                cpu_millicores: Millicores(self.cpu? as u32),
                memory_mib: Mebibytes::from_bytes(whole(self.memory?)),
            },
            ready: replicas(self.ready?),
            pending: replicas(self.pending.unwrap_or(0.0)),
            crashes: self.crashes.map(whole),
            oom_kills: self.oom_kills.map(whole),
            startups: self.startup_count.zip(self.startup_sum).map(|(count, seconds)| (whole(count), whole(seconds * 1000.0))),
        })
    }
}

impl ReplicaRow<'_> {
    fn scrape(&self, at: Timestamp) -> Option<Scrape> {
        let cpu = self.cpu_seconds.map(|seconds| CpuCounters {
            usage_us: whole(seconds * 1e6),
            periods: whole(self.cpu_periods.unwrap_or(0.0)),
            throttled_periods: whole(self.cpu_throttled_periods.unwrap_or(0.0)),
        });
        Some(Scrape {
            replica: std::str::from_utf8(self.key.1).ok()?.to_owned(),
            at: taken(self.at_ms, at),
            requests: self.requests(),
            in_flight: self.in_flight,
            cpu,
            working_set_bytes: self.working_set.map(whole),
            restarts: whole(self.restarts.unwrap_or(0.0)),
            oom_kills: whole(self.oom_events.unwrap_or(0.0)),
        })
    }

    /// A replica whose requests in flight are shown has a histogram from its first request on; until then it answered none.
    fn requests(&self) -> Option<RequestCounters> {
        if !self.answered {
            return self.in_flight.map(|_| RequestCounters::default());
        }
        Some(RequestCounters { completed: whole(self.completed), failed: whole(self.failed), latency: self.durations.buckets() })
    }
}

/// When a sample was taken that was asked for at `at`, and may say itself when it was taken, though not in the future.
fn taken(at_ms: Option<i64>, at: Timestamp) -> Timestamp {
    at_ms.and_then(|ms| u64::try_from(ms).ok()).map_or(at, |ms| Timestamp(ms).min(at))
}

fn ended_badly(names: &LabelNames, labels: &Labels<'_>) -> bool {
    failed(labels.get(&names.http_status), labels.get(&names.grpc_status))
}

fn seconds(bound: &[u8]) -> Option<f64> {
    std::str::from_utf8(bound).ok()?.parse().ok()
}

fn sum(slot: &mut Option<f64>, number: f64) {
    *slot = Some(slot.unwrap_or(0.0) + number);
}

/// The nearest whole number that fits.
fn whole(number: f64) -> u64 {
    number.round() as u64
}

fn path((namespace, name): Key<'_>) -> Option<String> {
    Some(format!("{}/{}", std::str::from_utf8(namespace).ok()?, std::str::from_utf8(name).ok()?))
}

#[cfg(test)]
mod tests;
