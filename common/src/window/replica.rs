//! Last readings of each replica, and the growth of counters since.

use super::tracked::{AfterRestart, Continuity, Tracked, counter_between};
use crate::scrape::{Count, CpuCounters, CpuPeriods, Parts, RequestCounters, START_DIFFERENCE_MS, Scrape};
use crate::time::Timestamp;
use crate::units::Replicas;

/// Consecutive readings without a replica after which it is forgotten.
const MISSED_READINGS: u8 = 12;

/// The last readings of one replica.
#[derive(Debug, Clone)]
pub(super) struct KnownReplica {
    pub name: Box<str>,
    missed: u8,
    pub requests: Tracked<RequestCounters>,
    pub cpu: Tracked<Parts<CpuCounters>>,
    pub memory_at: Option<Timestamp>,
    /// Requests in flight when its requests were last read, if they were read with them.
    pub in_flight: Option<f64>,
    /// Whether its requests in flight were read in this scrape.
    pub in_flight_read: bool,
    pub restarts: Tracked<Parts<Count>>,
    pub oom_kills: Tracked<Parts<Count>>,
}

impl KnownReplica {
    fn new(scrape: &Scrape) -> Self {
        Self {
            name: scrape.replica.as_str().into(),
            missed: 0,
            requests: Tracked::default(),
            cpu: Tracked::default(),
            memory_at: None,
            in_flight: None,
            in_flight_read: false,
            restarts: Tracked::default(),
            oom_kills: Tracked::default(),
        }
    }
}

/// The replicas of one function, by name.
#[derive(Debug, Clone, Default)]
pub(super) struct KnownReplicas {
    sorted: Vec<KnownReplica>,
    /// Index at which the next lookup starts: readings come in the same order every time.
    expected: usize,
}

impl KnownReplicas {
    /// No replica, in the same memory.
    pub fn clear(&mut self) {
        self.sorted.clear();
        self.expected = 0;
    }

    /// The replica of `scrape`, and whether it was never seen before.
    pub fn of(&mut self, scrape: &Scrape) -> (&mut KnownReplica, bool) {
        let name = scrape.replica.as_str();
        let found = match self.sorted.get(self.expected) {
            Some(known) if *known.name == *name => Ok(self.expected),
            _ => self.sorted.binary_search_by(|known| (*known.name).cmp(name)),
        };
        let index = found.unwrap_or_else(|index| {
            self.sorted.insert(index, KnownReplica::new(scrape));
            index
        });
        self.expected = index + 1;
        let known = &mut self.sorted[index];
        known.missed = 0;
        (known, found.is_err())
    }

    /// Before the readings of one scrape: counts each replica as not shown.
    pub fn begin_reading(&mut self) {
        self.expected = 0;
        for known in &mut self.sorted {
            known.missed += 1;
            known.in_flight_read = false;
        }
    }

    /// After them: forgets those that were not shown for long.
    pub fn end_reading(&mut self) {
        if self.sorted.iter().any(|known| known.missed >= MISSED_READINGS) {
            self.sorted.retain(|known| known.missed < MISSED_READINGS);
            self.sorted.shrink_to_fit();
        }
    }

    /// Replicas whose CPU or memory was read at `earliest` or later.
    pub fn reporting(&self, earliest: Timestamp) -> Reporting {
        let mut reporting = Reporting::default();
        for known in &self.sorted {
            let [cpu, memory] = [known.cpu.at(), known.memory_at].map(|at| at.is_some_and(|at| at >= earliest));
            reporting.all.0 += u32::from(cpu || memory);
            reporting.without_cpu.0 += u32::from(!cpu && memory);
            reporting.without_memory.0 += u32::from(cpu && !memory);
        }
        reporting
    }

    /// Number of replicas.
    pub fn count(&self) -> usize {
        self.sorted.len()
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        let of_parts = |known: &KnownReplica| {
            let events = [&known.restarts, &known.oom_kills].map(|events| events.last().map_or(0, Parts::heap_bytes));
            known.cpu.last().map_or(0, Parts::heap_bytes) + events.iter().sum::<usize>()
        };
        let of_replicas = self.sorted.iter().map(|known| known.name.len() + of_parts(known));
        self.sorted.capacity() * size_of::<KnownReplica>() + of_replicas.sum::<usize>()
    }
}

/// Numbers of replicas that were read lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Reporting {
    /// Those whose CPU or memory was read.
    pub all: Replicas,
    /// Those of them whose CPU was not read.
    pub without_cpu: Replicas,
    /// Those of them whose memory was not read.
    pub without_memory: Replicas,
}

