//! From rows to Scrapes: cleans the sums of samples into measurements with units and times. Owns which values belong to one measurement, and what a
//! missing or odd value means.

use qscale_common::contract::Headroom;
use qscale_common::scrape::{CpuCounters, FunctionScrape, IngressReading, PlatformReading, RequestCounters, Scrape};
use qscale_common::time::Timestamp;
use qscale_common::units::{Allocation, Mebibytes, Millicores, Replicas};

use super::histogram::Histogram;
use super::metrics::{FunctionMetric, NodeMetric, ReplicaMetric};
use crate::reading::Reading;

/// Namespace and name, as written in the body.
pub(super) type Key<'a> = (&'a [u8], &'a [u8]);

/// All rows of an exposition.
#[derive(Default)]
pub(super) struct Rows<'a> {
    pub(super) functions: Vec<FunctionRow<'a>>,
    pub(super) replicas: Vec<ReplicaRow<'a>>,
    pub(super) node: NodeRow,
    pub(super) samples: u64,
    pub(super) malformed: u64,
}

/// Sums of the samples of the nodes.
#[derive(Default)]
pub(super) struct NodeRow([Option<f64>; NodeMetric::COUNT]);

/// Sums of the samples of one function.
#[derive(Default)]
pub(super) struct FunctionRow<'a> {
    pub(super) key: Key<'a>,
    values: [Option<f64>; FunctionMetric::COUNT],
    /// Requests that failed before they reached a replica.
    pub(super) refused: f64,
    at_ms: Option<i64>,
}

/// Sums of the samples of one replica.
#[derive(Default)]
pub(super) struct ReplicaRow<'a> {
    pub(super) key: Key<'a>,
    /// Place of the replica's function among the rows.
    pub(super) owner: Option<usize>,
    values: [Option<f64>; ReplicaMetric::COUNT],
    /// Whether requests were counted.
    answered: bool,
    completed: f64,
    failed: f64,
    durations: Histogram,
    /// Time of the newest sample of each measurement, where samples carry one.
    at_ms: [Option<i64>; Measurement::COUNT],
}

/// The measurements of a replica that are taken together, and may be taken at different times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Measurement {
    Requests,
    Cpu,
    Memory,
    Restarts,
}

impl Measurement {
    const COUNT: usize = 4;

    fn of(metric: ReplicaMetric) -> Self {
        match metric {
            ReplicaMetric::InFlight | ReplicaMetric::DurationBucket | ReplicaMetric::DurationCount => Self::Requests,
            ReplicaMetric::CpuSeconds | ReplicaMetric::CpuPeriods | ReplicaMetric::CpuThrottledPeriods => Self::Cpu,
            ReplicaMetric::WorkingSet => Self::Memory,
            ReplicaMetric::OomEvents | ReplicaMetric::Restarts => Self::Restarts,
        }
    }
}

impl NodeRow {
    pub(super) fn add(&mut self, metric: NodeMetric, number: f64) {
        add(&mut self.0[metric as usize], number);
    }
}

