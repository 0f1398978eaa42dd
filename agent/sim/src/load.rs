//! Load: arrivals at a function. Owns the conversion of a workload to requests; workloads are those of the load generator.

use std::sync::Arc;
use std::time::Duration;

use qscale_common::workload::trace::{MinuteTrace, RowTrace};
use qscale_common::workload::{Arrivals, Gaps, Iat, Pattern, PatternArrivals, Scale, WorkloadRng};
use rand::RngExt as _;

use crate::function::Function;
use crate::nanos::Nanos;
use crate::profile::RequestDemand;

/// A century: no load ends before a run does.
const FOREVER: Duration = Duration::from_secs(3_155_760_000);

/// Arrivals at a function.
#[derive(Debug, Clone)]
pub enum SimulatedLoad {
    /// A pattern; demands are drawn from the profile.
    Pattern {
        /// The rate over time.
        pattern: Pattern,
        /// The gaps between requests.
        gaps: Gaps,
    },
    /// Functions of a trace by minute, usually one; durations give the demands.
    Trace {
        /// The trace.
        trace: Arc<MinuteTrace>,
        /// Distribution of requests within their minute.
        iat: Iat,
        /// Factors of speed and density.
        scale: Scale,
        /// Share of a duration that is CPU time, 0 to 1; in the rest the request waits for other services.
        cpu_share: f64,
    },
    /// Single invocations of one or several functions; durations give the demands.
    Rows {
        /// The trace.
        trace: Arc<RowTrace>,
        /// Factors of speed and density.
        scale: Scale,
        /// Share of a duration that is CPU time, 0 to 1; in the rest the request waits for other services.
        cpu_share: f64,
    },
    /// Recorded numbers of requests in intervals of equal length, at times drawn uniformly within their interval: a Poisson process whose counts are known.
    /// There are none after the last interval. Demands are drawn from the profile.
    Counts {
        /// Number of requests in each interval; a fraction is rounded at random.
        counts: Arc<[f64]>,
        /// Length of an interval.
        interval: Duration,
    },
}

impl SimulatedLoad {
    /// Expected rate at `at`, requests/s; `None` for a trace, whose rates are known by minute.
    #[must_use]
    pub fn rate_at(&self, at: Duration) -> Option<f64> {
        match self {
            SimulatedLoad::Pattern { pattern, .. } => Some(pattern.rate_at(at).per_second()),
            SimulatedLoad::Counts { counts, interval } => {
                let number = (at.as_nanos() / interval.as_nanos().max(1)) as usize;
                Some(counts.get(number).copied().unwrap_or(0.0) / interval.as_secs_f64().max(1e-9))
            }
            SimulatedLoad::Trace { .. } | SimulatedLoad::Rows { .. } => None,
        }
    }

    /// The stream of requests, drawn from `rng`.
    #[must_use]
    pub fn source(&self, rng: WorkloadRng) -> LoadSource {
        match self {
            SimulatedLoad::Pattern { pattern, gaps } => {
                LoadSource::new(LoadStream::Pattern(PatternArrivals::new(pattern.clone(), *gaps, FOREVER, rng)))
            }
            SimulatedLoad::Trace { trace, iat, scale, cpu_share } => {
                let mut rng = rng;
                LoadSource::new(LoadStream::Trace(Arrivals::minutes(trace, *iat, *scale, FOREVER, &mut rng), cpu_share.clamp(0.0, 1.0)))
            }
            SimulatedLoad::Rows { trace, scale, cpu_share } => {
                LoadSource::new(LoadStream::Trace(Arrivals::rows(trace, 0, *scale, FOREVER, rng), cpu_share.clamp(0.0, 1.0)))
            }
            SimulatedLoad::Counts { counts, interval } => {
                let interval = Nanos::from(*interval);
                LoadSource::new(LoadStream::Counts(CountedArrivals {
                    counts: Arc::clone(counts),
                    interval,
                    begun: 0,
                    left: 0,
                    share: 0.0,
                    rng,
                }))
            }
        }
    }
}

