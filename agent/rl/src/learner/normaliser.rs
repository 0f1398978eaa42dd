//! Means and deviations of what was seen first. Owns the sums; what they are used for is the network's.

/// Sums by Welford's method.
#[derive(Debug, Clone)]
pub(super) struct Normaliser {
    count: f64,
    means: Vec<f64>,
    squares: Vec<f64>,
}

/// A feature that hardly varies is not blown up beyond this many times.
const MOST_SCALE: f64 = 10.0;

impl Normaliser {
    pub(super) fn new(width: usize) -> Self {
        Self { count: 0.0, means: vec![0.0; width], squares: vec![0.0; width] }
    }

    pub(super) fn see(&mut self, observation: &[f32]) {
        self.count += 1.0;
        for ((value, mean), square) in observation.iter().zip(&mut self.means).zip(&mut self.squares) {
            let off = f64::from(*value) - *mean;
            *mean += off / self.count;
            *square += off * (f64::from(*value) - *mean);
        }
    }

    /// What to take away, and what to multiply the rest with.
    pub(super) fn told(&self) -> (Vec<f32>, Vec<f32>) {
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
    fn what_was_seen_gets_mean_zero_and_deviation_one_and_what_never_varies_stays_small() {
        let mut normaliser = Normaliser::new(2);
        for value in [1.0, 3.0, 1.0, 3.0] {
            normaliser.see(&[value, 7.0]);
        }
        assert_eq!(normaliser.told(), (vec![2.0, 7.0], vec![1.0, 10.0]));
    }
}
