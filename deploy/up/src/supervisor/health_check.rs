//! Checks that a running service answers. Owns the requests and the count of failures; must not restart anything.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use qscale_common::runtime::http;

/// Consecutive failures after which a service counts as hanging.
const FAILURES: u32 = 3;
/// Count of a process that has not answered since it started: it may still be starting.
const NEVER_ANSWERED: u32 = u32::MAX;

/// How a service is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// Host and port that serve `/healthz`.
    pub address: String,
    /// Interval between two requests.
    pub interval: Duration,
    /// Time within which it must answer. Long, because a service on a busy machine is slow, not hanging.
    pub timeout: Duration,
}

impl HealthCheck {
    /// A check of `address` that finds a hanging service within 45 s.
    #[must_use]
    pub fn new(address: &str) -> Self {
        Self { address: address.to_owned(), interval: Duration::from_secs(5), timeout: Duration::from_secs(10) }
    }

    /// Starts the check in the background; it ends with the returned value.
    #[must_use]
    pub fn start(self) -> Unanswered {
        let count = Arc::new(AtomicU32::new(NEVER_ANSWERED));
        tokio::spawn(self.run(Arc::downgrade(&count)));
        Unanswered(count)
    }

    async fn run(self, count: Weak<AtomicU32>) {
        loop {
            tokio::time::sleep(self.interval).await;
            let answered = matches!(http::get(&self.address, "/healthz", self.timeout).await, Ok((status, _)) if status.is_success());
            let Some(count) = count.upgrade() else { return };
            let failed = |before: u32| if before == NEVER_ANSWERED { before } else { before.saturating_add(1).min(FAILURES) };
            // The supervisor alone resets it, so that a failure in between is at worst counted for the new process, which has not answered yet.
            let _previous =
                count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |before| Some(if answered { 0 } else { failed(before) }));
        }
    }
}

/// Consecutive requests that a service has not answered.
#[derive(Debug)]
pub struct Unanswered(Arc<AtomicU32>);

impl Unanswered {
    /// Whether the service answered before and does not any more.
    #[must_use]
    pub fn hangs(&self) -> bool {
        (FAILURES..NEVER_ANSWERED).contains(&self.0.load(Ordering::Relaxed))
    }

    /// Begins again, for a new process.
    pub fn reset(&self) {
        self.0.store(NEVER_ANSWERED, Ordering::Relaxed);
    }
}
