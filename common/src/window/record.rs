//! Readings into the open tick: what each kind of reading adds, and which readings are late or impossible. Must not close a tick.

use std::time::Duration;

use super::counts::{Counts, Field};
use super::replica::{KnownReplica, cpu_between, events_between, find, requests_between};
use super::ring::LONG;
use super::tracked::{AfterRestart, Continuity, CounterProgress, Growth, counter_between};
use super::{ArrivalGrowth, FunctionWindows, IngressCounters, Tracked};
use crate::scrape::{Count, CpuCounters, CpuPeriods, FunctionScrape, IngressReading, Parts, PlatformReading, RequestCounters, Scrape};
use crate::time::Timestamp;
use crate::units::Millicores;

/// Maximum number of requests that one replica can answer, per millisecond: a process that only writes a constant stays below a million a second.
const REPLICA_REQUESTS_PER_MS: u64 = 1_000;
/// Maximum number of requests that can arrive at an ingress, per millisecond.
const INGRESS_REQUESTS_PER_MS: u64 = 100_000;
/// Uncertainty of the time of a reading, milliseconds: a CFS period.
const READING_UNCERTAINTY_MS: u64 = 100;

/// A counter that grew by more than is possible, or fell without a restart, so that its reading was dropped.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ImpossibleGrowth {
    /// The counter.
    pub counter: Counter,
    /// Place of its replica in the Scrape; `None` for the ingress.
    pub replica: Option<usize>,
    /// Growth per second: cores, or requests/s; `None` for a fall.
    pub per_second: Option<f64>,
}

