//! The collector's loop: reads the sources at the end of every tick, then publishes. Owns the clock.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::registry::Registry;
use qscale_common::contract::{EventType, Outcome, Reward, subject};
use qscale_common::name::{FunctionId, Name};
use qscale_common::policy::ScalingPolicy;
use qscale_common::runtime::bus::{Bucket, Bus, Outbox, Subscription};
use qscale_common::runtime::clock::{self, StepDetector};
use qscale_common::runtime::health;
use qscale_common::runtime::service::InstanceName;
use qscale_common::time::{Span, Timestamp};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::CollectorConfig;
use crate::metric::Metric;
use crate::metrics::{CollectorMetrics, DroppedLabels};
use crate::observer::{Observation, Observer, SourceReading};
use crate::poller::Poller;
use crate::reading::DroppedValues;

/// Rewards that wait for the bus, about 30 MB.
const OUTBOX_CAPACITY: usize = 65_536;
/// Time that a stop waits for Rewards to be acknowledged.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// Interval of readings while no function is observed, so that readiness shows whether the sources can be read.
const IDLE_SCRAPE_INTERVAL: Span = Span::seconds(5);
/// Interval at which the clock is checked, so that a change of the time of day is noticed.
const CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Runs the collector until `token` is cancelled.
///
/// # Errors
/// If an address is malformed or cannot be listened on.
pub async fn run(config: CollectorConfig, token: CancellationToken) -> anyhow::Result<()> {
    let sources = config.effective_sources();
    let instance = config.instance.unwrap_or_else(InstanceName::of_process).to_string();
    let health = health::Health::new();
    let mut registry = Registry::default();
    let metrics = CollectorMetrics::register(&mut registry);
    let bus = Bus::connect("collector", &instance, &config.nats, &health, &mut registry).await?;
    bus.watch_streams(token.clone());
    let _listed = bus.answer_reads(&config.nats, token.clone());
    let bound = health::serve(config.health, health.clone(), Arc::new(Mutex::new(registry)), token.clone()).await?;
    let poller = Poller::start(&sources, &health, &metrics, &token)?;
    let outcomes = bus.subscribe::<Outcome>(subject::all(EventType::Outcome), None).await?;
    let policies = bus.watch_policies(&config.trust, token.clone());
    let rewards = Outbox::start(bus.clone(), OUTBOX_CAPACITY, metrics.rewards_dropped.clone());
    let now = clock::now();
    let observer = Observer::new(config.partition, now);
    info!(instance, health = %bound, sources = sources.len(), epoch = observer.epoch().0, "collector started");

    let scrape_timeout = config.scrape_timeout.0;
    let mut collector = Collector {
        bus: bus.clone(),
        steps: StepDetector::start(),
        metrics,
        outcomes,
        rewards,
        observer,
        scrape_timeout,
        sources: sources.into_keys().collect(),
        without_source: BTreeSet::new(),
        logged: BTreeSet::new(),
    };
    collector.run(poller, policies, config.scrape_interval, &token).await;
    let left = collector.rewards.close(STOP_TIMEOUT).await;
    if left > 0 {
        warn!(rewards = left, "stopped before all rewards were sent");
    }
    bus.drain(STOP_TIMEOUT).await;
    info!("collector stopped");
    Ok(())
}

struct Collector {
    bus: Bus,
    steps: StepDetector,
    metrics: CollectorMetrics,
    outcomes: Subscription<Outcome>,
    rewards: Outbox<Reward>,
    observer: Observer,
    scrape_timeout: Duration,
    /// Names of the sources.
    sources: Vec<Name>,
    /// Functions whose ScalingPolicy names another source, and that source; each was logged.
    without_source: BTreeSet<(FunctionId, Name)>,
    /// Sources and metrics of which a dropped value was logged.
    logged: BTreeSet<(Name, Metric)>,
}

