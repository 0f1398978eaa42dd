//! The loop that feeds the core and carries out its commands. Owns waiting, sending and the clock; must not decide.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::registry::Registry;
use qscale_common::contract::subject::{self, CONTROL_BUCKET};
use qscale_common::contract::{Action, EventType, State};
use qscale_common::control::Control;
use qscale_common::name::FunctionId;
use qscale_common::policy::ScalingPolicy;
use qscale_common::runtime::bus::{Bucket, Bus, Subscription};
use qscale_common::runtime::clock;
use qscale_common::runtime::health::{self, Health};
use qscale_common::runtime::lease::{self, Election, LeaderStatus, LeaseHandle};
use qscale_common::time::Timestamp;
use rand::Rng as _;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::backend::local::LocalPlatform;
use crate::backend::{Backend, BackendError, Workload};
use crate::config::ActuatorConfig;
use crate::core::{Command, Core, Lead, Order, Settings};
use crate::metrics::Metrics;
use crate::store::{self, Record, Remembered};

/// How often what waits for a time is looked at; a fraction of the shortest pause between two attempts.
const WAKE: Duration = Duration::from_millis(50);
/// How long a stop waits for what is under way, and again for what is to be recorded.
const STOP_WITHIN: Duration = Duration::from_secs(3);
/// Key of the actuators' lease.
const LEASE_KEY: &str = "actuator";
/// Pause before a platform that did not answer is listed again.
const LIST_AGAIN: Duration = Duration::from_secs(1);

/// Runs an actuator on the platform of this machine until `token` is cancelled.
///
/// # Errors
/// When an address is malformed or cannot be listened on.
pub async fn run(config: ActuatorConfig, token: CancellationToken) -> anyhow::Result<()> {
    let backend = LocalPlatform::new(&config.platform.address, config.platform.timeout.0)?;
    run_with(config, backend, token).await
}

