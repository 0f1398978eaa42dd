//! Restarts of replicas that ended by themselves. Owns the back-off rule of the local platform and of the simulator; must not read a clock.

use std::time::Duration;

/// Doubling waits before a replica that ended by itself is started again.
#[derive(Debug, Clone, Copy, Default)]
pub struct RestartBackoff {
    failures: u32,
}

impl RestartBackoff {
    /// First wait; short, because a single crash should not cost a cold start and a pause.
    pub const FIRST: Duration = Duration::from_millis(200);
    /// Longest wait. Kubernetes waits up to five minutes; on one machine a user is watching.
    pub const LONGEST: Duration = Duration::from_secs(30);
    /// A replica that was ready for this long is healthy, and its next crash counts as its first.
    pub const HEALTHY: Duration = Duration::from_secs(30);

    /// The wait after a replica ended that had been ready for `ready`.
    pub fn next(&mut self, ready: Duration) -> Duration {
        if ready >= Self::HEALTHY {
            self.failures = 0;
        }
        let wait = Self::FIRST.saturating_mul(2_u32.saturating_pow(self.failures)).min(Self::LONGEST);
        self.failures = self.failures.saturating_add(1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let mut backoff = RestartBackoff::default();
        let waits: Vec<_> = (0..4).map(|_| backoff.next(Duration::ZERO).as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1600]);
        assert_eq!((0..100).map(|_| backoff.next(Duration::ZERO)).max(), Some(RestartBackoff::LONGEST));
    }

    #[test]
    fn a_healthy_period_resets_the_wait() {
        let mut backoff = RestartBackoff::default();
        for _ in 0..5 {
            backoff.next(Duration::ZERO);
        }
        assert_eq!(backoff.next(RestartBackoff::HEALTHY), RestartBackoff::FIRST);
    }
}
