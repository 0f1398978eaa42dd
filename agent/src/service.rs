//! The service loop: States in, Actions out, graceful stop. Owns all I/O of the agent; must not decide.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::registry::Registry;
use qscale_common::contract::{Action, EventType, Message as _, State, decode, subject};
use qscale_common::name::FunctionId;
use qscale_common::partition::Partition;
use qscale_common::runtime::bus::{Bus, Received, Subscription};
use qscale_common::runtime::clock;
use qscale_common::runtime::health::{self, Health};
use qscale_common::runtime::models::ModelReader;
use qscale_common::runtime::service::InstanceName;
use qscale_common::time::Timestamp;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::answer::{Answer, Answerer};
use crate::config::AgentConfig;
use crate::metrics::AgentMetrics;
use crate::model::{self, ModelOffer, ModelSource};

/// Time that a stop waits for acknowledgements of its Actions.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Least interval between warnings about late States, a sign of clocks that differ or of a slow agent.
const LATE_WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Delay before a failed read of the stream is retried.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Greatest number of waiting States decided in one batch: a network evaluates thousands at once several times as fast
/// as one by one, and each waits for only a few milliseconds.
const MAX_BATCH: usize = 4096;
/// Time that the start waits for the store's model in use.
const MODEL_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval at which memories of removed functions are dropped.
const CLEANUP_INTERVAL: Duration = Duration::from_secs(600);

/// Answers States until `token` is cancelled; then answers those already received, and ends when its Actions are acknowledged.
///
/// # Errors
/// If the configuration is invalid or the health endpoint cannot listen. An absent bus is not an error.
pub async fn run(config: AgentConfig, token: CancellationToken) -> anyhow::Result<()> {
    let instance = config.instance.clone().unwrap_or_else(InstanceName::of_process).to_string();
    let answerer = Answerer::new(config.agent.clone(), instance, config.expires_after, config.policy()?);
    let (health, mut registry) = (Health::new(), Registry::default());
    let metrics = AgentMetrics::register(&mut registry);
    let bus = Bus::connect("agent", &format!("{}/{}", answerer.agent, answerer.instance), &config.nats, &health, &mut registry).await?;
    let serving = token.child_token();
    let address = health::serve(config.health, health, Arc::new(Mutex::new(registry)), serving.clone()).await?;
    let group = answerer.lookback().is_none().then(|| subject::agent_group(&answerer.agent));
    let states = bus.subscribe_latest(subject::all(EventType::State), group).await?;
    info!(agent = %answerer.agent, instance = answerer.instance, policy = answerer.provenance().policy, configuration = answerer.provenance().configuration, health = %address, "started");
    let models = match &config.model {
        Some(ModelSource::Store(name)) => {
            let reader = ModelReader::new(&bus, &config.trust);
            Some(model::follow(reader, name.clone(), config.params.into(), metrics.clone(), serving.child_token()))
        }
        Some(ModelSource::File(_)) | None => None,
    };
    let partition = config.partition;
    let agent = AgentInstance { answerer, partition, bus, metrics, models, rng: entropy(), warned: None, cleaned: clock::instant() };
    agent.answer_all(states, &token).await;
    serving.cancel();
    Ok(())
}

/// A running instance.
struct AgentInstance {
    answerer: Answerer,
    partition: Partition,
    bus: Bus,
    metrics: AgentMetrics,
    /// Offers of the model store, if it is watched.
    models: Option<watch::Receiver<ModelOffer>>,
    rng: SmallRng,
    warned: Option<std::time::Instant>,
    cleaned: std::time::Instant,
}

impl AgentInstance {
    async fn answer_all(mut self, mut states: Subscription<State>, token: &CancellationToken) {
        tokio::select! {
            () = token.cancelled() => {}
            () = self.begin() => {}
        }
        loop {
            tokio::select! {
                biased;
                () = token.cancelled() => break,
                // Between two States, so that none is missed.
                offer = offered(&mut self.models) => self.take_up(offer),
                received = states.next() => match received {
                    Some(received) => self.answer(received, &mut states).await,
                    None => break,
                },
            }
        }
        states.close();
        let answered = tokio::time::timeout(DRAIN_TIMEOUT, async {
            while let Some(received) = states.next().await {
                self.answer(received, &mut states).await;
            }
        });
        if answered.await.is_err() {
            warn!("States received during the stop are left to other instances");
        }
        self.bus.drain(DRAIN_TIMEOUT).await;
        info!("stopped");
    }

    /// Prepares the first answer: memory and model.
    async fn begin(&mut self) {
        self.rebuild_memory().await;
        let Some(models) = &mut self.models else { return };
        let known = tokio::time::timeout(MODEL_TIMEOUT, models.wait_for(|offer| !matches!(offer, ModelOffer::Pending))).await;
        let offer = known.ok().and_then(Result::ok).map_or(ModelOffer::Pending, |offer| offer.clone());
        models.mark_unchanged();
        self.take_up(offer);
    }

