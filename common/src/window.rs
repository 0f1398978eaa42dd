//! Windows: aggregates of the Scrapes of one function over 1, 12 and 60 ticks, and its State. Owns rates, shares, percentiles and ages;
//! must not know where a Scrape came from, or read a clock.
//!
//! Semantics of readings:
//! - A counter grows from one reading to the next. A lower value is a counter reset: the growth is then the new value, so rates are never negative.
//! - Counting starts at the first reading of a counter. Only a replica that did not exist when its function was last read counts from zero.
//! - After a gap, the growth of the counters and the time since the previous reading belong to the tick of the next reading:
//!   rates are means over the gap, and `covered_ms` is its length (more than a tick). The ticks of the gap
//!   have no measurements. After a gap longer than the longest window counting restarts.
//! - A reading that is not newer than the previous one of the same kind and replica is ignored.
//! - With no ready replicas, CPU, memory and responses count as measured when the replica count was.
//!
//! Memory per function: about 2.3 KiB, 20 to 60 bytes for each of 60 ticks (less without load), and about 370 bytes per replica.

use crate::contract::Windows as WireWindows;
use crate::contract::{Ages, Changes, Latency, ReplicaCounts, Usage, Window};
use crate::policy::Prices;
use crate::scrape::{FunctionScrape, IngressReading, LATENCY_BUCKETS, PlatformReading, RequestCounters, Scrape};
use crate::time::{Tick, TickLength, Timestamp};
use crate::units::{Allocation, Replicas};

mod changes;
mod counts;
mod percentile;
mod replica;
mod ring;
mod state;

pub use percentile::latency_percentiles;
pub use state::assemble;

use changes::Tracker;
use counts::{Counts, Field};
use replica::{Continuity, Known, KnownReplicas, cpu_between, growth, requests_between};
use ring::{Extremes, LONG, Peaks, Ring, Trend};

/// The windows of one function.
#[derive(Debug, Clone)]
pub struct FunctionWindows {
    tick: TickLength,
    /// Sums of the open tick.
    open: OpenTick,
    ring: Ring,
    replicas: KnownReplicas,
    ingress: Option<IngressReading>,
    platform: Option<PlatformReading>,
    replicas_read: bool,
    requests_at: Option<Timestamp>,
    cpu_at: Option<Timestamp>,
    memory_at: Option<Timestamp>,
    startup: Startup,
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
    /// Crashes and kills for memory; `None` if they were not read within the tick.
    pub kills: Option<u32>,
    /// Whether every source of completions and failures was read within the tick: the replicas, and the ingress if there is one.
    pub answers_read: bool,
}

/// Time from the previous reading.
enum Passed {
    /// No usable previous reading.
    First,
    /// Milliseconds since the previous reading, more than 0.
    Millis(u64),
    /// Not newer than the previous reading.
    Late,
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
            ingress: None,
            platform: None,
            replicas_read: false,
            requests_at: None,
            cpu_at: None,
            memory_at: None,
            startup: Startup::default(),
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

    /// Adds a scrape; any number of them per tick.
    pub fn record(&mut self, scrape: &FunctionScrape) {
        self.take(scrape, NewReplica::CountsFromZero);
    }

    /// Adds a scrape after a source of replicas could not be read: an unknown replica may be old,
    /// so its counters start at their first reading.
    pub fn record_after_outage(&mut self, scrape: &FunctionScrape) {
        self.take(scrape, NewReplica::MayBeOld);
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
        let OpenTick { counts, mut peaks, restarted, replicas_read, platform_read } = std::mem::take(&mut self.open);
        peaks.rate = per_second(&counts, Field::Arrived, Field::ArrivedMs).map_or(f32::NAN, |rate| rate as f32);
        self.ring.push(&counts, peaks);

        let allocation = if platform_read { self.allocation() } else { None };
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
        let ingress_at = self.ingress.map(|ingress| ingress.at);
        Ages {
            requests_ms: age(ingress_at).max(age(self.requests_at)),
            cpu_ms: age(self.cpu_at),
            memory_ms: age(self.memory_at),
            replicas_ms: age(self.platform.map(|platform| platform.at)),
        }
    }

    /// Replica counts as last read; `reporting` counts the replicas read within one tick before `now`.
    #[must_use]
    pub fn replicas(&self, now: Timestamp) -> Option<ReplicaCounts> {
        let platform = self.platform?;
        let reporting = self.replicas.reporting(now.minus(self.tick.duration()));
        Some(ReplicaCounts {
            desired: platform.allocation.replicas,
            ready: platform.ready,
            pending: platform.pending,
            reporting: Replicas(u32::try_from(reporting).unwrap_or(u32::MAX)),
        })
    }

