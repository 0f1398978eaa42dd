//! Windows: aggregates of the Scrapes of one function over 1, 12 and 60 ticks, and its State. Owns rates, shares, percentiles and ages;
//! must not know where a Scrape came from, or read a clock.
//!
//! Semantics of readings:
//! - A counter grows from one reading to the next. After a restart of its process the growth is the new value, so rates are never negative. If nothing
//!   is known of a restart, a fall is one where the new value is small: beside the old one, and beside the growth of late. Containers and gateways are
//!   restarted one by one, so each grows for itself. Where other ones are counted than before, there is no rate before the next reading.
//! - Counting starts at the first reading of a counter. Only a replica that is known to have started after its function was last read counts from
//!   zero: by its time of start, or because the function had no replica then.
//! - A reading is dropped if its growth is impossible: more CPU time than cores x time, more requests than a process or an ingress can answer, or a fall
//!   without a restart. The next reading covers its time, as it does where two readings are too close to each other for a rate. Counting starts again
//!   where two such readings agree.
//! - After a gap, the growth of the counters and the time since the previous reading belong to the tick of the next reading:
//!   rates are means over the gap, and `covered_ms` is its length (more than a tick). The ticks of the gap
//!   have no measurements. After a gap longer than the longest window counting restarts.
//! - Where replicas are not read at the same times, the rate of their answers is at most that of the time over which each of them was measured.
//! - A reading that is not newer than the previous one of the same kind and replica is ignored.
//! - With no ready replicas, CPU, memory and responses count as measured when the replica count was.
//!
//! Memory per function: about 2.6 KiB, 20 to 60 bytes for each of 60 ticks (less without load), and about 500 bytes per replica.

use crate::contract::Windows as WireWindows;
use crate::contract::{Ages, Changes, Latency, ReplicaCounts, Usage, Window};
use crate::policy::Prices;
use crate::scrape::{Count, LATENCY_BUCKETS, Parts, PlatformReading, PlatformReplicas};
use crate::time::{Tick, TickLength, Timestamp};
use crate::units::Allocation;

mod changes;
mod counts;
mod percentile;
mod record;
mod replica;
mod ring;
mod state;
mod tracked;

pub use percentile::latency_percentiles;
pub use record::{Counter, ImpossibleGrowth};
pub use state::assemble;

use changes::Tracker;
use counts::{Counts, Field};
use replica::{KnownReplicas, Reporting};
use ring::{Extremes, LONG, Peaks, RateTrend, Ring};
use tracked::{Continuity, CounterProgress, Tracked};

/// The windows of one function.
#[derive(Debug, Clone)]
pub struct FunctionWindows {
    tick: TickLength,
    /// Sums of the open tick.
    open: OpenTick,
    ring: Ring,
    replicas: KnownReplicas,
    ingress: Tracked<IngressCounters>,
    platform: Option<PlatformReading>,
    crashes: Tracked<u64>,
    oom_kills: Tracked<u64>,
    allocation: Option<(Timestamp, Allocation)>,
    counts: Option<(Timestamp, PlatformReplicas)>,
    /// Time at which the platform had no replica, if that was its last reading.
    empty_at: Option<Timestamp>,
    /// Newest reading of any replica.
    replicas_at: Option<Timestamp>,
    requests_at: Option<Timestamp>,
    cpu_at: Option<Timestamp>,
    memory_at: Option<Timestamp>,
    startup: StartupTracker,
    tracker: Tracker,
    closed: Option<ClosedTick>,
}

#[derive(Debug, Clone, Default)]
struct OpenTick {
    counts: Counts,
    peaks: Peaks,
    restarted: u32,
    replicas_read: bool,
    platform_read: bool,
    allocation_read: bool,
}

