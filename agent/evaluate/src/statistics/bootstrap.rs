//! The stratified percentile bootstrap. Owns resampling; must not know the meaning of strata.
//!
//! A stratum is a cell: the runs of a cell are resampled from the runs of that cell, so every resample has the same
//! number of each. An interval is the middle of the resampled statistics, by percentile (Efron 1979). Random numbers
//! depend on a seed and the name of the estimate, so neither other competitors nor the order of estimates change an
//! interval.

use qscale_common::hash::fnv1a;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use super::sample::{Sample, quantile, weighted_middle};
use crate::results::rounded;

/// An interval.
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

/// Centres of runs with intervals.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Number of runs.
    pub runs: usize,
    /// Interquartile mean.
    pub iqm: f64,
    /// Its interval.
    pub iqm_interval: Interval,
    /// Arithmetic mean, which includes the worst quarter of the runs.
    pub mean: f64,
    /// Its interval.
    pub mean_interval: Interval,
}

/// Settings of the bootstrap.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// Number of resamples.
    pub resamples: u32,
    /// Share of the resamples within an interval, between 0 and 1.
    pub confidence: f64,
    /// Seed.
    pub seed: u64,
}

impl Bootstrap {
    /// Centres of all values of all strata, with intervals. `name` identifies the estimate and is part of the seed.
    ///
    /// `None` without strata.
    #[must_use]
    pub fn estimate(&self, strata: &[Sample], name: &str) -> Option<Estimate> {
        let pool = RankedValues::new(strata)?;
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

    /// Ratio of the sums of first and second elements of all pairs, with its interval. `None` without pairs, or if the
    /// sum of the second is not positive in the pairs or in any resample, so that the ratio is meaningless.
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

    /// The interval of `found`; the centre if there are no resamples.
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

/// A number below `end`, with a bias of `end` in 2^32, which is negligible.
fn below(draws: &mut Xoshiro256PlusPlus, end: usize) -> usize {
    ((u64::from(draws.next_u32()) * end as u64) >> 32) as usize
}

/// All values by rank: a resample is the count of each rank, and needs no sorting.
struct RankedValues {
    /// Distinct values, rising.
    values: Vec<f64>,
    /// For each stratum the ranks of its values.
    ranks: Vec<Vec<u32>>,
    /// Number of values.
    total: usize,
}

impl RankedValues {
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
