//! Samples of a replica and of its containers. Owns which containers count, and what their samples say together; must not know of functions.

use qscale_common::hash::fnv1a;
use qscale_common::scrape::{Count, CpuCounters, CpuPeriods, Parts, RequestCounters, START_DIFFERENCE_MS, Scrape};
use qscale_common::time::Timestamp;

use super::histogram::CumulativeHistogram;
use super::{Container, Slot, WorkloadKey, bit, sum_of_current, whole};
use crate::metric::ReplicaMetric;

/// Difference between the clocks of a node and of the collector up to which a start in the future is taken as now.
const CLOCK_DIFFERENCE_MS: u64 = 60_000;

/// Samples of one replica.
#[derive(Default)]
pub(super) struct ReplicaRow<'a> {
    pub(super) key: WorkloadKey<'a>,
    /// Place of the replica's function among the rows.
    pub(super) owner: Option<usize>,
    pub(super) containers: Vec<ContainerRow<'a>>,
    /// Place of the container that is expected next: samples of every metric arrive in the same order.
    pub(super) expected: usize,
    /// Metrics that containers show which do not count, one bit each.
    pub(super) shown_by_others: u16,
    /// Metrics of which a line does not say whose it is, one bit each.
    pub(super) incomplete: u16,
    pub(super) in_flight: Vec<Slot>,
    /// Requests that were counted.
    pub(super) counted: Option<Answered>,
    /// Requests in the buckets without a bound, which count where nothing else does.
    pub(super) unbounded: Option<Answered>,
    pub(super) durations: CumulativeHistogram,
    pub(super) answered_at: Option<Timestamp>,
}

/// Requests that a replica answered; NaN if a part of them was dropped.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Answered {
    pub(super) completed: f64,
    pub(super) failed: f64,
}

impl Answered {
    pub(super) fn add(&mut self, failed: bool, number: f64) {
        *if failed { &mut self.failed } else { &mut self.completed } += number;
    }
}

/// Samples of one container.
pub(super) struct ContainerRow<'a> {
    pub(super) container: Container<'a>,
    pub(super) slots: [Option<Slot>; ReplicaMetric::COUNT],
    /// Whether its CPU time is that of all processors, not the sum over some of them.
    pub(super) all_processors: bool,
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
        let newest = self.slots.iter().flatten().filter_map(|slot| slot.own_at).max().map(|at| at.0 as f64);
        [Some(is_sum), self.get(ReplicaMetric::StartTime), attempts, newest, self.get(ReplicaMetric::CpuSeconds)]
            .map(|part| part.unwrap_or(-1.0))
    }

    /// Its start, if a clock that is read at `at` can show it.
    fn started(&self, at: Timestamp) -> Option<Timestamp> {
        let started = Timestamp((self.get(ReplicaMetric::StartTime)? * 1000.0) as u64);
        (started.0 <= at.0.saturating_add(CLOCK_DIFFERENCE_MS)).then_some(started)
    }

    fn fingerprint(&self) -> u64 {
        fnv1a(self.container.name.iter().copied())
    }
}

