//! Mean and standard deviation of the first observations. Owns the sums; the network applies the result.

/// Running mean and variance of each feature, by Welford's method.
#[derive(Debug, Clone)]
pub(super) struct Normaliser {
    count: f64,
    means: Vec<f64>,
    squares: Vec<f64>,
}

/// Largest scale: a feature that hardly varies is not amplified beyond it.
const MOST_SCALE: f64 = 10.0;

impl Normaliser {
    pub(super) fn new(width: usize) -> Self {
        Self { count: 0.0, means: vec![0.0; width], squares: vec![0.0; width] }
    }

    pub(super) fn update(&mut self, observation: &[f32]) {
        self.count += 1.0;
        for ((value, mean), square) in observation.iter().zip(&mut self.means).zip(&mut self.squares) {
            let off = f64::from(*value) - *mean;
            *mean += off / self.count;
            *square += off * (f64::from(*value) - *mean);
        }
    }

    /// Shift and scale of each feature.
    pub(super) fn shift_and_scale(&self) -> (Vec<f32>, Vec<f32>) {
        let shift = self.means.iter().map(|mean| *mean as f32).collect();
        let deviation = |square: &f64| (square / self.count.max(1.0)).sqrt();
        let scale = self.squares.iter().map(|square| (1.0 / deviation(square).max(1.0 / MOST_SCALE)) as f32).collect();
        (shift, scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observations_get_mean_zero_and_deviation_one_and_constants_are_not_amplified() {
        let mut normaliser = Normaliser::new(2);
        for value in [1.0, 3.0, 1.0, 3.0] {
            normaliser.update(&[value, 7.0]);
        }
        assert_eq!(normaliser.shift_and_scale(), (vec![2.0, 7.0], vec![1.0, 10.0]));
    }
}
