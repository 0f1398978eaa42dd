//! Load: what arrives at a function when. Owns how a workload becomes requests; the workload itself is that of the load generator.

use std::sync::Arc;
use std::time::Duration;

use qscale_common::workload::trace::{MinuteTrace, RowTrace};
use qscale_common::workload::{Arrivals, Gaps, Iat, Pattern, PatternArrivals, Scale, WorkloadRng};

use crate::function::Function;
use crate::nanos::Nanos;
use crate::profile::Demand;

/// A century: no load ends by itself before a run does.
const FOREVER: Duration = Duration::from_secs(3_155_760_000);

/// What arrives at a function.
#[derive(Debug, Clone)]
pub enum Load {
    /// A pattern; what requests ask for is the profile's.
    Pattern {
        /// The rate over time.
        pattern: Pattern,
        /// The gaps between requests.
        gaps: Gaps,
    },
    /// The functions of a trace (mostly one), whose durations say what requests ask for.
    Trace {
        /// The trace.
        trace: Arc<MinuteTrace>,
        /// Where in its minute each request falls.
        iat: Iat,
        /// How much faster and denser it is played.
        scale: Scale,
        /// Share of a duration that is computed, 0 to 1; during the rest the request waits for others.
        cpu_share: f64,
    },
    /// Single invocations, of one function or of several, whose durations say what requests ask for.
    Rows {
        /// The trace.
        trace: Arc<RowTrace>,
        /// How much faster and denser it is played.
        scale: Scale,
        /// Share of a duration that is computed, 0 to 1; during the rest the request waits for others.
        cpu_share: f64,
    },
}

impl Load {
    /// Its requests, drawn from `rng`.
    #[must_use]
    pub fn source(&self, rng: WorkloadRng) -> Source {
        match self {
            Load::Pattern { pattern, gaps } => Source::new(Stream::Pattern(PatternArrivals::new(pattern.clone(), *gaps, FOREVER, rng))),
            Load::Trace { trace, iat, scale, cpu_share } => {
                let mut rng = rng;
                Source::new(Stream::Trace(Arrivals::minutes(trace, *iat, *scale, FOREVER, &mut rng), cpu_share.clamp(0.0, 1.0)))
            }
            Load::Rows { trace, scale, cpu_share } => {
                Source::new(Stream::Trace(Arrivals::rows(trace, 0, *scale, FOREVER, rng), cpu_share.clamp(0.0, 1.0)))
            }
        }
    }
}

impl Load {
    /// Begins its requests anew, drawn from `rng`, in the memory that `source` has, which came from this load.
    pub fn reset(&self, source: &mut Source, rng: WorkloadRng) {
        match &mut source.stream {
            Stream::Pattern(arrivals) => {
                arrivals.begin_again(rng);
                source.next = source.stream.next();
            }
            Stream::Trace(..) => *source = self.source(rng),
        }
    }
}

/// Requests to come, in the order of time.
#[derive(Debug, Clone)]
pub struct Source {
    stream: Stream,
    /// When the load begins.
    begin: Nanos,
    next: Option<(Nanos, Option<Demand>)>,
}

#[derive(Debug, Clone)]
enum Stream {
    Pattern(PatternArrivals),
    Trace(Arrivals, f64),
}

impl Source {
    fn new(stream: Stream) -> Self {
        let mut source = Self { stream, begin: Nanos::ZERO, next: None };
        source.next = source.stream.next();
        source
    }

    /// Takes the next request: when it arrives, and what it asks for where that is not the profile's.
    pub fn take(&mut self) -> Option<(Nanos, Option<Demand>)> {
        let next = self.coming();
        std::mem::replace(&mut self.next, next)
    }

    #[inline]
    fn coming(&mut self) -> Option<(Nanos, Option<Demand>)> {
        self.stream.next().map(|(at, demand)| (at + self.begin, demand))
    }

    /// The same requests with the load beginning at `begin`.
    #[must_use]
    pub fn beginning(mut self, begin: Nanos) -> Self {
        self.next = self.next.map(|(at, demand)| (at + begin, demand));
        self.begin = begin;
        self
    }

    /// Lets those arrive that come before `until`.
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

impl Stream {
    #[inline]
    fn next(&mut self) -> Option<(Nanos, Option<Demand>)> {
        match self {
            Stream::Pattern(arrivals) => arrivals.next().map(|at| (at.into(), None)),
            Stream::Trace(arrivals, cpu_share) => arrivals.next().map(|arrival| {
                let duration = Nanos::millis(u64::from(arrival.duration_ms));
                let cpu = Nanos((duration.0 as f64 * *cpu_share) as u64);
                (arrival.at.into(), Some(Demand { cpu, waiting: duration.since(cpu) }))
            }),
        }
    }
}

#[cfg(test)]
mod tests;
