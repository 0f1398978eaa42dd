//! How long a replica that ended by itself waits until it is started again: the local platform's rule.

use crate::nanos::Nanos;

/// First wait.
const FIRST: Nanos = Nanos::millis(200);
/// Longest wait.
const LONGEST: Nanos = Nanos::millis(30_000);
/// A replica that was ready for so long is healthy, and its next crash counts as its first.
const HEALTHY: Nanos = Nanos::millis(30_000);

/// Doubling waits between restarts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after a replica ended that had been ready for `healthy`.
    pub fn next(&mut self, healthy: Nanos) -> Nanos {
        if healthy >= HEALTHY {
            self.failures = 0;
        }
        let wait = FIRST.0.saturating_mul(2_u64.saturating_pow(self.failures));
        self.failures = self.failures.saturating_add(1);
        Nanos(wait).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_until_it_was_healthy() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..4).map(|_| backoff.next(Nanos::ZERO)).collect();
        assert_eq!(waits, [200, 400, 800, 1600].map(Nanos::millis));
        assert_eq!((0..100).map(|_| backoff.next(Nanos::ZERO)).max(), Some(LONGEST));
        assert_eq!(backoff.next(HEALTHY), FIRST);
    }
}
