//! Burstiness of arrivals. Owns the index of dispersion of counts, computed online in constant memory.

use std::time::Duration;

/// Variance over mean of the number of arrivals in windows of one length: 1 for a Poisson process, 0 for a metronome.
#[derive(Debug, Clone)]
pub struct Dispersion {
    window_ns: u128,
    current: u128,
    in_current: u64,
    windows: u64,
    sum: f64,
    squares: f64,
}

impl Dispersion {
    /// Counts in windows of `window`, which is taken as at least a nanosecond.
    #[must_use]
    pub fn new(window: Duration) -> Self {
        Self { window_ns: window.as_nanos().max(1), current: 0, in_current: 0, windows: 0, sum: 0.0, squares: 0.0 }
    }

    /// Counts an arrival; one from before the current window counts in the current one.
    pub fn observe(&mut self, at: Duration) {
        let window = at.as_nanos() / self.window_ns;
        if window > self.current {
            self.close(window - self.current);
            self.current = window;
        }
        self.in_current += 1;
    }

    /// Ends the current window and `passed - 1` empty ones.
    fn close(&mut self, passed: u128) {
        let count = self.in_current as f64;
        self.windows = self.windows.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX));
        self.sum += count;
        self.squares += count * count;
        self.in_current = 0;
    }

    /// The index over completed windows; `None` with fewer than two, or without arrivals.
    #[must_use]
    pub fn index(&self) -> Option<f64> {
        let windows = self.windows as f64;
        if self.windows < 2 || self.sum <= 0.0 {
            return None;
        }
        let mean = self.sum / windows;
        Some((self.squares - windows * mean * mean) / (windows - 1.0) / mean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(arrivals_ms: &[u64]) -> Option<f64> {
        let mut dispersion = Dispersion::new(Duration::from_millis(10));
        arrivals_ms.iter().for_each(|at| dispersion.observe(Duration::from_millis(*at)));
        dispersion.index()
    }

    #[test]
    fn a_metronome_does_not_disperse() {
        assert_eq!(index(&[0, 10, 20, 30, 40]), Some(0.0));
    }

    #[test]
    fn clumps_disperse() {
        // Windows hold 4, 0, 4, 0: mean 2, variance 16/3.
        let clumped = index(&[0, 1, 2, 3, 20, 21, 22, 23, 40]).expect("four windows");
        assert!((clumped - 16.0 / 3.0 / 2.0).abs() < 1e-12);
    }

    #[test]
    fn too_little_has_no_index() {
        assert_eq!(index(&[]), None);
        assert_eq!(index(&[0, 11]), None);
    }
}
