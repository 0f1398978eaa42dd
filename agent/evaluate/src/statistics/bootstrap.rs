//! Intervals by resampling. Owns the stratified percentile bootstrap; must not know what strata stand for.
//!
//! A stratum is a cell: the runs of a cell are drawn again from the runs of that cell, so every resample holds as many of each as were run. An interval is the
//! middle of the resampled statistics, by percentile (Efron 1979). Chance comes from a seed and the name of what is estimated: who else competes, or in which
//! order estimates are made, changes no interval.

use qscale_common::hash::fnv1a;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use super::sample::{Sample, quantile, weighted_middle};
use crate::results::rounded;

/// From where to where.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "(f64, f64)", into = "(f64, f64)")]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end, not below the lower one.
    pub high: f64,
}

impl From<(f64, f64)> for Interval {
    fn from((low, high): (f64, f64)) -> Self {
        Self { low, high }
    }
}

impl From<Interval> for (f64, f64) {
    fn from(interval: Interval) -> Self {
        (interval.low, interval.high)
    }
}

/// The centre of runs, and how sure it is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Runs that it is taken from.
    pub runs: usize,
    /// Interquartile mean.
    pub iqm: f64,
    /// Its interval.
    pub iqm_interval: Interval,
    /// Arithmetic mean: an interquartile mean forgets the worst quarter, this does not.
    pub mean: f64,
    /// Its interval.
    pub mean_interval: Interval,
}

/// How to resample.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// How many resamples are drawn.
    pub resamples: u32,
    /// Share of them that an interval holds, between 0 and 1.
    pub confidence: f64,
    /// Where chance begins.
    pub seed: u64,
}

impl Bootstrap {
    /// Centre of all values of all strata, with intervals. `name` says what is estimated and starts the chance.
    ///
    /// `None` where there is no stratum.
    #[must_use]
    pub fn estimate(&self, strata: &[Sample], name: &str) -> Option<Estimate> {
        let pool = Pool::new(strata)?;
        let mut draws = self.draws(name);
        let mut counts = vec![0; pool.values.len()];
        let (mut middles, mut means) = (Vec::with_capacity(self.resamples as usize), Vec::with_capacity(self.resamples as usize));
        for _ in 0..self.resamples {
            pool.resample(&mut counts, &mut draws);
            middles.push(pool.interquartile_mean(&counts));
            means.push(pool.mean(&counts));
        }
        pool.observed(&mut counts);
        let (iqm, mean) = (pool.interquartile_mean(&counts), pool.mean(&counts));
        Some(Estimate {
            runs: pool.total,
            iqm: rounded(iqm),
            iqm_interval: self.interval(middles, iqm),
            mean: rounded(mean),
            mean_interval: self.interval(means, mean),
        })
    }

    /// Sum of the first over sum of the second of all pairs, with its interval. `None` where there is no pair, or where the sum of the second is not above zero
    /// in the pairs themselves or in any resample, so that the ratio has no meaning.
    #[must_use]
    pub fn ratio(&self, strata: &[Vec<(f64, f64)>], name: &str) -> Option<(f64, Interval)> {
        let sum = |(first, second): (f64, f64), pair: &(f64, f64)| (first + pair.0, second + pair.1);
        let over = |(first, second): (f64, f64)| (second > 0.0).then(|| first / second).filter(|ratio| ratio.is_finite());
        let centre = over(strata.iter().flatten().fold((0.0, 0.0), sum))?;
        let mut draws = self.draws(name);
        let mut ratios = Vec::with_capacity(self.resamples as usize);
        for _ in 0..self.resamples {
            let drawn =
                strata.iter().flat_map(|pairs| std::iter::repeat_n(pairs, pairs.len())).map(|pairs| &pairs[below(&mut draws, pairs.len())]);
            ratios.push(over(drawn.fold((0.0, 0.0), sum))?);
        }
        Some((rounded(centre), self.interval(ratios, centre)))
    }

    /// The middle of `found`; the centre itself where nothing was resampled.
    fn interval(&self, mut found: Vec<f64>, centre: f64) -> Interval {
        if found.is_empty() {
            return Interval { low: rounded(centre), high: rounded(centre) };
        }
        found.sort_by(f64::total_cmp);
        let beyond = (1.0 - self.confidence) / 2.0;
        Interval { low: rounded(quantile(&found, beyond)), high: rounded(quantile(&found, 1.0 - beyond)) }
    }

    fn draws(&self, name: &str) -> Xoshiro256PlusPlus {
        Xoshiro256PlusPlus::seed_from_u64(self.seed ^ fnv1a(name.bytes()))
    }
}

/// A number below `end`. It favours some numbers by `end` in 2^32, which no resample shows.
fn below(draws: &mut Xoshiro256PlusPlus, end: usize) -> usize {
    ((u64::from(draws.next_u32()) * end as u64) >> 32) as usize
}

/// All values, each known by its rank: a resample is then how often each rank occurs, and needs no sorting.
struct Pool {
    /// Distinct values, rising.
    values: Vec<f64>,
    /// For each stratum the ranks of its values.
    ranks: Vec<Vec<u32>>,
    /// How many values there are.
    total: usize,
}

impl Pool {
    fn new(strata: &[Sample]) -> Option<Self> {
        let all = strata.iter().flat_map(Sample::values);
        let mut values: Vec<f64> = all.clone().copied().collect();
        values.sort_by(f64::total_cmp);
        values.dedup();
        let rank = |value: &f64| values.partition_point(|other| other < value) as u32;
        let ranks = strata.iter().map(|stratum| stratum.values().iter().map(rank).collect()).collect();
        (!values.is_empty()).then(|| Self { total: all.count(), values, ranks })
    }

    fn observed(&self, counts: &mut [u32]) {
        counts.fill(0);
        self.ranks.iter().flatten().for_each(|rank| counts[*rank as usize] += 1);
    }

    fn resample(&self, counts: &mut [u32], draws: &mut Xoshiro256PlusPlus) {
        counts.fill(0);
        for ranks in &self.ranks {
            for _ in 0..ranks.len() {
                counts[ranks[below(draws, ranks.len())] as usize] += 1;
            }
        }
    }

    fn interquartile_mean(&self, counts: &[u32]) -> f64 {
        weighted_middle(self.values.iter().copied().zip(counts.iter().copied()), self.total)
    }

    fn mean(&self, counts: &[u32]) -> f64 {
        self.values.iter().zip(counts).map(|(value, count)| value * f64::from(*count)).sum::<f64>() / self.total as f64
    }
}

#[cfg(test)]
mod tests;