/// The counters whose growth is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// CPU time of a replica.
    Cpu,
    /// Requests that a replica answered.
    Requests,
    /// Requests that arrived at the ingress.
    Arrivals,
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
    /// Adds a scrape; any number of them per tick. Returns the counters whose readings were dropped.
    pub fn record(&mut self, scrape: &FunctionScrape) -> Vec<ImpossibleGrowth> {
        let mut impossible = Vec::new();
        if let Some(ingress) = &scrape.ingress {
            impossible.extend(self.take_ingress(ingress));
        }
        let empty_before = self.empty_at;
        if let Some(platform) = scrape.platform {
            self.take_platform(platform);
        }
        let read = self.take_replicas(scrape, empty_before, &mut impossible);
        let none_ready = |platform: &PlatformReading| platform.replicas.is_some_and(|replicas| replicas.ready.0 == 0);
        if let Some(platform) = scrape.platform.filter(none_ready) {
            // The platform may be read before the ingress: completions in between are not known yet.
            let at = scrape.ingress.as_ref().map_or(platform.at, |ingress| ingress.at.min(platform.at));
            self.take_absence(at, &read);
        }
        impossible
    }

    fn take_ingress(&mut self, now: &IngressReading) -> Option<ImpossibleGrowth> {
        if let Passed::Late = self.passed(self.ingress.at(), now.at) {
            return None;
        }
        // NaN means not read.
        if !now.queued.is_nan() {
            self.open.counts.add(Field::QueuedMilli, thousandths(now.queued));
            self.open.counts.add(Field::QueuedReadings, 1);
        }
        let limits = Growth {
            between: arrivals_between,
            amount: |grown: &ArrivalGrowth| grown.arrived.max(grown.failed),
            possible: |requests, ms| requests / INGRESS_REQUESTS_PER_MS <= ms,
            usual: None,
            shortest_gap: self.shortest_gap(),
            longest_gap: self.longest_gap(),
        };
        let arrivals = IngressCounters { arrived: now.arrived.clone(), failed: now.failed.clone() };
        match self.ingress.read(now.at, &arrivals, None, &limits) {
            CounterProgress::Grown { by, ms, .. } => {
                let counts = &mut self.open.counts;
                counts.add(Field::Arrived, by.arrived);
                counts.add(Field::ArrivedMs, ms);
                counts.add(Field::Failed, by.failed);
            }
            CounterProgress::Impossible { by, ms } => {
                return Some(impossible(Counter::Arrivals, by.map(|by| by as f64), ms));
            }
            CounterProgress::First | CounterProgress::Late => {}
        }
        None
    }

    fn take_platform(&mut self, now: PlatformReading) {
        if let Passed::Late = self.passed(self.platform.map(|before| before.at), now.at) {
            return;
        }
        let longest_gap = self.longest_gap();
        let grown = |tracked: &mut Tracked<u64>, count: Option<u64>| {
            let between = |before: &u64, now: &u64, restart| counter_between(*before, *now, restart);
            count.and_then(|count| tracked.read_events(now.at, &count, None, longest_gap, between).grown()).unwrap_or(0)
        };
        self.open.counts.add(Field::Restarts, grown(&mut self.crashes, now.crashes));
        self.open.counts.add(Field::OomKills, grown(&mut self.oom_kills, now.oom_kills));
        if let Some(startups) = now.startups {
            self.open.counts.add(Field::Starts, self.startup.read(now.at, startups, longest_gap));
        }
        self.platform = Some(now);
        self.allocation = now.allocation.map(|allocation| (now.at, allocation)).or(self.allocation);
        self.counts = now.replicas.map(|replicas| (now.at, replicas)).or(self.counts);
        self.empty_at = now.replicas.filter(|replicas| replicas.ready.0 == 0 && replicas.pending.0 == 0).map(|_| now.at);
        self.open.platform_read = true;
        self.open.allocation_read |= now.allocation.is_some();
    }

    /// Adds the readings of replicas and returns the kinds that were read.
    fn take_replicas(&mut self, scrape: &FunctionScrape, empty_at: Option<Timestamp>, impossible: &mut Vec<ImpossibleGrowth>) -> KindsRead {
        let mut read = KindsRead::default();
        if scrape.replicas.is_empty() {
            return read;
        }
        // Replicas known before this scrape are distinguished from new ones, regardless of their order.
        let mut replicas = std::mem::take(&mut self.replicas);
        replicas.begin_reading();
        let mut in_flight = InFlight::default();
        for (place, reading) in scrape.replicas.iter().enumerate() {
            let (known, unseen) = replicas.of(reading);
            // A replica that started while there was none started after the platform said so.
            let started = reading.started.or(empty_at);
            self.take_kills(known, unseen && counts_from(started, self.replicas_at).is_some(), reading);
            let requests = self.take_requests(known, reading, started, &mut read.requests);
            let cpu = self.take_cpu(known, reading, started, scrape.node_cores, &mut read.cpu);
            impossible.extend([requests, cpu].into_iter().flatten().map(|growth| ImpossibleGrowth { replica: Some(place), ..growth }));
            self.take_memory(known, reading, &mut read.memory);
            in_flight.add(known, reading);
        }
        replicas.end_reading();
        self.replicas = replicas;
        self.replicas_at = self.replicas_at.max(scrape.replicas.iter().map(|reading| reading.at).max());
        self.open.replicas_read = true;
        in_flight.add_to(&mut self.open.counts, scrape.platform.and_then(|platform| platform.replicas).map(|replicas| replicas.ready.0));
        let answered_ms = self.advance_requests(&read.requests);
        if self.ingress.at().is_none() {
            self.open.counts.add(Field::ArrivedMs, answered_ms);
        }
        self.advance_cpu(&read.cpu);
        self.memory_at = self.memory_at.max(read.memory.newest);
        read
    }

    /// The platform's counters win over those of the replicas, because they include terminated replicas. What happened to a replica before it was first
    /// seen counts only if it is `new`.
    fn take_kills(&mut self, known: &mut KnownReplica, new: bool, reading: &Scrape) {
        let grown = |tracked: &mut Tracked<Parts<Count>>, counts: Option<&Parts<Count>>| {
            let zero = |counts: &Parts<Count>| counts.iter().map(|count| Count { value: 0, ..*count }).collect();
            let counts = counts?;
            let begin = new.then(|| (reading.at.minus(Duration::from_millis(1)), zero(counts)));
            tracked.read_events(reading.at, counts, begin, u64::MAX, events_between).grown()
        };
        let restarts = grown(&mut known.restarts, reading.restarts.as_ref()).unwrap_or(0);
        let oom_kills = grown(&mut known.oom_kills, reading.oom_kills.as_ref()).unwrap_or(0);
        self.open.restarted = self.open.restarted.saturating_add(u32::from(restarts > 0 || oom_kills > 0));
        let platform_counts = |counter: fn(&PlatformReading) -> Option<u64>| self.platform.as_ref().and_then(counter).is_some();
        if !platform_counts(|reading| reading.crashes) {
            self.open.counts.add(Field::Restarts, restarts);
        }
        if !platform_counts(|reading| reading.oom_kills) {
            self.open.counts.add(Field::OomKills, oom_kills);
        }
    }

    fn take_requests(
        &mut self,
        known: &mut KnownReplica,
        reading: &Scrape,
        started: Option<Timestamp>,
        read: &mut KindRead,
    ) -> Option<ImpossibleGrowth> {
        let now = &reading.requests?;
        let begin = counts_from(started, self.requests_at).map(|at| (at, RequestCounters::default()));
        let restarted = restarted_since(reading, known.requests.at());
        let in_flight = reading.in_flight.filter(|in_flight| !in_flight.is_nan());
        let limits = Growth {
            between: |before: &RequestCounters, now: &RequestCounters, restart| requests_between(before, now, restarted, restart),
            amount: RequestCounters::ended,
            possible: |requests, ms| requests / REPLICA_REQUESTS_PER_MS <= ms,
            usual: None,
            shortest_gap: self.shortest_gap(),
            longest_gap: self.longest_gap(),
        };
        match known.requests.read(reading.at, now, begin, &limits) {
            CounterProgress::Grown { by, ms, continuity } => {
                let counts = &mut self.open.counts;
                let before = std::mem::replace(&mut known.in_flight, in_flight).filter(|_| continuity == Continuity::Continued);
                if self.ingress.at().is_none() {
                    // Of the requests that it took, those that are not answered yet are in flight.
                    let growth = in_flight.zip(before).map_or(0.0, |(now, before)| now - before);
                    counts.add(Field::Arrived, (by.ended() as f64 + growth).max(0.0).round() as u64);
                }
                counts.add(Field::Completed, by.completed);
                counts.add(Field::AnsweredReplicaMs, ms);
                counts.add(Field::Failed, by.failed);
                counts.add_latency(by.latency.into_iter().flatten());
                self.count_reset(continuity);
                read.saw(reading.at, true);
            }
            CounterProgress::First => {
                known.in_flight = in_flight;
                read.saw(reading.at, false);
            }
            CounterProgress::Late => {}
            CounterProgress::Impossible { by, ms } => return Some(impossible(Counter::Requests, by.map(|by| by as f64), ms)),
        }
        None
    }

    fn take_cpu(
        &mut self,
        known: &mut KnownReplica,
        reading: &Scrape,
        started: Option<Timestamp>,
        cores: Option<f64>,
        read: &mut KindRead,
    ) -> Option<ImpossibleGrowth> {
        let now = reading.cpu.as_ref()?;
        let zero = |of: &CpuCounters| CpuCounters { periods: of.periods.map(|_| CpuPeriods::default()), usage_us: 0, ..*of };
        let begin = counts_from(started, self.cpu_at).map(|at| (at, now.iter().map(zero).collect::<Parts<_>>()));
        let last = known.cpu.at();
        let restarted = restarted_since(reading, last);
        // Microseconds per millisecond are thousandths of a core.
        let most = cores.map_or(f64::from(Millicores::MAX.0), |cores| cores * 1000.0);
        let limits = Growth {
            between: |before: &Parts<CpuCounters>, now: &Parts<CpuCounters>, restart| cpu_between(before, now, last, restarted, restart),
            amount: |grown: &CpuCounters| grown.usage_us,
            possible: |usage_us, ms| usage_us as f64 <= most * (ms + READING_UNCERTAINTY_MS) as f64,
            usual: self.allocation().map(|allocation| f64::from(allocation.cpu_millicores.0)),
            shortest_gap: self.shortest_gap(),
            longest_gap: self.longest_gap(),
        };
        match known.cpu.read(reading.at, now, begin, &limits) {
            CounterProgress::Grown { by, ms, continuity } => {
                // The time between two readings is uncertain, but at least as long as all cores need.
                let ms = ms.max((by.usage_us as f64 / most).ceil() as u64);
                let counts = &mut self.open.counts;
                counts.add(Field::CpuUs, by.usage_us);
                counts.add(Field::CpuReplicaMs, ms);
                // A period counts as throttled after it counted as runnable, perhaps in the next reading, and again after each
                // change of the limit, at most one a tick.
                let uncertain = (2 + ms / self.tick.millis()).saturating_mul(now.len() as u64);
                let possible = |periods: &CpuPeriods| periods.throttled <= periods.runnable.saturating_add(uncertain);
                let periods = by.periods.filter(possible).unwrap_or_default();
                counts.add(Field::Periods, periods.runnable);
                counts.add(Field::Throttled, periods.throttled);
                self.open.peaks.cpu = self.open.peaks.cpu.max(by.usage_us as f32 / ms as f32);
                self.count_reset(continuity);
                read.saw(reading.at, true);
            }
            CounterProgress::First => read.saw(reading.at, false),
            CounterProgress::Late => {}
            CounterProgress::Impossible { by, ms } => return Some(impossible(Counter::Cpu, by.map(|by| by as f64 / 1e6), ms)),
        }
        None
    }

    fn count_reset(&mut self, continuity: Continuity) {
        self.open.restarted = self.open.restarted.saturating_add(u32::from(continuity == Continuity::Reset));
    }

    fn take_memory(&mut self, known: &mut KnownReplica, reading: &Scrape, read: &mut KindRead) {
        let Some(bytes) = reading.working_set_bytes else { return };
        if known.memory_at.is_some_and(|before| reading.at <= before) {
            return;
        }
        self.open.counts.add(Field::MemoryKib, bytes.div_ceil(1024));
        self.open.counts.add(Field::MemoryReadings, 1);
        self.open.peaks.memory = self.open.peaks.memory.max((bytes as f64 / f64::from(1 << 20)) as f32);
        read.saw(reading.at, false);
        known.memory_at = Some(reading.at);
    }

    /// Without ready replicas nothing completes and nothing is used, as of `at`.
    fn take_absence(&mut self, at: Timestamp, read: &KindsRead) {
        let absent = KindRead { newest: Some(at), counted: true };
        if read.requests.newest.is_none() {
            // Whether requests arrive is not known without an ingress.
            self.advance_requests(&absent);
        }
        if read.cpu.newest.is_none() {
            self.advance_cpu(&absent);
        }
        self.memory_at = self.memory_at.max(Some(at));
        self.replicas_at = self.replicas_at.max(Some(at));
        self.open.replicas_read = true;
    }

    /// Returns the milliseconds that the readings cover.
    fn advance_requests(&mut self, read: &KindRead) -> u64 {
        let ms = self.covered(self.requests_at, read);
        self.open.counts.add(Field::AnsweredMs, ms);
        self.requests_at = self.requests_at.max(read.newest);
        ms
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

    /// The uncertainty of a reading, but little enough that each of the shortest ticks is measured.
    fn shortest_gap(&self) -> u64 {
        READING_UNCERTAINTY_MS.min(self.tick.millis() / 2)
    }

    fn longest_gap(&self) -> u64 {
        self.tick.millis().saturating_mul(LONG as u64)
    }

    fn passed(&self, before: Option<Timestamp>, now: Timestamp) -> Passed {
        match before.map(|before| now.0.checked_sub(before.0)) {
            None => Passed::First,
            Some(None | Some(0)) => Passed::Late,
            Some(Some(ms)) if ms > self.longest_gap() => Passed::First,
            Some(Some(ms)) => Passed::Millis(ms),
        }
    }
}

