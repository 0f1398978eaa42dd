//! Last readings of each replica, and the growth of counters since.

use crate::scrape::{CpuCounters, LATENCY_BUCKETS, RequestCounters, Scrape};
use crate::time::Timestamp;

/// Consecutive readings without a replica after which it is forgotten. If it returns, it counts as just started.
const MISSED_READINGS: u8 = 12;

/// The last readings of one replica.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub name: Box<str>,
    missed: u8,
    pub requests: Option<(Timestamp, RequestCounters)>,
    pub cpu: Option<(Timestamp, CpuCounters)>,
    pub memory_at: Option<Timestamp>,
    pub restarts: u64,
    pub oom_kills: u64,
}

impl Known {
    fn new(scrape: &Scrape) -> Self {
        Self { name: scrape.replica.as_str().into(), missed: 0, requests: None, cpu: None, memory_at: None, restarts: 0, oom_kills: 0 }
    }
}

/// The replicas of one function, by name.
#[derive(Debug, Clone, Default)]
pub(super) struct KnownReplicas {
    sorted: Vec<Known>,
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
    pub fn of(&mut self, scrape: &Scrape) -> (&mut Known, bool) {
        let name = scrape.replica.as_str();
        let found = match self.sorted.get(self.expected) {
            Some(known) if *known.name == *name => Ok(self.expected),
            _ => self.sorted.binary_search_by(|known| (*known.name).cmp(name)),
        };
        let index = found.unwrap_or_else(|index| {
            self.sorted.insert(index, Known::new(scrape));
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
        self.sorted.iter_mut().for_each(|known| known.missed += 1);
    }

    /// After them: forgets those that were not shown for long.
    pub fn end_reading(&mut self) {
        if self.sorted.iter().any(|known| known.missed >= MISSED_READINGS) {
            self.sorted.retain(|known| known.missed < MISSED_READINGS);
            self.sorted.shrink_to_fit();
        }
    }

    /// Replicas whose CPU or memory was read at `earliest` or later.
    pub fn reporting(&self, earliest: Timestamp) -> usize {
        let at = |known: &Known| known.cpu.map(|(at, _)| at).max(known.memory_at);
        self.sorted.iter().filter(|known| at(known).is_some_and(|at| at >= earliest)).count()
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.sorted.capacity() * size_of::<Known>() + self.sorted.iter().map(|known| known.name.len()).sum::<usize>()
    }
}

/// Growth of a counter from `before` to `now`; after a reset, its new value.
pub(super) fn growth(before: u64, now: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

/// Requests completed between two readings. The counters of one replica are reset together.
pub(super) fn requests_between(before: &RequestCounters, now: &RequestCounters) -> (RequestCounters, Continuity) {
    if now.completed < before.completed || now.failed < before.failed {
        return (*now, Continuity::Reset);
    }
    // Buckets converted from other bounds are rounded, so one may decrease by a request without a reset of the counter.
    let latency: [u64; LATENCY_BUCKETS] = std::array::from_fn(|index| now.latency[index].saturating_sub(before.latency[index]));
    (RequestCounters { completed: now.completed - before.completed, failed: now.failed - before.failed, latency }, Continuity::Continued)
}

/// CPU time used between two readings. The counters of one replica are reset together.
pub(super) fn cpu_between(before: &CpuCounters, now: &CpuCounters) -> (CpuCounters, Continuity) {
    let grown = || {
        Some(CpuCounters {
            usage_us: now.usage_us.checked_sub(before.usage_us)?,
            periods: now.periods.checked_sub(before.periods)?,
            throttled_periods: now.throttled_periods.checked_sub(before.throttled_periods)?,
        })
    };
    grown().map_or((*now, Continuity::Reset), |growth| (growth, Continuity::Continued))
}

/// Whether a counter continued, or was reset because its process was restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Continuity {
    Continued,
    Reset,
}
