//! One contestant under one load: the loop of State, decision and tick, and what really came of it. Owns the run; must not compare.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::ensure;
use qscale_common::guard::{Verdict, direction};
use qscale_evaluate::cell::MeasurementSpan;
use qscale_evaluate::measure::{Criteria, RunMeter};
use qscale_evaluate::results::{Measure, rounded};
use qscale_policies::{Memory, Policy};
use qscale_sim::rng::{Purpose, stream};
use qscale_sim::simulation::timestamp;
use qscale_sim::{Simulation, Totals};
use serde::{Deserialize, Serialize};

use super::experiment::Experiment;

/// Within what time a change that goes the other way is a reversal.
const REVERSAL_WITHIN: Duration = Duration::from_secs(60);

/// Counts ticks, and tells whoever lives through them when to stop.
pub struct Watch<'a> {
    stop: &'a AtomicBool,
    ticks: AtomicU64,
    told: Option<Box<dyn Fn(u64) + Send + Sync>>,
}

impl<'a> Watch<'a> {
    /// Nothing is done yet, nobody is told, and it is to end once `stop` is true.
    pub fn new(stop: &'a AtomicBool) -> Self {
        Self { stop, ticks: AtomicU64::new(0), told: None }
    }

    /// `told` hears of every tick how many there were.
    pub fn telling(self, told: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self { told: Some(Box::new(told)), ..self }
    }

    /// Asks everybody to stop.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// So many ticks of functions are about to be lived through.
    pub fn tick(&self, functions: u64) -> anyhow::Result<()> {
        ensure!(!self.stop.load(Ordering::Relaxed), Stopped);
        self.pass(functions);
        Ok(())
    }

    /// So many ticks of functions were lived through before.
    pub fn pass(&self, functions: u64) {
        let ticks = self.ticks.fetch_add(functions, Ordering::Relaxed) + functions;
        self.told.iter().for_each(|told| told(ticks));
    }

    /// Ticks so far.
    #[cfg(test)]
    pub fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }
}

/// Somebody wanted it to end.
#[derive(Debug)]
pub struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stopped")
    }
}

impl std::error::Error for Stopped {}

/// What a contestant is judged by, in the order of tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// 95th percentile of latency, milliseconds; a failure counts as the time that the gateway waits.
    P95Ms,
    /// Share of the answers that were late or failures, 0 to 1.
    LateShare,
    /// Requests answered well a second.
    ThroughputRps,
    /// Replicas that were wanted, in the mean.
    Replicas,
    /// CPU limits of the replicas that there were, cores, in the mean.
    Cores,
    /// What was allocated, USD an hour.
    CostPerHour,
    /// Changes of the allocation an hour.
    ChangesPerHour,
}

impl Figure {
    /// Every one of them.
    pub const ALL: [Self; 7] =
        [Self::P95Ms, Self::LateShare, Self::ThroughputRps, Self::Replicas, Self::Cores, Self::CostPerHour, Self::ChangesPerHour];

    /// As files call it.
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

/// What a run did, tick by tick. All columns are equally long.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Course {
    /// Requests a second that arrived.
    pub offered_rps: Vec<f64>,
    /// Requests a second that were answered well.
    pub throughput_rps: Vec<f64>,
    /// Percentile of latency that the objective bounds, milliseconds; absent where nothing was answered.
    pub latency_ms: Vec<Option<f64>>,
    /// Replicas that were wanted.
    pub replicas: Vec<f64>,
    /// CPU limits of all replicas, cores.
    pub cores: Vec<f64>,
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lived {
    /// What it is judged by.
    pub figures: BTreeMap<Figure, f64>,
    /// Its course.
    pub course: Course,
    /// What a reader of its figures should know, in sentences.
    pub remarks: Vec<String>,
}

/// Lets `policy` decide under load number `load` of `experiment` in the run of `seed`.
pub fn run(experiment: Experiment, load: usize, policy: &dyn Policy, seed: u64, watch: &Watch<'_>) -> anyhow::Result<Lived> {
    let setup = experiment.setup(&experiment.loads()[load].pattern, experiment.beginning());
    let stretch = MeasurementSpan { interval: experiment.tick(), warm_up: 0, measured: experiment.ticks() };
    let yardstick = Criteria::new(&setup, stretch, REVERSAL_WITHIN);
    let (prices, weights) = (setup.policy.prices.clone(), setup.policy.reward);
    let mut meter = RunMeter::new(&yardstick, &[], true);
    let index = load as u64 + 1;
    let mut cell = Simulation::new(setup, seed, index);
    let (mut memory, mut rng) = (Memory::default(), stream(seed, index, Purpose::Policy));
    let (mut interval, mut throughput) = (Totals::default(), Vec::new());
    for _ in 0..experiment.ticks() {
        watch.tick(1)?;
        let now = cell.now();
        let decision = policy.decide(cell.state(), &mut memory, timestamp(now), &mut rng);
        let before = cell.function().allocation();
        cell.step(decision.wanted());
        if let Some(Verdict::Apply { allocation, .. }) = cell.verdict()
            && let Some(direction) = direction(&prices, before, *allocation)
        {
            meter.acted(now.into(), direction);
        }
        cell.take_interval(&mut interval);
        throughput.push(rounded(interval.completed as f64 / experiment.tick().as_secs_f64()));
        meter.interval(&interval, cell.function().allocation().replicas.0, cell.function().queued());
    }
    let (tally, course) = meter.finish();
    let (measures, course) = (tally.measures(&weights), course.unwrap_or_default().rounded());
    let measured = |measure| measures.get(measure).unwrap_or(0.0);
    let mean = |values: &[f64]| rounded(values.iter().sum::<f64>() / values.len().max(1) as f64);
    let figure = |figure| match figure {
        Figure::P95Ms => measured(Measure::P95Ms),
        Figure::LateShare => measured(Measure::LateShare),
        Figure::ThroughputRps => mean(&throughput),
        Figure::Replicas => mean(&course.replicas),
        Figure::Cores => mean(&course.cores),
        Figure::CostPerHour => measured(Measure::CostPerHour),
        Figure::ChangesPerHour => measured(Measure::ActionsPerHour),
    };
    let figures = Figure::ALL.into_iter().map(|each| (each, figure(each))).collect();
    let course = Course {
        offered_rps: course.rate_rps,
        throughput_rps: throughput,
        latency_ms: course.latency_ms,
        replicas: course.replicas,
        cores: course.cores,
    };
    Ok(Lived { figures, course, remarks: Vec::new() })
}
