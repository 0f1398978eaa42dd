//! From samples to Scrapes. Owns which samples belong to one measurement, which of them count, and what a missing or
//! impossible value means. Every source brings its samples here; must not know how they were read.
//!
//! - An impossible value is dropped, and so is every sum that lacks it: a sum of counters without one of them looks like a reset.
//! - A container counts once: of several that have its name in the same pod, the one that started last; where that is
//!   unknown, the one with the highest number of attempts in its runtime's name, then the one that was sampled last,
//!   then the one with the larger counter of CPU time. A container that a newer one replaced does not count, even if
//!   the newer one shows fewer metrics.
//! - The sum over a pod counts only where no container of the pod shows the same metric.

mod histogram;

use std::collections::HashMap;

use qscale_common::contract::Headroom;
use qscale_common::hash::fnv1a;
use qscale_common::scrape::{
    CpuCounters, CpuPeriods, FunctionScrape, IngressReading, PlatformReading, PlatformReplicas, RequestCounters, Scrape,
};
use qscale_common::time::Timestamp;
use qscale_common::units::{Allocation, Mebibytes, Millicores, Replicas};

use self::histogram::CumulativeHistogram;
use crate::metric::{FunctionMetric, Metric, NodeMetric, ReplicaMetric};
use crate::reading::{Dropped, NodeLimits, Reading};

/// Difference between the clocks of a node and of the collector up to which a start in the future is taken as now.
const CLOCK_DIFFERENCE_MS: u64 = 60_000;
/// Difference between the times that two exporters show as the start of one container, seconds: whole or not, of its
/// cgroup or of its process.
const START_DIFFERENCE: f64 = 2.0;

/// Namespace and name, as written in the source.
pub(crate) type Key<'a> = (&'a [u8], &'a [u8]);

/// A sample as a source shows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SourceSample {
    /// The value; absent if it could not be read.
    pub(crate) number: Option<f64>,
    /// Time at which it was taken, milliseconds since 1970, if the sample has one.
    pub(crate) at_ms: Option<i64>,
}

/// A container of a pod, as written in the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Container<'a> {
    /// Name within the pod; empty for the sum over the pod.
    pub(crate) name: &'a [u8],
    /// Its cgroup.
    pub(crate) id: &'a [u8],
    /// Its name in the container runtime.
    pub(crate) runtime_name: &'a [u8],
}

/// All rows of a reading.
#[derive(Default)]
pub(crate) struct Rows<'a> {
    functions: Vec<FunctionRow<'a>>,
    function_index: HashMap<Key<'a>, usize>,
    last_function: usize,
    replicas: Vec<ReplicaRow<'a>>,
    replica_index: HashMap<Key<'a>, usize>,
    last_replica: usize,
    /// Places of the containers within their replicas.
    container_index: HashMap<(usize, Container<'a>), usize>,
    node: [Option<NodeSlot>; NodeMetric::COUNT],
    dropped: Dropped,
    pub(crate) samples: u64,
    pub(crate) malformed: u64,
}

/// Samples of one metric that were added up; NaN if one of them was dropped.
#[derive(Debug, Clone, Copy)]
struct Slot {
    number: f64,
    /// Newest time.
    at_ms: Option<i64>,
}

/// A metric of the nodes.
#[derive(Debug, Clone, Copy)]
struct NodeSlot {
    sum: f64,
    largest: f64,
}

/// Samples of one function.
#[derive(Default)]
struct FunctionRow<'a> {
    key: Key<'a>,
    slots: [Option<Slot>; FunctionMetric::COUNT],
    /// Requests that failed before they reached a replica.
    refused: f64,
    /// Fingerprint of the gateways that count arrivals.
    gateways: u64,
}

/// Samples of one replica.
#[derive(Default)]
struct ReplicaRow<'a> {
    key: Key<'a>,
    /// Place of the replica's function among the rows.
    owner: Option<usize>,
    containers: Vec<ContainerRow<'a>>,
    /// Place of the container that is expected next: samples of every metric arrive in the same order.
    expected: usize,
    /// Metrics that containers show which do not count, one bit each.
    shown_by_others: u16,
    in_flight: Option<Slot>,
    /// Whether requests were counted.
    answered: bool,
    completed: f64,
    failed: f64,
    durations: CumulativeHistogram,
    answered_at_ms: Option<i64>,
}

/// Samples of one container.
struct ContainerRow<'a> {
    container: Container<'a>,
    slots: [Option<Slot>; ReplicaMetric::COUNT],
}

const _: () = assert!(ReplicaMetric::COUNT <= u16::BITS as usize, "one bit for each metric");

