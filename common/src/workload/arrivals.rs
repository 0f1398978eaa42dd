//! Arrivals of many functions as one stream in time order. Owns the type of an arrival and the merge.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::sync::Arc;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, VariantNames};

use super::gaps::since_start;
use super::trace::{MinuteTrace, RowTrace, TracedInvocation};
use super::{Demand, Gaps, Iat, MinuteArrivals, MinuteCount, Pattern, PatternArrivals, WorkloadRng};

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrival {
    /// Time since the start.
    pub at: Duration,
    /// Index of the function.
    pub function: u32,
    /// Duration of the function, milliseconds.
    pub duration_ms: u32,
    /// Memory of the function, MiB.
    pub memory_mib: u32,
}

/// Distribution of the requests of one pattern over several functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Display, EnumString, VariantNames)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case", parse_err_ty = String, parse_err_fn = unknown_spread)]
pub enum Spread {
    /// In turn, as vSwarm's invoker; the pattern's rate is the total.
    #[default]
    RoundRobin,
    /// To a random function; the pattern's rate is the total.
    Random,
    /// To all functions at the same instant; the pattern's rate applies to each.
    Each,
}

fn unknown_spread(text: &str) -> String {
    format!("`{text}` is not a way to spread requests: write one of {}", Spread::VARIANTS.join(", "))
}

/// Time and rate scale of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    /// Seconds of the trace per second of playback; 60 plays an hour in a minute with all its invocations.
    pub time: f64,
    /// Requests per recorded invocation; a fraction is rounded at random.
    pub rate: f64,
}

impl Default for Scale {
    fn default() -> Self {
        Self { time: 1.0, rate: 1.0 }
    }
}

impl Scale {
    /// Range of the time scale.
    pub const TIME: (f64, f64) = (1e-6, 1e6);
    /// Range of the rate scale.
    pub const RATE: (f64, f64) = (0.0, 1e3);

    /// `time` and `rate`.
    ///
    /// # Errors
    /// A time scale that is not 0.000001 to 1,000,000, or a rate scale that is not 0 to 1,000.
    pub fn new(time: f64, rate: f64) -> Result<Self, String> {
        if !(Self::TIME.0..=Self::TIME.1).contains(&time) {
            return Err(format!("time scale = {time}, must be 0.000001 to 1000000"));
        }
        if !(Self::RATE.0..=Self::RATE.1).contains(&rate) {
            return Err(format!("rate scale = {rate}, must be 0 to 1000"));
        }
        Ok(Self { time, rate })
    }
}

/// Arrivals of a workload in time order.
#[derive(Debug, Clone)]
pub struct Arrivals(ArrivalStream);

#[derive(Debug, Clone)]
enum ArrivalStream {
    Pattern(Box<PatternStream>),
    Minutes(Merge<MinuteStream>),
    Rows(Box<RowStream>),
}

impl Arrivals {
    /// Requests of one pattern, to `functions` functions (at least one), each asking for `demand`.
    #[must_use]
    pub fn pattern(arrivals: PatternArrivals, spread: Spread, functions: u32, demand: Demand, rng: WorkloadRng) -> Self {
        let functions = functions.max(1);
        Self(ArrivalStream::Pattern(Box::new(PatternStream {
            arrivals,
            spread,
            functions,
            demand,
            rng,
            at: Duration::ZERO,
            next: 0,
            to_all: 0,
        })))
    }

    /// A constant, Poisson or uniform stream of one pattern to one function: the short way for the common case.
    #[must_use]
    pub fn single(pattern: Pattern, gaps: Gaps, until: Duration, demand: Demand, rng: &mut WorkloadRng) -> Self {
        let arrivals = PatternArrivals::new(pattern, gaps, until, WorkloadRng::from_rng(rng));
        Self::pattern(arrivals, Spread::RoundRobin, 1, demand, WorkloadRng::from_rng(rng))
    }

    /// Invocations of a trace of counts a minute, those that come before `until`. Every function draws from a generator of its
    /// own, taken from `rng` in order.
    #[must_use]
    pub fn minutes(trace: &MinuteTrace, iat: Iat, scale: Scale, until: Duration, rng: &mut WorkloadRng) -> Self {
        let streams = trace.functions.iter().enumerate().map(|(function, kept)| MinuteStream {
            arrivals: MinuteArrivals::new(RowCounts::new(kept.counts.clone()), iat, scale.rate, WorkloadRng::from_rng(rng)),
            function: function as u32,
            demand: kept.demand,
            seconds_a_bin: 60.0 / scale.time,
            until,
        });
        Self(ArrivalStream::Minutes(Merge::new(streams)))
    }

    /// Invocations of a trace of single ones, those that come before `until`; each asks for `memory_mib`. Where the rate is
    /// scaled up, the further ones fall between an invocation and the next.
    #[must_use]
    pub fn rows(trace: &RowTrace, memory_mib: u32, scale: Scale, until: Duration, rng: WorkloadRng) -> Self {
        Self(ArrivalStream::Rows(Box::new(RowStream {
            rows: trace.rows.clone(),
            next: 0,
            copies: 0,
            at_us: 0.0,
            memory_mib,
            scale,
            until,
            rng,
        })))
    }
}