/// Facts about a closed tick in addition to its [`Window`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClosedTick {
    /// The tick.
    pub tick: Tick,
    /// Current allocation; `None` if the platform was not read within the tick.
    pub allocation: Option<Allocation>,
    /// Ticks since the last change in the other direction, if this tick reversed it.
    pub reversed_after: Option<u32>,
    /// Whether CPU or memory of the replicas changed.
    pub resized: bool,
    /// Replicas whose process was restarted for any reason.
    pub restarted: u32,
    /// Crashes and OOM kills; `None` if they were not read within the tick.
    pub kills: Option<u32>,
    /// Whether every source of completions and failures was read within the tick: the replicas, and the ingress if there is one.
    pub answers_read: bool,
}

/// Counters of the ingress, by gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
struct IngressCounters {
    arrived: Parts<Count>,
    failed: Parts<Count>,
}

/// Requests at all gateways between two readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct ArrivalGrowth {
    arrived: u64,
    failed: u64,
}

impl FunctionWindows {
    /// Empty windows over ticks of length `tick`.
    #[must_use]
    pub fn new(tick: TickLength) -> Self {
        Self {
            tick,
            open: OpenTick::default(),
            ring: Ring::default(),
            replicas: KnownReplicas::default(),
            ingress: Tracked::default(),
            platform: None,
            crashes: Tracked::default(),
            oom_kills: Tracked::default(),
            allocation: None,
            counts: None,
            empty_at: None,
            replicas_at: None,
            requests_at: None,
            cpu_at: None,
            memory_at: None,
            startup: StartupTracker::default(),
            tracker: Tracker::default(),
            closed: None,
        }
    }

    /// Clears the windows and keeps their memory.
    pub fn clear(&mut self) {
        let (mut ring, mut replicas) = (std::mem::take(&mut self.ring), std::mem::take(&mut self.replicas));
        ring.clear();
        replicas.clear();
        *self = Self { ring, replicas, ..Self::new(self.tick) };
    }

    /// Closes `tick`, so that [`FunctionWindows::measured`] ends with it. Skipped ticks stay empty. Returns false for a tick that is
    /// not after the last closed one. `prices` determine the direction of a change of the allocation.
    pub fn close(&mut self, tick: Tick, prices: &Prices) -> bool {
        let passed = match self.closed {
            None => 1,
            Some(ClosedTick { tick: last, .. }) if tick <= last => return false,
            Some(ClosedTick { tick: last, .. }) => tick.0 - last.0,
        };
        (1..passed.min(LONG as u64)).for_each(|_| self.ring.push(&Counts::default(), Peaks::default()));
        let OpenTick { counts, mut peaks, restarted, replicas_read, platform_read, allocation_read } = std::mem::take(&mut self.open);
        peaks.rate = per_second(&counts, Field::Arrived, Field::ArrivedMs).map_or(f32::NAN, |rate| rate as f32);
        peaks.replicas = self.replicas.count() as f32;
        self.ring.push(&counts, peaks);

        let allocation = if allocation_read { self.allocation() } else { None };
        let change = self.tracker.close(allocation, u32::try_from(passed).unwrap_or(u32::MAX), prices);
        let kills_read = if self.platform_counts_kills() { platform_read } else { replicas_read };
        let kills = u32::try_from(counts.get(Field::Restarts) + counts.get(Field::OomKills)).unwrap_or(u32::MAX);
        self.closed = Some(ClosedTick {
            tick,
            allocation,
            reversed_after: change.reversed_after,
            resized: change.vertical,
            restarted,
            kills: kills_read.then_some(kills),
            answers_read: self.answers_read(&counts),
        });
        true
    }

    /// The last closed tick.
    #[must_use]
    pub fn closed(&self) -> Option<&ClosedTick> {
        self.closed.as_ref()
    }

    /// Measurements over the windows that end with the last closed tick. `percentile` (0 to 100) is the objective's.
    #[must_use]
    pub fn measured(&self, percentile: f64) -> WireWindows {
        let [last, short, long] = self.ring.extremes();
        WireWindows {
            tick: self.window(&self.ring.last(), last, percentile),
            short: self.window(self.ring.short(), short, percentile),
            long: self.window(self.ring.long(), long, percentile),
        }
    }

