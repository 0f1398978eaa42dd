//! Load: arrivals at a function. Owns the conversion of a workload to requests; workloads are those of the load generator.

use std::sync::Arc;
use std::time::Duration;

use qscale_common::workload::trace::{MinuteTrace, RowTrace};
use qscale_common::workload::{Arrivals, Gaps, Iat, Pattern, PatternArrivals, Scale, WorkloadRng};

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
}

impl SimulatedLoad {
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
            LoadStream::Trace(..) => *source = self.source(rng),
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
