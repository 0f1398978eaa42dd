//! Distributions of spans of time, for requests and starts. Owns their parameters and the draws.

use qscale_common::time::Span;
use qscale_common::workload::WorkloadRng;
use rand::RngExt;
use rand_distr::{Exp1, StandardNormal};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::nanos::Nanos;

/// A distribution of spans. Draws lie between zero and 10 days.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Shape", into = "Shape")]
pub struct Distribution(Shape);

/// Form in a profile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Constant.
    Constant(Span),
    /// Exponential.
    Exponential {
        /// Mean.
        mean: Span,
    },
    /// Log-normal, typical of request and start times.
    LogNormal {
        /// Median.
        median: Span,
        /// Standard deviation of the natural logarithm, 0 to 5.
        sigma: f64,
    },
    /// Measured percentiles with linear interpolation.
    Percentiles(Vec<(f64, Span)>),
}

/// Why a distribution is invalid.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum InvalidDistribution {
    /// A sigma outside its range.
    #[error("sigma = {0}, must be from 0 to 5")]
    Sigma(f64),
    /// Percentiles do not begin at 0, end at 100 and rise.
    #[error(
        "percentile {percentile} = {value} at place {index}: percentiles must begin with 0, end with 100, rise, and have values that never fall"
    )]
    Percentiles {
        /// Index in the list, from 0.
        index: usize,
        /// The percentile at that index.
        percentile: f64,
        /// Its value.
        value: Span,
    },
    /// The list of percentiles is empty.
    #[error("no percentiles are given")]
    Empty,
}

impl Distribution {
    /// Always zero.
    pub const ZERO: Distribution = Distribution(Shape::Constant(Span::millis(0)));

    /// Always `span`.
    #[must_use]
    pub fn constant(span: Nanos) -> Self {
        Self(Shape::Constant(Span(span.into())))
    }

    /// Exponential with this mean.
    #[must_use]
    pub fn exponential(mean: Nanos) -> Self {
        Self(Shape::Exponential { mean: Span(mean.into()) })
    }

    /// Log-normal, with this median and this standard deviation of the natural logarithm.
    ///
    /// # Errors
    /// A sigma that is not 0 to 5.
    pub fn log_normal(median: Nanos, sigma: f64) -> Result<Self, InvalidDistribution> {
        Self::try_from(Shape::LogNormal { median: Span(median.into()), sigma })
    }

    /// Linear interpolation between percentiles (0 to 100).
    ///
    /// # Errors
    /// Percentiles that do not begin with 0, end with 100 and rise, and values that fall.
    pub fn percentiles(points: impl IntoIterator<Item = (f64, Nanos)>) -> Result<Self, InvalidDistribution> {
        Self::try_from(Shape::Percentiles(points.into_iter().map(|(percentile, value)| (percentile, Span(value.into()))).collect()))
    }

    /// A sampler of spans `factor` times as long.
    #[must_use]
    pub fn sampler(&self, factor: f64) -> Sampler {
        let nanos = |span: &Span| Nanos::from(span.0).0 as f64 * factor;
        match &self.0 {
            Shape::Constant(span) => Sampler::Constant(Nanos::from_f64(nanos(span))),
            Shape::Exponential { mean } => Sampler::Exponential(nanos(mean)),
            Shape::LogNormal { median, sigma } => Sampler::LogNormal { median: nanos(median), sigma: *sigma },
            Shape::Percentiles(points) => {
                Sampler::Lines(points.iter().map(|(percentile, span)| (percentile / 100.0, nanos(span))).collect())
            }
        }
    }

    /// The mean.
    #[must_use]
    pub fn mean(&self) -> Nanos {
        let nanos = |span: &Span| Nanos::from(span.0).0 as f64;
        Nanos::from_f64(match &self.0 {
            Shape::Constant(span) | Shape::Exponential { mean: span } => nanos(span),
            Shape::LogNormal { median, sigma } => nanos(median) * (sigma * sigma / 2.0).exp(),
            Shape::Percentiles(points) => {
                points.windows(2).map(|pair| (pair[1].0 - pair[0].0) / 100.0 * (nanos(&pair[0].1) + nanos(&pair[1].1)) / 2.0).sum()
            }
        })
    }
}

impl TryFrom<Shape> for Distribution {
    type Error = InvalidDistribution;
    fn try_from(shape: Shape) -> Result<Self, InvalidDistribution> {
        match &shape {
            Shape::LogNormal { sigma, .. } if !(0.0..=5.0).contains(sigma) => return Err(InvalidDistribution::Sigma(*sigma)),
            Shape::Percentiles(points) => check_percentiles(points)?,
            Shape::Constant(_) | Shape::Exponential { .. } | Shape::LogNormal { .. } => {}
        }
        Ok(Self(shape))
    }
}

impl From<Distribution> for Shape {
    fn from(distribution: Distribution) -> Shape {
        distribution.0
    }
}