impl<'a> Rows<'a> {
    /// Place of a function.
    pub(crate) fn function(&mut self, key: Key<'a>) -> usize {
        let functions = &mut self.functions;
        if functions.get(self.last_function).is_none_or(|row| row.key != key) {
            self.last_function = *self.function_index.entry(key).or_insert_with(|| {
                functions.push(FunctionRow { key, ..FunctionRow::default() });
                functions.len() - 1
            });
        }
        self.last_function
    }

    /// Place of a replica, which belongs to the function at `owner`, if that is known.
    pub(crate) fn replica(&mut self, key: Key<'a>, owner: Option<usize>) -> usize {
        let replicas = &mut self.replicas;
        if replicas.get(self.last_replica).is_none_or(|row| row.key != key) {
            self.last_replica = *self.replica_index.entry(key).or_insert_with(|| {
                replicas.push(ReplicaRow { key, ..ReplicaRow::default() });
                replicas.len() - 1
            });
        }
        let row = &mut replicas[self.last_replica];
        row.owner = row.owner.or(owner);
        self.last_replica
    }

    /// Adds a sample of a node.
    pub(crate) fn add_to_node(&mut self, metric: NodeMetric, sample: SourceSample) {
        let number = self.possible(Metric::Node(metric), sample, (b"", b"node")).number;
        let slot = self.node[metric as usize].get_or_insert(NodeSlot { sum: 0.0, largest: 0.0 });
        slot.sum += number;
        slot.largest = slot.largest.max(number);
    }

    /// Adds a sample of the function at `place`.
    pub(crate) fn add_to_function(&mut self, place: usize, metric: FunctionMetric, sample: SourceSample) {
        let key = self.functions[place].key;
        let sample = self.possible(Metric::Function(metric), sample, key);
        let mut slot = self.functions[place].slots[metric as usize];
        add(&mut slot, sample);
        // What is possible of each part may not be of their sum.
        if let Some(Slot { number, at_ms }) = slot.filter(|sum| !sum.number.is_nan()) {
            slot = Some(self.possible(Metric::Function(metric), SourceSample { number: Some(number), at_ms }, key));
        }
        self.functions[place].slots[metric as usize] = slot;
    }

    /// Notes that a gateway of this fingerprint counts arrivals of the function at `place`.
    pub(crate) fn add_gateway(&mut self, place: usize, fingerprint: u64) {
        let gateways = &mut self.functions[place].gateways;
        *gateways = gateways.wrapping_add(fingerprint);
    }

    /// Adds requests of the function at `place` that failed before they reached a replica.
    pub(crate) fn add_refused(&mut self, place: usize, sample: SourceSample) {
        let sample = self.possible(Metric::Replica(ReplicaMetric::DurationCount), sample, self.functions[place].key);
        self.functions[place].refused += sample.number;
    }

    /// Adds requests in flight at the replica at `place`.
    pub(crate) fn add_in_flight(&mut self, place: usize, sample: SourceSample) {
        let sample = self.possible(Metric::Replica(ReplicaMetric::InFlight), sample, self.replicas[place].key);
        add(&mut self.replicas[place].in_flight, sample);
    }

    /// Adds requests that the replica at `place` completed or failed.
    pub(crate) fn add_requests(&mut self, place: usize, failed: bool, sample: SourceSample) {
        let sample = self.possible(Metric::Replica(ReplicaMetric::DurationCount), sample, self.replicas[place].key);
        let row = &mut self.replicas[place];
        row.answered = true;
        row.answered_at_ms = row.answered_at_ms.max(sample.at_ms);
        *if failed { &mut row.failed } else { &mut row.completed } += sample.number;
    }

    /// Adds a cumulative bucket of the durations of requests that the replica at `place` completed.
    pub(crate) fn add_bucket(&mut self, place: usize, bound_seconds: f64, sample: SourceSample) {
        let sample = self.possible(Metric::Replica(ReplicaMetric::DurationBucket), sample, self.replicas[place].key);
        let row = &mut self.replicas[place];
        row.answered_at_ms = row.answered_at_ms.max(sample.at_ms);
        row.durations.add(bound_seconds, sample.number);
    }

    /// Adds a sample of a container of the replica at `place`.
    pub(crate) fn add_to_container(&mut self, place: usize, container: Container<'a>, metric: ReplicaMetric, sample: SourceSample) {
        let sample = self.possible(Metric::Replica(metric), sample, self.replicas[place].key);
        let ReplicaRow { containers, expected, .. } = &mut self.replicas[place];
        if containers.get(*expected).is_none_or(|row| row.container != container) {
            *expected = *self.container_index.entry((place, container)).or_insert_with(|| {
                containers.push(ContainerRow { container, slots: [None; ReplicaMetric::COUNT] });
                containers.len() - 1
            });
        }
        add(&mut containers[*expected].slots[metric as usize], sample);
        *expected = (*expected + 1) % containers.len();
    }

