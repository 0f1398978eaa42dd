//! Reading all sources at once, and not waiting for those that are slow. Owns a task for each source; must not know what is done with a reading.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use qscale_common::name::Name;
use qscale_common::runtime::clock;
use qscale_common::runtime::health::Health;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;

use crate::config::SourceConfig;
use crate::metrics::{Metrics, OfFailure, OfSource};
use crate::observer::Sourced;
use crate::reading::Reading;
use crate::source::{Failure, Source};

/// All sources.
#[derive(Debug)]
pub struct Sources {
    sources: Vec<Polled>,
    answers: mpsc::Receiver<Answer>,
    health: Health,
    metrics: Metrics,
}

#[derive(Debug)]
struct Polled {
    name: Name,
    ask: Arc<Notify>,
    /// Asked, and has not answered yet.
    busy: bool,
    /// Whether the last reading came; `None` before the first one.
    well: Option<bool>,
}

#[derive(Debug)]
struct Answer {
    place: usize,
    result: Result<Reading, Failure>,
    seconds: f64,
}

impl Sources {
    /// Starts a task for each of `sources`, which ends with `token`. The conditions `source:<name>` of `health` say which can be read.
    ///
    /// # Errors
    /// When an address is no http URL.
    pub fn start(
        sources: &BTreeMap<Name, SourceConfig>,
        health: &Health,
        metrics: &Metrics,
        token: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let (answer, answers) = mpsc::channel(sources.len().max(1));
        let mut polled = Vec::new();
        for (place, (name, config)) in sources.iter().enumerate() {
            let source = Source::new(config).with_context(|| format!("sources.{name}"))?;
            health.set(&condition(name), false);
            let ask = Arc::new(Notify::new());
            tokio::spawn(poll(place, source, Arc::clone(&ask), answer.clone(), token.clone()));
            polled.push(Polled { name: name.clone(), ask, busy: false, well: None });
        }
        Ok(Self { sources: polled, answers, health: health.clone(), metrics: metrics.clone() })
    }

    /// Reads every source, and gives what came before `deadline`. What comes later is given by [`Sources::late`].
    pub async fn read(&mut self, deadline: std::time::Instant) -> Vec<Sourced> {
        let mut awaited = vec![false; self.sources.len()];
        for (awaited, source) in awaited.iter_mut().zip(&mut self.sources) {
            if std::mem::replace(&mut source.busy, true) {
                self.metrics.scrape_failures.get_or_create(&OfFailure(source.name.clone(), Failure::Busy)).inc();
            } else {
                *awaited = true;
                source.ask.notify_one();
            }
        }
        let mut readings = Vec::new();
        while awaited.contains(&true) {
            let Ok(Some(answer)) = timeout_at(deadline.into(), self.answers.recv()).await else { break };
            awaited[answer.place] = false;
            readings.extend(self.take(answer));
        }
        // In the order of the sources, whichever was fastest.
        readings.sort_by(|one, other| one.source.cmp(&other.source));
        readings
    }

    /// The next reading that came too late for its tick. Waits while none is under way.
    pub async fn late(&mut self) -> Sourced {
        loop {
            // A channel whose senders are all gone is that of a service that stops.
            let Some(answer) = self.answers.recv().await else { std::future::pending().await };
            let name = OfSource(self.sources[answer.place].name.clone());
            if let Some(sourced) = self.take(answer) {
                self.metrics.late_readings.get_or_create(&name).inc();
                return sourced;
            }
        }
    }

    fn take(&mut self, Answer { place, result, seconds }: Answer) -> Option<Sourced> {
        let source = &mut self.sources[place];
        source.busy = false;
        self.health.set(&condition(&source.name), result.is_ok());
        let before = source.well.replace(result.is_ok());
        let label = OfSource(source.name.clone());
        self.metrics.scrape_seconds.get_or_create(&label).observe(seconds);
        match result {
            Ok(reading) => {
                if before != Some(true) {
                    tracing::info!(source = %source.name, functions = reading.functions.len(), "source is read");
                }
                self.metrics.samples.get_or_create(&label).inc_by(reading.samples);
                self.metrics.malformed.get_or_create(&label).inc_by(reading.malformed);
                Some(Sourced { source: source.name.clone(), reading, resumed: before != Some(true) })
            }
            Err(failure) => {
                if before != Some(false) {
                    tracing::warn!(source = %source.name, reason = failure.word(), "source cannot be read; trying again each tick");
                }
                self.metrics.scrape_failures.get_or_create(&OfFailure(source.name.clone(), failure)).inc();
                None
            }
        }
    }
}

fn condition(source: &Name) -> String {
    format!("source:{source}")
}

async fn poll(place: usize, source: Source, ask: Arc<Notify>, answer: mpsc::Sender<Answer>, token: CancellationToken) {
    loop {
        tokio::select! {
            () = token.cancelled() => return,
            () = ask.notified() => {}
        }
        let began = clock::instant();
        let result = source.read().await;
        if answer.send(Answer { place, result, seconds: clock::since(began).as_secs_f64() }).await.is_err() {
            return;
        }
    }
}
