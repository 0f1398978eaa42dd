//! From samples to Scrapes. Owns which samples belong to one measurement, which of them count, and what a missing or
//! impossible value means. Every source brings its samples here; must not know how they were read.
//!
//! - An impossible value is dropped, and so is every sum that lacks it: a sum of counters without one of them looks like a reset.
//!   A line whose labels do not identify its series makes the metric unknown for every series it could belong to.
//! - A container counts once: of several that have its name in the same pod, the one that started last; where that is
//!   unknown, the one with the highest number of attempts in its runtime's name, then the one that was sampled last,
//!   then the one with the larger counter of CPU time. A container that a newer one replaced does not count, even if
//!   the newer one shows fewer metrics.
//! - The sum over a pod counts only where no container of the pod shows the same metric. A container without memory does
//!   not run, and shows none.
//! - Counters of containers and of gateways stay apart, because each of them is reset for itself.
//! - A gauge that is much older than another part of its sum does not count: its container or series is mostly gone, and a sum has one age.

mod histogram;
mod replica;

use std::collections::HashMap;

use qscale_common::contract::Headroom;
use qscale_common::scrape::{Count, FunctionScrape, IngressReading, Parts, PlatformReading, PlatformReplicas};
use qscale_common::time::Timestamp;
use qscale_common::units::{Allocation, Mebibytes, Millicores, Replicas};

use self::replica::{ContainerRow, ReplicaRow};
use crate::metric::{FunctionMetric, Impossible, Metric, NodeMetric, ReplicaMetric};
use crate::reading::{Dropped, NodeLimits, Reading};

/// Namespace and name, as written in the source.
pub(crate) type WorkloadKey<'a> = (&'a [u8], &'a [u8]);

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
    /// Time at which samples without a time were taken.
    at: Timestamp,
    /// Metrics of replicas with a line that names no replica, one bit each.
    incomplete: u16,
    /// Metrics of functions with a line that names no function, one bit each.
    incomplete_of_functions: u16,
    functions: Vec<FunctionRow<'a>>,
    function_index: HashMap<WorkloadKey<'a>, usize>,
    last_function: usize,
    replicas: Vec<ReplicaRow<'a>>,
    replica_index: HashMap<WorkloadKey<'a>, usize>,
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
    at: Timestamp,
    /// Newest time that a sample has itself.
    own_at: Option<Timestamp>,
}

/// Milliseconds by which a part of a sum of gauges may be older than its newest one. Prometheus and cAdvisor show what is gone for minutes.
const OLDEST_PART_MS: u64 = 60_000;

/// A counter of which nothing is known but that it exists.
const UNKNOWN: Slot = Slot { number: f64::NAN, at: Timestamp(0), own_at: None };

/// A metric of the nodes.
#[derive(Debug, Clone, Copy)]
struct NodeSlot {
    sum: f64,
    largest: f64,
}

/// Samples of one function.
#[derive(Default)]
struct FunctionRow<'a> {
    key: WorkloadKey<'a>,
    slots: [Option<Slot>; FunctionMetric::COUNT],
    /// Requests queued, of which the slot has the sum whatever their age.
    queued: Vec<Slot>,
    /// Requests that arrived, with the fingerprint of the gateway that counted them.
    arrived: Vec<(u64, Slot)>,
    /// Requests that failed before they reached a replica.
    refused: Vec<(u64, Slot)>,
}

const _: () = assert!(ReplicaMetric::COUNT <= u16::BITS as usize, "one bit for each metric");
const _: () = assert!(FunctionMetric::COUNT <= u16::BITS as usize, "one bit for each metric");

impl<'a> Rows<'a> {
    /// No rows. Samples without a time were taken at `at`.
    pub(crate) fn new(at: Timestamp) -> Self {
        Self { at, ..Self::default() }
    }

    /// Time of a sample: its own, unless that lies in the future.
    pub(crate) fn taken(&self, at_ms: Option<i64>) -> Timestamp {
        at_ms.and_then(|ms| u64::try_from(ms).ok()).map_or(self.at, |ms| Timestamp(ms).min(self.at))
    }

