//! The loop that feeds the core and executes its commands. Owns waiting, sending and the clock; must not decide, nor wait for the bus or the platform.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::registry::Registry;
use qscale_common::contract::subject::{self, CONTROL_BUCKET};
use qscale_common::contract::{EventType, Outcome, State};
use qscale_common::control::Control;
use qscale_common::name::FunctionId;
use qscale_common::policy::ScalingPolicy;
use qscale_common::runtime::bus::{Bucket, Bus, Outbox, Subscription};
use qscale_common::runtime::clock;
use qscale_common::runtime::health::{self, Health};
use qscale_common::runtime::lease::{self, Election, LeaderStatus, LeaseHandle};
use qscale_common::runtime::service::InstanceName;
use qscale_common::time::Timestamp;
use rand::Rng as _;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::actions::ActionReceiver;
use crate::backend::{BackendError, LoopAccess, LoopReport, PlatformBackend, WorkloadStatus};
use crate::config::ActuatorConfig;
use crate::core::{ApplyRequest, Core, CoreCommand, Lead, Settings};
use crate::metrics::ActuatorMetrics;
use crate::store::{self, Record, StoredRecord};

/// Interval at which the core's timers run; a fraction of the shortest retry delay.
const WAKE: Duration = Duration::from_millis(50);
/// Time that a stop waits for requests in flight, and again for Outcomes.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// Outcomes that wait for the bus, about 16 MB. Without the bus the fallback decides once per function, so this suffices for a fleet of that size.
const OUTBOX_CAPACITY: usize = 16_384;
/// Functions that wait for their restore; the backend repeats a request that finds no room.
const RELEASES: usize = 64;
/// Reports that wait for the backend: a few for each function of a fleet. One that finds no room is lost, and the next one replaces it.
const REPORTS: usize = 16_384;

/// Runs an actuator on the configured platform until `token` is cancelled.
///
/// # Errors
/// If an address is malformed or cannot be listened on.
pub async fn run(config: ActuatorConfig, token: CancellationToken) -> anyhow::Result<()> {
    let backend = config.platform.open()?;
    run_with(config, backend, token).await
}