impl Collector {
    async fn run(
        &mut self,
        mut poller: Poller,
        mut policies: Bucket<ScalingPolicy>,
        scrape_interval: Option<Span>,
        token: &CancellationToken,
    ) {
        self.read_policies(&mut policies, &poller);
        let mut scraped_at = Timestamp::default();
        loop {
            let now = clock::now();
            let interval = scrape_interval.or(self.observer.is_empty().then_some(IDLE_SCRAPE_INTERVAL));
            let next_scrape = interval.map(|interval| scraped_at.plus(interval.0));
            let wake = self.observer.next_tick(now).into_iter().chain(next_scrape).min();
            let pause = wake.map_or(CLOCK_CHECK_INTERVAL, |wake| wake.since(now).min(CLOCK_CHECK_INTERVAL));
            tokio::select! {
                () = token.cancelled() => return,
                // The sender lives as long as the bus; without it the last policies stay.
                Ok(()) = policies.changed() => self.read_policies(&mut policies, &poller),
                late = poller.next_late() => self.record(&mut [late]),
                () = clock::sleep(pause) => {
                    let now = clock::now();
                    self.check_clock(now);
                    let due = !self.observer.due(now).is_empty();
                    if due || next_scrape.is_some_and(|at| now >= at || scraped_at > now) {
                        scraped_at = now;
                        let mut readings = poller.read(clock::instant() + self.scrape_timeout).await;
                        self.record(&mut readings);
                    }
                    if due {
                        self.publish(now).await;
                    }
                }
            }
        }
    }

    /// Processes `readings`, and counts the values that were dropped; the first one of each source and metric is logged.
    fn record(&mut self, readings: &mut [SourceReading]) {
        self.observer.record(readings, clock::now());
        for SourceReading { source, reading } in readings {
            for (metric, DroppedValues { count, of, why }) in reading.dropped.iter() {
                self.metrics.dropped_values.get_or_create(&DroppedLabels::new(source, metric)).inc_by(*count);
                if self.logged.insert((source.clone(), metric)) {
                    warn!(%source, metric = metric.label(), of, %why, "dropped a value that cannot be true; later ones are only counted");
                }
            }
        }
    }

    fn read_policies(&mut self, policies: &mut Bucket<ScalingPolicy>, poller: &Poller) {
        if let Some(policies) = policies.borrow_and_update().as_ref() {
            self.observer.set_policies(policies, clock::now());
            poller.set_observed(self.observer.workloads());
            let observed = self.observer.len();
            if self.metrics.functions.set(observed as i64) != observed as i64 {
                info!(functions = observed, "observed functions changed");
            }
            let without_source = self.observer.without_source(&self.sources);
            let known: Vec<&str> = self.sources.iter().map(Name::as_str).collect();
            for (function, source) in without_source.difference(&self.without_source) {
                let known = known.join(", ");
                warn!(%function, %source, known, "ScalingPolicy names a source that is not configured, so the function is not measured; set `metrics.source` to a known one");
            }
            self.without_source = without_source;
        }
    }

    fn check_clock(&mut self, now: Timestamp) {
        let stepped = self.steps.stepped();
        if stepped {
            self.observer.restart(now);
        }
        if stepped || self.observer.check_clock(now) {
            self.metrics.epochs.inc();
            warn!(epoch = self.observer.epoch().0, "the clock was set; starting a new epoch, without the measurements of the last one");
        }
    }

    /// Publishes the State of every function with a tick due at `began`, then the Rewards, which are less urgent.
    async fn publish(&mut self, began: Timestamp) {
        while let Some(outcome) = self.outcomes.try_next() {
            self.observer.on_outcome(&outcome.message);
        }
        let mut rewards = Vec::new();
        for place in self.observer.due(began) {
            let trace = self.bus.new_trace();
            let Some(Observation { state, reward, missed }) = self.observer.observe(place, clock::now(), trace) else { continue };
            self.metrics.ticks_missed.inc_by(missed);
            rewards.extend(reward);
            self.bus.publish(&state, trace).await;
        }
        self.metrics.publish_seconds.observe(clock::now().since(began).as_secs_f64());
        for (reward, trace) in rewards {
            let trace = self.bus.child_trace(Some(trace));
            self.rewards.push(reward, trace);
        }
    }
}
