//! Student's distribution, for intervals of means of few values. Owns the table of its quantiles.

/// Quantiles 0.975 for 1 to 30 degrees of freedom.
const QUANTILES: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093,
    2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/// Quantile 0.975 for `freedom` degrees of freedom, at least 1; above 30 that for 30, which is conservative.
#[must_use]
pub fn student_quantile(freedom: usize) -> f64 {
    QUANTILES[freedom.clamp(1, QUANTILES.len()) - 1]
}

/// Mean and standard deviation of a sample, that of one value 0; `None` if it is empty.
#[must_use]
pub fn mean_and_deviation(values: &[f64]) -> Option<(f64, f64)> {
    let count = values.len() as f64;
    if values.is_empty() {
        return None;
    }
    let mean = values.iter().sum::<f64>() / count;
    let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    Some((mean, (squares / (count - 1.0).max(1.0)).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_tables() {
        assert_eq!([1, 4, 30, 1000, 0].map(student_quantile), [12.706, 2.776, 2.042, 2.042, 12.706]);
    }

    #[test]
    fn the_deviation_is_that_of_a_sample() {
        assert_eq!(mean_and_deviation(&[1.0, 2.0, 3.0]), Some((2.0, 1.0)));
        assert_eq!((mean_and_deviation(&[7.0]), mean_and_deviation(&[])), (Some((7.0, 0.0)), None));
    }
}
