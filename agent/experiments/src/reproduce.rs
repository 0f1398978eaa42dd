//! The study that Qscale is based on, repeated in the simulator or, smaller, with real functions on this machine. Owns
//! the experiments and their result files; must not print results.

mod competitor;
pub mod experiment;
mod figures;
mod files;
pub mod findings;
mod learn;
mod local;
mod plan;
pub mod results;
pub mod run;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use qscale_common::runtime::cancellable::until_stopped;
use qscale_common::time::Span;
use tokio_util::sync::CancellationToken;

use self::experiment::ExperimentKind;
use self::files::write;
use self::plan::{StudyPlan, StudyStore};
use self::results::StudyResults;
use self::run::TickCounter;
use crate::journal::Journal;

/// Bounds on the length of a run on this machine: a change of load must be visible, and the dashboard keeps ten minutes.
const SHORTEST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(600);
/// Default length of a run on this machine.
const LOCAL: Duration = Duration::from_secs(60);
const LOCAL_QUICK: Duration = Duration::from_secs(20);

/// Options of a study.
#[derive(Debug, Clone)]
pub struct ReproduceOptions {
    /// The experiment.
    pub kind: ExperimentKind,
    /// Whether real functions run on this machine.
    pub local: bool,
    /// Length of each run on this machine.
    pub duration: Option<Span>,
    /// Trainings and runs of each competitor under each load.
    pub seeds: Option<u64>,
    /// First seed.
    pub seed: u64,
    /// Two seeds, two loads and little training.
    pub quick: bool,
    /// Threads that learn and simulate; they do not change the results.
    pub threads: NonZeroUsize,
    /// Folder for results.
    pub out: PathBuf,
    /// Whether the folder must hold an experiment to resume.
    pub resume: bool,
    /// Whether to discard what the folder holds.
    pub overwrite: bool,
}

/// Runs an experiment and writes its files. `progress` is called with the ticks done and the ticks of the whole.
///
/// # Errors
/// When an option is out of range, the folder cannot be used or holds another experiment, or a run fails.
pub async fn reproduce(
    options: &ReproduceOptions,
    progress: impl Fn(u64, u64) + Send + Sync + 'static,
    token: &CancellationToken,
) -> anyhow::Result<StudyResults> {
    let plan = StudyPlan::of(options)?;
    // The configuration of an agent names the file of its model.
    let out = std::path::absolute(&options.out).with_context(|| format!("--out {}", options.out.display()))?;
    let journal = Journal::open(&out, "experiment", &plan.identity()?, options.resume, options.overwrite)?;
    let mut store = StudyStore { out, journal };
    let (learning, threads) = (plan.clone(), options.threads);
    let work = until_stopped("experiment", move |stop| {
        let all = learning.ticks();
        let counter = TickCounter::new(stop).with_callback(move |ticks| progress(ticks, all));
        let done = learning.run(threads, &mut store, &counter)?;
        Ok((store, done))
    });
    let (mut store, mut done) = work.await?;
    if options.local && done.len() == plan.jobs().len() {
        plan.run_local(&mut store, &mut done, token).await?;
    }
    let results = plan.results(done);
    if !results.runs.is_empty() {
        write(&store.out, &results)?;
    }
    Ok(results)
}

#[cfg(test)]
mod tests;