    /// Current allocation as last read.
    #[must_use]
    pub fn allocation(&self) -> Option<Allocation> {
        self.platform.map(|platform| platform.allocation)
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

    fn take(&mut self, scrape: &FunctionScrape, new: NewReplica) {
        if let Some(ingress) = scrape.ingress {
            self.take_ingress(ingress);
        }
        if let Some(platform) = scrape.platform {
            self.take_platform(platform);
        }
        let read = self.take_replicas(scrape, new);
        if let Some(platform) = scrape.platform.filter(|platform| platform.ready.0 == 0) {
            // The platform may be read before the ingress: completions in between are not known yet.
            let at = scrape.ingress.map_or(platform.at, |entry| entry.at.min(platform.at));
            self.take_absence(at, &read);
        }
    }

    fn take_ingress(&mut self, now: IngressReading) {
        if let Passed::Late = self.passed(self.ingress.map(|before| before.at), now.at) {
            return;
        }
        // NaN means not read.
        if !now.queued.is_nan() {
            self.open.counts.add(Field::QueuedMilli, thousandths(now.queued));
            self.open.counts.add(Field::QueuedReadings, 1);
        }
        let before = self.ingress.replace(now);
        let Some(before) = before else { return };
        if let Passed::Millis(ms) = self.passed(Some(before.at), now.at) {
            let reset = now.arrived < before.arrived || now.failed < before.failed;
            let (arrived, failed) = if reset { (0, 0) } else { (before.arrived, before.failed) };
            let counts = &mut self.open.counts;
            counts.add(Field::Arrived, now.arrived - arrived);
            counts.add(Field::ArrivedMs, ms);
            counts.add(Field::Failed, now.failed - failed);
        }
    }

    fn take_platform(&mut self, now: PlatformReading) {
        match self.passed(self.platform.map(|before| before.at), now.at) {
            Passed::Late => return,
            Passed::First => self.startup.begin(now.startups),
            Passed::Millis(_) => {
                let before = self.platform.as_ref();
                let grown = |counter: fn(&PlatformReading) -> Option<u64>| Some(growth(before.and_then(counter)?, counter(&now)?));
                self.open.counts.add(Field::Starts, grown(|reading| reading.startups.map(|(starts, _)| starts)).unwrap_or(0));
                self.open.counts.add(Field::Restarts, grown(|reading| reading.crashes).unwrap_or(0));
                self.open.counts.add(Field::OomKills, grown(|reading| reading.oom_kills).unwrap_or(0));
                self.startup.add(before.and_then(|before| before.startups), now.startups);
            }
        }
        self.platform = Some(now);
        self.open.platform_read = true;
    }

    /// Adds the readings of replicas and returns the kinds that were read.
    fn take_replicas(&mut self, scrape: &FunctionScrape, new: NewReplica) -> KindsRead {
        let mut read = KindsRead::default();
        if scrape.replicas.is_empty() {
            return read;
        }
        // Replicas known before this scrape are distinguished from new ones, regardless of their order.
        let mut replicas = std::mem::take(&mut self.replicas);
        replicas.begin_reading();
        let mut in_flight = InFlight::default();
        for reading in &scrape.replicas {
            let (known, unseen) = replicas.of(reading);
            self.take_kills(known, unseen, reading, new);
            self.take_requests(known, reading, new, &mut read.requests);
            self.take_cpu(known, reading, new, &mut read.cpu);
            self.take_memory(known, reading, &mut read.memory);
            in_flight.add(reading);
        }
        replicas.end_reading();
        self.replicas = replicas;
        self.replicas_read = true;
        self.open.replicas_read = true;
        in_flight.add_to(&mut self.open.counts, scrape.platform.map(|platform| platform.ready.0));
        self.advance_requests(&read.requests);
        self.advance_cpu(&read.cpu);
        self.memory_at = self.memory_at.max(read.memory.newest);
        read
    }

    /// The platform's counters win over those of the replicas, because they include terminated replicas.
    fn take_kills(&mut self, known: &mut Known, unseen: bool, reading: &Scrape, new: NewReplica) {
        // Neither counter decreases while a replica lives, so a lower value is an older reading, or from a source without the counter.
        let restarts = reading.restarts.saturating_sub(known.restarts);
        let oom_kills = reading.oom_kills.saturating_sub(known.oom_kills);
        known.restarts += restarts;
        known.oom_kills += oom_kills;
        let may_be_old = new == NewReplica::MayBeOld || !self.replicas_read;
        if unseen && may_be_old {
            return;
        }
        self.open.restarted = self.open.restarted.saturating_add(u32::from(restarts + oom_kills > 0));
        let platform_counts = |counter: fn(&PlatformReading) -> Option<u64>| self.platform.as_ref().and_then(counter).is_some();
        if !platform_counts(|reading| reading.crashes) {
            self.open.counts.add(Field::Restarts, restarts);
        }
        if !platform_counts(|reading| reading.oom_kills) {
            self.open.counts.add(Field::OomKills, oom_kills);
        }
    }

    fn take_requests(&mut self, known: &mut Known, reading: &Scrape, new: NewReplica, read: &mut KindRead) {
        let Some(now) = &reading.requests else { return };
        let before = known.requests.as_ref().map(|(at, _)| *at).or(self.started_after(self.requests_at, new));
        let passed = self.passed(before, reading.at);
        if let Passed::Late = passed {
            return;
        }
        if let Passed::Millis(_) = passed {
            let nothing = RequestCounters::default();
            let (grown, continuity) = requests_between(known.requests.as_ref().map_or(&nothing, |(_, counters)| counters), now);
            let counts = &mut self.open.counts;
            counts.add(Field::Completed, grown.completed);
            counts.add(Field::Failed, grown.failed);
            counts.add_latency(grown.latency);
            if continuity == Continuity::Reset {
                self.open.restarted = self.open.restarted.saturating_add(1);
            }
        }
        read.saw(reading.at, passed);
        known.requests = Some((reading.at, *now));
    }

    fn take_cpu(&mut self, known: &mut Known, reading: &Scrape, new: NewReplica, read: &mut KindRead) {
        let Some(now) = reading.cpu else { return };
        let before = known.cpu.map(|(at, _)| at).or(self.started_after(self.cpu_at, new));
        let passed = self.passed(before, reading.at);
        if let Passed::Late = passed {
            return;
        }
        if let Passed::Millis(ms) = passed {
            let (grown, continuity) = cpu_between(&known.cpu.map(|(_, counters)| counters).unwrap_or_default(), &now);
            let counts = &mut self.open.counts;
            counts.add(Field::CpuUs, grown.usage_us);
            counts.add(Field::CpuReplicaMs, ms);
            counts.add(Field::Periods, grown.periods);
            counts.add(Field::Throttled, grown.throttled_periods);
            // Microseconds per millisecond are thousandths of a core.
            self.open.peaks.cpu = self.open.peaks.cpu.max(grown.usage_us as f32 / ms as f32);
            if continuity == Continuity::Reset {
                self.open.restarted = self.open.restarted.saturating_add(1);
            }
        }
        read.saw(reading.at, passed);
        known.cpu = Some((reading.at, now));
    }

    fn take_memory(&mut self, known: &mut Known, reading: &Scrape, read: &mut KindRead) {
        let Some(bytes) = reading.working_set_bytes else { return };
        if known.memory_at.is_some_and(|before| reading.at <= before) {
            return;
        }
        self.open.counts.add(Field::MemoryKib, bytes.div_ceil(1024));
        self.open.counts.add(Field::MemoryReadings, 1);
        self.open.peaks.memory = self.open.peaks.memory.max((bytes as f64 / f64::from(1 << 20)) as f32);
        read.saw(reading.at, Passed::First);
        known.memory_at = Some(reading.at);
    }

    /// Without ready replicas nothing completes and nothing is used, as of `at`.
    fn take_absence(&mut self, at: Timestamp, read: &KindsRead) {
        let absent = KindRead { newest: Some(at), counted: true };
        if read.requests.newest.is_none() {
            self.advance_requests(&absent);
        }
        if read.cpu.newest.is_none() {
            self.advance_cpu(&absent);
        }
        self.memory_at = self.memory_at.max(Some(at));
        self.open.replicas_read = true;
        self.replicas_read = true;
    }

    fn advance_requests(&mut self, read: &KindRead) {
        let ms = self.covered(self.requests_at, read);
        self.open.counts.add(Field::AnsweredMs, ms);
        self.requests_at = self.requests_at.max(read.newest);
    }

    fn advance_cpu(&mut self, read: &KindRead) {
        let ms = self.covered(self.cpu_at, read);
        self.open.counts.add(Field::CpuMs, ms);
        self.cpu_at = self.cpu_at.max(read.newest);
    }

    /// Milliseconds that readings of a kind cover for the whole function.
    fn covered(&self, before: Option<Timestamp>, read: &KindRead) -> u64 {
        match read.newest.map(|newest| self.passed(before, newest)) {
            Some(Passed::Millis(ms)) if read.counted => ms,
            _ => 0,
        }
    }

    /// Earliest possible start of an unknown replica: the last reading of its function, if any.
    fn started_after(&self, last_read: Option<Timestamp>, new: NewReplica) -> Option<Timestamp> {
        match new {
            NewReplica::CountsFromZero => last_read,
            NewReplica::MayBeOld => None,
        }
    }

    fn passed(&self, before: Option<Timestamp>, now: Timestamp) -> Passed {
        let longest_gap = self.tick.millis().saturating_mul(LONG as u64);
        match before.map(|before| now.0.checked_sub(before.0)) {
            None => Passed::First,
            Some(None | Some(0)) => Passed::Late,
            Some(Some(ms)) if ms > longest_gap => Passed::First,
            Some(Some(ms)) => Passed::Millis(ms),
        }
    }

    fn platform_counts_kills(&self) -> bool {
        self.platform.is_some_and(|platform| platform.crashes.is_some() && platform.oom_kills.is_some())
    }

    fn starts_counted(&self) -> bool {
        self.platform.is_some_and(|platform| platform.startups.is_some())
    }

    fn window(&self, counts: &Counts, extremes: Extremes, percentile: f64) -> Window {
        let Extremes { trend: Trend { slope, variation }, cpu, memory } = extremes;
        Window {
            covered_ms: [Field::ArrivedMs, Field::AnsweredMs, Field::CpuMs].map(|field| counts.get(field)).into_iter().max().unwrap_or(0),
            rate_rps: per_second(counts, Field::Arrived, Field::ArrivedMs),
            rate_slope_rps: slope,
            rate_variation: variation,
            completed_rps: per_second(counts, Field::Completed, Field::AnsweredMs),
            failed_share: self.failed_share(counts),
            latency: latency(counts.latency(), percentile),
            replicas: ratio(counts, Field::CpuReplicaMs, Field::CpuMs),
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
        let entry_read = self.ingress.is_none() || counts.get(Field::ArrivedMs) > 0;
        entry_read && counts.get(Field::AnsweredMs) > 0
    }
}

/// Treatment of the counters of an unknown replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NewReplica {
    /// Started after the last reading of its function.
    CountsFromZero,
    /// May have started long ago.
    MayBeOld,
}

/// Readings of one kind within a scrape.
#[derive(Debug, Default)]
struct KindRead {
    newest: Option<Timestamp>,
    /// Whether any of them was counted.
    counted: bool,
}

impl KindRead {
    fn saw(&mut self, at: Timestamp, passed: Passed) {
        self.newest = self.newest.max(Some(at));
        self.counted |= matches!(passed, Passed::Millis(_));
    }
}

#[derive(Debug, Default)]
struct KindsRead {
    requests: KindRead,
    cpu: KindRead,
    memory: KindRead,
}

#[derive(Debug, Default)]
struct InFlight {
    milli: u64,
    readings: u64,
}

impl InFlight {
    fn add(&mut self, reading: &Scrape) {
        if let Some(in_flight) = reading.in_flight.filter(|in_flight| !in_flight.is_nan()) {
            self.milli = self.milli.saturating_add(thousandths(in_flight));
            self.readings += 1;
        }
    }

