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
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::answer::{Answer, Answerer};
use crate::config::AgentConfig;
use crate::metrics::Metrics;

/// How long a stop waits for the acknowledgement of what was answered.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);
/// Late States are reported at most this often: they are a sign of clocks that differ or of an agent that is too slow.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Pause before a stream that could not be read is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);
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
    let group = answerer.remembers().is_none().then(|| subject::agent_group(&answerer.agent));
    let states = bus.subscribe(subject::all(EventType::State), group).await?;
    info!(agent = %answerer.agent, instance = answerer.instance, model = answerer.model(), health = %address, "answering");
    let agent = Agent { answerer, partition: config.partition, bus, metrics, rng: entropy(), complained: None, tidied: clock::instant() };
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
    rng: SmallRng,
    complained: Option<std::time::Instant>,
    tidied: std::time::Instant,
}

impl Agent {
    async fn answer_all(mut self, mut states: Subscription<State>, token: &CancellationToken) {
        tokio::select! {
            () = token.cancelled() => {}
            () = self.remember() => {}
        }
        loop {
            tokio::select! {
                biased;
                () = token.cancelled() => break,
                received = states.next() => match received {
                    Some(received) => self.answer(received).await,
                    None => break,
                },
            }
        }
        states.close();
        let answered = tokio::time::timeout(DRAIN_WITHIN, async {
            while let Some(received) = states.next().await {
                self.answer(received).await;
            }
        });
        if answered.await.is_err() {
            warn!("States that came during the stop are left to other instances");
        }
        self.bus.drain(DRAIN_WITHIN).await;
        info!("stopped");
    }

    /// Shows a rule with memory the States that the stream still holds. The bus may come up only now; until then nothing is to be answered either.
    async fn remember(&mut self) {
        let Some(back) = self.answerer.remembers() else { return };
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

    /// Hands the Action to the connection and goes on; its acknowledgement is awaited elsewhere.
    async fn answer(&mut self, received: Received<State>) {
        let state = received.message;
        if self.answerer.remembers().is_some() {
            if !self.partition.contains(&state.function()) {
                return;
            }
            if self.tidied.elapsed() > TIDY_EVERY {
                self.tidied = clock::instant();
                self.answerer.forget(clock::now());
            }
        }
        let answer = self.answerer.answer(&state, clock::now(), &mut self.rng);
        self.metrics.count(&answer);
        match answer {
            Answer::Act(action, _) => {
                let trace = self.bus.child_trace(received.trace);
                self.bus.record(&*action, trace).await;
                self.metrics.published(state.observed_at_ms, clock::now());
            }
            Answer::Silent(_) => {}
            Answer::Late => self.complain(&state),
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

#[expect(clippy::disallowed_methods, reason = "a running agent explores by chance; whoever wants a repeatable one calls the policy itself")]
fn entropy() -> SmallRng {
    SmallRng::from_rng(&mut rand::rng())
}