impl Iterator for Arrivals {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        match &mut self.0 {
            ArrivalStream::Pattern(stream) => stream.next(),
            ArrivalStream::Minutes(stream) => stream.next(),
            ArrivalStream::Rows(stream) => stream.next(),
        }
    }
}

#[derive(Debug, Clone)]
struct PatternStream {
    arrivals: PatternArrivals,
    spread: Spread,
    functions: u32,
    demand: Demand,
    rng: WorkloadRng,
    at: Duration,
    next: u32,
    /// Functions that the current instant still goes to.
    to_all: u32,
}

impl PatternStream {
    fn next(&mut self) -> Option<Arrival> {
        if self.to_all == 0 {
            self.at = self.arrivals.next()?;
            if self.spread == Spread::Each {
                self.to_all = self.functions;
            }
        }
        let function = match self.spread {
            Spread::RoundRobin => {
                let function = self.next;
                self.next = (self.next + 1) % self.functions;
                function
            }
            Spread::Random => self.rng.random_range(0..self.functions),
            Spread::Each => {
                self.to_all -= 1;
                self.functions - 1 - self.to_all
            }
        };
        let (duration_ms, memory_mib) = self.demand.draw(&mut self.rng);
        Some(Arrival { at: self.at, function, duration_ms, memory_mib })
    }
}

/// The counts of one function, shared with the trace and read in place.
#[derive(Debug, Clone)]
struct RowCounts {
    counts: Arc<[MinuteCount]>,
    next: usize,
}

impl RowCounts {
    fn new(counts: Arc<[MinuteCount]>) -> Self {
        Self { counts, next: 0 }
    }
}

impl Iterator for RowCounts {
    type Item = MinuteCount;

    fn next(&mut self) -> Option<MinuteCount> {
        let count = self.counts.get(self.next).copied()?;
        self.next += 1;
        Some(count)
    }
}

#[derive(Debug, Clone)]
struct MinuteStream {
    arrivals: MinuteArrivals<RowCounts>,
    function: u32,
    demand: Demand,
    seconds_a_bin: f64,
    until: Duration,
}

impl Iterator for MinuteStream {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        let at = self.arrivals.next()? * self.seconds_a_bin;
        // Compared as a number first: a slow enough time scale puts the end of a trace beyond what a Duration holds.
        if at >= self.until.as_secs_f64() {
            return None;
        }
        let (duration_ms, memory_mib) = self.demand.draw(self.arrivals.rng());
        Some(Arrival { at: since_start(at), function: self.function, duration_ms, memory_mib })
    }
}

#[derive(Debug, Clone)]
struct RowStream {
    rows: Arc<[TracedInvocation]>,
    next: usize,
    /// Pending copies of the row before `next`.
    copies: u64,
    at_us: f64,
    memory_mib: u32,
    scale: Scale,
    until: Duration,
    rng: WorkloadRng,
}

impl RowStream {
    fn next(&mut self) -> Option<Arrival> {
        while self.copies == 0 {
            let row = self.rows.get(self.next)?;
            self.next += 1;
            self.at_us = row.start_us as f64;
            let rate = self.scale.rate;
            self.copies = rate as u64 + u64::from(rate.fract() > 0.0 && self.rng.random::<f64>() < rate.fract());
        }
        let row = self.rows.get(self.next - 1)?;
        let at = self.at_us / 1e6 / self.scale.time;
        if at >= self.until.as_secs_f64() {
            return None;
        }
        self.copies -= 1;
        if self.copies > 0 {
            let end = self.rows.get(self.next).map_or(self.at_us, |next| next.start_us as f64);
            // The least of the remaining uniform draws between here and the next row.
            let draw: f64 = 1.0 - self.rng.random::<f64>();
            self.at_us += (end - self.at_us) * (1.0 - draw.powf(1.0 / self.copies as f64));
        }
        Some(Arrival { at: Duration::from_secs_f64(at), function: row.function, duration_ms: row.duration_ms, memory_mib: self.memory_mib })
    }
}

/// Several streams of arrivals, each in time order, as one. Keeps one arrival a stream that has not ended.
#[derive(Debug, Clone)]
pub struct Merge<I> {
    /// The next arrival of each stream and the stream's number: little to move about, however much a stream is.
    heads: BinaryHeap<Reverse<(Arrival, usize)>>,
    streams: Vec<I>,
}

impl<I: Iterator<Item = Arrival>> Merge<I> {
    /// Merges `streams`; of equal arrivals that of the earlier stream comes first.
    pub fn new(streams: impl IntoIterator<Item = I>) -> Self {
        let mut streams: Vec<I> = streams.into_iter().collect();
        let heads = streams.iter_mut().enumerate().filter_map(|(number, stream)| Some(Reverse((stream.next()?, number)))).collect();
        Self { heads, streams }
    }
}

