//! Gaps between the requests of a pattern. Owns the three kinds of gap and the stream of instants that they make.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand::RngExt;
use rand_distr::Exp1;
use serde::{Deserialize, Serialize};

use super::{Pattern, WorkloadRng};

/// How the gaps between requests are distributed; their mean always follows the pattern's rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gaps {
    /// Exponential: independent users, an inhomogeneous Poisson process.
    #[default]
    Poisson,
    /// All alike, the first request at zero: what a ticker sends.
    Constant,
    /// Between zero and twice the mean.
    Uniform,
}

impl fmt::Display for Gaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Gaps::Poisson => "poisson",
            Gaps::Constant => "constant",
            Gaps::Uniform => "uniform",
        })
    }
}

impl FromStr for Gaps {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "poisson" => Ok(Gaps::Poisson),
            "constant" => Ok(Gaps::Constant),
            "uniform" => Ok(Gaps::Uniform),
            other => Err(format!("`{other}` is not a kind of gap: write poisson, constant or uniform")),
        }
    }
}

/// The instants at which the requests of one pattern are due, in order, as time since the start.
#[derive(Debug, Clone)]
pub struct PatternArrivals {
    pattern: Pattern,
    gaps: Gaps,
    rng: WorkloadRng,
    at: f64,
    until: f64,
    first: bool,
}

impl PatternArrivals {
    /// The arrivals of `pattern` before `until`.
    #[must_use]
    pub fn new(pattern: Pattern, gaps: Gaps, until: Duration, rng: WorkloadRng) -> Self {
        Self { pattern, gaps, rng, at: 0.0, until: until.as_secs_f64(), first: true }
    }

    /// A gap with mean one.
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
        let gap = self.gap();
        self.first = false;
        // What lies beyond the end stays there: asking again after the last arrival must not wrap or return.
        self.at = self.pattern.advance(self.at, gap).unwrap_or(f64::INFINITY);
        // Less than a nanosecond before the end is the end: ten gaps of 0.1 s may sum to a little less than one second.
        (self.at < self.until - 1e-9).then(|| Duration::from_secs_f64(self.at))
    }
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
