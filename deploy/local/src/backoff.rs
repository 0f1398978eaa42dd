//! How long to wait before a replica is started again. Pure: the time a replica was healthy is an argument.

use std::time::Duration;

/// First wait; short, because a single crash should not cost a cold start and a pause.
const FIRST: Duration = Duration::from_millis(200);
/// Longest wait. Kubernetes waits up to five minutes; on one machine someone is watching.
const LONGEST: Duration = Duration::from_secs(30);
/// A replica that was ready for so long is healthy, and its next crash counts as its first.
const HEALTHY: Duration = Duration::from_secs(30);

/// Doubling waits between restarts.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after a replica ended that had been ready for `healthy`.
    pub fn next(&mut self, healthy: Duration) -> Duration {
        if healthy >= HEALTHY {
            self.failures = 0;
        }
        let wait = FIRST.saturating_mul(2_u32.saturating_pow(self.failures)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..4).map(|_| backoff.next(Duration::ZERO).as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1600]);
        assert_eq!((0..100).map(|_| backoff.next(Duration::ZERO)).max(), Some(LONGEST));
    }

    #[test]
    fn a_healthy_while_forgets_the_crashes() {
        let mut backoff = Backoff::default();
        for _ in 0..5 {
            backoff.next(Duration::ZERO);
        }
        assert_eq!(backoff.next(HEALTHY), FIRST);
    }
}