/// Runs an actuator on `backend`.
///
/// # Errors
/// If an address is malformed or cannot be listened on.
pub async fn run_with(config: ActuatorConfig, backend: Arc<dyn PlatformBackend>, token: CancellationToken) -> anyhow::Result<()> {
    let seed = seed();
    let instance = config.instance.clone().unwrap_or_else(|| InstanceName::numbered(seed as u32)).to_string();
    let lease_key = config.lease_key();
    let health = Health::new();
    let mut registry = Registry::default();
    let bus = Bus::connect("actuator", &instance, &config.nats, &health, &mut registry).await?;
    bus.watch_streams(token.clone());
    let metrics = ActuatorMetrics::register(&mut registry);
    health.set("platform", false);
    let address = health::serve(config.health, health.clone(), Arc::new(Mutex::new(registry)), token.clone()).await?;
    tracing::info!(instance, %address, "actuator started");

    let mut inputs = Inputs::open(&bus, &config, &token).await?;
    if !inputs.ready(&token).await {
        return Ok(());
    }
    // Two actuators with the same name by mistake must not take the other's lease for their own.
    let election = Election::new(format!("{instance}/{seed:016x}"), config.lease.ttl.0);
    let stop_leading = CancellationToken::new();
    let (lease, election) = lease::campaign(bus.clone(), lease_key, election, stop_leading.clone());
    let (reports, received) = mpsc::channel(REPORTS);
    let (releases, mut released) = mpsc::channel(RELEASES);
    let follower = backend.follow(LoopAccess {
        instance: instance.clone(),
        bus: bus.clone(),
        lease: lease.clone(),
        policies: inputs.policies.clone(),
        controls: inputs.controls.clone(),
        reports: received,
        releases,
        token: stop_leading.clone(),
    });
    let settings = Settings {
        actuator: instance,
        max_retry_delay: config.max_retry_delay.0,
        flush_interval: config.flush_interval.0,
        reconcile: config.reconcile.0,
        kinds: backend.kinds().to_vec(),
        seed,
    };
    let (completions_tx, completions) = mpsc::unbounded_channel();
    let mut service = Service {
        core: Core::new(settings),
        outbox: Outbox::start(bus.clone(), OUTBOX_CAPACITY, metrics.dropped_outcomes.clone()),
        bus,
        backend,
        lease,
        metrics,
        health,
        permits: Arc::new(Semaphore::new(config.concurrency.get())),
        completions: completions_tx,
        in_flight: 0,
        reports: follower.is_some().then_some(reports),
    };
    let completions = service.run(&mut inputs, completions, &mut released, &token).await;
    service.stop(completions).await;
    stop_leading.cancel();
    if let Some(follower) = follower {
        // A task that panicked has ended, too.
        let _ended = follower.await;
    }
    // A task that panicked cannot release the lease; it expires.
    let _ended = election.await;
    let left = service.outbox.close(STOP_TIMEOUT).await;
    if left > 0 {
        tracing::warn!(outcomes = left, "stopped before all outcomes were sent");
    }
    service.bus.drain(STOP_TIMEOUT).await;
    tracing::info!("actuator stopped");
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the service owns the entropy of its name and of its retry delays")]
fn seed() -> u64 {
    rand::rng().next_u64()
}

/// Subscriptions and watched buckets.
struct Inputs {
    states: Subscription<State>,
    actions: ActionReceiver,
    policies: Bucket<ScalingPolicy>,
    controls: Bucket<Control>,
    records: Bucket<StoredRecord>,
}

impl Inputs {
    async fn open(bus: &Bus, config: &ActuatorConfig, token: &CancellationToken) -> anyhow::Result<Self> {
        Ok(Self {
            states: bus.subscribe_latest(subject::all(EventType::State), None).await?,
            actions: ActionReceiver::follow(bus, config.nats.clone(), token.clone()),
            policies: bus.watch_policies(&config.trust, token.clone()),
            controls: bus.watch_bucket(CONTROL_BUCKET, |_, value| Ok(Control::from_json(value)), token.clone()),
            records: store::watch(bus, token.clone()),
        })
    }

    /// Waits until every bucket was read once, because an actuator that does not know the freezes must not act, and the agents are followed. False if stopped
    /// before.
    async fn ready(&mut self, token: &CancellationToken) -> bool {
        let read = async {
            self.policies.wait_for(Option::is_some).await.is_ok()
                && self.controls.wait_for(Option::is_some).await.is_ok()
                && self.records.wait_for(Option::is_some).await.is_ok()
                && self.actions.listed().await
        };
        tokio::select! {
            () = token.cancelled() => false,
            read = read => read,
        }
    }
}

/// Result of a command.
#[derive(Debug)]
enum Completion {
    Applied(FunctionId, u64, Result<WorkloadStatus, BackendError>),
    Listed(Timestamp, Result<Vec<WorkloadStatus>, BackendError>),
    Stored(FunctionId, Record, Option<Record>),
    Forgotten(FunctionId, bool),
}

struct Service {
    core: Core,
    bus: Bus,
    outbox: Outbox<Outcome>,
    backend: Arc<dyn PlatformBackend>,
    lease: LeaseHandle,
    metrics: ActuatorMetrics,
    health: Health,
    permits: Arc<Semaphore>,
    /// Unbounded, but holds at most one request and three writes per function, and one list: the core waits for each before it starts the next.
    completions: mpsc::UnboundedSender<Completion>,
    /// Number of requests to the platform and writes in flight.
    in_flight: usize,
    /// Where the backend gets States and Outcomes, if it takes them.
    reports: Option<mpsc::Sender<LoopReport>>,
}

impl Service {
    /// Feeds the core until `token` is cancelled. Waits for inputs only.
    async fn run(
        &mut self,
        inputs: &mut Inputs,
        mut completions: mpsc::UnboundedReceiver<Completion>,
        releases: &mut mpsc::Receiver<FunctionId>,
        token: &CancellationToken,
    ) -> mpsc::UnboundedReceiver<Completion> {
        let mut wake = clock::interval(WAKE);
        wake.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.read(&mut inputs.policies, Core::set_policies);
        self.read(&mut inputs.controls, Core::set_controls);
        self.read(&mut inputs.records, Core::set_records);
        loop {
            // Operators first, then timers, then States before the Actions that answer them. Records last: they are needed for a takeover, and a leader's
            // own writes come back through them, one change of the whole bucket each.
            tokio::select! {
                biased;
                () = token.cancelled() => return completions,
                () = self.lease.changed() => {}
                Ok(()) = inputs.policies.changed() => self.read(&mut inputs.policies, Core::set_policies),
                Ok(()) = inputs.controls.changed() => self.read(&mut inputs.controls, Core::set_controls),
                Some(completion) = completions.recv() => self.on_completion(completion),
                Some(function) = releases.recv() => self.core.release(&function, clock::now()),
                _ = wake.tick() => self.wake(),
                Some(received) = inputs.states.next() => {
                    self.report(|| LoopReport::State(Box::new(received.message.clone())));
                    self.core.on_state(received.message, received.trace, clock::now());
                }
                Some(received) = inputs.actions.next() => self.core.on_action(received.message, received.trace, clock::now()),
                Ok(()) = inputs.records.changed() => self.read(&mut inputs.records, Core::set_records),
            }
            // A refused token is given up before the lead is read, or the core would lead with it again.
            self.execute();
            self.update_lead();
            self.execute();
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
        self.metrics.functions.set(self.core.governed() as i64);
        self.metrics.missing.set(self.core.missing() as i64);
        self.metrics.silent.set(self.core.silent() as i64);
        self.metrics.unreported_refusals.inc_by(self.core.take_unreported());
    }

    /// Passes the role of this actuator to the core.
    fn update_lead(&mut self) {
        let lead = match self.lease.status() {
            LeaderStatus::Following => Lead::Following,
            LeaderStatus::Leading { token, .. } => Lead::Leading(token),
            LeaderStatus::Disconnected { token } => Lead::Disconnected(token),
        };
        self.metrics.leader.set(i64::from(matches!(lead, Lead::Leading(_))));
        self.core.set_lead(lead, clock::now());
    }

    fn on_completion(&mut self, completion: Completion) {
        let now = clock::now();
        match completion {
            Completion::Applied(function, number, result) => {
                self.in_flight -= 1;
                self.core.on_applied(&function, number, result, now);
            }
            Completion::Stored(function, record, stored) => {
                self.in_flight -= 1;
                self.core.on_stored(&function, record, stored, now);
            }
            Completion::Forgotten(function, deleted) => {
                self.in_flight -= 1;
                self.core.on_forgotten(&function, deleted, now);
            }
            Completion::Listed(asked, result) => {
                self.health.set("platform", result.is_ok());
                match result {
                    Ok(workloads) => self.core.on_listed(&workloads, asked, now),
                    Err(error) => {
                        tracing::debug!(%error, "failed to list the platform; trying again");
                        self.core.on_list_failed(now);
                    }
                }
            }
        }
    }

    fn execute(&mut self) {
        for command in self.core.take_commands() {
            match command {
                CoreCommand::Apply(request) => self.apply(request),
                CoreCommand::Publish(outcome, trace) => {
                    self.metrics.outcome(&outcome);
                    self.report(|| LoopReport::Outcome(outcome.clone()));
                    self.outbox.push(*outcome, self.bus.child_trace(trace));
                }
                CoreCommand::Store(function, record) => self.store(function, record),
                CoreCommand::Forget(function) => self.forget(function),
                CoreCommand::Released(function, result) => self.report(|| LoopReport::Released(function, result)),
                CoreCommand::List => self.list(),
                CoreCommand::StepDown { highest } => self.lease.step_down(highest),
            }
        }
    }

    fn report(&self, report: impl FnOnce() -> LoopReport) {
        if let Some(reports) = &self.reports {
            // Full or closed: the next report says the same or more.
            let _lost = reports.try_send(report());
        }
    }

    fn apply(&mut self, request: ApplyRequest) {
        self.in_flight += 1;
        let (backend, permits, lease) = (Arc::clone(&self.backend), Arc::clone(&self.permits), self.lease.clone());
        let (metrics, completions) = (self.metrics.clone(), self.completions.clone());
        tokio::spawn(async move {
            let _permit = permits.acquire_owned().await;
            // The lead may be lost since the request was queued.
            let leads = lease.status().token() == Some(request.lease);
            let began = clock::instant();
            let result = if leads {
                backend.apply(&request.workload, request.allocation, request.lease).await
            } else {
                Err(BackendError::Unavailable("this actuator does not lead anymore".into()))
            };
            metrics.request(&result, clock::since(began));
            // Fails only after the service has ended.
            let _ended = completions.send(Completion::Applied(request.function, request.number, result));
        });
    }

    fn store(&mut self, function: FunctionId, record: Record) {
        self.in_flight += 1;
        let (bus, metrics, completions) = (self.bus.clone(), self.metrics.clone(), self.completions.clone());
        tokio::spawn(async move {
            let stored = store::put(&bus, &function, &record).await;
            if let Err(error) = &stored {
                metrics.not_stored.inc();
                tracing::debug!(%function, error = format!("{error:#}"), "failed to store a record; retrying");
            }
            // Fails only after the service has ended.
            let _ended = completions.send(Completion::Stored(function, record, stored.ok()));
        });
    }

    fn forget(&mut self, function: FunctionId) {
        self.in_flight += 1;
        let (bus, completions) = (self.bus.clone(), self.completions.clone());
        tokio::spawn(async move {
            let deleted = store::forget(&bus, &function).await;
            if let Err(error) = &deleted {
                tracing::debug!(%function, error = format!("{error:#}"), "failed to delete a record; retrying");
            }
            // Fails only after the service has ended.
            let _ended = completions.send(Completion::Forgotten(function, deleted.is_ok()));
        });
    }

    fn list(&mut self) {
        let (backend, completions, asked) = (Arc::clone(&self.backend), self.completions.clone(), clock::now());
        tokio::spawn(async move {
            let result = backend.list().await;
            // Fails only after the service has ended.
            let _ended = completions.send(Completion::Listed(asked, result));
        });
    }

    /// Waits for requests in flight, and stores changed budgets.
    async fn stop(&mut self, mut completions: mpsc::UnboundedReceiver<Completion>) {
        self.core.flush(clock::now());
        let settled = async {
            self.execute();
            while self.in_flight > 0 {
                let Some(completion) = completions.recv().await else { return };
                self.on_completion(completion);
                self.execute();
            }
        };
        if tokio::time::timeout(STOP_TIMEOUT, settled).await.is_err() {
            tracing::warn!("stopped before the platform or the bus answered");
        }
    }
}
