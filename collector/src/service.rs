//! The running collector: reads sources at the end of every tick and publishes at once. Owns the clock; the rest is wiring.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::registry::Registry;
use qscale_common::contract::{EventType, Outcome, Reward, TraceParent, subject};
use qscale_common::policy::ScalingPolicy;
use qscale_common::runtime::bus::{Bucket, Bus, Subscription};
use qscale_common::runtime::{clock, health};
use qscale_common::time::{Span, Timestamp};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::CollectorConfig;
use crate::metrics::Metrics;
use crate::observer::{Observation, Observer};
use crate::round::Sources;

/// Rewards that wait to be recorded while the bus is slow or away, some 30 MB; beyond it the newest is given up.
const WAITING_REWARDS: usize = 65_536;
/// How long a stop waits for what was recorded.
const DRAIN_WITHIN: Duration = Duration::from_secs(3);
/// Sources are read this often while no function is observed, so that readiness tells whether they can be.
const READ_UNASKED: Span = Span::seconds(5);
/// The clock is looked at this often, so that one that is set is noticed.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(1);

/// Runs the collector until `token` is cancelled.
///
/// # Errors
/// When the configuration is wrong, or the health endpoint cannot listen.
pub async fn run(config: CollectorConfig, token: CancellationToken) -> anyhow::Result<()> {
    let configured = config.checked_sources()?;
    let instance = config.instance();
    let health = health::Health::new();
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let bus = Bus::connect("collector", &instance, &config.nats, &health, &mut registry).await?;
    let bound = health::serve(config.health, health.clone(), Arc::new(Mutex::new(registry)), token.clone()).await?;
    let sources = Sources::start(&configured, &health, &metrics, &token)?;
    let outcomes = bus.subscribe::<Outcome>(subject::all(EventType::Outcome), None).await?;
    let policies = bus.watch_policies(token.clone());
    let (rewards, recorder) = record_rewards(bus.clone());
    let now = clock::now();
    let observer = Observer::new(config.partition, now);
    info!(instance, health = %bound, sources = configured.len(), epoch = observer.epoch().0, "collector started");

    let patience = config.patience.0;
    let mut collector = Collector { bus: bus.clone(), metrics, outcomes, rewards, observer, patience };
    collector.run(sources, policies, config.scrape_interval, &token).await;
    // Without a sender the recorder ends once it handed on what waits.
    drop(collector);
    let handed_on = tokio::time::timeout(DRAIN_WITHIN, recorder).await;
    if handed_on.is_err() {
        warn!("some rewards were not recorded before the stop");
    }
    bus.drain(DRAIN_WITHIN).await;
    info!("collector stopped");
    Ok(())
}

struct Collector {
    bus: Bus,
    metrics: Metrics,
    outcomes: Subscription<Outcome>,
    rewards: mpsc::Sender<(Reward, TraceParent)>,
    observer: Observer,
    patience: Duration,
}

impl Collector {
    async fn run(
        &mut self,
        mut sources: Sources,
        mut policies: Bucket<ScalingPolicy>,
        scrape_interval: Option<Span>,
        token: &CancellationToken,
    ) {
        self.take_policies(&mut policies);
        let mut scraped_at = Timestamp::default();
        loop {
            let now = clock::now();
            let interval = scrape_interval.or(self.observer.is_empty().then_some(READ_UNASKED));
            let next_scrape = interval.map(|interval| scraped_at.plus(interval.0));
            let wake = self.observer.next_tick(now).into_iter().chain(next_scrape).min();
            let pause = wake.map_or(LOOK_AT_CLOCK, |wake| wake.since(now).min(LOOK_AT_CLOCK));
            tokio::select! {
                () = token.cancelled() => return,
                // The sender lives as long as the bus; once it is gone the last policies stay in force.
                Ok(()) = policies.changed() => self.take_policies(&mut policies),
                late = sources.late() => self.observer.record(&[late]),
                () = clock::sleep(pause) => {
                    let now = clock::now();
                    self.heal_clock(now);
                    let due = !self.observer.due(now).is_empty();
                    if due || next_scrape.is_some_and(|at| now >= at || scraped_at > now) {
                        scraped_at = now;
                        let readings = sources.read(clock::instant() + self.patience).await;
                        self.observer.record(&readings);
                    }
                    if due {
                        self.publish(now).await;
                    }
                }
            }
        }
    }

    fn take_policies(&mut self, policies: &mut Bucket<ScalingPolicy>) {
        if let Some(policies) = policies.borrow_and_update().as_ref() {
            self.observer.set_policies(policies, clock::now());
            let observed = self.observer.len();
            if self.metrics.functions.set(observed as i64) != observed as i64 {
                info!(functions = observed, "functions that are observed");
            }
        }
    }

    fn heal_clock(&mut self, now: Timestamp) {
        if self.observer.heal_clock(now) {
            self.metrics.epochs.inc();
            warn!(epoch = self.observer.epoch().0, "the clock was set back; a new epoch begins");
        }
    }

    /// Publishes the State of every function of which a tick began by `began`, then the Rewards, which are in less of a hurry.
    async fn publish(&mut self, began: Timestamp) {
        while let Some(outcome) = self.outcomes.try_next() {
            self.observer.take_outcome(&outcome.message);
        }
        let mut rewards = Vec::new();
        for place in self.observer.due(began) {
            let trace = self.bus.new_trace();
            let Some(Observation { state, reward, missed }) = self.observer.observe(place, clock::now(), trace) else { continue };
            self.metrics.ticks_missed.inc_by(missed);
            rewards.extend(reward);
            // A State that waits for a connection is stale when it gets one.
            if self.bus.client().connection_state() == async_nats::connection::State::Connected {
                self.bus.publish(&state, trace).await;
            } else {
                self.metrics.states_dropped.inc();
            }
        }
        self.metrics.publish_seconds.observe(clock::now().since(began).as_secs_f64());
        for (reward, trace) in rewards {
            let trace = self.bus.child_trace(Some(trace));
            if self.rewards.try_send((reward, trace)).is_err() {
                self.metrics.rewards_dropped.inc();
            }
        }
    }
}

/// Records rewards one after the other, apart from the ticks, which never wait for an acknowledgement.
fn record_rewards(bus: Bus) -> (mpsc::Sender<(Reward, TraceParent)>, tokio::task::JoinHandle<()>) {
    let (sender, mut waiting) = mpsc::channel::<(Reward, TraceParent)>(WAITING_REWARDS);
    let recorder = tokio::spawn(async move {
        while let Some((reward, trace)) = waiting.recv().await {
            bus.record(&reward, trace).await;
        }
    });
    (sender, recorder)
}