    /// Age of the newest reading of each kind at `now`.
    #[must_use]
    pub fn ages(&self, now: Timestamp) -> Ages {
        let age = |at: Option<Timestamp>| at.map(|at| crate::time::millis(now.since(at)));
        // If both ingress and replicas were read, the older reading counts.
        let platform_at = self.allocation.zip(self.counts).map(|((allocation, _), (counts, _))| allocation.min(counts));
        Ages {
            requests_ms: age(self.ingress.at()).max(age(self.requests_at)),
            cpu_ms: age(self.cpu_at),
            memory_ms: age(self.memory_at),
            replicas_ms: age(platform_at),
        }
    }

    /// Replica counts as last read; `reporting` counts the replicas read within one tick before `now`.
    #[must_use]
    pub fn replicas(&self, now: Timestamp) -> Option<ReplicaCounts> {
        let (_, PlatformReplicas { desired, ready, pending }) = self.counts?;
        let Reporting { all, without_cpu, without_memory } = self.replicas.reporting(now.minus(self.tick.duration()));
        Some(ReplicaCounts { desired, ready, pending, reporting: all, without_cpu, without_memory })
    }

    /// Current allocation as last read.
    #[must_use]
    pub fn allocation(&self) -> Option<Allocation> {
        self.allocation.map(|(_, allocation)| allocation)
    }

    /// Ticks since the last change of the allocation.
    #[must_use]
    pub fn changes(&self) -> Changes {
        self.tracker.changes()
    }

    /// Mean time from start to readiness of recently started replicas, milliseconds.
    #[must_use]
    pub fn startup_ms(&self) -> Option<u64> {
        self.startup.mean_ms.map(|mean| mean.round() as u64)
    }

    /// The tick length.
    #[must_use]
    pub fn tick_length(&self) -> TickLength {
        self.tick
    }

    /// Memory of these windows, bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.ring.heap_bytes() + self.replicas.heap_bytes()
    }

    fn platform_counts_kills(&self) -> bool {
        self.platform.is_some_and(|platform| platform.crashes.is_some() && platform.oom_kills.is_some())
    }

    fn starts_counted(&self) -> bool {
        self.platform.is_some_and(|platform| platform.startups.is_some())
    }

    fn window(&self, counts: &Counts, extremes: Extremes, percentile: f64) -> Window {
        let Extremes { trend: RateTrend { slope, variation }, cpu, memory, replicas } = extremes;
        // Readings of one replica may end just after those of another: the time between them is not the time in which the replica did its work.
        let rate_of_replicas = |amount: Field, ms: Field, replica_ms: Field| {
            let least = counts.get(replica_ms) as f64 / replicas.unwrap_or(1.0).max(1.0);
            (counts.get(ms) > 0).then(|| counts.get(amount) as f64 / (counts.get(ms) as f64).max(least))
        };
        Window {
            covered_ms: [Field::ArrivedMs, Field::AnsweredMs, Field::CpuMs].map(|field| counts.get(field)).into_iter().max().unwrap_or(0),
            rate_rps: per_second(counts, Field::Arrived, Field::ArrivedMs),
            rate_slope_rps: slope,
            rate_variation: variation,
            completed_rps: rate_of_replicas(Field::Completed, Field::AnsweredMs, Field::AnsweredReplicaMs).map(|per_ms| per_ms * 1000.0),
            failed_share: self.failed_share(counts),
            latency: latency(counts.latency(), percentile),
            replicas: rate_of_replicas(Field::CpuReplicaMs, Field::CpuMs, Field::CpuReplicaMs),
            concurrency: ratio(counts, Field::InFlightMilli, Field::InFlightReplicas).map(|milli| milli / 1000.0),
            queued: ratio(counts, Field::QueuedMilli, Field::QueuedReadings).map(|milli| milli / 1000.0),
            cpu_millicores: usage(ratio(counts, Field::CpuUs, Field::CpuReplicaMs), cpu),
            throttled_share: ratio(counts, Field::Throttled, Field::Periods).map(|share| share.min(1.0)),
            memory_mib: usage(ratio(counts, Field::MemoryKib, Field::MemoryReadings).map(|kib| kib / 1024.0), memory),
            starts: self.starts_counted().then(|| u32::try_from(counts.get(Field::Starts)).unwrap_or(u32::MAX)),
            restarts: u32::try_from(counts.get(Field::Restarts)).unwrap_or(u32::MAX),
            oom_kills: u32::try_from(counts.get(Field::OomKills)).unwrap_or(u32::MAX),
        }
    }

    /// Known only if every source of failures was read.
    fn failed_share(&self, counts: &Counts) -> Option<f64> {
        let answered = counts.get(Field::Completed) + counts.get(Field::Failed);
        let known = self.answers_read(counts) && answered > 0;
        known.then(|| counts.get(Field::Failed) as f64 / answered as f64)
    }

    fn answers_read(&self, counts: &Counts) -> bool {
        let ingress_read = self.ingress.at().is_none() || counts.get(Field::ArrivedMs) > 0;
        ingress_read && counts.get(Field::AnsweredMs) > 0
    }
}

