//! Reads all sources at the same time, without waiting for slow ones. Owns a task for each source; must not know what is done with a reading.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use qscale_common::name::Name;
use qscale_common::runtime::clock::{self, StepDetector};
use qscale_common::runtime::health::Health;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;

use crate::metrics::{CollectorMetrics, FailureLabels, SourceLabels};
use crate::observer::SourceReading;
use crate::reading::Reading;
use crate::source::{ObservedWorkloads, Source, SourceConfig, SourceError};

/// Reads all sources, each on a task of its own.
#[derive(Debug)]
pub(crate) struct Poller {
    sources: Vec<PolledSource>,
    results: mpsc::Receiver<PollResult>,
    observed: watch::Sender<Arc<ObservedWorkloads>>,
    health: Health,
    metrics: CollectorMetrics,
}

#[derive(Debug)]
struct PolledSource {
    name: Name,
    request: Arc<Notify>,
    /// Whether a reading is in progress.
    busy: bool,
    /// The condition after the last reading; `None` before the first one.
    condition: Option<SourceCondition>,
}

/// Result of the last reading of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SourceCondition {
    Readable,
    /// Most lines are malformed; the others are used.
    Unreadable,
    Failed,
}

#[derive(Debug)]
struct PollResult {
    index: usize,
    result: Result<Reading, SourceError>,
    seconds: f64,
}

impl Poller {
    /// Starts a task for each source, which ends with `token`. The conditions `source:<name>` of `health` say whether a source can be read.
    ///
    /// # Errors
    /// If an address is malformed.
    pub(crate) fn start(
        sources: &BTreeMap<Name, SourceConfig>,
        health: &Health,
        metrics: &CollectorMetrics,
        token: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let (sender, results) = mpsc::channel(sources.len().max(1));
        let (observed, _) = watch::channel(Arc::default());
        let mut polled = Vec::new();
        for (index, (name, config)) in sources.iter().enumerate() {
            let source = Source::open(config).with_context(|| format!("sources.{name}"))?;
            health.set(&condition_name(name), false);
            let request = Arc::new(Notify::new());
            let task = PollTask { index, source, request: Arc::clone(&request), observed: observed.subscribe(), results: sender.clone() };
            tokio::spawn(task.run(token.clone()));
            polled.push(PolledSource { name: name.clone(), request, busy: false, condition: None });
        }
        Ok(Self { sources: polled, results, observed, health: health.clone(), metrics: metrics.clone() })
    }

    /// From the next reading on, sources measure at least these workloads.
    pub(crate) fn set_observed(&self, workloads: ObservedWorkloads) {
        self.observed.send_replace(Arc::new(workloads));
    }

    /// Reads every source, and returns the readings that arrive before `deadline`. [`Poller::next_late`] returns later ones.
    pub(crate) async fn read(&mut self, deadline: std::time::Instant) -> Vec<SourceReading> {
        let mut awaited = vec![false; self.sources.len()];
        for (awaited, source) in awaited.iter_mut().zip(&mut self.sources) {
            if std::mem::replace(&mut source.busy, true) {
                self.metrics.scrape_failures.get_or_create(&FailureLabels::new(&source.name, &SourceError::Busy)).inc();
            } else {
                *awaited = true;
                source.request.notify_one();
            }
        }
        let mut readings = Vec::new();
        while awaited.contains(&true) {
            let Ok(Some(result)) = timeout_at(deadline.into(), self.results.recv()).await else { break };
            awaited[result.index] = false;
            readings.extend(self.on_result(result));
        }
        // In the order of the sources, independent of their speed.
        readings.sort_by(|one, other| one.source.cmp(&other.source));
        readings
    }

    /// The next reading that missed its tick. Waits until there is one.
    pub(crate) async fn next_late(&mut self) -> SourceReading {
        loop {
            // The channel closes only when the service stops.
            let Some(result) = self.results.recv().await else { std::future::pending().await };
            let name = SourceLabels::new(&self.sources[result.index].name);
            if let Some(reading) = self.on_result(result) {
                self.metrics.late_readings.get_or_create(&name).inc();
                return reading;
            }
        }
    }

    fn on_result(&mut self, PollResult { index, result, seconds }: PollResult) -> Option<SourceReading> {
        let source = &mut self.sources[index];
        source.busy = false;
        let (condition, error) = match &result {
            Ok(reading) if reading.unreadable => {
                let error = SourceError::Unreadable { malformed: reading.malformed, samples: reading.samples };
                (SourceCondition::Unreadable, Some(error))
            }
            Ok(_) => (SourceCondition::Readable, None),
            Err(error) => (SourceCondition::Failed, Some(error.clone())),
        };
        self.health.set(&condition_name(&source.name), condition == SourceCondition::Readable);
        let changed = source.condition.replace(condition) != Some(condition);
        let label = SourceLabels::new(&source.name);
        self.metrics.scrape_seconds.get_or_create(&label).observe(seconds);
        if let Some(error) = &error {
            self.metrics.scrape_failures.get_or_create(&FailureLabels::new(&source.name, error)).inc();
            if changed {
                tracing::warn!(source = %source.name, %error, "failed to read source; retrying every tick");
            }
        }
        let reading = result.ok()?;
        if error.is_none() && changed {
            tracing::info!(source = %source.name, functions = reading.functions.len(), "source is read");
        }
        self.metrics.samples.get_or_create(&label).inc_by(reading.samples);
        self.metrics.malformed.get_or_create(&label).inc_by(reading.malformed);
        Some(SourceReading { source: source.name.clone(), reading })
    }
}

fn condition_name(source: &Name) -> String {
    format!("source:{source}")
}

/// The task that reads a source.
struct PollTask {
    index: usize,
    source: Source,
    request: Arc<Notify>,
    observed: watch::Receiver<Arc<ObservedWorkloads>>,
    results: mpsc::Sender<PollResult>,
}

impl PollTask {
    async fn run(mut self, token: CancellationToken) {
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                () = self.request.notified() => {}
            }
            let observed = Arc::clone(&self.observed.borrow());
            let (began, mut steps) = (clock::instant(), StepDetector::start());
            let read = self.source.read(&observed).await;
            // Its times are those of the clock before.
            let result = if steps.stepped() { Err(SourceError::ClockSet) } else { read };
            let result = PollResult { index: self.index, result, seconds: clock::since(began).as_secs_f64() };
            if self.results.send(result).await.is_err() {
                return;
            }
        }
    }
}