    /// Notes that a container which does not count shows `metric`, so that the sum over its pod does not count either.
    pub(crate) fn shown_by_other(&mut self, place: usize, metric: ReplicaMetric) {
        self.replicas[place].shown_by_others |= 1 << metric as usize;
    }

    /// The value of `sample`, NaN if it could not be read or cannot be true.
    fn possible(&mut self, metric: Metric, SourceSample { number, at_ms }: SourceSample, of: Key<'a>) -> Slot {
        const UNKNOWN: Slot = Slot { number: f64::NAN, at_ms: None };
        let Some(number) = number else { return UNKNOWN };
        match metric.check(number, at_ms) {
            Ok(()) => Slot { number, at_ms },
            Err(why) => {
                let of = || format!("{}/{}", String::from_utf8_lossy(of.0), String::from_utf8_lossy(of.1));
                self.dropped.add(metric, of, why);
                UNKNOWN
            }
        }
    }

    /// The Scrapes, where samples without a time were taken at `at`.
    pub(crate) fn into_reading(mut self, at: Timestamp) -> Reading {
        let mut reading = Reading { headroom: self.headroom(), node: self.node_limits(), ..Reading::default() };
        let mut scrapes: Vec<FunctionScrape> = self.functions.iter().map(|row| row.scrape(at)).collect();
        for row in &mut self.replicas {
            row.drop_replaced_containers();
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
        Reading {
            samples: self.samples,
            malformed: self.malformed,
            unreadable: self.malformed > self.samples,
            dropped: self.dropped,
            ..reading
        }
    }

    /// Unknown if a part of it is.
    fn headroom(&self) -> Option<Headroom> {
        let node = |metric: NodeMetric| self.node[metric as usize].map(|slot| slot.sum);
        let allocated = |metric: FunctionMetric| -> f64 {
            let raw = |row: &FunctionRow<'_>, metric: FunctionMetric| row.slots[metric as usize].map(|slot| slot.number);
            self.functions.iter().filter_map(|row| Some(raw(row, FunctionMetric::Desired)? * raw(row, metric)?)).sum()
        };
        let millicores = node(NodeMetric::Cores)? * 1000.0 - allocated(FunctionMetric::DesiredCpu);
        let bytes = node(NodeMetric::Memory)? - allocated(FunctionMetric::DesiredMemory);
        // A cast to an integer saturates: over-committed nodes have no headroom.
        let headroom =
            Headroom { cpu_millicores: Millicores(millicores as u32), memory_mib: Mebibytes((bytes / f64::from(1 << 20)) as u32) };
        (!millicores.is_nan() && !bytes.is_nan()).then_some(headroom)
    }

    fn node_limits(&self) -> NodeLimits {
        // With one node unknown, so is the largest.
        let largest = |metric: NodeMetric| self.node[metric as usize].filter(|slot| !slot.sum.is_nan()).map(|slot| slot.largest);
        NodeLimits { cores: largest(NodeMetric::Cores), memory_bytes: largest(NodeMetric::Memory) }
    }
}

impl FunctionRow<'_> {
    fn get(&self, metric: FunctionMetric) -> Option<f64> {
        self.slots[metric as usize].map(|slot| slot.number).filter(|number| !number.is_nan())
    }

    fn scrape(&self, at: Timestamp) -> FunctionScrape {
        let at = taken(self.slots.iter().flatten().filter_map(|slot| slot.at_ms).max(), at);
        let arrived = self.get(FunctionMetric::Arrived).filter(|_| !self.refused.is_nan());
        let ingress = arrived.map(|arrived| IngressReading {
            at,
            arrived: whole(arrived),
            failed: whole(self.refused),
            // NaN if the queue is not measured.
            queued: self.get(FunctionMetric::Queued).unwrap_or(f64::NAN),
            of: self.gateways,
        });
        FunctionScrape { platform: self.platform(at), ingress, ..FunctionScrape::default() }
    }

    fn platform(&self, at: Timestamp) -> Option<PlatformReading> {
        let (allocation, replicas) = (self.allocation(), self.replicas());
        let startups = self.get(FunctionMetric::StartupCount).zip(self.get(FunctionMetric::StartupSum));
        (allocation.is_some() || replicas.is_some()).then(|| PlatformReading {
            at,
            allocation,
            replicas,
            crashes: self.get(FunctionMetric::Crashes).map(whole),
            oom_kills: self.get(FunctionMetric::OomKills).map(whole),
            startups: startups.map(|(count, seconds)| (whole(count), whole(seconds * 1000.0))),
        })
    }

