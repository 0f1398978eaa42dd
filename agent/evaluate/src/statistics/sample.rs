//! Samples: one or more finite numbers. Owns means and quantiles; must not know the measure.

use thiserror::Error;

/// Why numbers are not a sample.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum StatisticsError {
    /// Empty.
    #[error("a sample of no values, at least one is needed")]
    Empty,
    /// One is not finite.
    #[error("value {index} of a sample is {value}, must be finite")]
    NotFinite {
        /// Index, from 0.
        index: usize,
        /// Value.
        value: f64,
    },
}

/// One or more finite numbers, in order of measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample(Vec<f64>);

impl TryFrom<Vec<f64>> for Sample {
    type Error = StatisticsError;

    fn try_from(values: Vec<f64>) -> Result<Self, StatisticsError> {
        if let Some((index, &value)) = values.iter().enumerate().find(|(_, value)| !value.is_finite()) {
            return Err(StatisticsError::NotFinite { index, value });
        }
        if values.is_empty() { Err(StatisticsError::Empty) } else { Ok(Self(values)) }
    }
}

impl Sample {
    /// Values in order of measurement.
    #[must_use]
    pub fn values(&self) -> &[f64] {
        &self.0
    }

    /// Values in rising order.
    #[must_use]
    pub fn sorted(&self) -> Vec<f64> {
        let mut values = self.0.clone();
        values.sort_by(f64::total_cmp);
        values
    }

    /// The arithmetic mean.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / self.0.len() as f64
    }

    /// Mean of the middle half (Agarwal et al. 2021). If a quarter of the values is not an integer, the values at both
    /// ends count partially, so that exactly half the weight remains; for multiples of four it is the 25 % trimmed
    /// mean.
    #[must_use]
    pub fn interquartile_mean(&self) -> f64 {
        weighted_middle(self.sorted().into_iter().map(|value| (value, 1)), self.0.len())
    }
}

/// Interquartile mean of `total` values, given in rising order with counts.
pub(super) fn weighted_middle(rising: impl Iterator<Item = (f64, u32)>, total: usize) -> f64 {
    let (from, to) = (total as f64 * 0.25, total as f64 * 0.75);
    let (mut seen, mut sum) = (0.0, 0.0);
    let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
    for (value, count) in rising {
        let until = seen + f64::from(count);
        let weight = until.min(to) - f64::max(seen, from);
        if weight > 0.0 {
            sum += value * weight;
            least = least.min(value);
            most = value;
        }
        seen = until;
        if seen >= to {
            break;
        }
    }
    // Rounding must not move the mean of equal values away from them.
    (sum / (to - from)).clamp(least, most)
}

/// Quantile `share` (0 to 1) of rising `values`, with linear interpolation (type 7 of Hyndman and Fan).
pub(super) fn quantile(rising: &[f64], share: f64) -> f64 {
    let place = share * (rising.len() - 1) as f64;
    let (below, part) = (place.floor() as usize, place.fract());
    let above = (below + 1).min(rising.len() - 1);
    rising[below] + (rising[above] - rising[below]) * part
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(values: &[f64], expected: f64) {
        let found = Sample::try_from(values.to_vec()).expect("finite").interquartile_mean();
        assert!((found - expected).abs() < 1e-12, "{found}, expected {expected}");
    }

    #[test]
    fn the_outer_quarters_do_not_count() {
        check(&[7.0], 7.0);
        check(&[1.0, 3.0], 2.0);
        check(&[1e9, 2.0, 3.0, -1e9], 2.5);
        // Five values: 1.25 are cut at each end, so 2 and 4 count three quarters each: (0.75 x 2 + 3 + 0.75 x 4) / 2.5.
        check(&[1.0, 2.0, 3.0, 4.0, 100.0], 3.0);
        // Six: 1.5 are cut, (0.5 x 2 + 3 + 5 + 0.5 x 9) / 3.
        check(&[0.0, 2.0, 3.0, 5.0, 9.0, 10.0], 4.5);
    }

    #[test]
    fn it_is_scipys_trimmed_mean_where_quarters_are_whole() {
        // SciPy 1.17.1: scipy.stats.trim_mean([1.5, -2.25, 3.0, 8.0, 0.5, 100.0, -7.0, 4.25], 0.25)
        check(&[1.5, -2.25, 3.0, 8.0, 0.5, 100.0, -7.0, 4.25], 2.3125);
    }

    #[test]
    fn nan_is_refused_by_name() {
        assert_eq!(Sample::try_from(vec![]), Err(StatisticsError::Empty));
        let error = Sample::try_from(vec![1.0, f64::NAN]).expect_err("not a number");
        assert_eq!(error.to_string(), "value 1 of a sample is NaN, must be finite");
        assert!(Sample::try_from(vec![f64::INFINITY]).is_err());
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        // NumPy 2.4.6: numpy.quantile([1, 2, 4, 8], [0, 0.5, 0.9, 1])
        let found = [0.0, 0.5, 0.9, 1.0].map(|share| quantile(&[1.0, 2.0, 4.0, 8.0], share));
        assert!(found.iter().zip([1.0, 3.0, 6.8, 8.0]).all(|(found, expected)| (found - expected).abs() < 1e-12), "{found:?}");
    }

    proptest! {
        #[test]
        fn the_interquartile_mean_lies_within_the_values(values in prop::collection::vec(-1e6..1e6f64, 1..40)) {
            let sample = Sample::try_from(values).expect("finite");
            let rising = sample.sorted();
            let found = sample.interquartile_mean();
            prop_assert!(rising[0] <= found && found <= rising[rising.len() - 1]);
        }

        #[test]
        fn the_interquartile_mean_is_equivariant(values in prop::collection::vec(-100i32..100, 1..40), by in -100i32..100) {
            let of = |change: &dyn Fn(f64) -> f64| {
                Sample::try_from(values.iter().map(|value| change(f64::from(*value))).collect::<Vec<_>>()).expect("finite").interquartile_mean()
            };
            let plain = of(&|value| value);
            prop_assert!((of(&|value| value + f64::from(by)) - plain - f64::from(by)).abs() < 1e-9);
            prop_assert!((of(&|value| -value) + plain).abs() < 1e-9);
        }
    }
}