/// As [`run`], on any platform.
///
/// # Errors
/// When an address is malformed or cannot be listened on.
pub async fn run_with<B: Backend>(config: ActuatorConfig, backend: B, token: CancellationToken) -> anyhow::Result<()> {
    let seed = seed();
    let instance = config.instance(seed as u32);
    let health = Health::new();
    let registry = Arc::new(Mutex::new(Registry::default()));
    let (bus, metrics) = {
        let mut own = Registry::default();
        let bus = Bus::connect("actuator", &instance, &config.nats, &health, &mut own).await?;
        let metrics = Metrics::register(&mut own);
        *registry.lock().unwrap_or_else(PoisonError::into_inner) = own;
        (bus, metrics)
    };
    health.set("platform", false);
    health.set("policies", false);
    let address = health::serve(config.health, health.clone(), registry, token.clone()).await?;
    tracing::info!(instance, %address, "actuator started");

    let mut inputs = Inputs::open(&bus, &token).await?;
    if !inputs.ready(&token).await {
        return Ok(());
    }
    health.set("policies", true);
    // Two that are called the same by mistake must not take each other's lease for their own.
    let election = Election::new(format!("{instance}/{seed:016x}"), config.lease.ttl.0);
    let stop_leading = CancellationToken::new();
    let (lease, election) = lease::campaign(bus.clone(), LEASE_KEY, election, stop_leading.clone());
    let settings = Settings { actuator: instance, retry_at_most: config.retry_at_most.0, store_every: config.store_every.0, seed };
    let (answers_tx, answers) = mpsc::unbounded_channel();
    let mut service = Service {
        core: Core::new(settings),
        bus,
        backend: Arc::new(backend),
        lease,
        metrics,
        health,
        permits: Arc::new(Semaphore::new(config.concurrency.get())),
        answers: answers_tx,
        under_way: 0,
        listing: false,
        list_at: None,
    };
    let answers = service.follow(&mut inputs, answers, config.reconcile.0, &token).await;
    service.stop(answers).await;
    stop_leading.cancel();
    // A task that panicked has nothing to give back; the lease runs out.
    let _ended = election.await;
    service.bus.drain(STOP_WITHIN).await;
    tracing::info!("actuator stopped");
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the service owns the entropy of its name and of its pauses")]
fn seed() -> u64 {
    rand::rng().next_u64()
}

/// Everything that is listened to.
struct Inputs {
    states: Subscription<State>,
    actions: Subscription<Action>,
    policies: Bucket<ScalingPolicy>,
    controls: Bucket<Control>,
    records: Bucket<Remembered>,
}

impl Inputs {
    async fn open(bus: &Bus, token: &CancellationToken) -> anyhow::Result<Self> {
        let parse_control = |_: &str, value: &[u8]| Control::from_json(value).map_err(|error| error.to_string());
        Ok(Self {
            states: bus.subscribe_latest(subject::all(EventType::State), None).await?,
            actions: bus.subscribe(subject::all(EventType::Action), None).await?,
            policies: bus.watch_policies(token.clone()),
            controls: bus.watch_bucket(CONTROL_BUCKET, parse_control, token.clone()),
            records: store::watch(bus, token.clone()),
        })
    }

    /// Waits until every bucket was read once: who does not know what is frozen must not act. False where it is stopped before.
    async fn ready(&mut self, token: &CancellationToken) -> bool {
        let read = async {
            self.policies.wait_for(Option::is_some).await.is_ok()
                && self.controls.wait_for(Option::is_some).await.is_ok()
                && self.records.wait_for(Option::is_some).await.is_ok()
        };
        tokio::select! {
            () = token.cancelled() => false,
            read = read => read,
        }
    }
}

/// What came back from outside.
#[derive(Debug)]
enum Answer {
    Applied(FunctionId, u64, Result<Workload, BackendError>),
    Listed(Timestamp, Result<Vec<Workload>, BackendError>),
    Stored(FunctionId, Record, Option<Record>),
}

struct Service<B> {
    core: Core,
    bus: Bus,
    backend: Arc<B>,
    lease: LeaseHandle,
    metrics: Metrics,
    health: Health,
    permits: Arc<Semaphore>,
    answers: mpsc::UnboundedSender<Answer>,
    /// Applies and stores that have not answered; each function has at most one apply and three stores.
    under_way: usize,
    listing: bool,
    list_at: Option<std::time::Instant>,
}

impl<B: Backend> Service<B> {
    /// Feeds the core until `token` is cancelled.
    async fn follow(
        &mut self,
        inputs: &mut Inputs,
        mut answers: mpsc::UnboundedReceiver<Answer>,
        reconcile: Duration,
        token: &CancellationToken,
    ) -> mpsc::UnboundedReceiver<Answer> {
        let mut wake = clock::interval(WAKE);
        wake.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reconcile = clock::interval(reconcile);
        reconcile.set_missed_tick_behavior(MissedTickBehavior::Delay);
        inputs.policies.mark_changed();
        inputs.controls.mark_changed();
        inputs.records.mark_changed();
        loop {
            // Operators first, then what is due, then States before the Actions that answer them.
            tokio::select! {
                biased;
                () = token.cancelled() => return answers,
                () = self.lease.changed() => {}
                Ok(()) = inputs.policies.changed() => self.read(&mut inputs.policies, Core::policies),
                Ok(()) = inputs.controls.changed() => self.read(&mut inputs.controls, Core::controls),
                Ok(()) = inputs.records.changed() => self.read(&mut inputs.records, Core::records),
                Some(answer) = answers.recv() => self.answer(answer),
                _ = wake.tick() => self.wake(),
                _ = reconcile.tick() => self.list(),
                Some(received) = inputs.states.next() => self.core.state(received.message, received.trace, clock::now()),
                Some(received) = inputs.actions.next() => self.core.action(received.message, received.trace, clock::now()),
            }
            self.stand();
            self.carry_out().await;
        }
    }

    fn read<T>(&mut self, bucket: &mut Bucket<T>, into: fn(&mut Core, &std::collections::BTreeMap<String, Arc<T>>, Timestamp)) {
        let entries = bucket.borrow_and_update().clone();
        if let Some(entries) = entries {
            into(&mut self.core, &entries, clock::now());
        }
    }

    fn wake(&mut self) {
        self.core.wake(clock::now());
        if self.list_at.take_if(|at| *at <= clock::instant()).is_some() {
            self.list();
        }
        self.metrics.functions.set(self.core.governed() as i64);
        self.metrics.missing.set(self.core.missing() as i64);
        self.metrics.silent.set(self.core.silent() as i64);
    }

    /// Tells the core where this actuator stands.
    fn stand(&mut self) {
        let lead = match self.lease.status() {
            LeaderStatus::Following => Lead::Following,
            LeaderStatus::Leading { token, .. } => Lead::Leading(token),
            LeaderStatus::Disconnected { token } => Lead::Cut(token),
        };
        self.metrics.leader.set(i64::from(matches!(lead, Lead::Leading(_))));
        self.core.lead(lead, clock::now());
    }

    fn answer(&mut self, answer: Answer) {
        let now = clock::now();
        match answer {
            Answer::Applied(function, number, result) => {
                self.under_way -= 1;
                self.core.applied(&function, number, result, now);
            }
            Answer::Stored(function, record, stored) => {
                self.under_way -= 1;
                self.core.stored(&function, record, stored, now);
            }
            Answer::Listed(asked, result) => {
                self.listing = false;
                self.health.set("platform", result.is_ok());
                match result {
                    Ok(workloads) => self.core.listed(&workloads, asked, now),
                    Err(error) => {
                        tracing::debug!(%error, "the platform was not listed; trying again");
                        self.list_at = Some(clock::instant() + LIST_AGAIN);
                    }
                }
            }
        }
    }

    async fn carry_out(&mut self) {
        for command in self.core.take() {
            match command {
                Command::Apply(order) => self.apply(order),
                Command::Publish(outcome, trace) => {
                    self.metrics.outcome(&outcome);
                    self.bus.record(&*outcome, self.bus.child_trace(trace)).await;
                }
                Command::Store(function, record) => self.store(function, record),
                Command::List => self.list(),
                Command::StepDown => self.lease.step_down(),
            }
        }
    }

    fn apply(&mut self, order: Order) {
        self.under_way += 1;
        let (backend, permits, lease) = (Arc::clone(&self.backend), Arc::clone(&self.permits), self.lease.clone());
        let (metrics, answers) = (self.metrics.clone(), self.answers.clone());
        tokio::spawn(async move {
            let _permit = permits.acquire_owned().await;
            // It may have waited; who no longer leads does not write.
            let leads = lease.status().token() == Some(order.lease);
            let began = clock::instant();
            let result = if leads {
                backend.apply(&order.workload, order.allocation, order.lease).await
            } else {
                Err(BackendError::Unavailable("this actuator no longer leads".into()))
            };
            metrics.attempt(&result, clock::since(began));
            // The service has ended; nobody waits for the answer.
            let _unheard = answers.send(Answer::Applied(order.function, order.number, result));
        });
    }

    fn store(&mut self, function: FunctionId, record: Record) {
        self.under_way += 1;
        let (bus, metrics, answers) = (self.bus.clone(), self.metrics.clone(), self.answers.clone());
        tokio::spawn(async move {
            let stored = store::put(&bus, &function, &record).await;
            if let Err(error) = &stored {
                metrics.not_stored.inc();
                tracing::debug!(%function, error = format!("{error:#}"), "not stored; trying again");
            }
            // The service has ended; nobody waits for the answer.
            let _unheard = answers.send(Answer::Stored(function, record, stored.ok()));
        });
    }

    fn list(&mut self) {
        if std::mem::replace(&mut self.listing, true) {
            return;
        }
        let (backend, answers, asked) = (Arc::clone(&self.backend), self.answers.clone(), clock::now());
        tokio::spawn(async move {
            let result = backend.list().await;
            // The service has ended; nobody waits for the answer.
            let _unheard = answers.send(Answer::Listed(asked, result));
        });
    }

    /// Lets what is under way end, and stores what is not stored yet.
    async fn stop(&mut self, mut answers: mpsc::UnboundedReceiver<Answer>) {
        self.core.flush(clock::now());
        let settled = async {
            self.carry_out().await;
            while self.under_way > 0 {
                let Some(answer) = answers.recv().await else { return };
                self.answer(answer);
                self.carry_out().await;
            }
        };
        if tokio::time::timeout(STOP_WITHIN, settled).await.is_err() {
            tracing::warn!("the platform or the bus did not answer before the stop");
        }
    }
}