    fn allocation(&self) -> Option<Allocation> {
        Some(Allocation {
            replicas: Replicas(self.get(FunctionMetric::Desired)?.round() as u32),
            cpu_millicores: Millicores(self.get(FunctionMetric::DesiredCpu)?.round() as u32),
            memory_mib: Mebibytes::from_bytes(whole(self.get(FunctionMetric::DesiredMemory)?)),
        })
    }

    fn replicas(&self) -> Option<PlatformReplicas> {
        let count = |metric: FunctionMetric| self.get(metric).map(|number| Replicas(number.round() as u32));
        // Not every platform counts replicas that are starting; but a number that was dropped is not zero.
        let pending = self.slots[FunctionMetric::Pending as usize].map_or(Some(Replicas(0)), |_| count(FunctionMetric::Pending))?;
        Some(PlatformReplicas { desired: count(FunctionMetric::Desired)?, ready: count(FunctionMetric::Ready)?, pending })
    }
}

impl ContainerRow<'_> {
    fn get(&self, metric: ReplicaMetric) -> Option<f64> {
        self.slots[metric as usize].map(|slot| slot.number).filter(|number| !number.is_nan())
    }

    /// Rank among the containers of the same name: sums over pods before containers without a name, then by time of
    /// start, number of attempts, time of the newest sample, CPU time.
    fn rank(&self) -> [f64; 5] {
        let Container { name, runtime_name, .. } = self.container;
        let is_sum = f64::from(name.is_empty() && runtime_name.is_empty());
        // A runtime's name ends with the number of restarts: `k8s_user-container_pod_namespace_uid_2`.
        let attempts = runtime_name.rsplit(|byte| *byte == b'_').next().and_then(|digits| std::str::from_utf8(digits).ok());
        let attempts = attempts.and_then(|digits| digits.parse::<u32>().ok()).map(f64::from);
        let newest = self.slots.iter().flatten().filter_map(|slot| slot.at_ms).max().map(|at_ms| at_ms as f64);
        [Some(is_sum), self.get(ReplicaMetric::StartTime), attempts, newest, self.get(ReplicaMetric::CpuSeconds)]
            .map(|part| part.unwrap_or(-1.0))
    }
}

