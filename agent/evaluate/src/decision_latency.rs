//! Latency of decisions. Owns a small histogram; must not read a clock, which is an argument. No result depends on it.

use std::time::Duration;

/// One decision in this many is timed, so that the cost of timing is negligible.
const EVERY: u64 = 8;
/// Buckets an octave of nanoseconds.
const FINE: usize = 4;

/// Histogram of decision latencies.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DecisionLatency {
    made: u64,
    timed: u64,
    buckets: Vec<u64>,
}

impl DecisionLatency {
    /// Runs `decide`, and times a part of the calls by `clock`.
    pub fn time<T>(&mut self, clock: Option<&(dyn Fn() -> Duration + Sync)>, decide: impl FnOnce() -> T) -> T {
        let turn = self.made.is_multiple_of(EVERY);
        self.made += 1;
        let Some(clock) = clock.filter(|_| turn) else { return decide() };
        let begin = clock();
        let decided = decide();
        self.add(clock().saturating_sub(begin));
        decided
    }

    fn add(&mut self, took: Duration) {
        let nanos = took.as_nanos().max(1) as f64;
        let place = (nanos.log2() * FINE as f64) as usize;
        if self.buckets.len() <= place {
            self.buckets.resize(place + 1, 0);
        }
        self.buckets[place] += 1;
        self.timed += 1;
    }

    /// Adds the counts of another histogram.
    pub fn include(&mut self, other: &DecisionLatency) {
        self.buckets.resize(self.buckets.len().max(other.buckets.len()), 0);
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(sum, count)| *sum += count);
        self.made += other.made;
        self.timed += other.timed;
    }

    /// Number of decisions.
    #[must_use]
    pub fn made(&self) -> u64 {
        self.made
    }

    /// Quantile `share` (0 to 1) of the latency, to 19 %; `None` if none was timed.
    #[must_use]
    pub fn within(&self, share: f64) -> Option<Duration> {
        let rank = self.timed as f64 * share;
        let mut below = 0;
        for (place, count) in self.buckets.iter().enumerate() {
            below += count;
            if below > 0 && below as f64 >= rank {
                return Some(Duration::from_nanos(2f64.powf((place + 1) as f64 / FINE as f64) as u64));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn one_decision_in_eight_is_timed() {
        let now = AtomicU64::new(0);
        let clock = || Duration::from_nanos(now.fetch_add(1000, Ordering::Relaxed));
        let mut decision_latency = DecisionLatency::default();
        (0..80).for_each(|_| decision_latency.time(Some(&clock), || ()));
        assert_eq!((decision_latency.made(), decision_latency.timed), (80, 10));
        let median = decision_latency.within(0.5).expect("some were timed");
        assert!((1000..1200).contains(&(median.as_nanos() as u64)), "{median:?}");
        let mut twice = decision_latency.clone();
        twice.include(&decision_latency);
        assert_eq!((twice.made(), twice.within(0.5)), (160, Some(median)));
        assert_eq!(DecisionLatency::default().within(0.5), None);
    }
}
