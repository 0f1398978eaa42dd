//! Gaps between the requests of a pattern. Owns the three kinds of gap and the resulting arrivals.

use std::time::Duration;

use rand::RngExt;
use rand_distr::Exp1;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, VariantNames};

use super::pattern::Segment;
use super::{Pattern, WorkloadRng};

/// Distribution of the gaps between requests; their mean follows the pattern's rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Display, EnumString, VariantNames)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase", parse_err_ty = String, parse_err_fn = unknown_gaps)]
pub enum Gaps {
    /// Exponential: independent users, an inhomogeneous Poisson process.
    #[default]
    Poisson,
    /// Equal, with the first request at zero.
    Constant,
    /// Between zero and twice the mean.
    Uniform,
}

fn unknown_gaps(text: &str) -> String {
    format!("`{text}` is not a kind of gap: write one of {}", Gaps::VARIANTS.join(", "))
}

/// The instants at which the requests of one pattern are due, in order, as time since the start.
///
/// At a constant rate a gap is a division. At a varying rate exponential gaps are thinned: drawn at the maximum rate of
/// a short segment, and each request kept with probability rate / maximum (Lewis and Shedler 1979), which is the same
/// process. Other gaps invert the integral.
#[derive(Debug, Clone)]
pub struct PatternArrivals {
    pattern: Pattern,
    gaps: Gaps,
    rng: WorkloadRng,
    at: f64,
    until: f64,
    first: bool,
    segment: Segment,
}

/// No segment: gaps are inverted.
const NO_SEGMENT: Segment = Segment { end: f64::NEG_INFINITY, least: 0.0, most: 0.0 };

impl PatternArrivals {
    /// The arrivals of `pattern` before `until`.
    #[must_use]
    pub fn new(pattern: Pattern, gaps: Gaps, until: Duration, rng: WorkloadRng) -> Self {
        // Less than a nanosecond before the end is the end: ten gaps of 0.1 s may sum to a little less than one second.
        let until = until.as_secs_f64() - 1e-9;
        let mut arrivals = Self { pattern, gaps, rng, at: 0.0, until, first: true, segment: NO_SEGMENT };
        arrivals.look_ahead();
        arrivals
    }

    /// Restarts with `rng`.
    pub fn begin_again(&mut self, rng: WorkloadRng) {
        (self.rng, self.at, self.first) = (rng, 0.0, true);
        self.look_ahead();
    }

    fn look_ahead(&mut self) {
        let segment = self.pattern.segment(self.at);
        self.segment = segment.filter(|segment| self.gaps == Gaps::Poisson || segment.least == segment.most).unwrap_or(NO_SEGMENT);
    }

    /// Advances to the next request, or to infinity.
    #[inline]
    fn advance(&mut self) {
        loop {
            let gap = self.gap();
            let next = self.at + gap / self.segment.most;
            let Segment { end, least, most } = self.segment;
            if next <= end {
                self.at = next;
                // Of a very long wave that begins at zero, almost no request is kept for ages.
                if least == most || self.is_kept() || self.at >= self.until {
                    return;
                }
            } else if least < most {
                // Exponential gaps have no memory and restart in the next segment.
                self.at = end;
                self.look_ahead();
            } else {
                self.at = self.pattern.advance(self.at, gap).unwrap_or(f64::INFINITY);
                return self.look_ahead();
            }
        }
    }

    /// Whether a request at `at`, drawn at the stretch's highest rate, is one.
    fn is_kept(&mut self) -> bool {
        let rate = self.rng.random::<f64>() * self.segment.most;
        rate < self.segment.least || rate < self.pattern.rate_at(Duration::from_secs_f64(self.at)).per_second()
    }

    /// A gap with mean one.
    #[inline]
    fn gap(&mut self) -> f64 {
        match self.gaps {
            Gaps::Poisson => self.rng.sample(Exp1),
            Gaps::Constant if self.first => 0.0,
            Gaps::Constant => 1.0,
            Gaps::Uniform => 2.0 * self.rng.random::<f64>(),
        }
    }
}

impl Iterator for PatternArrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        // Calls after the last arrival must not wrap around.
        if self.at < self.until {
            self.advance();
            self.first = false;
        }
        (self.at < self.until).then(|| since_start(self.at))
    }
}

