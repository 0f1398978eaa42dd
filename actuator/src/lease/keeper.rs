//! Holds the election over the bucket. Owns reading and writing the entry; [`Election`] decides.

use std::time::{Duration, Instant};

use async_nats::jetstream::kv::{self, Operation, Store, UpdateErrorKind};
use qscale_common::contract::Version;
use qscale_common::contract::subject::LEASE_BUCKET;
use qscale_common::runtime::bus::Bus;
use qscale_common::runtime::clock;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Answer, Election, Entry, Lease, Standing, Step};

/// Key of the lease.
const KEY: &str = "actuator";

/// Tells where this actuator stands.
#[derive(Debug, Clone)]
pub struct Keeper {
    began: Instant,
    standing: watch::Receiver<Standing>,
    step_down: mpsc::Sender<()>,
}

impl Keeper {
    /// Where this actuator stands at present.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let standing = *self.standing.borrow();
        match standing {
            // The deadline holds also while nobody runs who would tell.
            Standing::Leading { until, .. } if self.began.elapsed() >= until => Standing::Following,
            standing => standing,
        }
    }

    /// Waits until the standing may have changed.
    pub async fn changed(&mut self) {
        if self.standing.changed().await.is_err() {
            // The election has ended, so nothing changes any more.
            std::future::pending::<()>().await;
        }
    }

    /// Stops leading: the platform has seen a higher token.
    pub fn step_down(&self) {
        // A request that waits already says the same.
        let _waiting = self.step_down.try_send(());
    }
}

/// Takes part in the election until `token` is cancelled, then gives the lease back.
#[must_use]
pub fn keep(bus: Bus, election: Election, token: CancellationToken) -> (Keeper, tokio::task::JoinHandle<()>) {
    let began = clock::instant();
    let (standing_tx, standing) = watch::channel(Standing::Following);
    let (step_down, step_down_rx) = mpsc::channel(1);
    let round = Round { bus, store: None, election, began, standing: standing_tx };
    let task = tokio::spawn(round.run(step_down_rx, token));
    (Keeper { began, standing, step_down }, task)
}

/// What cannot be read belongs to nobody who could be asked to give it back; it counts as given back.
fn read(entry: kv::Entry) -> Entry {
    let lease = (entry.operation == Operation::Put).then(|| serde_json::from_slice(&entry.value).ok()).flatten();
    let nobody = || Lease { version: Version::CURRENT, holder: String::new(), token: 0 };
    Entry { lease: lease.unwrap_or_else(nobody), revision: entry.revision }
}

struct Round {
    bus: Bus,
    store: Option<Store>,
    election: Election,
    began: Instant,
    standing: watch::Sender<Standing>,
}

impl Round {
    async fn run(mut self, mut step_down: mpsc::Receiver<()>, token: CancellationToken) {
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                biased;
                () = token.cancelled() => return self.release().await,
                Some(()) = step_down.recv() => {
                    tracing::warn!("the platform has seen a newer lease; stepping down");
                    self.election.step_down();
                    self.tell();
                    tokio::time::sleep(self.election.ttl).await;
                }
                () = tokio::time::sleep(pause) => self.once().await,
            }
            pause = self.election.pause();
        }
    }

    async fn once(&mut self) {
        let sent = self.began.elapsed();
        let step = self.election.step(sent, clock::now());
        // A renewal that is still under way when writing must stop is of no use any more.
        let patience = match self.election.standing(sent) {
            Standing::Leading { until, .. } => until.saturating_sub(sent).min(self.election.ttl / 3),
            Standing::Following | Standing::Cut { .. } => self.election.ttl / 3,
        };
        let answer = tokio::time::timeout(patience, self.carry_out(&step)).await.unwrap_or(Answer::Unreachable);
        if answer == Answer::Unreachable {
            self.store = None;
        }
        self.election.answer(&step, answer, sent, self.began.elapsed());
        self.tell();
    }

    fn tell(&self) {
        let now = self.election.standing(self.began.elapsed());
        let before = self.standing.send_replace(now);
        match (before, now) {
            (Standing::Leading { token: old, .. }, Standing::Leading { token, .. }) if old == token => {}
            (_, Standing::Leading { token, .. }) => tracing::info!(token, "leading"),
            (Standing::Leading { .. }, Standing::Following) => tracing::warn!("no longer leading"),
            (Standing::Leading { .. }, Standing::Cut { .. }) => {
                tracing::warn!("the lease ran out and the bus cannot be reached; only the fallback acts")
            }
            _ => {}
        }
    }

    async fn carry_out(&mut self, step: &Step) -> Answer {
        let Some(store) = self.store().await else { return Answer::Unreachable };
        match step {
            Step::Look => match store.entry(KEY).await {
                Ok(entry) => Answer::Found(entry.map(read)),
                Err(_) => Answer::Unreachable,
            },
            Step::Write { lease, over } => {
                let value = serde_json::to_vec(lease).expect("a lease holds only text and numbers, which JSON can write");
                match store.update(KEY, value.into(), *over).await {
                    Ok(revision) => Answer::Written(revision),
                    Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Answer::Refused,
                    Err(_) => Answer::Unreachable,
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
        let released = tokio::time::timeout(self.election.ttl / 3, self.carry_out(&step)).await;
        tracing::info!(released = matches!(released, Ok(Answer::Written(_))), "gave the lease back");
        self.election.step_down();
        self.standing.send_replace(Standing::Following);
    }
}