/// Rare events of a replica, such as restarts, between two readings. Counting of each container starts at its first reading.
pub(super) fn events_between(before: &Parts<Count>, now: &Parts<Count>, restart: AfterRestart) -> (u64, Continuity) {
    let of_one = |count: &Count| Some(counter_between(find(before, count.of)?.value, count.value, restart));
    let sum = |(sum, one): (u64, Continuity), (by, other): (u64, Continuity)| (sum.saturating_add(by), one.max(other));
    now.iter().filter_map(of_one).fold((0, Continuity::Continued), sum)
}

/// The counter of the fingerprint `of`.
pub(super) fn find(counts: &[Count], of: u64) -> Option<&Count> {
    counts.binary_search_by_key(&of, |count| count.of).ok().map(|index| &counts[index])
}

/// Requests completed between two readings. If the completed requests fell, or the failed ones did and all together with them, all counters of the
/// replica were reset. `restarted` says whether its process was restarted in between, if that is known.
pub(super) fn requests_between(
    before: &RequestCounters,
    now: &RequestCounters,
    restarted: Option<bool>,
    restart: AfterRestart,
) -> (RequestCounters, Continuity) {
    let Some(completed) = now.completed.checked_sub(before.completed) else {
        return (*now, Continuity::after_fall(before.completed, now.completed, restarted, restart));
    };
    let [all_before, all] = [before, now].map(RequestCounters::ended);
    // A counter of failures alone may vanish; without it, most of what was completed is still there.
    let reset = || restarted.unwrap_or_else(|| all <= all_before / 2 && restart.can_show(all_before, all));
    let failed = match now.failed.checked_sub(before.failed) {
        None if reset() => return (*now, Continuity::Reset),
        failed => failed.unwrap_or(0),
    };
    // Buckets converted from other bounds are rounded, so one may decrease by a request without a reset of the counter.
    let latency =
        before.latency.zip(now.latency).map(|(before, now)| std::array::from_fn(|index| now[index].saturating_sub(before[index])));
    (RequestCounters { completed, failed, latency }, Continuity::Continued)
}

/// CPU time used by all containers between two readings, of which the one before was taken at `last`. `restarted` says of
/// a container without a time of start whether it was restarted in between, if that is known; if not, `restart` says what it can show after one.
pub(super) fn cpu_between(
    before: &[CpuCounters],
    now: &[CpuCounters],
    last: Option<Timestamp>,
    restarted: Option<bool>,
    restart: AfterRestart,
) -> (CpuCounters, Continuity) {
    let same = before.len() == now.len() && before.iter().zip(now).all(|(before, now)| before.of == now.of);
    let mut sum = (CpuCounters::default(), if same { Continuity::Continued } else { Continuity::Replaced });
    for (before, now) in before.iter().zip(now) {
        let (grown, continuity) = container_cpu_between(before, now, last, restarted, restart);
        sum.0.usage_us = sum.0.usage_us.saturating_add(grown.usage_us);
        sum.0.periods = match (sum.0.periods, grown.periods) {
            (Some(sum), Some(grown)) => Some(CpuPeriods {
                runnable: sum.runnable.saturating_add(grown.runnable),
                throttled: sum.throttled.saturating_add(grown.throttled),
            }),
            (sum, grown) => sum.or(grown),
        };
        sum.1 = sum.1.max(continuity);
    }
    sum
}

/// CPU time used by one container between two readings. If it fell, or if another container of the name was started, all
/// counters of the container were reset.
fn container_cpu_between(
    before: &CpuCounters,
    now: &CpuCounters,
    last: Option<Timestamp>,
    restarted: Option<bool>,
    restart: AfterRestart,
) -> (CpuCounters, Continuity) {
    let is_another = |before: Timestamp, now: Timestamp| now.0.saturating_sub(before.0) > START_DIFFERENCE_MS;
    let restarted = match (before.started, now.started) {
        (Some(before), Some(started)) if is_another(before, started) => return (*now, Continuity::Reset),
        (Some(before), Some(started)) => Some(started != before && Some(started) >= last),
        (None, Some(started)) => Some(Some(started) >= last),
        (_, None) => restarted,
    };
    let Some(usage_us) = now.usage_us.checked_sub(before.usage_us) else {
        return (*now, Continuity::after_fall(before.usage_us, now.usage_us, restarted, restart));
    };
    let periods = before.periods.zip(now.periods).map(|(before, now)| CpuPeriods {
        runnable: now.runnable.saturating_sub(before.runnable),
        throttled: now.throttled.saturating_sub(before.throttled),
    });
    (CpuCounters { usage_us, periods, ..*now }, Continuity::Continued)
}