impl ReplicaRow<'_> {
    /// Sorts the containers by name, and drops those that a newer one of the same name replaced. Sums over the pod have no name and stay.
    fn drop_replaced_containers(&mut self) {
        let start = |row: &ContainerRow<'_>| row.get(ReplicaMetric::StartTime).unwrap_or(f64::NEG_INFINITY);
        // The newest one first.
        self.containers.sort_by(|one, other| one.container.name.cmp(other.container.name).then(start(other).total_cmp(&start(one))));
        let mut newest = (&b""[..], f64::NEG_INFINITY);
        self.containers.retain(|row| {
            if row.container.name != newest.0 {
                newest = (row.container.name, start(row));
            }
            row.container.name.is_empty() || row.get(ReplicaMetric::StartTime).is_none_or(|start| start >= newest.1 - START_DIFFERENCE)
        });
    }

    /// The containers of which `metric` counts: one of each name; the sum over the pod only where nothing else shows the metric.
    fn counted(&self, metric: ReplicaMetric) -> Vec<&ContainerRow<'_>> {
        let shown = || self.containers.iter().filter(|row| row.slots[metric as usize].is_some());
        let named = self.shown_by_others & 1 << metric as usize != 0 || shown().any(|row| !row.container.name.is_empty());
        let mut counted: Vec<&ContainerRow<'_>> = Vec::new();
        for row in shown().filter(|row| row.container.name.is_empty() != named) {
            match counted.last_mut().filter(|other| other.container.name == row.container.name) {
                Some(other) if row.rank() > other.rank() => *other = row,
                Some(_) => {}
                None => counted.push(row),
            }
        }
        counted
    }

    /// Sum of `metric` over the containers that count; absent if a part of it was dropped.
    fn sum(&self, metric: ReplicaMetric) -> Option<Slot> {
        let mut sum = None;
        for slot in self.counted(metric).iter().filter_map(|row| row.slots[metric as usize]) {
            add(&mut sum, slot);
        }
        sum.filter(|sum| !sum.number.is_nan())
    }

    /// Start of the oldest container that counts, if all say when they started.
    fn started(&self, at: Timestamp) -> Option<Timestamp> {
        let of_cpu = self.counted(ReplicaMetric::CpuSeconds);
        let rows = if of_cpu.is_empty() { self.counted(ReplicaMetric::StartTime) } else { of_cpu };
        let starts = rows.iter().map(|row| row.get(ReplicaMetric::StartTime));
        let oldest = starts.reduce(|one, other| Some(one?.min(other?)))??;
        let oldest = Timestamp((oldest * 1000.0) as u64);
        (oldest.0 <= at.0.saturating_add(CLOCK_DIFFERENCE_MS)).then(|| oldest.min(at))
    }

    /// The Scrapes of the replica called `name`: one for each time at which something was measured, so that every
    /// measurement keeps its age.
    fn scrapes(&self, name: &str, at: Timestamp) -> Vec<Scrape> {
        let number = |slot: Option<Slot>| slot.map(|slot| slot.number);
        let count = |metric: ReplicaMetric| self.sum(metric).map_or(0, |slot| whole(slot.number));
        let (requests, in_flight) = (self.requests(), self.in_flight.filter(|slot| !slot.number.is_nan()));
        let (cpu, memory) = (self.sum(ReplicaMetric::CpuSeconds), self.sum(ReplicaMetric::WorkingSet));
        let (restarts, oom_kills) = (count(ReplicaMetric::Restarts), count(ReplicaMetric::OomEvents));
        let requests_at = taken(self.answered_at_ms.max(in_flight.and_then(|slot| slot.at_ms)), at);
        let at_of = |slot: Option<Slot>| slot.map(|slot| taken(slot.at_ms, at));
        let times = [(requests.is_some() || in_flight.is_some()).then_some(requests_at), at_of(cpu), at_of(memory)];
        let scrape_at = |at: Timestamp| {
            let [with_requests, with_cpu, with_memory] = times.map(|time| time == Some(at));
            Scrape {
                started: self.started(at),
                requests: requests.filter(|_| with_requests),
                in_flight: number(in_flight).filter(|_| with_requests),
                cpu: cpu.filter(|_| with_cpu).map(|cpu| self.cpu(cpu.number)),
                working_set_bytes: number(memory).filter(|_| with_memory).map(whole),
                restarts,
                oom_kills,
                ..Scrape::new(name, at)
            }
        };
        if times == [None; 3] {
            return vec![scrape_at(at_of(self.sum(ReplicaMetric::Restarts)).unwrap_or(at))];
        }
        let distinct = times.into_iter().enumerate().filter(|(index, time)| !times[..*index].contains(time));
        distinct.filter_map(|(_, time)| time.map(scrape_at)).collect()
    }

    fn cpu(&self, seconds: f64) -> CpuCounters {
        let periods = self.sum(ReplicaMetric::CpuPeriods).zip(self.sum(ReplicaMetric::CpuThrottledPeriods));
        let containers = self.counted(ReplicaMetric::CpuSeconds).into_iter().map(|row| fnv1a(row.container.name.iter().copied()));
        CpuCounters {
            of: containers.fold(0, u64::wrapping_add),
            usage_us: whole(seconds * 1e6),
            periods: periods
                .map(|(runnable, throttled)| CpuPeriods { runnable: whole(runnable.number), throttled: whole(throttled.number) }),
        }
    }

    /// The requests. A replica that shows requests in flight has a histogram from its first request on; until then it has answered none.
    fn requests(&self) -> Option<RequestCounters> {
        if !self.answered {
            return self.in_flight.filter(|_| self.durations.is_empty()).map(|_| RequestCounters::default());
        }
        let latency = self.durations.buckets()?;
        let measured = !self.completed.is_nan() && !self.failed.is_nan();
        measured.then(|| RequestCounters { completed: whole(self.completed), failed: whole(self.failed), latency })
    }
}

/// The time at which a sample was taken that was requested at `at`: its own, unless that lies in the future.
fn taken(at_ms: Option<i64>, at: Timestamp) -> Timestamp {
    at_ms.and_then(|ms| u64::try_from(ms).ok()).map_or(at, |ms| Timestamp(ms).min(at))
}

fn add(slot: &mut Option<Slot>, sample: Slot) {
    let slot = slot.get_or_insert(Slot { number: 0.0, at_ms: None });
    slot.number += sample.number;
    slot.at_ms = slot.at_ms.max(sample.at_ms);
}

/// The nearest integer that fits.
fn whole(number: f64) -> u64 {
    number.round() as u64
}

fn path((namespace, name): Key<'_>) -> Option<String> {
    Some(format!("{}/{}", std::str::from_utf8(namespace).ok()?, std::str::from_utf8(name).ok()?))
}
