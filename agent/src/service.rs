//! The shell around the answers: States in, Actions out, and a graceful stop.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::registry::Registry;
use qscale_common::contract::{EventType, Message as _, State, subject};
use qscale_common::partition::Partition;
use qscale_common::runtime::bus::{Bus, Received, Subscription};
use qscale_common::runtime::clock;
use qscale_common::runtime::health::{self, Health};
use qscale_common::time::Timestamp;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::answer::{Answer, Answerer};
use crate::config::AgentConfig;
use crate::metrics::Metrics;
use crate::model::{self, Offer, Source};

/// How long a stop waits for the acknowledgement of what was answered.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);
/// Late States are reported at most this often: they are a sign of clocks that differ or of an agent that is too slow.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Pause before a stream that could not be read is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// States that wait already are decided in one pass, at most so many: a network values thousands at once several times as fast as one by one, and none of
/// them waits for more than some milliseconds.
const AT_ONCE: usize = 4096;
/// How long the start waits for the model that is in use in the store.
const MODEL_WITHIN: Duration = Duration::from_secs(5);
/// How often functions that are gone are forgotten.
const TIDY_EVERY: Duration = Duration::from_secs(600);

/// Answers States until `token` is cancelled; then answers those that already came, and ends once its Actions are acknowledged.
///
/// # Errors
/// When the configuration makes no sense or the health endpoint cannot listen. The absence of the bus is no error.
pub async fn run(config: AgentConfig, token: CancellationToken) -> anyhow::Result<()> {
    let answerer = Answerer::new(config.agent.clone(), config.instance()?, config.expires_after, config.policy()?);
    let (health, mut registry) = (Health::new(), Registry::default());
    let metrics = Metrics::register(&mut registry);
    let bus = Bus::connect("agent", &format!("{}/{}", answerer.agent, answerer.instance), &config.nats, &health, &mut registry).await?;
    let serving = token.child_token();
    let address = health::serve(config.health, health, Arc::new(Mutex::new(registry)), serving.clone()).await?;
    let group = answerer.lookback().is_none().then(|| subject::agent_group(&answerer.agent));
    let states = bus.subscribe(subject::all(EventType::State), group).await?;
    info!(agent = %answerer.agent, instance = answerer.instance, model = answerer.model(), health = %address, "answering");
    let models = match &config.model {
        Some(Source::Store(name)) => {
            Some(model::follow(bus.clone(), name.clone(), config.params.into(), metrics.clone(), serving.child_token()))
        }
        Some(Source::File(_)) | None => None,
    };
    let partition = config.partition;
    let agent = Agent { answerer, partition, bus, metrics, models, rng: entropy(), complained: None, tidied: clock::instant() };
    agent.answer_all(states, &token).await;
    serving.cancel();
    Ok(())
}

/// A running instance.
struct Agent {
    answerer: Answerer,
    partition: Partition,
    bus: Bus,
    metrics: Metrics,
    /// What the model store offers, where it is followed.
    models: Option<watch::Receiver<Offer>>,
    rng: SmallRng,
    complained: Option<std::time::Instant>,
    tidied: std::time::Instant,
}

impl Agent {
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
        let answered = tokio::time::timeout(DRAIN_WITHIN, async {
            while let Some(received) = states.next().await {
                self.answer(received, &mut states).await;
            }
        });
        if answered.await.is_err() {
            warn!("States that came during the stop are left to other instances");
        }
        self.bus.drain(DRAIN_WITHIN).await;
        info!("stopped");
    }

    /// What is to be done before the first answer.
    async fn begin(&mut self) {
        self.remember().await;
        let Some(models) = &mut self.models else { return };
        let known = tokio::time::timeout(MODEL_WITHIN, models.wait_for(|offer| !matches!(offer, Offer::Pending))).await;
        let offer = known.ok().and_then(Result::ok).map_or(Offer::Pending, |offer| offer.clone());
        models.mark_unchanged();
        self.take_up(offer);
    }

    fn take_up(&mut self, offer: Offer) {
        let model = self.answerer.model().to_owned();
        match offer {
            Offer::Model { version, dqn } => {
                self.answerer.take_up(dqn);
                info!(version, model = self.answerer.model(), before = model, "another model decides");
            }
            Offer::Nothing(why) => info!(model, why, "the model that comes along decides until the store has another"),
            Offer::Pending => warn!(model, "the model store does not answer; the model that comes along decides until it does"),
        }
    }

    /// Shows a rule with memory the States that the stream still holds. The bus may come up only now; until then nothing is to be answered either.
    async fn remember(&mut self) {
        let Some(back) = self.answerer.lookback() else { return };
        loop {
            let (answerer, rng, partition) = (&mut self.answerer, &mut self.rng, self.partition);
            let recalled = self.bus.recall(clock::now().minus(back), |state: State| {
                if partition.contains(&state.function()) {
                    answerer.recall(&state, rng);
                }
            });
            match recalled.await {
                Ok(states) => return info!(states, "memory rebuilt from the stream"),
                Err(error) => {
                    warn!(error = format!("{error:#}"), "the memory cannot be rebuilt yet; trying again");
                    self.answerer.forget(Timestamp(u64::MAX));
                    tokio::time::sleep(TRY_AGAIN).await;
                }
            }
        }
    }

    /// Answers a State and those that wait already: the first does not wait for others.
    async fn answer(&mut self, first: Received<State>, states: &mut Subscription<State>) {
        let mut batch = vec![first];
        while batch.len() < AT_ONCE
            && let Some(received) = states.try_next()
        {
            batch.push(received);
        }
        if self.answerer.lookback().is_some() {
            batch.retain(|received| self.partition.contains(&received.message.function()));
            if self.tidied.elapsed() > TIDY_EVERY {
                self.tidied = clock::instant();
                self.answerer.forget(clock::now());
            }
        }
        let seen: Vec<&State> = batch.iter().map(|received| &received.message).collect();
        let answers = self.answerer.answer_all(&seen, clock::now(), &mut self.rng);
        for (received, (answer, distrust)) in batch.iter().zip(answers) {
            self.metrics.count(&answer, distrust);
            match answer {
                Answer::Act(action, _) => {
                    // It is handed to the connection; its acknowledgement is awaited elsewhere.
                    self.bus.record(&*action, self.bus.child_trace(received.trace)).await;
                    self.metrics.published(received.message.observed_at_ms, clock::now());
                }
                Answer::Silent(_) => {}
                Answer::Late => self.complain(&received.message),
            }
        }
    }

    fn complain(&mut self, state: &State) {
        if self.complained.is_some_and(|last| last.elapsed() < COMPLAIN_EVERY) {
            return;
        }
        self.complained = Some(clock::instant());
        let age_ms = clock::now().since(state.observed_at_ms).as_millis();
        warn!(namespace = %state.namespace, function = %state.function, age_ms, "a State came too late to be answered; others may have too");
    }
}

/// The next offer of `models`; waits for ever where nobody makes one.
async fn offered(models: &mut Option<watch::Receiver<Offer>>) -> Offer {
    let Some(models) = models else { return std::future::pending().await };
    if models.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
    models.borrow_and_update().clone()
}

#[expect(clippy::disallowed_methods, reason = "a running agent explores by chance; whoever wants a repeatable one calls the policy itself")]
fn entropy() -> SmallRng {
    SmallRng::from_rng(&mut rand::rng())
}