    /// Starting replicas report 0 and must not make the ready ones look idle.
    fn add_to(&self, counts: &mut Counts, ready: Option<u32>) {
        let replicas = ready.map_or(self.readings, |ready| self.readings.min(u64::from(ready)));
        if replicas > 0 {
            counts.add(Field::InFlightMilli, self.milli);
            counts.add(Field::InFlightReplicas, replicas);
        }
    }
}

/// Mean time to readiness, weighted towards recent starts.
#[derive(Debug, Clone, Default)]
struct Startup {
    mean_ms: Option<f64>,
}

impl Startup {
    /// Weight of all earlier starts, in starts.
    const EARLIER_STARTS: f64 = 3.0;

    fn begin(&mut self, counters: Option<(u64, u64)>) {
        if let Some((starts @ 1.., total_ms)) = counters {
            self.mean_ms = Some(total_ms as f64 / starts as f64);
        }
    }

    fn add(&mut self, before: Option<(u64, u64)>, now: Option<(u64, u64)>) {
        let (Some(before), Some(now)) = (before, now) else { return self.begin(now.filter(|_| self.mean_ms.is_none())) };
        let reset = now.0 < before.0 || now.1 < before.1;
        let (starts, total_ms) = if reset { now } else { (now.0 - before.0, now.1 - before.1) };
        if starts == 0 {
            return;
        }
        let (starts, total_ms) = (starts as f64, total_ms as f64);
        self.mean_ms = Some(match self.mean_ms {
            None => total_ms / starts,
            Some(mean) => (mean * Self::EARLIER_STARTS + total_ms) / (Self::EARLIER_STARTS + starts),
        });
    }
}

fn thousandths(value: f64) -> u64 {
    // Negative numbers become zero.
    (value * 1000.0).round() as u64
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
