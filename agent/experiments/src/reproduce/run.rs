//! One competitor under one load in the simulator. Owns the loop of State, decision and tick; must not compare.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::ensure;
use qscale_common::guard::Verdict;
use qscale_evaluate::cell::MeasurementSpan;
use qscale_evaluate::measure::{Criteria, RunMeter};
use qscale_evaluate::results::{Measure, rounded};
use qscale_policies::{Memory, Policy};
use qscale_sim::rng::{Purpose, stream};
use qscale_sim::simulation::timestamp;
use qscale_sim::{Simulation, Totals};
use serde::{Deserialize, Serialize};

use super::experiment::Experiment;

/// A change in the opposite direction within this time is a reversal.
const REVERSAL_WITHIN: Duration = Duration::from_secs(60);

/// Counts simulated ticks, and stops their simulation.
pub struct TickCounter<'a> {
    stop: &'a AtomicBool,
    ticks: AtomicU64,
    callback: Option<Box<dyn Fn(u64) + Send + Sync>>,
}

impl<'a> TickCounter<'a> {
    /// A counter at zero that stops once `stop` is true.
    pub fn new(stop: &'a AtomicBool) -> Self {
        Self { stop, ticks: AtomicU64::new(0), callback: None }
    }

    /// Calls `callback` with the new count after every tick.
    pub fn with_callback(self, callback: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self { callback: Some(Box::new(callback)), ..self }
    }

    /// Stops all simulations.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Counts ticks that are about to be simulated.
    ///
    /// # Errors
    /// [`Stopped`] once the study is stopped.
    pub fn tick(&self, functions: u64) -> anyhow::Result<()> {
        ensure!(!self.stop.load(Ordering::Relaxed), Stopped);
        self.add(functions);
        Ok(())
    }

    /// Counts ticks of finished jobs.
    pub fn add(&self, functions: u64) {
        let ticks = self.ticks.fetch_add(functions, Ordering::Relaxed) + functions;
        self.callback.iter().for_each(|callback| callback(ticks));
    }

    /// The count.
    #[cfg(test)]
    pub fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }
}

/// The study was stopped.
#[derive(Debug)]
pub struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stopped")
    }
}

impl std::error::Error for Stopped {}

/// Metrics of a run, in the order of tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunMetric {
    /// 95th percentile of latency, milliseconds; a failure counts as the gateway's timeout.
    P95Ms,
    /// Share of requests that were late or failed, 0 to 1.
    LateShare,
    /// Successful requests/s.
    ThroughputRps,
    /// Mean of allocated replicas.
    Replicas,
    /// Mean CPU limit of all replicas, cores.
    Cores,
    /// Cost of the allocation, USD/h.
    CostPerHour,
    /// Changes of the allocation an hour.
    ChangesPerHour,
}

impl RunMetric {
    /// All metrics.
    pub const ALL: [Self; 7] =
        [Self::P95Ms, Self::LateShare, Self::ThroughputRps, Self::Replicas, Self::Cores, Self::CostPerHour, Self::ChangesPerHour];

    /// Name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::P95Ms => "p95_ms",
            Self::LateShare => "late_share",
            Self::ThroughputRps => "throughput_rps",
            Self::Replicas => "replicas",
            Self::Cores => "cores",
            Self::CostPerHour => "cost_per_hour",
            Self::ChangesPerHour => "changes_per_hour",
        }
    }
}

/// Time series of a run, one value a tick.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct StudySeries {
    /// Offered rate, requests/s.
    pub offered_rps: Vec<f64>,
    /// Successful requests/s.
    pub throughput_rps: Vec<f64>,
    /// Latency at the objective's percentile, milliseconds; `None` without answers.
    pub latency_ms: Vec<Option<f64>>,
    /// Allocated replicas.
    pub replicas: Vec<f64>,
    /// CPU limits of all replicas, cores.
    pub cores: Vec<f64>,
}

/// Result of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Its metrics.
    pub figures: BTreeMap<RunMetric, f64>,
    /// Its time series.
    #[serde(alias = "course")]
    pub series: StudySeries,
    /// Remarks on its figures.
    pub remarks: Vec<String>,
}

/// One run of one competitor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StudyRun {
    /// The competitor.
    pub competitor: &'static str,
    /// The load.
    pub load: &'static str,
    /// The seed.
    pub seed: u64,
    /// Its figures.
    #[serde(flatten)]
    pub figures: BTreeMap<RunMetric, f64>,
    /// Its time series, one value per tick.
    pub series: StudySeries,
    /// Remarks on its figures.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

/// Runs `policy` under the load with index `load` of `experiment`, with `seed`.
///
/// # Errors
/// [`Stopped`] when stopped.
pub fn run(experiment: Experiment, load: usize, policy: &dyn Policy, seed: u64, counter: &TickCounter<'_>) -> anyhow::Result<RunRecord> {
    let setup = experiment.setup(&experiment.loads()[load].pattern, experiment.beginning());
    let span = MeasurementSpan { interval: experiment.tick(), warm_up: 0, measured: experiment.ticks() };
    let criteria = Criteria::new(&setup, span, REVERSAL_WITHIN);
    let (prices, weights) = (setup.policy.prices.clone(), setup.policy.reward);
    let mut meter = RunMeter::new(&criteria, &[], true);
    let index = load as u64 + 1;
    let mut cell = Simulation::new(setup, seed, index);
    let (mut memory, mut rng) = (Memory::default(), stream(seed, index, Purpose::Policy));
    let (mut interval, mut throughput) = (Totals::default(), Vec::new());
    for _ in 0..experiment.ticks() {
        counter.tick(1)?;
        let now = cell.now();
        let decision = policy.decide(cell.state(), &mut memory, timestamp(now), &mut rng);
        let before = cell.function().allocation();
        cell.step(decision.wanted());
        if let Some(Verdict::Apply { allocation, .. }) = cell.verdict()
            && let Some(direction) = prices.direction(before, *allocation)
        {
            meter.acted(now.into(), direction);
        }
        cell.take_interval(&mut interval);
        throughput.push(rounded(interval.completed as f64 / experiment.tick().as_secs_f64()));
        meter.interval(&interval, cell.function().allocation().replicas.0, cell.function().queued());
    }
    let (sums, series) = meter.finish();
    let (measures, series) = (sums.measures(&weights), series.unwrap_or_default().rounded());
    let measured = |measure| measures.get(measure).unwrap_or(0.0);
    let mean = |values: &[f64]| rounded(values.iter().sum::<f64>() / values.len().max(1) as f64);
    let figure = |figure| match figure {
        RunMetric::P95Ms => measured(Measure::P95Ms),
        RunMetric::LateShare => measured(Measure::LateShare),
        RunMetric::ThroughputRps => mean(&throughput),
        RunMetric::Replicas => mean(&series.replicas),
        RunMetric::Cores => mean(&series.cores),
        RunMetric::CostPerHour => measured(Measure::CostPerHour),
        RunMetric::ChangesPerHour => measured(Measure::ActionsPerHour),
    };
    let figures = RunMetric::ALL.into_iter().map(|each| (each, figure(each))).collect();
    let series = StudySeries {
        offered_rps: series.rate_rps,
        throughput_rps: throughput,
        latency_ms: series.latency_ms,
        replicas: series.replicas,
        cores: series.cores,
    };
    Ok(RunRecord { figures, series, remarks: Vec::new() })
}