/// Starts and the mean time to readiness, weighted towards recent starts.
#[derive(Debug, Clone, Default)]
struct StartupTracker {
    /// Starts that reached readiness, and their total time, milliseconds.
    counters: Tracked<(u64, u64)>,
    mean_ms: Option<f64>,
}

impl StartupTracker {
    /// Weight of all earlier starts, in starts.
    const EARLIER_STARTS: f64 = 3.0;

    /// Takes a reading and returns the starts since the last one.
    fn read(&mut self, at: Timestamp, now: (u64, u64), longest_gap: u64) -> u64 {
        let between = |before: &(u64, u64), now: &(u64, u64), restart| match (now.0.checked_sub(before.0), now.1.checked_sub(before.1)) {
            (Some(starts), Some(total_ms)) => ((starts, total_ms), Continuity::Continued),
            _ => (*now, Continuity::after_fall(before.0, now.0, None, restart)),
        };
        let (starts, total_ms) = match self.counters.read_events(at, &now, None, longest_gap, between) {
            CounterProgress::First => {
                self.include(0.0, now);
                return 0;
            }
            progress => progress.grown().unwrap_or_default(),
        };
        self.include(Self::EARLIER_STARTS, (starts, total_ms));
        starts
    }

    /// Includes `starts` of `total_ms` in the mean, beside earlier ones of this weight.
    fn include(&mut self, earlier: f64, (starts, total_ms): (u64, u64)) {
        if starts == 0 {
            return;
        }
        let (starts, total_ms) = (starts as f64, total_ms as f64);
        self.mean_ms = Some(match self.mean_ms {
            Some(mean) => (mean * earlier + total_ms) / (earlier + starts),
            None => total_ms / starts,
        });
    }
}

fn ratio(counts: &Counts, amount: Field, over: Field) -> Option<f64> {
    let over = counts.get(over);
    (over > 0).then(|| counts.get(amount) as f64 / over as f64)
}

fn per_second(counts: &Counts, amount: Field, ms: Field) -> Option<f64> {
    ratio(counts, amount, ms).map(|per_ms| per_ms * 1000.0)
}

fn usage(mean: Option<f64>, max: Option<f64>) -> Option<Usage> {
    let (mean, max) = (mean?, max?);
    // The maximum has fewer digits than the mean, and must not be below it.
    Some(Usage { mean, max: max.max(mean) })
}

fn latency(buckets: &[u64; LATENCY_BUCKETS], percentile: f64) -> Option<Latency> {
    let [p50_ms, p95_ms, p99_ms, objective_ms] = latency_percentiles(buckets, [50.0, 95.0, 99.0, percentile])?;
    Some(Latency { p50_ms, p95_ms, p99_ms, objective_ms })
}

#[cfg(test)]
mod tests;