fn check_percentiles(points: &[(f64, Span)]) -> Result<(), InvalidDistribution> {
    let last = points.len().checked_sub(1).ok_or(InvalidDistribution::Empty)?;
    for (index, &(percentile, value)) in points.iter().enumerate() {
        let rises = index == 0 || (points[index - 1].0 < percentile && points[index - 1].1 <= value);
        let begins = index > 0 || percentile == 0.0;
        let ends = index < last || percentile == 100.0;
        if !(rises && begins && ends) {
            return Err(InvalidDistribution::Percentiles { index, percentile, value });
        }
    }
    Ok(())
}

/// A prepared distribution.
#[derive(Debug, Clone, PartialEq)]
pub enum Sampler {
    /// Constant; uses no random number.
    Constant(Nanos),
    /// Exponential; mean in nanoseconds.
    Exponential(f64),
    /// Log-normal.
    LogNormal {
        /// Median, nanoseconds.
        median: f64,
        /// Standard deviation of the natural logarithm.
        sigma: f64,
    },
    /// Linear interpolation between shares (0 to 1) and nanoseconds.
    Lines(Box<[(f64, f64)]>),
}

impl Sampler {
    /// Draws a span.
    #[inline]
    pub fn draw(&self, rng: &mut WorkloadRng) -> Nanos {
        match self {
            Sampler::Constant(span) => *span,
            Sampler::Exponential(mean) => Nanos::from_f64(mean * rng.sample::<f64, _>(Exp1)),
            Sampler::LogNormal { median, sigma } => Nanos::from_f64(median * (sigma * rng.sample::<f64, _>(StandardNormal)).exp()),
            Sampler::Lines(points) => Nanos::from_f64(on_lines(points, rng.random())),
        }
    }
}

fn on_lines(points: &[(f64, f64)], share: f64) -> f64 {
    let upper = points.iter().position(|point| share < point.0).unwrap_or(points.len() - 1);
    let (low, high) = (points[upper.saturating_sub(1)], points[upper]);
    if upper == 0 { high.1 } else { low.1 + (high.1 - low.1) * (share - low.0) / (high.0 - low.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};

    #[track_caller]
    fn check(distribution: &Distribution, mean: f64, tolerance: f64) {
        const DRAWS: u32 = 400_000;
        let mut rng = stream(1, 0, Purpose::Demands);
        let sampler = distribution.sampler(1.0);
        let sum: f64 = (0..DRAWS).map(|_| sampler.draw(&mut rng).seconds()).sum();
        let drawn = sum / f64::from(DRAWS);
        assert!((drawn / mean - 1.0).abs() < tolerance, "{drawn}, expected {mean}");
        assert!((distribution.mean().seconds() / mean - 1.0).abs() < 1e-3, "{:?}", distribution.mean());
    }

    #[test]
    fn draws_have_their_mean() {
        check(&Distribution::constant(Nanos::millis(3)), 0.003, 1e-9);
        check(&Distribution::exponential(Nanos::millis(20)), 0.02, 0.01);
        // Starts as published for a large cloud. The tail is heavy, so the mean converges slowly.
        let starts = Distribution::log_normal(Nanos::millis(1346), 1.326).expect("valid");
        check(&starts, 1.346 * (1.326_f64.powi(2) / 2.0).exp(), 0.03);
        let lines =
            Distribution::percentiles([(0.0, Nanos::millis(10)), (50.0, Nanos::millis(20)), (100.0, Nanos::millis(120))]).expect("rising");
        check(&lines, 0.5 * 0.015 + 0.5 * 0.07, 0.01);
    }

    #[test]
    fn refuses_invalid_parameters_with_their_value() {
        for text in [
            r#"{"log_normal": {"median": "1s", "sigma": 6}}"#,
            r#"{"percentiles": []}"#,
            r#"{"percentiles": [[0, "2s"], [100, "1s"]]}"#,
            r#"{"percentiles": [[1, "2s"], [100, "3s"]]}"#,
            r#"{"percentiles": [[0, "2s"], [99, "3s"]]}"#,
            r#"{"percentiles": [[0, "1s"], [50, "2s"], [50, "3s"], [100, "4s"]]}"#,
        ] {
            assert!(serde_json::from_str::<Distribution>(text).is_err(), "{text}");
        }
        assert!(Distribution::log_normal(Nanos::ZERO, f64::NAN).is_err());
    }

    #[test]
    fn a_distribution_survives_a_round_trip() {
        let distribution = Distribution::log_normal(Nanos::millis(1350), 1.326).expect("valid");
        let text = serde_json::to_string(&distribution).expect("writes");
        assert_eq!(text, r#"{"log_normal":{"median":"1s 350ms","sigma":1.326}}"#);
        assert_eq!(serde_json::from_str::<Distribution>(&text).expect("reads"), distribution);
    }
}
