//! The service: one of several instances leads and promotes every model that has a record or a request. Owns the lease, the workers and the stop; must not decide.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use prometheus_client::registry::Registry;
use qscale_common::contract::subject::{FINETUNE_BUCKET, PROMOTER_LEASE};
use qscale_common::name::Name;
use qscale_common::runtime::author::Author;
use qscale_common::runtime::bus::Bus;
use qscale_common::runtime::health::{self, Health};
use qscale_common::runtime::lease::{self, Election, LeaderStatus, LeaseHandle};
use qscale_common::runtime::nats_accounts::User;
use qscale_common::runtime::platform::PlatformClient;
use qscale_common::runtime::service::InstanceName;
use qscale_common::runtime::signature::TrustConfig;
use rand::Rng as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::PromoterConfig;
use crate::metrics::PromoterMetrics;
use crate::record;
use crate::worker::{PromotionEntries, Worker};

/// Time for messages that are under way when the service stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// Runs the promoter until `token` is cancelled.
///
/// # Errors
/// If an address is malformed or cannot be bound, or the signing key cannot be used.
pub async fn run(config: PromoterConfig, token: CancellationToken) -> anyhow::Result<()> {
    let key = config.signing_key()?;
    let seed = seed();
    let instance = config.instance.clone().unwrap_or_else(|| InstanceName::numbered(seed as u32)).to_string();
    let health = Health::new();
    let registry = Arc::new(Mutex::new(Registry::default()));
    let mut platform = config.platform.as_deref().map(PlatformClient::new).transpose()?;
    if let Some(file) = &config.token_file {
        platform = platform.map(|platform| platform.with_token_file(file.clone()));
    }
    let (bus, metrics) = {
        let mut own = Registry::default();
        let bus = Bus::connect("promoter", &instance, &config.nats, &health, &mut own).await?;
        let metrics = PromoterMetrics::register(&mut own);
        *registry.lock().unwrap_or_else(PoisonError::into_inner) = own;
        (bus, metrics)
    };
    bus.watch_streams(token.clone());
    health.set("requests", false);
    let address = health::serve(config.health, health.clone(), registry, token.clone()).await?;
    tracing::info!(instance, %address, "promoter started");

    let mut entries: PromotionEntries = bus.watch_bucket(FINETUNE_BUCKET, record::parse, token.clone());
    tokio::select! {
        () = token.cancelled() => return Ok(()),
        _ = entries.wait_for(Option::is_some) => health.set("requests", true),
    }
    // Two instances with the same name must not take each other's lease for their own.
    let election = Election::new(format!("{instance}/{seed:016x}"), config.lease.ttl.0);
    let stop_leading = CancellationToken::new();
    let (handle, election) = lease::campaign(bus.clone(), config.lease.key_or(PROMOTER_LEASE), election, stop_leading.clone());
    let author = Author::new(&bus, User::Promoter, &format!("promoter {instance}")).signing(key);
    let mut promoter = Promoter { bus, platform, entries, metrics, handle, author, trust: config.trust };
    let mut ended = Ok(());
    while ended.is_ok() && !token.is_cancelled() {
        ended = promoter.lead(&token).await;
    }
    // The lease is released after the last worker has ended, so that no other instance starts the same step.
    stop_leading.cancel();
    // A task that panicked has nothing to release; the lease expires.
    let _ended = election.await;
    promoter.bus.drain(DRAIN_TIMEOUT).await;
    tracing::info!("promoter stopped");
    ended
}

#[expect(clippy::disallowed_methods, reason = "the service draws the number in its name")]
fn seed() -> u64 {
    rand::rng().next_u64()
}

struct Promoter {
    bus: Bus,
    platform: Option<PlatformClient>,
    entries: PromotionEntries,
    metrics: PromoterMetrics,
    handle: LeaseHandle,
    author: Author,
    trust: TrustConfig,
}

impl Promoter {
    /// Waits for the lease, and works while it is held.
    ///
    /// # Errors
    /// If a worker panicked: its model would not be watched, so the process ends and another one takes over.
    async fn lead(&mut self, token: &CancellationToken) -> anyhow::Result<()> {
        while !self.leads() {
            tokio::select! {
                () = token.cancelled() => return Ok(()),
                () = self.handle.changed() => {}
            }
        }
        self.metrics.leader.set(1);
        let leading = token.child_token();
        let mut workers = JoinSet::new();
        let mut models: BTreeSet<Name> = BTreeSet::new();
        self.entries.mark_changed();
        let mut ended = Ok(());
        while ended.is_ok() && self.leads() && !token.is_cancelled() {
            tokio::select! {
                () = token.cancelled() => {}
                () = self.handle.changed() => {}
                Some(worker) = workers.join_next() => ended = worker.context("a worker ended"),
                Ok(()) = self.entries.changed() => {
                    for model in self.models() {
                        if models.insert(model.clone()) {
                            workers.spawn(self.worker(model, leading.clone()).run());
                        }
                    }
                }
            }
        }
        leading.cancel();
        while workers.join_next().await.is_some() {}
        self.metrics.clear();
        ended
    }

    /// Whether this instance holds the lease, or held it last and cannot reach the bus. In the latter case every write still is a compare-and-set.
    fn leads(&self) -> bool {
        !matches!(self.handle.status(), LeaderStatus::Following)
    }

    /// Models with a record or a request.
    fn models(&mut self) -> Vec<Name> {
        let entries = self.entries.borrow_and_update();
        entries.iter().flat_map(|entries| entries.values()).map(|entry| entry.0.clone()).collect()
    }

    fn worker(&self, model: Name, token: CancellationToken) -> Worker {
        Worker {
            bus: self.bus.clone(),
            author: self.author.clone(),
            trust: self.trust.clone(),
            model,
            entries: self.entries.clone(),
            platform: self.platform.clone(),
            metrics: self.metrics.clone(),
            token,
        }
    }
}
