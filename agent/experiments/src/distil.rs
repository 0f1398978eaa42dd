//! Distillation of a model into a file, and the loss of the tree in a suite beside its model and the best rule.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use qscale_dqn::Checkpoint;
use qscale_dqn::registry::DQN;
use qscale_dqn::tree::policy::TREE;
use qscale_evaluate::Results;
use qscale_evaluate::evaluation::jobs::StageProgress;
use qscale_evaluate::results::Measure;
use qscale_evaluate::suite::SuiteFilter;
use qscale_train::distil::Distillation;
use serde::Serialize;

use crate::evaluate::{EvaluateOptions, EvaluateOutcome, SuiteOptions, SuiteRun};

/// A competitor of a suite.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SuiteLoss {
    /// Name of the competitor.
    pub name: String,
    /// Share of the intervals in which the objective was violated, 0 to 1; mean over all runs, like the others.
    pub violated_share: f64,
    /// Cost per hour.
    pub cost_per_hour: f64,
    /// Weighted sum of both, by which the suite ranks.
    pub loss: f64,
}

/// The tree in a suite, beside its model and the rule with the least loss.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SuiteComparison {
    /// The tree.
    pub tree: SuiteLoss,
    /// Its model.
    pub model: SuiteLoss,
    /// The rule with the least loss among those of the suite, with defaults.
    pub best_rule: Option<SuiteLoss>,
    /// Currency of the costs.
    pub currency: String,
    /// Number of runs of each competitor.
    pub runs: usize,
    /// Folder with the report.
    pub folder: PathBuf,
}

/// Choice of a suite and of the way it runs.
#[derive(Debug, Clone)]
pub struct SuiteChoice {
    /// Name of a bundled suite, or a file.
    pub suite: String,
    /// Whether to run all its cells and seeds, not those of its quick version.
    pub full: bool,
    /// Folder for results; its content is replaced.
    pub folder: PathBuf,
    /// Command that repeats the results, for the report.
    pub command: String,
    /// Threads that simulate.
    pub threads: NonZeroUsize,
}

/// Writes the tree of `distillation` to the new file `path`.
///
/// # Errors
/// When the file exists or cannot be written.
pub fn write_tree(distillation: &Distillation, path: &Path) -> anyhow::Result<()> {
    let text = distillation.tree.to_string();
    let file = std::fs::OpenOptions::new().write(true).create_new(true).open(path);
    file.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
        .with_context(|| format!("failed to write {}", path.display()))
}

/// Runs the tree in `path` in a suite, with the model that it imitates and the suite's own competitors; `None` if stopped.
///
/// # Errors
/// When the suite or the tree cannot be read, or the folder cannot be written.
pub fn compare_tree(
    path: &Path,
    distillation: &Distillation,
    model: Checkpoint,
    choice: SuiteChoice,
    progress: impl FnMut(StageProgress),
    stop: &AtomicBool,
) -> anyhow::Result<Option<SuiteComparison>> {
    let filter = SuiteFilter { quick: !choice.full, bound_passes: Some(0), ..SuiteFilter::default() };
    let options = SuiteOptions { suite: Some(choice.suite), trace: None, filter, model: Some(model) };
    let run = SuiteRun::load(options, false)?.with_tree(path, distillation.tree.header().violation_cost.map(f64::from));
    let options = EvaluateOptions {
        tune: false,
        command: choice.command,
        threads: choice.threads,
        out: choice.folder.clone(),
        resume: false,
        overwrite: true,
    };
    match run.prepare(options, |_| {})?.run(progress, stop)? {
        EvaluateOutcome::Stopped => Ok(None),
        EvaluateOutcome::Done(report) => comparison(&report.results, choice.folder).map(Some),
    }
}

fn comparison(results: &Results, folder: PathBuf) -> anyhow::Result<SuiteComparison> {
    let losses = || results.competitors.iter().enumerate().filter_map(|(index, competitor)| Some((competitor, loss_of(results, index)?)));
    let of = |policy: &str| losses().find(|(competitor, _)| competitor.policy == policy).map(|(_, loss)| loss);
    let rules =
        losses().filter(|(competitor, _)| competitor.variant.competes() && qscale_policies::NAMES.contains(&competitor.policy.as_str()));
    let best_rule = rules.map(|(_, loss)| loss).min_by(|one, other| one.loss.total_cmp(&other.loss));
    Ok(SuiteComparison {
        tree: of(TREE).context("the tree has no result in the suite")?,
        model: of(DQN).context("the model has no result in the suite")?,
        best_rule,
        currency: results.settings.currency.clone(),
        runs: results.cells.len() * results.settings.seeds.len(),
        folder,
    })
}

/// Means of a competitor over all runs; `None` without a value.
fn loss_of(results: &Results, index: usize) -> Option<SuiteLoss> {
    let mean = |measure| {
        let groups = results.groups.iter().filter(|group| group.competitor == index);
        let values: Vec<f64> = groups.flat_map(|group| group.values(measure)).copied().flatten().collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    Some(SuiteLoss {
        name: results.competitors[index].label(),
        violated_share: mean(Measure::ViolatedShare)?,
        cost_per_hour: mean(Measure::CostPerHour)?,
        loss: mean(Measure::Loss)?,
    })
}
