//! Jobs: a few runs of one competitor in one cell, on several threads. Owns threads and order; must not interpret results.
//!
//! Results do not depend on threads: an outcome depends on its job alone, and each outcome has its own place. Plain
//! scoped threads rather than `rayon`, since the calling thread must record outcomes and progress in the ledger while
//! the workers run.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};

use serde::{Deserialize, Serialize};

use super::{EvaluateError, Options};
use crate::cell::EvaluationCell;
use crate::decision_latency::DecisionLatency;
use crate::results::{Measures, TimeSeries};
use crate::run::{Conditions, RunError, RunSpec, Runner};
use crate::suite::PlanSearch;

/// Runs of a job of one function: about a second of work, the most that an interruption loses.
const RUNS: usize = 5;
/// Capacity of the channel to the collecting thread; workers block when it is full.
const WAITING: usize = 1024;
/// Fine cells of a latency in one bucket of results, which differ by at most 13 %.
const FINE: usize = 4;

/// A few runs of one competitor in one cell.
#[derive(Debug, Clone)]
pub struct Job {
    /// Key in the ledger: equal for equal work.
    pub key: String,
    /// The competitor.
    pub spec: RunSpec,
    /// Index of the cell.
    pub cell: usize,
    /// Seeds of the runs.
    pub seeds: Vec<u64>,
    /// Seed of the run whose time series is recorded.
    pub series_of: Option<u64>,
    /// Whether latencies are kept.
    pub latencies: bool,
    /// Search for plans that start from the competitor's runs; `None` for the runs themselves.
    pub plan: Option<PlanSearch>,
    /// Places of its outcome.
    pub targets: Vec<OutcomeSlot>,
}

/// A place for an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutcomeSlot {
    /// Index of the group of runs.
    pub group: usize,
    /// Index of the job's first run in the group.
    pub first: usize,
}

/// Outcome of a job.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct JobOutcome {
    /// Measures of its runs, seed by seed.
    pub runs: Vec<Measures>,
    /// Latencies of all its runs: index of the bucket and count, in rising order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub buckets: Vec<(usize, u64)>,
    /// Requests that failed.
    #[serde(default)]
    pub failed: u64,
    /// Time series of one run.
    #[serde(alias = "course", default, skip_serializing_if = "Option::is_none")]
    pub time_series: Option<TimeSeries>,
    /// Latency of decisions; not stored.
    #[serde(skip)]
    pub decision_latency: DecisionLatency,
}

/// End of a bucket of latencies, milliseconds.
#[must_use]
pub fn end_of_bucket(place: usize) -> f64 {
    qscale_sim::latency::LatencyHistogram::end_of(place * FINE + FINE - 1).seconds() * 1000.0
}

/// Stage of an evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvaluationStage {
    /// Tuning of policies.
    Tuning,
    /// Comparison of competitors.
    Test,
    /// Search for the bound of each run.
    Planning,
}

/// Progress of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageProgress {
    /// The stage.
    pub stage: EvaluationStage,
    /// Simulated functions, of all runs, including earlier ones.
    pub done: u64,
    /// Total number of functions to simulate.
    pub all: u64,
    /// Those known from the ledger.
    pub known: u64,
}

/// Stores finished jobs.
pub trait Ledger {
    /// Earlier outcome of the job with this key, if any.
    fn stored(&mut self, key: &str) -> Option<JobOutcome>;

    /// Records a finished job.
    ///
    /// # Errors
    /// If it cannot be stored.
    fn record(&mut self, key: &str, outcome: &JobOutcome) -> Result<(), String>;

    /// Reports progress; called often.
    fn progress(&mut self, progress: StageProgress);
}

/// Stores nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoLedger;

impl Ledger for NoLedger {
    fn stored(&mut self, _: &str) -> Option<JobOutcome> {
        None
    }

    fn record(&mut self, _: &str, _: &JobOutcome) -> Result<(), String> {
        Ok(())
    }

    fn progress(&mut self, _: StageProgress) {}
}

/// Seeds of each job of a cell: several runs if it has one function, single runs otherwise.
pub fn chunks<'a>(cell: &EvaluationCell, seeds: &'a [u64]) -> impl Iterator<Item = (usize, &'a [u64])> {
    let runs = if cell.functions.len() == 1 { RUNS } else { 1 };
    seeds.chunks(runs).enumerate().map(move |(index, seeds)| (index * runs, seeds))
}