impl SimulatedLoad {
    /// Restarts `source`, which came from this load, with `rng`, reusing its memory.
    pub fn reset(&self, source: &mut LoadSource, rng: WorkloadRng) {
        match &mut source.stream {
            LoadStream::Pattern(arrivals) => {
                arrivals.begin_again(rng);
                source.next = source.stream.next();
            }
            LoadStream::Trace(..) | LoadStream::Counts(_) => *source = self.source(rng),
        }
    }
}

/// Requests in the order of time.
#[derive(Debug, Clone)]
pub struct LoadSource {
    stream: LoadStream,
    /// Begin of the load.
    begin: Nanos,
    next: Option<(Nanos, Option<RequestDemand>)>,
}

#[derive(Debug, Clone)]
enum LoadStream {
    Pattern(PatternArrivals),
    Trace(Arrivals, f64),
    Counts(CountedArrivals),
}

/// Arrivals of recorded counts, in order.
#[derive(Debug, Clone)]
struct CountedArrivals {
    counts: Arc<[f64]>,
    interval: Nanos,
    /// Intervals that have begun.
    begun: usize,
    /// Requests that are left in the current one.
    left: u64,
    /// Share of it that has passed, 0 to 1.
    share: f64,
    rng: WorkloadRng,
}

impl CountedArrivals {
    fn next(&mut self) -> Option<Nanos> {
        while self.left == 0 {
            let count = self.counts.get(self.begun)?.max(0.0);
            self.left = count as u64 + u64::from(self.rng.random::<f64>() < count.fract());
            (self.begun, self.share) = (self.begun + 1, 0.0);
        }
        // The least of `left` uniform numbers above `share`: the numbers come in order without being stored.
        let survival = (1.0 - self.rng.random::<f64>()).powf(1.0 / self.left as f64);
        self.share = 1.0 - (1.0 - self.share) * survival;
        self.left -= 1;
        let begin = self.interval.0 * (self.begun as u64 - 1);
        Some(Nanos(begin + (self.interval.0 as f64 * self.share) as u64))
    }
}

impl LoadSource {
    fn new(stream: LoadStream) -> Self {
        let mut source = Self { stream, begin: Nanos::ZERO, next: None };
        source.next = source.stream.next();
        source
    }

    /// Takes the next request: its arrival, and its demand if the load gives one.
    pub fn take(&mut self) -> Option<(Nanos, Option<RequestDemand>)> {
        let next = self.coming();
        std::mem::replace(&mut self.next, next)
    }

    #[inline]
    fn coming(&mut self) -> Option<(Nanos, Option<RequestDemand>)> {
        self.stream.next().map(|(at, demand)| (at + self.begin, demand))
    }

    /// Delays all requests by `begin`.
    #[must_use]
    pub fn beginning(mut self, begin: Nanos) -> Self {
        self.next = self.next.map(|(at, demand)| (at + begin, demand));
        self.begin = begin;
        self
    }

    /// Delivers all requests before `until`.
    #[inline]
    pub fn feed(&mut self, function: &mut Function, until: Nanos) {
        while let Some((at, demand)) = self.next.filter(|(at, _)| *at < until) {
            match demand {
                None => function.arrive(at),
                Some(demand) => function.arrive_with(at, demand),
            }
            self.next = self.coming();
        }
    }
}

impl LoadStream {
    #[inline]
    fn next(&mut self) -> Option<(Nanos, Option<RequestDemand>)> {
        match self {
            LoadStream::Pattern(arrivals) => arrivals.next().map(|at| (at.into(), None)),
            LoadStream::Counts(arrivals) => arrivals.next().map(|at| (at, None)),
            LoadStream::Trace(arrivals, cpu_share) => arrivals.next().map(|arrival| {
                let duration = Nanos::millis(u64::from(arrival.duration_ms));
                let cpu = Nanos((duration.0 as f64 * *cpu_share) as u64);
                (arrival.at.into(), Some(RequestDemand { cpu, waiting: duration.since(cpu) }))
            }),
        }
    }
}

#[cfg(test)]
mod tests;
