//! Checks that a running service answers. Owns the requests and the count of failures; must not restart anything.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use qscale_common::runtime::http;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Consecutive failures after which a service counts as hanging.
const FAILURES: u32 = 3;
/// Count of a process that has not answered since it started: it may still be starting.
const NEVER_ANSWERED: u32 = u32::MAX;

/// Beginning of the first message of nats-server.
const NATS_INFO: &[u8; 5] = b"INFO ";

/// How a service is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// Host and port.
    pub address: String,
    /// Reply of a service that does not hang.
    pub reply: ExpectedReply,
    /// Interval between two requests.
    pub interval: Duration,
    /// Time within which it must answer. Long, because a service on a busy machine is slow, not hanging.
    pub timeout: Duration,
}

/// Reply of a service that does not hang.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectedReply {
    /// Success at `/healthz`.
    Healthz,
    /// The first message of nats-server, on every new connection.
    NatsInfo,
}

impl HealthCheck {
    /// A check of the path `/healthz` at `address` that finds a hanging service within 45 s.
    #[must_use]
    pub fn http(address: &str) -> Self {
        let (interval, timeout) = (Duration::from_secs(5), Duration::from_secs(10));
        Self { address: address.to_owned(), reply: ExpectedReply::Healthz, interval, timeout }
    }

    /// As [`HealthCheck::http`], of a nats-server without TLS.
    #[must_use]
    pub fn nats(address: &str) -> Self {
        Self { reply: ExpectedReply::NatsInfo, ..Self::http(address) }
    }

    /// Starts the check in the background; it ends with the returned value.
    #[must_use]
    pub fn start(self) -> Unanswered {
        let count = Arc::new(AtomicU32::new(NEVER_ANSWERED));
        tokio::spawn(self.run(Arc::downgrade(&count)));
        Unanswered(count)
    }

    async fn answered(&self) -> bool {
        match self.reply {
            ExpectedReply::Healthz => {
                matches!(http::get(&self.address, "/healthz", self.timeout).await, Ok((status, _)) if status.is_success())
            }
            ExpectedReply::NatsInfo => {
                let mut start = [0; NATS_INFO.len()];
                let read = async { TcpStream::connect(&self.address).await?.read_exact(&mut start).await };
                matches!(tokio::time::timeout(self.timeout, read).await, Ok(Ok(_))) && start == *NATS_INFO
            }
        }
    }

    async fn run(self, count: Weak<AtomicU32>) {
        loop {
            tokio::time::sleep(self.interval).await;
            let answered = self.answered().await;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_nats_server_answers_until_it_is_stopped() {
        let server = qscale_tests::NatsServer::start();
        let address = server.url().trim_start_matches("nats://").to_owned();
        let check = HealthCheck { timeout: Duration::from_secs(60), ..HealthCheck::nats(&address) };
        assert!(check.answered().await);
        // The kernel accepts connections for a process that does not run.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = silent.local_addr().expect("bound").to_string();
        assert!(!HealthCheck { timeout: Duration::from_millis(100), ..HealthCheck::nats(&address) }.answered().await);
    }
}