    fn take_up(&mut self, offer: ModelOffer) {
        let before = self.answerer.provenance().fingerprint().unwrap_or_default().to_owned();
        match offer {
            ModelOffer::Model { name, version, dqn } => {
                self.answerer.take_up(dqn, &name, version);
                let model = self.answerer.provenance().fingerprint();
                info!(%name, version, model, before, "swapped the model");
            }
            ModelOffer::Nothing(why) => info!(model = before, why, "using the bundled model until the store has another"),
            ModelOffer::Pending => warn!(model = before, "model store does not answer; using the bundled model until it does"),
        }
    }

    /// Rebuilds the memory of a policy from the States in the stream. Waits for the bus, without which there is nothing to answer either.
    async fn rebuild_memory(&mut self) {
        let Some(back) = self.answerer.lookback() else { return };
        loop {
            let (answerer, rng, partition) = (&mut self.answerer, &mut self.rng, self.partition);
            let mut holding = BTreeSet::new();
            let recalled = self.bus.read_history(clock::now().minus(back), |state: State| {
                if partition.contains(&state.function()) {
                    answerer.remember(&state, rng);
                    if state.objective.point.is_some() {
                        holding.insert(state.function());
                    }
                }
            });
            match recalled.await {
                Ok(states) => {
                    let resumed = self.resume(&holding).await;
                    return info!(states = states.read, unreadable = states.unreadable, resumed, "rebuilt memory from the stream");
                }
                Err(error) => {
                    warn!(error = format!("{error:#}"), "failed to rebuild memory from the stream; retrying");
                    self.answerer.forget(Timestamp(u64::MAX));
                    tokio::time::sleep(RETRY_DELAY).await;
                }
            }
        }
    }

    /// Continues to hold the operating points of `functions` from the last Actions of this agent, and returns the number of those that it found. Without its
    /// last Action a function begins at the default, as a new one does.
    async fn resume(&mut self, functions: &BTreeSet<FunctionId>) -> usize {
        let mut resumed = 0;
        for function in functions {
            let last = self.bus.last_message(EventType::Action, &subject::action(&self.answerer.agent, function)).await;
            let last = last.and_then(|last| last.map(|last| Ok(decode::<Action>(&last.subject, &last.payload)?)).transpose());
            match last {
                Ok(Some(Action { point: Some(point), .. })) => {
                    self.answerer.resume(function, &point);
                    resumed += 1;
                }
                Ok(_) => {}
                Err(error) => {
                    warn!(%function, error = format!("{error:#}"), "failed to read the last operating point; holding it from the default on");
                }
            }
        }
        resumed
    }

    /// Answers a State and those already waiting; the first does not wait for others.
    async fn answer(&mut self, first: Received<State>, states: &mut Subscription<State>) {
        let mut batch = vec![first];
        while batch.len() < MAX_BATCH
            && let Some(received) = states.try_next()
        {
            batch.push(received);
        }
        if self.answerer.lookback().is_some() {
            batch.retain(|received| self.partition.contains(&received.message.function()));
            if clock::since(self.cleaned) > CLEANUP_INTERVAL {
                self.cleaned = clock::instant();
                self.answerer.forget(clock::now());
            }
        }
        let seen: Vec<&State> = batch.iter().map(|received| &received.message).collect();
        let answers = self.answerer.answer_all(&seen, clock::now(), &mut self.rng);
        for (received, (answer, fallback)) in batch.iter().zip(answers) {
            self.metrics.count(&answer, fallback);
            match answer {
                Answer::Act(action, _) => {
                    // Handed to the connection; the acknowledgement is awaited elsewhere.
                    self.bus.record(&*action, self.bus.child_trace(received.trace)).await;
                    self.metrics.published(received.message.observed_at_ms, clock::now());
                }
                Answer::Silent(_) => {}
                Answer::Late => self.warn_late(&received.message),
            }
        }
    }

    fn warn_late(&mut self, state: &State) {
        if self.warned.is_some_and(|last| clock::since(last) < LATE_WARNING_INTERVAL) {
            return;
        }
        self.warned = Some(clock::instant());
        let age_ms = clock::now().since(state.observed_at_ms).as_millis();
        warn!(namespace = %state.namespace, function = %state.function, age_ms, "dropped a late State; others may be late too");
    }
}

/// The next offer of `models`; pending without a source.
async fn offered(models: &mut Option<watch::Receiver<ModelOffer>>) -> ModelOffer {
    let Some(models) = models else { return std::future::pending().await };
    if models.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
    models.borrow_and_update().clone()
}

#[expect(clippy::disallowed_methods, reason = "a service needs no reproducible exploration")]
fn entropy() -> SmallRng {
    SmallRng::from_rng(&mut rand::rng())
}