impl<I: Iterator<Item = Arrival>> Iterator for Merge<I> {
    type Item = Arrival;

    #[inline]
    fn next(&mut self) -> Option<Arrival> {
        let mut head = self.heads.peek_mut()?;
        let (arrival, number) = head.0;
        match self.streams[number].next() {
            Some(next) => head.0.0 = next,
            None => {
                PeekMut::pop(head);
            }
        }
        Some(arrival)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DurationQuantiles, trace::TraceFunction};
    use super::*;

    const FIXED: Demand = Demand::Fixed { duration_ms: 7, memory_mib: 64 };

    fn rng() -> WorkloadRng {
        WorkloadRng::seed_from_u64(3)
    }

    fn spread(spread: Spread) -> Vec<Arrival> {
        let arrivals = PatternArrivals::new("10".parse().expect("a rate"), Gaps::Constant, Duration::from_secs(1), rng());
        Arrivals::pattern(arrivals, spread, 3, FIXED, rng()).collect()
    }

    fn minutes() -> MinuteTrace {
        let duration = DurationQuantiles::new([1, 2, 3, 4, 5, 6, 7]).expect("rising");
        let demand = Demand::QuantilesOfDuration { duration, memory_mib: 128 };
        let function = |counts: &[(u32, u32)]| TraceFunction {
            hash: "f".to_owned(),
            counts: counts.iter().map(|(bin, count)| MinuteCount { bin: *bin, count: *count }).collect(),
            demand,
        };
        MinuteTrace { functions: vec![function(&[(0, 100), (2, 50)]), function(&[]), function(&[(1, 30)])], minutes: 3 }
    }

    fn played(scale: Scale, until: Duration) -> Vec<Arrival> {
        Arrivals::minutes(&minutes(), Iat::Conditioned, scale, until, &mut rng()).collect()
    }

    #[test]
    fn in_turn_the_rate_is_the_total() {
        assert_eq!(spread(Spread::RoundRobin).iter().map(|a| a.function).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]);
        assert_eq!(spread(Spread::Random).len(), 10);
    }

    #[test]
    fn each_function_gets_the_same_arrivals() {
        let arrivals = spread(Spread::Each);
        assert_eq!(arrivals.len(), 30);
        for all in arrivals.chunks(3) {
            assert_eq!(all.iter().map(|a| a.function).collect::<Vec<_>>(), [0, 1, 2]);
            assert!(all.iter().all(|a| a.at == all[0].at));
        }
    }

    #[test]
    fn functions_of_a_trace_are_merged_in_time_order() {
        let arrivals = played(Scale::default(), Duration::MAX);
        assert!(arrivals.is_sorted());
        let of = |function: u32| arrivals.iter().filter(|a| a.function == function).count();
        assert_eq!((of(0), of(1), of(2)), (150, 0, 30));
    }

    #[test]
    fn time_and_rate_scale_apart() {
        let fast = played(Scale::new(60.0, 1.0).expect("valid"), Duration::MAX);
        assert_eq!(fast.len(), 180);
        assert!(fast.last().expect("some").at < Duration::from_secs(3));
        let thin = played(Scale::new(1.0, 0.5).expect("valid"), Duration::MAX).len();
        assert_eq!(thin, 90);
        assert!(Scale::new(0.0, 1.0).is_err() && Scale::new(1.0, f64::NAN).is_err());
    }

    #[test]
    fn nothing_arrives_after_the_end() {
        assert!(played(Scale::default(), Duration::from_secs(30)).iter().all(|a| a.at < Duration::from_secs(30)));
        assert!(played(Scale::new(1e-6, 1.0).expect("valid"), Duration::from_secs(1)).is_empty());
    }

    #[test]
    fn the_same_seed_plays_the_same_trace() {
        assert_eq!(played(Scale::default(), Duration::MAX), played(Scale::default(), Duration::MAX));
    }

    #[test]
    fn rows_scaled_up_fall_between_their_neighbours() {
        let rows: Vec<TracedInvocation> =
            (0..10).map(|i| TracedInvocation { start_us: i * 1_000_000, function: i as u32, duration_ms: 1 }).collect();
        let trace = RowTrace { functions: vec![String::new(); 10], rows: rows.into() };
        let play = |rate: f64| Arrivals::rows(&trace, 9, Scale { time: 1.0, rate }, Duration::MAX, rng()).collect::<Vec<_>>();
        assert_eq!(play(1.0).len(), 10);
        assert_eq!(play(0.0).len(), 0);
        let triple = play(3.0);
        assert_eq!(triple.len(), 30);
        assert!(triple.windows(2).all(|pair| pair[0].at <= pair[1].at));
        assert!(triple.iter().all(|a| a.at.as_secs() >= u64::from(a.function) && a.at.as_secs() <= u64::from(a.function) + 1));
    }
}