    /// Place of a function.
    pub(crate) fn function(&mut self, key: WorkloadKey<'a>) -> usize {
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
    pub(crate) fn replica(&mut self, key: WorkloadKey<'a>, owner: Option<usize>) -> usize {
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
        if metric == FunctionMetric::Queued {
            self.functions[place].queued.push(sample);
        }
        let mut slot = self.functions[place].slots[metric as usize];
        add(&mut slot, sample);
        // What is possible of each part may not be of their sum.
        if let Some(sum) = slot.as_mut().filter(|sum| !sum.number.is_nan()) {
            let possible = self.possible(Metric::Function(metric), SourceSample { number: Some(sum.number), at_ms: None }, key);
            sum.number = possible.number;
        }
        self.functions[place].slots[metric as usize] = slot;
    }

    /// Adds requests that arrived for the function at `place` at the gateway of this fingerprint.
    pub(crate) fn add_arrived(&mut self, place: usize, gateway: u64, sample: SourceSample) {
        let sample = self.possible(Metric::Function(FunctionMetric::Arrived), sample, self.functions[place].key);
        self.functions[place].arrived.push((gateway, sample));
    }

    /// Adds requests of the function at `place` that failed at the gateway of this fingerprint, before they reached a replica.
    pub(crate) fn add_refused(&mut self, place: usize, gateway: u64, sample: SourceSample) {
        let sample = self.possible(Metric::Replica(ReplicaMetric::DurationCount), sample, self.functions[place].key);
        self.functions[place].refused.push((gateway, sample));
    }

    /// Adds requests in flight at the replica at `place`.
    pub(crate) fn add_in_flight(&mut self, place: usize, sample: SourceSample) {
        let sample = self.possible(Metric::Replica(ReplicaMetric::InFlight), sample, self.replicas[place].key);
        self.replicas[place].in_flight.push(sample);
    }

    /// Adds requests that the replica at `place` completed or failed.
    pub(crate) fn add_requests(&mut self, place: usize, failed: bool, sample: SourceSample) {
        let sample = self.possible(Metric::Replica(ReplicaMetric::DurationCount), sample, self.replicas[place].key);
        let row = &mut self.replicas[place];
        row.answered_at = row.answered_at.max(Some(sample.at));
        row.counted.get_or_insert_default().add(failed, sample.number);
    }

    /// Adds a cumulative bucket of the durations of requests that the replica at `place` completed or failed. Of failed ones only the number counts.
    pub(crate) fn add_bucket(&mut self, place: usize, failed: bool, bound_seconds: f64, sample: SourceSample) {
        let sample = self.possible(Metric::Replica(ReplicaMetric::DurationBucket), sample, self.replicas[place].key);
        let row = &mut self.replicas[place];
        row.answered_at = row.answered_at.max(Some(sample.at));
        if bound_seconds == f64::INFINITY {
            row.unbounded.get_or_insert_default().add(failed, sample.number);
        }
        if !failed {
            row.durations.add(bound_seconds, sample.number);
        }
    }

    /// Adds a sample of a container of the replica at `place`.
    pub(crate) fn add_to_container(&mut self, place: usize, container: Container<'a>, metric: ReplicaMetric, sample: SourceSample) {
        // A container without memory is not an error: it does not run.
        let idle = metric == ReplicaMetric::WorkingSet && sample.number == Some(0.0);
        let at = self.taken(sample.at_ms);
        let sample = if idle {
            Slot { number: 0.0, at, own_at: sample.at_ms.map(|_| at) }
        } else {
            self.possible(Metric::Replica(metric), sample, self.replicas[place].key)
        };
        let slot = &mut self.container(place, container).slots[metric as usize];
        match slot {
            // One container has one start; sources show it to different precision.
            Some(start) if metric == ReplicaMetric::StartTime => start.number = start.number.max(sample.number),
            _ => add(slot, sample),
        }
    }

    /// Adds CPU time of a container of the replica at `place`: that of all processors, or a part of it, which does not count beside the former.
    pub(crate) fn add_cpu(&mut self, place: usize, container: Container<'a>, all_processors: bool, sample: SourceSample) {
        let sample = self.possible(Metric::Replica(ReplicaMetric::CpuSeconds), sample, self.replicas[place].key);
        let row = self.container(place, container);
        let slot = &mut row.slots[ReplicaMetric::CpuSeconds as usize];
        if all_processors && !row.all_processors {
            (row.all_processors, *slot) = (true, None);
        }
        if all_processors == row.all_processors {
            add(slot, sample);
        }
    }

    fn container(&mut self, place: usize, container: Container<'a>) -> &mut ContainerRow<'a> {
        let ReplicaRow { containers, expected, .. } = &mut self.replicas[place];
        if containers.get(*expected).is_none_or(|row| row.container != container) {
            *expected = *self.container_index.entry((place, container)).or_insert_with(|| {
                containers.push(ContainerRow { container, slots: [None; ReplicaMetric::COUNT], all_processors: false });
                containers.len() - 1
            });
        }
        let index = *expected;
        *expected = (index + 1) % containers.len();
        &mut containers[index]
    }

    /// Notes a line of `metric` that does not say of which replica it is, or of which container of the replica at `place`.
    pub(crate) fn lacks(&mut self, place: Option<usize>, metric: ReplicaMetric) {
        *place.map_or(&mut self.incomplete, |place| &mut self.replicas[place].incomplete) |= bit(metric);
    }

    /// Notes a line of `metric` that does not say of which function it is.
    pub(crate) fn lacks_of_functions(&mut self, metric: FunctionMetric) {
        self.incomplete_of_functions |= 1 << metric as usize;
    }

    /// Notes that a container which does not count shows `metric`, so that the sum over its pod does not count either.
    pub(crate) fn shown_by_other(&mut self, place: usize, metric: ReplicaMetric) {
        self.replicas[place].shown_by_others |= bit(metric);
    }

    /// The value of `sample`, NaN if it could not be read or cannot be true.
    fn possible(&mut self, metric: Metric, SourceSample { number, at_ms }: SourceSample, of: WorkloadKey<'a>) -> Slot {
        let Some(number) = number else { return UNKNOWN };
        match metric.check(number, at_ms) {
            Ok(()) => {
                let at = self.taken(at_ms);
                Slot { number, at, own_at: at_ms.map(|_| at) }
            }
            Err(why) => {
                self.dropped.add(metric, || text(of), why);
                UNKNOWN
            }
        }
    }

    /// The Scrapes.
    pub(crate) fn into_reading(mut self) -> Reading {
        let at = self.at;
        for (index, row) in self.functions.iter_mut().flat_map(|row| row.slots.iter_mut().enumerate()) {
            if self.incomplete_of_functions & 1 << index != 0 {
                *row = Some(UNKNOWN);
            }
        }
        let mut reading = Reading { headroom: self.headroom(), node: self.node_limits(), ..Reading::default() };
        let refusals_known = self.incomplete & bit(ReplicaMetric::DurationCount) == 0;
        let mut scrapes: Vec<FunctionScrape> = self.functions.iter().map(|row| row.scrape(refusals_known)).collect();
        for row in &mut self.replicas {
            row.incomplete |= self.incomplete;
            row.drop_replaced_containers();
            if row.shows_no_memory() {
                let metric = Metric::Replica(ReplicaMetric::WorkingSet);
                self.dropped.add(metric, || text(row.key), Impossible::Value { number: 0.0, range: metric.range() });
            }
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

    /// Unknown if a part of it is, such as the size of a function that has replicas.
    fn headroom(&self) -> Option<Headroom> {
        let node = |metric: NodeMetric| self.node[metric as usize].map(|slot| slot.sum);
        let allocated = |metric: FunctionMetric| -> f64 {
            let raw = |row: &FunctionRow<'_>, metric: FunctionMetric| row.slots[metric as usize].map(|slot| slot.number);
            let of_one = |row| match raw(row, FunctionMetric::Desired)? {
                0.0 => None,
                desired => Some(desired * raw(row, metric).unwrap_or(f64::NAN)),
            };
            self.functions.iter().filter_map(of_one).sum()
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

    fn scrape(&self, refusals_known: bool) -> FunctionScrape {
        let complete = self.slots[FunctionMetric::Arrived as usize].is_none() && refusals_known;
        let arrived = self.arrived.iter().map(|(_, slot)| slot.at).max().filter(|_| complete);
        let ingress = arrived.and_then(|at| {
            Some(IngressReading {
                at,
                arrived: by_gateway(&self.arrived)?,
                failed: by_gateway(&self.refused)?,
                // NaN if the queue is not measured.
                queued: self.get(FunctionMetric::Queued).and_then(|_| Some(sum_of_current(&self.queued)?.number)).unwrap_or(f64::NAN),
            })
        });
        FunctionScrape { platform: self.platform(), ingress, ..FunctionScrape::default() }
    }

    /// The platform's part, as old as the oldest of the numbers of replicas. Limits change rarely, and may be read less often.
    fn platform(&self) -> Option<PlatformReading> {
        let (allocation, replicas) = (self.allocation(), self.replicas());
        let startups = self.get(FunctionMetric::StartupCount).zip(self.get(FunctionMetric::StartupSum));
        let numbers = [FunctionMetric::Desired, FunctionMetric::Ready, FunctionMetric::Pending];
        let known = |metric: FunctionMetric| self.slots[metric as usize].filter(|slot| !slot.number.is_nan());
        let at = numbers.into_iter().filter_map(|metric| Some(known(metric)?.at)).min()?;
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
            replicas: Replicas(self.get(FunctionMetric::Desired)? as u32),
            cpu_millicores: Millicores(self.get(FunctionMetric::DesiredCpu)?.round() as u32),
            memory_mib: Mebibytes::from_bytes(whole(self.get(FunctionMetric::DesiredMemory)?)),
        })
    }

    fn replicas(&self) -> Option<PlatformReplicas> {
        let count = |metric: FunctionMetric| self.get(metric).map(|number| Replicas(number as u32));
        // Not every platform counts replicas that are starting; but a number that was dropped is not zero.
        let pending = self.slots[FunctionMetric::Pending as usize].map_or(Some(Replicas(0)), |_| count(FunctionMetric::Pending))?;
        Some(PlatformReplicas { desired: count(FunctionMetric::Desired)?, ready: count(FunctionMetric::Ready)?, pending })
    }
}

fn add(slot: &mut Option<Slot>, sample: Slot) {
    let Slot { number, at, own_at } = slot.get_or_insert(Slot { number: 0.0, ..UNKNOWN });
    *number += sample.number;
    (*at, *own_at) = ((*at).max(sample.at), (*own_at).max(sample.own_at));
}

/// Sum of the gauges that are not much older than the newest one; `None` if there is none, or a part of them was dropped.
fn sum_of_current(parts: &[Slot]) -> Option<Slot> {
    let newest = parts.iter().map(|part| part.at).max()?;
    let current = |part: &&Slot| part.number.is_nan() || newest.0 - part.at.0 <= OLDEST_PART_MS;
    let mut sum = None;
    parts.iter().filter(current).for_each(|part| add(&mut sum, *part));
    sum.filter(|sum| !sum.number.is_nan())
}

fn bit(metric: ReplicaMetric) -> u16 {
    1 << metric as usize
}

/// Requests by gateway; `None` if a part of them was dropped.
fn by_gateway(samples: &[(u64, Slot)]) -> Option<Parts<Count>> {
    let mut samples = samples.to_vec();
    samples.sort_by_key(|(gateway, _)| *gateway);
    let of_one = |samples: &[(u64, Slot)]| {
        let sum: f64 = samples.iter().map(|(_, slot)| slot.number).sum();
        (!sum.is_nan()).then(|| Count { of: samples[0].0, value: whole(sum) })
    };
    samples.chunk_by(|(one, _), (other, _)| one == other).map(of_one).collect()
}

/// The nearest integer that fits.
fn whole(number: f64) -> u64 {
    number.round() as u64
}

/// The name for a reader, whatever bytes it has.
fn text((namespace, name): WorkloadKey<'_>) -> String {
    format!("{}/{}", String::from_utf8_lossy(namespace), String::from_utf8_lossy(name))
}

fn path((namespace, name): WorkloadKey<'_>) -> Option<String> {
    Some(format!("{}/{}", std::str::from_utf8(namespace).ok()?, std::str::from_utf8(name).ok()?))
}