enum JobMessage {
    /// A function was simulated.
    Simulated,
    Done(usize, Result<Box<JobOutcome>, RunError>),
}

/// Runs the `jobs` that `ledger` does not know, and passes each outcome to `accept`, in no particular order.
///
/// # Errors
/// The first failure of a job, or of the ledger.
pub fn run(
    stage: EvaluationStage,
    jobs: &[Job],
    cells: &[EvaluationCell],
    conditions: &Conditions<'_>,
    options: &Options<'_>,
    ledger: &mut dyn Ledger,
    mut accept: impl FnMut(&Job, JobOutcome),
) -> Result<(), EvaluateError> {
    let lives = |job: &Job| (cells[job.cell].functions.len() * job.seeds.len()) as u64;
    let all = jobs.iter().map(lives).sum();
    let mut progress = StageProgress { stage, done: 0, all, known: 0 };
    let mut left = Vec::new();
    for (index, job) in jobs.iter().enumerate() {
        match ledger.stored(&job.key).filter(|outcome| outcome.runs.len() == job.seeds.len()) {
            None => left.push(index),
            Some(outcome) => {
                progress.known += lives(job);
                accept(job, outcome);
            }
        }
    }
    progress.done = progress.known;
    ledger.progress(progress);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(WAITING);
        for _ in 0..options.threads.get().min(left.len()) {
            let (sender, next, left) = (sender.clone(), &next, &left);
            scope.spawn(move || work(jobs, left, next, cells, conditions, &sender));
        }
        drop(sender);
        let mut failed = None;
        for message in receiver {
            match message {
                JobMessage::Simulated => progress.done += 1,
                JobMessage::Done(index, Ok(outcome)) => {
                    let job = &jobs[index];
                    if let Err(error) = ledger.record(&job.key, &outcome) {
                        failed.get_or_insert(EvaluateError::Ledger(error));
                        options.stop.store(true, Ordering::Relaxed);
                    }
                    accept(job, *outcome);
                }
                JobMessage::Done(index, Err(error)) => {
                    options.stop.store(true, Ordering::Relaxed);
                    let name = jobs[index].spec.name.clone();
                    failed.get_or_insert(match error {
                        RunError::Stopped => EvaluateError::Stopped,
                        RunError::Competitor(error) => EvaluateError::Competitor { name, error: error.into() },
                    });
                }
            }
            ledger.progress(progress);
        }
        failed.map_or(Ok(()), Err)
    })
}

fn work(
    jobs: &[Job],
    left: &[usize],
    next: &AtomicUsize,
    cells: &[EvaluationCell],
    conditions: &Conditions<'_>,
    sender: &SyncSender<JobMessage>,
) {
    while let Some(&index) = left.get(next.fetch_add(1, Ordering::Relaxed)) {
        let outcome = do_job(&jobs[index], cells, conditions, sender);
        let ended = outcome.is_err();
        // A closed channel means that the collecting thread has ended.
        if sender.send(JobMessage::Done(index, outcome.map(Box::new))).is_err() || ended {
            return;
        }
    }
}

fn do_job(
    job: &Job,
    cells: &[EvaluationCell],
    conditions: &Conditions<'_>,
    sender: &SyncSender<JobMessage>,
) -> Result<JobOutcome, RunError> {
    let mut runner = Runner::new(conditions, &cells[job.cell], &job.spec);
    let mut outcome = JobOutcome::default();
    let mut latencies = std::collections::BTreeMap::new();
    for &seed in &job.seeds {
        let with_series = job.series_of == Some(seed);
        let simulated = || {
            // Progress is irrelevant once the channel is closed.
            let _uncounted = sender.send(JobMessage::Simulated);
        };
        let result = match job.plan {
            None => runner.run(seed, with_series, simulated)?,
            Some(search) => runner.plan(seed, search, with_series, simulated)?,
        };
        if job.latencies {
            result.latency.cells().for_each(|(cell, count)| *latencies.entry(cell / FINE).or_insert(0) += count);
            outcome.failed += result.failed;
        }
        outcome.runs.push(result.measures);
        outcome.time_series = result.time_series.or(outcome.time_series);
        outcome.decision_latency.include(&result.decision_latency);
    }
    outcome.buckets = latencies.into_iter().collect();
    Ok(outcome)
}
