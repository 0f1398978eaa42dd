//! Runs an election against the lease bucket. Owns reading and writing the entry; [`Election`] decides.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream::kv::{self, Operation, Store, UpdateErrorKind};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Election, ElectionStep, LeaderStatus, Lease, LeaseEntry, Reply};
use crate::contract::Version;
use crate::contract::subject::LEASE_BUCKET;
use crate::runtime::bus::Bus;
use crate::runtime::clock;

/// Access to the role of this process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LeaseHandle {
    started: Instant,
    status: watch::Receiver<LeaderStatus>,
    /// Highest token that was seen elsewhere.
    step_down: mpsc::Sender<u64>,
    /// Whether a request to step down has not been processed yet.
    stepping_down: Arc<AtomicBool>,
}

impl LeaseHandle {
    /// Current role of this process.
    #[must_use]
    pub fn status(&self) -> LeaderStatus {
        if self.stepping_down.load(Ordering::Acquire) {
            return LeaderStatus::Following;
        }
        let status = *self.status.borrow();
        // The deadline also holds while the task that publishes the status is not scheduled.
        status.at(clock::instant() - self.started)
    }

    /// Waits until the role may have changed.
    pub async fn changed(&mut self) {
        if self.status.changed().await.is_err() {
            // The election has ended; the role stays as it is.
            std::future::pending::<()>().await;
        }
    }

    /// Stops leading, because the platform has seen the higher token `highest`, 0 if it is unknown. [`LeaseHandle::status`] is `Following` when this
    /// returns.
    pub fn step_down(&self, highest: u64) {
        self.stepping_down.store(true, Ordering::Release);
        // If the channel is full, an identical request is already waiting.
        let _waiting = self.step_down.try_send(highest);
    }
}

/// Takes part in the election for `key` until `token` is cancelled, then releases the lease. Processes that share a key
/// replace one another; every group needs a key of its own.
#[must_use]
pub fn campaign(
    bus: Bus,
    key: impl Into<String>,
    election: Election,
    token: CancellationToken,
) -> (LeaseHandle, tokio::task::JoinHandle<()>) {
    let started = clock::instant();
    let (status_tx, status) = watch::channel(LeaderStatus::Following);
    let (step_down, step_down_rx) = mpsc::channel(1);
    let stepping_down = Arc::new(AtomicBool::new(false));
    let handle = LeaseHandle { started, status, step_down, stepping_down: Arc::clone(&stepping_down) };
    let campaign = Campaign { bus, key: key.into(), store: None, election, started, status: status_tx, stepping_down };
    (handle, tokio::spawn(campaign.run(step_down_rx, token)))
}

/// Reads an entry. A value that cannot be decoded counts as released.
fn decode(entry: kv::Entry) -> LeaseEntry {
    let lease = (entry.operation == Operation::Put).then(|| serde_json::from_slice(&entry.value).ok()).flatten();
    let released = || Lease { version: Version::CURRENT, holder: String::new(), token: 0 };
    LeaseEntry { lease: lease.unwrap_or_else(released), revision: entry.revision }
}

struct Campaign {
    bus: Bus,
    key: String,
    store: Option<Store>,
    election: Election,
    started: Instant,
    status: watch::Sender<LeaderStatus>,
    stepping_down: Arc<AtomicBool>,
}

impl Campaign {
    async fn run(mut self, mut step_down: mpsc::Receiver<u64>, token: CancellationToken) {
        let mut delay = Duration::ZERO;
        loop {
            tokio::select! {
                biased;
                () = token.cancelled() => return self.release().await,
                Some(highest) = step_down.recv() => {
                    tracing::warn!(key = self.key, "the platform has seen a newer lease; stepping down");
                    self.election.step_down(highest);
                    self.publish_status();
                    // One pause for all requests up to now: they concern the token that was given up.
                    while step_down.try_recv().is_ok() {}
                    self.stepping_down.store(false, Ordering::Release);
                    delay = self.election.ttl();
                    continue;
                }
                () = tokio::time::sleep(delay) => self.advance().await,
            }
            delay = self.election.delay();
        }
    }

    fn elapsed(&self) -> Duration {
        clock::instant() - self.started
    }

    async fn advance(&mut self) {
        let sent = self.elapsed();
        let step = self.election.next_step(sent, clock::now());
        // A renewal that has not succeeded when this process must stop acting is useless.
        let timeout = match self.election.status(sent) {
            LeaderStatus::Leading { until, .. } => until.saturating_sub(sent).min(self.election.ttl() / 3),
            LeaderStatus::Following | LeaderStatus::Disconnected { .. } => self.election.ttl() / 3,
        };
        let reply = tokio::time::timeout(timeout, self.execute(&step)).await.unwrap_or(Reply::Unreachable);
        if reply == Reply::Unreachable {
            self.store = None;
        }
        let now = self.elapsed();
        self.election.on_reply(&step, reply, sent, now);
        self.publish_status();
    }

    fn publish_status(&self) {
        let now = self.election.status(self.elapsed());
        let before = self.status.send_replace(now);
        match (before, now) {
            (LeaderStatus::Leading { token: old, .. }, LeaderStatus::Leading { token, .. }) if old == token => {}
            (_, LeaderStatus::Leading { token, .. }) => tracing::info!(key = self.key, token, "leading"),
            (LeaderStatus::Leading { .. }, LeaderStatus::Following) => tracing::warn!(key = self.key, "no longer leading"),
            (LeaderStatus::Leading { .. }, LeaderStatus::Disconnected { .. }) => {
                tracing::warn!(key = self.key, "failed to renew the lease before it expired: the bus is unreachable")
            }
            _ => {}
        }
    }

    async fn execute(&mut self, step: &ElectionStep) -> Reply {
        let Some(store) = self.store().await else { return Reply::Unreachable };
        match step {
            ElectionStep::Read => match store.entry(&self.key).await {
                Ok(entry) => Reply::Found(entry.map(decode)),
                Err(_) => Reply::Unreachable,
            },
            ElectionStep::Write { lease, expected } => {
                let value = serde_json::to_vec(lease).expect("a lease holds only text and numbers, which JSON can write");
                match store.update(&self.key, value.into(), *expected).await {
                    Ok(revision) => Reply::Written(revision),
                    Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Reply::Conflict,
                    Err(_) => Reply::Unreachable,
                }
            }
        }
    }

    async fn store(&mut self) -> Option<Store> {
        if self.store.is_none() {
            self.store = self.bus.jetstream().get_key_value(LEASE_BUCKET).await.ok();
        }
        self.store.clone()
    }

    async fn release(&mut self) {
        let Some(step) = self.election.release() else { return };
        let released = tokio::time::timeout(self.election.ttl() / 3, self.execute(&step)).await;
        tracing::info!(key = self.key, released = matches!(released, Ok(Reply::Written(_))), "released the lease");
        self.election.step_down(0);
        self.status.send_replace(LeaderStatus::Following);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_follows_as_soon_as_it_steps_down() {
        let (_status, status) = watch::channel(LeaderStatus::Leading { token: 7, until: Duration::from_secs(60) });
        let (step_down, mut requests) = mpsc::channel(1);
        let handle = LeaseHandle { started: clock::instant(), status, step_down, stepping_down: Arc::default() };
        assert_eq!(handle.status().token(), Some(7));
        handle.step_down(9);
        handle.clone().step_down(9);
        assert_eq!((handle.status(), requests.try_recv()), (LeaderStatus::Following, Ok(9)));
        assert!(requests.try_recv().is_err(), "one request is enough");
    }
}
