//! Estimates with intervals. Owns their formula; pure.
//!
//! The half-width of an interval of 95 % is `sqrt((t s)^2 + e^2 + (1.96 b)^2)`:
//! - `s` is the standard deviation over the draws, each with a demand drawn from the uncertainty of the calibration and with arrivals of its own, and `t` the
//!   quantile of Student's distribution for their number: the true demand is one such draw, so that the spread of the draws counts and not that of their mean;
//! - `e` is the error of the simulator on the acting autoscaler in the judged half ([`crate::reproduction`]);
//! - `b` is the standard error of the mean over the simulated blocks where not all are simulated, from the measured values of the blocks.

use qscale_evaluate::statistics::{mean_and_deviation, student_quantile};
use serde::Serialize;

/// Quantile 0.975 of the standard normal distribution.
const NORMAL: f64 = 1.96;
/// An estimate with its interval of 95 %.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct EstimatedRange {
    /// The estimate.
    pub mean: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

impl EstimatedRange {
    /// The mean of `draws`; `other` are half-widths of 95 % of other origin, within `least` to `most`. `None` without draws.
    #[must_use]
    pub fn of(draws: &[f64], other: &[f64], least: f64, most: f64) -> Option<Self> {
        let (mean, deviation) = mean_and_deviation(draws)?;
        let student = match draws.len() {
            1 => 0.0,
            count => student_quantile(count - 1),
        };
        let half = other.iter().map(|half| half * half).sum::<f64>() + (student * deviation).powi(2);
        Some(Self::around(mean, half.sqrt(), least, most))
    }

    fn around(mean: f64, half: f64, least: f64, most: f64) -> Self {
        Self { mean, low: (mean - half).max(least).min(mean), high: (mean + half).min(most).max(mean) }
    }

    /// The sum of independent estimates.
    #[must_use]
    pub fn sum(all: &[Self]) -> Self {
        let squares = |half: fn(&Self) -> f64| all.iter().map(|one| half(one).powi(2)).sum::<f64>().sqrt();
        let mean = all.iter().map(|one| one.mean).sum::<f64>();
        Self { mean, low: mean - squares(|one| one.mean - one.low), high: mean + squares(|one| one.high - one.mean) }
    }

    /// This estimate times `factor`, at least 0.
    #[must_use]
    pub fn times(self, factor: f64) -> Self {
        Self { mean: self.mean * factor, low: self.low * factor, high: self.high * factor }
    }
}

/// Half-width of 95 % of the mean over `sampled` of `available` blocks, from their values; 0 if all are sampled.
#[must_use]
pub fn sampling_half_width(sampled: &[f64], available: usize) -> f64 {
    let Some((_, deviation)) = mean_and_deviation(sampled) else { return 0.0 };
    let count = sampled.len() as f64;
    let left_out = 1.0 - count / (available as f64).max(count);
    NORMAL * deviation * (left_out / count).sqrt()
}

/// Quantile `share` of the standard normal distribution (Abramowitz and Stegun, 26.2.23), to 5e-4.
#[must_use]
pub fn normal_quantile(share: f64) -> f64 {
    let tail = share.min(1.0 - share).clamp(1e-9, 0.5);
    let t = (-2.0 * tail.ln()).sqrt();
    let above = 2.515_517 + 0.802_853 * t + 0.010_328 * t * t;
    let below = 1.0 + 1.432_788 * t + 0.189_269 * t * t + 0.001_308 * t * t * t;
    (t - above / below) * if share < 0.5 { -1.0 } else { 1.0 }
}

/// Upper end of a 95 % interval of a share of which no case was found in `cases` (the rule of three).
#[must_use]
pub fn rule_of_three(cases: u64) -> f64 {
    if cases == 0 { 1.0 } else { (3.0 / cases as f64).min(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_widths_add_in_quadrature_and_stay_within_the_range() {
        let range = EstimatedRange::of(&[1.0, 2.0, 3.0], &[3.0], 0.0, 100.0).expect("draws");
        let half = (4.303_f64.powi(2) + 9.0).sqrt();
        assert_eq!((range.mean, range.low), (2.0, 0.0));
        assert!((range.high - 2.0 - half).abs() < 1e-9, "{range:?}");
        let single = EstimatedRange::of(&[0.5], &[], 0.0, 1.0).expect("a draw");
        assert_eq!((single.low, single.high), (0.5, 0.5));
        assert_eq!(EstimatedRange::of(&[], &[], 0.0, 1.0), None);
    }

    #[test]
    fn a_sum_of_estimates_is_relatively_narrower() {
        let one = EstimatedRange { mean: 10.0, low: 7.0, high: 14.0 };
        let sum = EstimatedRange::sum(&[one, one]);
        assert!((sum.mean - 20.0).abs() < 1e-9 && (sum.low - (20.0 - 18.0_f64.sqrt())).abs() < 1e-9, "{sum:?}");
        assert_eq!(sum.times(0.5).mean, 10.0);
    }

    #[test]
    fn normal_quantiles_are_those_of_tables() {
        for (share, expected) in [(0.95, 1.644_9), (0.05, -1.644_9), (0.5, 0.0), (0.975, 1.96), (0.0625, -1.534_1)] {
            assert!((normal_quantile(share) - expected).abs() < 1e-3, "{share}: {}", normal_quantile(share));
        }
    }

    #[test]
    fn blocks_that_are_left_out_widen_the_interval() {
        assert_eq!(sampling_half_width(&[1.0, 3.0], 2), 0.0);
        assert!((sampling_half_width(&[1.0, 3.0], 4) - 1.96 * 2_f64.sqrt() * 0.5).abs() < 1e-9);
        assert_eq!((rule_of_three(0), rule_of_three(60)), (1.0, 0.05));
    }
}