/// `Duration::from_secs_f64`, rounded with less care about the last nanosecond.
#[inline]
pub(super) fn since_start(seconds: f64) -> Duration {
    // About 300 years, in nanoseconds.
    if seconds < 1e10 { Duration::from_nanos((seconds * 1e9 + 0.5) as u64) } else { Duration::from_secs_f64(seconds) }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::super::Dispersion;
    use super::*;

    fn arrivals(pattern: &str, gaps: Gaps, seconds: u64) -> PatternArrivals {
        let rng = WorkloadRng::seed_from_u64(7);
        PatternArrivals::new(pattern.parse().expect("a pattern"), gaps, Duration::from_secs(seconds), rng)
    }

    #[test]
    fn poisson_arrivals_have_an_index_of_dispersion_of_one_at_every_scale() {
        for (window, seconds) in [(1, 200), (10, 200), (100, 2_000)] {
            let mut dispersion = Dispersion::new(Duration::from_millis(window));
            arrivals("500", Gaps::Poisson, seconds).for_each(|at| dispersion.observe(at));
            let index = dispersion.index().expect("many windows");
            assert!((index - 1.0).abs() <= 0.05, "{window} ms: {index}");
        }
    }

    #[test]
    fn constant_gaps_are_equal_and_begin_at_zero() {
        let instants: Vec<_> = arrivals("10", Gaps::Constant, 1).collect();
        assert_eq!(instants.len(), 10);
        assert_eq!(instants[0], Duration::ZERO);
        assert!((instants[9].as_secs_f64() - 0.9).abs() < 1e-9);
    }

    #[test]
    fn uniform_gaps_stay_within_twice_the_mean() {
        let instants: Vec<_> = arrivals("100", Gaps::Uniform, 100).collect();
        assert!((9_700..10_300).contains(&instants.len()), "{}", instants.len());
        assert!(instants.windows(2).all(|pair| pair[1] - pair[0] <= Duration::from_micros(20_001)));
    }

    #[test]
    fn arrivals_follow_the_pattern() {
        let count = |from: u64, to: u64| {
            let inside = Duration::from_secs(from)..Duration::from_secs(to);
            arrivals("step:100@0s,1000@20s,100@40s", Gaps::Poisson, 60).filter(|at| inside.contains(at)).count()
        };
        assert!((1_800..2_200).contains(&count(0, 20)));
        assert!((19_400..20_600).contains(&count(20, 40)));
        assert!((1_800..2_200).contains(&count(40, 60)));
    }

    /// The integral of the rate between two requests is exponential with mean one anywhere in the wave.
    #[test]
    fn a_rate_that_varies_makes_the_same_process() {
        use std::f64::consts::TAU;
        let (low, high, period) = (5.0, 95.0, 100.0);
        let integral = |t: f64| (low + high) / 2.0 * t - (high - low) / 2.0 * (TAU * t / period).sin() * period / TAU;
        let mut before = 0.0;
        let mut gaps = Vec::new();
        for at in arrivals("diurnal:5..95/100s", Gaps::Poisson, 4_000) {
            let area = integral(at.as_secs_f64());
            gaps.push(area - before);
            before = area;
        }
        let n = gaps.len() as f64;
        assert!((n - 200_000.0).abs() < 4.0 * 200_000f64.sqrt(), "{n} requests");
        for part in gaps.chunks(gaps.len() / 8) {
            let share = |least: f64| part.iter().filter(|gap| **gap > least).count() as f64 / part.len() as f64;
            for least in [0.1f64, 0.5, 1.0, 2.0, 4.0] {
                let expected = (-least).exp();
                let deviation = (expected * (1.0 - expected) / part.len() as f64).sqrt();
                assert!((share(least) - expected).abs() < 4.0 * deviation, "{} of the gaps are longer than {least}", share(least));
            }
        }
        let together = gaps.windows(2).map(|pair| (pair[0] - 1.0) * (pair[1] - 1.0)).sum::<f64>() / n;
        assert!(together.abs() < 4.0 / n.sqrt(), "neighbouring gaps correlate by {together}");
    }

    #[test]
    fn requests_of_a_wave_and_a_ramp_fall_where_the_rate_is() {
        let quarter = Duration::from_secs(16);
        for text in ["diurnal:0..100/64s", "ramp:0..100/64s", "ramp:100..0/64s", "diurnal:0..2/64s"] {
            let pattern: Pattern = text.parse().expect("a pattern");
            let run = |seed| PatternArrivals::new(pattern.clone(), Gaps::Poisson, quarter, WorkloadRng::seed_from_u64(seed)).count();
            let count = (0..40).map(run).sum::<usize>() as f64;
            let expected = 40.0 * (0..16_000).map(|ms| pattern.rate_at(Duration::from_millis(ms)).per_second() / 1000.0).sum::<f64>();
            assert!((count - expected).abs() < 4.0 * expected.sqrt() + 2.0, "{text}: {count}, expected {expected}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_arrivals() {
        assert!(arrivals("diurnal:5..50/10s", Gaps::Poisson, 60).eq(arrivals("diurnal:5..50/10s", Gaps::Poisson, 60)));
    }

    #[test]
    fn a_finished_stream_stays_finished() {
        let mut stream = arrivals("10", Gaps::Constant, 1);
        assert_eq!(stream.by_ref().count(), 10);
        assert_eq!(stream.next(), None);
        let mut silent = arrivals("0", Gaps::Poisson, 1);
        assert_eq!((silent.next(), silent.next()), (None, None));
    }
}