impl ReplicaRow<'_> {
    /// Sorts the containers by name, and drops those that a newer one of the same name replaced. Sums over the pod have no name and stay.
    pub(super) fn drop_replaced_containers(&mut self) {
        let start = |row: &ContainerRow<'_>| row.get(ReplicaMetric::StartTime).unwrap_or(f64::NEG_INFINITY);
        // The newest one first.
        self.containers.sort_by(|one, other| one.container.name.cmp(other.container.name).then(start(other).total_cmp(&start(one))));
        let difference = START_DIFFERENCE_MS as f64 / 1e3;
        let mut newest = (&b""[..], f64::NEG_INFINITY);
        self.containers.retain(|row| {
            if row.container.name != newest.0 {
                newest = (row.container.name, start(row));
            }
            row.container.name.is_empty() || row.get(ReplicaMetric::StartTime).is_none_or(|start| start >= newest.1 - difference)
        });
    }

    /// The containers of which `metric` counts: one of each name, in the order of the names; the sum over the pod only where nothing else shows the metric.
    fn counted(&self, metric: ReplicaMetric) -> Vec<&ContainerRow<'_>> {
        let mut counted: Vec<&ContainerRow<'_>> = Vec::new();
        for row in self.containers.iter().filter(|row| row.slots[metric as usize].is_some()) {
            match counted.last_mut().filter(|other| other.container.name == row.container.name) {
                Some(other) if row.rank() > other.rank() => *other = row,
                Some(_) => {}
                None => counted.push(row),
            }
        }
        let is_memory = metric == ReplicaMetric::WorkingSet;
        counted.retain(|row| !is_memory || row.get(metric) != Some(0.0));
        let shows = |row: &&ContainerRow<'_>| !row.container.name.is_empty() && (!is_memory || row.get(metric).is_some());
        let named = self.shown_by_others & bit(metric) != 0 || counted.iter().any(shows);
        counted.retain(|row| row.container.name.is_empty() != named);
        counted
    }

    /// The same with their values; `None` if one of them was dropped.
    fn complete(&self, metric: ReplicaMetric) -> Option<Vec<(&ContainerRow<'_>, Slot)>> {
        let counted = self.counted(metric).into_iter().filter_map(|row| Some((row, row.slots[metric as usize]?)));
        let known = |(row, slot): (_, Slot)| (!slot.number.is_nan()).then_some((row, slot));
        counted.map(known).collect::<Option<Vec<_>>>().filter(|_| self.incomplete & bit(metric) == 0)
    }

    /// Counters of `metric` of the containers that count; absent if there is none, or one was dropped.
    fn counts(&self, metric: ReplicaMetric) -> Option<Parts<Count>> {
        let counted = self.complete(metric).filter(|counted| !counted.is_empty())?;
        Some(ordered(counted.into_iter().map(|(row, slot)| Count { of: row.fingerprint(), value: whole(slot.number) }), |count| count.of))
    }

    /// Working set of the containers that count; absent if a part of it was dropped.
    fn working_set(&self) -> Option<Slot> {
        let parts: Vec<Slot> = self.complete(ReplicaMetric::WorkingSet)?.into_iter().map(|(_, slot)| slot).collect();
        sum_of_current(&parts)
    }

    /// Whether its containers show a working set of zero, and nothing else does.
    pub(super) fn shows_no_memory(&self) -> bool {
        let zero = |row: &ContainerRow<'_>| row.get(ReplicaMetric::WorkingSet) == Some(0.0);
        self.counted(ReplicaMetric::WorkingSet).is_empty() && self.containers.iter().any(zero)
    }

    /// Start of the oldest and of the newest container that counts, if all say when they started.
    fn started(&self, at: Timestamp) -> [Option<Timestamp>; 2] {
        let of_cpu = self.counted(ReplicaMetric::CpuSeconds);
        let rows = if of_cpu.is_empty() { self.counted(ReplicaMetric::StartTime) } else { of_cpu };
        let known = self.incomplete & bit(ReplicaMetric::StartTime) == 0;
        let starts: Option<Vec<Timestamp>> = rows.iter().map(|row| row.started(at).filter(|_| known)).collect();
        let starts = starts.unwrap_or_default();
        [starts.iter().min(), starts.iter().max()].map(|start| start.map(|start| *start.min(&at)))
    }

    /// The Scrapes of the replica called `name`: one for each time at which something was measured, so that every
    /// measurement keeps its age.
    pub(super) fn scrapes(&self, name: &str, at: Timestamp) -> Vec<Scrape> {
        let in_flight = sum_of_current(&self.in_flight).filter(|_| self.incomplete & bit(ReplicaMetric::InFlight) == 0);
        let (requests, cpu, memory) = (self.requests(in_flight.is_some()), self.cpu(at), self.working_set());
        let requests_at = self.answered_at.max(in_flight.map(|slot| slot.at)).unwrap_or(at);
        let times = [
            (requests.is_some() || in_flight.is_some()).then_some(requests_at),
            cpu.as_ref().map(|(at, _)| *at),
            memory.map(|slot| slot.at),
        ];
        let (restarts, oom_kills) = (self.counts(ReplicaMetric::Restarts), self.counts(ReplicaMetric::OomEvents));
        let scrape_at = |at: Timestamp| {
            let [with_requests, with_cpu, with_memory] = times.map(|time| time == Some(at));
            let [started, last_started] = self.started(at);
            Scrape {
                started,
                last_started,
                requests: requests.filter(|_| with_requests),
                in_flight: in_flight.filter(|_| with_requests).map(|slot| slot.number),
                cpu: cpu.as_ref().filter(|_| with_cpu).map(|(_, cpu)| cpu.clone()),
                working_set_bytes: memory.filter(|_| with_memory).map(|slot| whole(slot.number)),
                restarts: restarts.clone(),
                oom_kills: oom_kills.clone(),
                ..Scrape::new(name, at)
            }
        };
        if times == [None; 3] {
            let restarts_at = self.complete(ReplicaMetric::Restarts).and_then(|counted| counted.iter().map(|(_, slot)| slot.at).max());
            return vec![scrape_at(restarts_at.unwrap_or(at))];
        }
        let distinct = times.into_iter().enumerate().filter(|(index, time)| !times[..*index].contains(time));
        distinct.filter_map(|(_, time)| time.map(scrape_at)).collect()
    }

    /// CPU counters of the containers that count, and their newest time; absent if there is none, or one was dropped.
    fn cpu(&self, at: Timestamp) -> Option<(Timestamp, Parts<CpuCounters>)> {
        let counted = self.complete(ReplicaMetric::CpuSeconds)?;
        let newest = counted.iter().map(|(_, slot)| slot.at).max()?;
        let starts_known = self.incomplete & bit(ReplicaMetric::StartTime) == 0;
        let mut parts: Vec<CpuCounters> = counted
            .iter()
            .map(|(row, slot)| CpuCounters {
                usage_us: whole(slot.number * 1e6),
                periods: None,
                of: row.fingerprint(),
                started: row.started(at).filter(|_| starts_known),
            })
            .collect();
        for (name, periods) in self.periods() {
            // Periods of a container without CPU time, or of the whole pod, are those of one of its containers.
            let index = counted.binary_search_by(|(row, _)| row.container.name.cmp(name)).unwrap_or(0);
            let sum = parts[index].periods.get_or_insert_default();
            (sum.runnable, sum.throttled) = (sum.runnable + periods.runnable, sum.throttled + periods.throttled);
        }
        Some((newest, ordered(parts, |part| part.of)))
    }

    /// CFS periods by container; none if one of them was dropped, or if a container was throttled in more periods than there were.
    fn periods(&self) -> Vec<(&[u8], CpuPeriods)> {
        let all = self.complete(ReplicaMetric::CpuPeriods).zip(self.complete(ReplicaMetric::CpuThrottledPeriods));
        let (runnable, throttled) = all.unwrap_or_default();
        let both = runnable.into_iter().filter_map(|(row, runnable)| {
            let name = row.container.name;
            let index = throttled.binary_search_by(|(row, _)| row.container.name.cmp(name)).ok()?;
            Some((name, runnable.number, throttled[index].1.number))
        });
        let possible = both.map(|(name, runnable, throttled)| {
            (throttled <= runnable).then(|| (name, CpuPeriods { runnable: whole(runnable), throttled: whole(throttled) }))
        });
        possible.collect::<Option<Vec<_>>>().unwrap_or_default()
    }

    /// The requests. A replica that shows requests in flight has a histogram from its first request on; until then it has answered none.
    fn requests(&self, in_flight_known: bool) -> Option<RequestCounters> {
        let complete = |metric: ReplicaMetric| self.incomplete & bit(metric) == 0;
        let buckets_complete = complete(ReplicaMetric::DurationBucket);
        if !complete(ReplicaMetric::DurationCount) {
            return None;
        }
        let Some(answered) = self.counted.or(self.unbounded.filter(|_| buckets_complete)) else {
            return (in_flight_known && self.durations.is_empty() && buckets_complete).then(RequestCounters::default);
        };
        let Answered { completed, failed } = answered;
        let latency = self.durations.buckets(completed).filter(|_| buckets_complete);
        let measured = !completed.is_nan() && !failed.is_nan();
        measured.then(|| RequestCounters { completed: whole(completed), failed: whole(failed), latency })
    }
}

/// The counters in the order of their fingerprints.
fn ordered<T>(parts: impl IntoIterator<Item = T>, of: fn(&T) -> u64) -> Parts<T> {
    let mut parts: Vec<T> = parts.into_iter().collect();
    parts.sort_by_key(of);
    parts.into_iter().collect()
}
