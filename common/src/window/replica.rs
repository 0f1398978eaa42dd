//! Last readings of each replica, and the growth of counters since.

use super::tracked::{Continuity, Tracked};
use crate::scrape::{CpuCounters, CpuPeriods, LATENCY_BUCKETS, RequestCounters, Scrape};
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
    pub cpu: Tracked<CpuCounters>,
    pub memory_at: Option<Timestamp>,
    /// Whether its requests in flight were read in this scrape.
    pub in_flight_read: bool,
    pub restarts: u64,
    pub oom_kills: u64,
}

impl KnownReplica {
    fn new(scrape: &Scrape) -> Self {
        Self {
            name: scrape.replica.as_str().into(),
            missed: 0,
            requests: Tracked::default(),
            cpu: Tracked::default(),
            memory_at: None,
            in_flight_read: false,
            restarts: 0,
            oom_kills: 0,
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
        self.sorted.capacity() * size_of::<KnownReplica>() + self.sorted.iter().map(|known| known.name.len()).sum::<usize>()
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

/// Growth of a counter from `before` to `now`; after a reset, its new value.
pub(super) fn growth(before: u64, now: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

/// Requests completed between two readings. If the completed requests fell, all counters of the replica were reset. `restarted` says whether its process
/// was restarted in between, if that is known.
pub(super) fn requests_between(before: &RequestCounters, now: &RequestCounters, restarted: Option<bool>) -> (RequestCounters, Continuity) {
    let Some(completed) = now.completed.checked_sub(before.completed) else {
        return (*now, Continuity::after_fall(before.completed, now.completed, restarted));
    };
    // Buckets converted from other bounds are rounded, so one may decrease by a request without a reset of the counter.
    let latency: [u64; LATENCY_BUCKETS] = std::array::from_fn(|index| now.latency[index].saturating_sub(before.latency[index]));
    (RequestCounters { completed, failed: now.failed.saturating_sub(before.failed), latency }, Continuity::Continued)
}

/// CPU time used between two readings. If it fell, all counters of the replica were reset. `restarted` says whether its process was restarted in between,
/// if that is known.
pub(super) fn cpu_between(before: &CpuCounters, now: &CpuCounters, restarted: Option<bool>) -> (CpuCounters, Continuity) {
    if before.of != now.of {
        return (*now, Continuity::Replaced);
    }
    let Some(usage_us) = now.usage_us.checked_sub(before.usage_us) else {
        return (*now, Continuity::after_fall(before.usage_us, now.usage_us, restarted));
    };
    let periods = before.periods.zip(now.periods).map(|(before, now)| CpuPeriods {
        runnable: now.runnable.saturating_sub(before.runnable),
        throttled: now.throttled.saturating_sub(before.throttled),
    });
    (CpuCounters { usage_us, periods, of: now.of }, Continuity::Continued)
}