impl Rows<'_> {
    /// The Scrapes, where samples without a timestamp were taken at `at`.
    pub(super) fn into_reading(mut self, at: Timestamp) -> Reading {
        let mut reading = Reading { headroom: self.headroom(), samples: self.samples, ..Reading::default() };
        let mut scrapes: Vec<FunctionScrape> = self.functions.iter().map(|row| row.scrape(at)).collect();
        for row in &self.replicas {
            match (std::str::from_utf8(row.key.1), row.owner, path(row.key)) {
                (Ok(name), Some(owner), _) => scrapes[owner].replicas.extend(row.scrapes(name, at)),
                (Ok(name), None, Some(path)) => {
                    reading.unowned.extend(row.scrapes(name, at).into_iter().map(|scrape| (path.clone(), scrape)));
                }
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
        let node = |metric: NodeMetric| self.node.0[metric as usize];
        let allocated = |metric: FunctionMetric| -> f64 {
            let amounts = self.functions.iter().filter_map(|row| Some(row.get(FunctionMetric::Desired)? * row.get(metric)?));
            amounts.filter(|amount| amount.is_finite()).sum()
        };
        let millicores = node(NodeMetric::Cores)? * 1000.0 - allocated(FunctionMetric::DesiredCpu);
        let bytes = node(NodeMetric::Memory)? - allocated(FunctionMetric::DesiredMemory);
        // A cast to an integer saturates: over-committed nodes have no headroom.
        Some(Headroom { cpu_millicores: Millicores(millicores as u32), memory_mib: Mebibytes((bytes / f64::from(1 << 20)) as u32) })
    }
}

impl<'a> FunctionRow<'a> {
    pub(super) fn new(key: Key<'a>) -> Self {
        Self { key, ..Self::default() }
    }

    pub(super) fn add(&mut self, metric: FunctionMetric, number: f64, at_ms: Option<i64>) {
        self.at_ms = self.at_ms.max(at_ms);
        add(&mut self.values[metric as usize], number);
    }

    fn get(&self, metric: FunctionMetric) -> Option<f64> {
        self.values[metric as usize]
    }

    fn scrape(&self, at: Timestamp) -> FunctionScrape {
        let at = taken(self.at_ms, at);
        let ingress = self.get(FunctionMetric::Arrived).map(|arrived| IngressReading {
            at,
            arrived: whole(arrived),
            failed: whole(self.refused),
            // NaN if the queue is not measured.
            queued: self.get(FunctionMetric::Queued).unwrap_or(f64::NAN),
        });
        FunctionScrape { platform: self.platform(at), ingress, replicas: Vec::new() }
    }

    fn platform(&self, at: Timestamp) -> Option<PlatformReading> {
        let replicas = |number: f64| Replicas(number as u32);
        let startups = self.get(FunctionMetric::StartupCount).zip(self.get(FunctionMetric::StartupSum));
        Some(PlatformReading {
            at,
            allocation: Allocation {
                replicas: replicas(self.get(FunctionMetric::Desired)?),
                cpu_millicores: Millicores(self.get(FunctionMetric::DesiredCpu)? as u32),
                memory_mib: Mebibytes::from_bytes(whole(self.get(FunctionMetric::DesiredMemory)?)),
            },
            ready: replicas(self.get(FunctionMetric::Ready)?),
            pending: replicas(self.get(FunctionMetric::Pending).unwrap_or(0.0)),
            crashes: self.get(FunctionMetric::Crashes).map(whole),
            oom_kills: self.get(FunctionMetric::OomKills).map(whole),
            startups: startups.map(|(count, seconds)| (whole(count), whole(seconds * 1000.0))),
        })
    }
}

impl<'a> ReplicaRow<'a> {
    pub(super) fn new(key: Key<'a>) -> Self {
        Self { key, ..Self::default() }
    }

    pub(super) fn add(&mut self, metric: ReplicaMetric, number: f64, at_ms: Option<i64>) {
        self.seen(metric, at_ms);
        add(&mut self.values[metric as usize], number);
    }

    /// Adds requests that completed or failed.
    pub(super) fn add_requests(&mut self, count: f64, failed: bool, at_ms: Option<i64>) {
        self.seen(ReplicaMetric::DurationCount, at_ms);
        self.answered = true;
        *if failed { &mut self.failed } else { &mut self.completed } += count.max(0.0);
    }

    /// Adds a cumulative bucket of the durations of completed requests.
    pub(super) fn add_bucket(&mut self, bound_seconds: f64, count: f64, at_ms: Option<i64>) {
        self.seen(ReplicaMetric::DurationBucket, at_ms);
        self.durations.add(bound_seconds, count);
    }

    fn seen(&mut self, metric: ReplicaMetric, at_ms: Option<i64>) {
        let newest = &mut self.at_ms[Measurement::of(metric) as usize];
        *newest = (*newest).max(at_ms);
    }

    fn get(&self, metric: ReplicaMetric) -> Option<f64> {
        self.values[metric as usize]
    }

    /// The Scrapes of the replica called `name`: one for each time at which something was measured, so that every measurement keeps its age.
    fn scrapes(&self, name: &str, at: Timestamp) -> Vec<Scrape> {
        let at = |measurement: Measurement| taken(self.at_ms[measurement as usize], at);
        let (requests, cpu, memory) = (self.requests(), self.cpu(), self.get(ReplicaMetric::WorkingSet));
        let times =
            [requests.map(|_| at(Measurement::Requests)), cpu.map(|_| at(Measurement::Cpu)), memory.map(|_| at(Measurement::Memory))];
        let scrape_at = |at: Timestamp| {
            let [with_requests, with_cpu, with_memory] = times.map(|time| time == Some(at));
            Scrape {
                requests: requests.filter(|_| with_requests),
                in_flight: self.get(ReplicaMetric::InFlight).filter(|_| with_requests),
                cpu: cpu.filter(|_| with_cpu),
                working_set_bytes: memory.filter(|_| with_memory).map(whole),
                restarts: self.get(ReplicaMetric::Restarts).map_or(0, whole),
                oom_kills: self.get(ReplicaMetric::OomEvents).map_or(0, whole),
                ..Scrape::new(name, at)
            }
        };
        if times == [None; 3] {
            return vec![scrape_at(at(Measurement::Restarts))];
        }
        let distinct = times.into_iter().enumerate().filter(|(index, time)| !times[..*index].contains(time));
        distinct.filter_map(|(_, time)| time.map(scrape_at)).collect()
    }

    fn cpu(&self) -> Option<CpuCounters> {
        let periods = |metric: ReplicaMetric| self.get(metric).map_or(0, whole);
        self.get(ReplicaMetric::CpuSeconds).map(|seconds| CpuCounters {
            usage_us: whole(seconds * 1e6),
            periods: periods(ReplicaMetric::CpuPeriods),
            throttled_periods: periods(ReplicaMetric::CpuThrottledPeriods),
        })
    }

    /// The requests. A replica that shows requests in flight has a histogram from its first request on; until then it has answered none.
    fn requests(&self) -> Option<RequestCounters> {
        if !self.answered {
            return self.get(ReplicaMetric::InFlight).map(|_| RequestCounters::default());
        }
        Some(RequestCounters { completed: whole(self.completed), failed: whole(self.failed), latency: self.durations.buckets() })
    }
}

/// The time at which a sample was taken that was requested at `at`: its own timestamp, unless that lies in the future.
fn taken(at_ms: Option<i64>, at: Timestamp) -> Timestamp {
    at_ms.and_then(|ms| u64::try_from(ms).ok()).map_or(at, |ms| Timestamp(ms).min(at))
}

fn add(slot: &mut Option<f64>, number: f64) {
    *slot = Some(slot.unwrap_or(0.0) + number);
}

/// The nearest integer that fits.
fn whole(number: f64) -> u64 {
    number.round() as u64
}

fn path((namespace, name): Key<'_>) -> Option<String> {
    Some(format!("{}/{}", std::str::from_utf8(namespace).ok()?, std::str::from_utf8(name).ok()?))
}