/// Time at which the counters of a replica that was never read were zero: the last reading of its function, if the replica started since.
fn counts_from(started: Option<Timestamp>, last_read: Option<Timestamp>) -> Option<Timestamp> {
    last_read.filter(|last_read| started >= Some(*last_read))
}

/// Whether the process of a replica was restarted after its `last` reading; `None` if that is unknown, or if one of several was.
fn restarted_since(reading: &Scrape, last: Option<Timestamp>) -> Option<bool> {
    let (oldest, last) = (reading.started?, last?);
    let newest = reading.last_started.unwrap_or(oldest);
    ((oldest >= last) == (newest >= last)).then_some(oldest >= last)
}

/// Requests that arrived between two readings, at all gateways, and those of them that failed before they reached a replica. If the
/// arrivals at a gateway fell, all its counters were reset.
fn arrivals_between(before: &IngressCounters, now: &IngressCounters, restart: AfterRestart) -> (ArrivalGrowth, Continuity) {
    let same =
        before.arrived.len() == now.arrived.len() && before.arrived.iter().zip(&*now.arrived).all(|(before, now)| before.of == now.of);
    let mut grown = ArrivalGrowth::default();
    let mut continuity = if same { Continuity::Continued } else { Continuity::Replaced };
    for (before, now) in before.arrived.iter().zip(&*now.arrived) {
        let (by, of_one) = counter_between(before.value, now.value, restart);
        grown.arrived = grown.arrived.saturating_add(by);
        continuity = continuity.max(of_one);
    }
    let reset = |of: u64| match find(&before.arrived, of).zip(find(&now.arrived, of)) {
        Some((before, now)) => now.value < before.value,
        None => continuity == Continuity::Reset,
    };
    let failed = |now: &Count| match find(&before.failed, now.of) {
        Some(before) if !reset(now.of) => now.value.saturating_sub(before.value),
        // A gateway shows failures from the first one on.
        _ => now.value,
    };
    grown.failed = now.failed.iter().map(failed).fold(0, u64::saturating_add);
    (grown, continuity)
}

/// Readings of one kind within a scrape.
#[derive(Debug, Default)]
struct KindRead {
    newest: Option<Timestamp>,
    /// Whether any of them was counted.
    counted: bool,
}

impl KindRead {
    fn saw(&mut self, at: Timestamp, counted: bool) {
        self.newest = self.newest.max(Some(at));
        self.counted |= counted;
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
    /// Adds the requests in flight at a replica, once even if several sources show them.
    fn add(&mut self, known: &mut KnownReplica, reading: &Scrape) {
        if let Some(in_flight) = reading.in_flight.filter(|in_flight| !in_flight.is_nan() && !known.in_flight_read) {
            known.in_flight_read = true;
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

fn impossible(counter: Counter, amount: Option<f64>, ms: u64) -> ImpossibleGrowth {
    ImpossibleGrowth { counter, replica: None, per_second: amount.map(|amount| amount * 1000.0 / ms as f64) }
}

fn thousandths(value: f64) -> u64 {
    // Negative numbers become zero.
    (value * 1000.0).round() as u64
}
