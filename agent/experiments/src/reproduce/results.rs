//! Results of a study. Owns the format of `results.json`; must not run anything.

use qscale_common::units::Allocation;
use serde::Serialize;

use super::experiment::{ExperimentKind, Site, StudyLoad};
use super::findings::{Mean, StudyComparison, SummaryRow};
use super::learn::{LearningCurve, TrainingBudget};
use super::run::StudyRun;

/// Version of the format of `results.json`.
pub(super) const VERSION: &str = "1.1";

/// Content of `results.json`. In the simulator it depends only on experiment, seeds and training budget.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StudyResults {
    /// Version of the format.
    pub version: &'static str,
    /// The experiment.
    pub experiment: ExperimentKind,
    /// Its settings.
    pub settings: StudySettings,
    /// Whether everything was finished.
    pub complete: bool,
    /// Names of the competitors.
    pub competitors: Vec<&'static str>,
    /// The loads.
    pub loads: Vec<StudyLoad>,
    /// Means over seeds, one line a load and competitor.
    pub table: Vec<SummaryRow>,
    /// Comparisons with the rule.
    pub findings: Vec<StudyComparison>,
    /// Learning curves.
    pub learning: Vec<LearningCurve>,
    /// All runs.
    pub runs: Vec<StudyRun>,
}

/// Settings of a study.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StudySettings {
    /// Command that repeats it.
    pub command: String,
    /// Its site.
    pub site: Site,
    /// The function.
    pub function: &'static str,
    /// The seeds.
    pub seeds: Vec<u64>,
    /// Amount of training.
    pub budget: TrainingBudget,
    /// Control interval, seconds.
    pub tick_s: f64,
    /// Ticks of a run.
    pub run_ticks: u32,
    /// Percentile of latency in the objective, 0 to 100.
    pub percentile: f64,
    /// Bound on it, milliseconds.
    pub latency_ms: f64,
    /// Currency of costs.
    pub currency: String,
    /// Fingerprint of the bundled model.
    pub model: String,
    /// Smallest allocation.
    pub least: Allocation,
    /// Initial allocation.
    pub begins: Allocation,
    /// Largest allocation.
    pub most: Allocation,
}

/// Remarks on single runs.
pub fn remarks(results: &StudyResults) -> Vec<String> {
    let of = |run: &StudyRun| {
        let about = format!("{} under load {}, seed {}", run.competitor, run.load, run.seed);
        run.remarks.iter().map(move |remark| format!("{about}: {remark}")).collect::<Vec<_>>()
    };
    results.runs.iter().flat_map(of).collect()
}

/// A mean with half the width of its interval.
pub fn format_mean(mean: Mean, shown: impl Fn(f64) -> String) -> String {
    match mean.half() {
        Some(half) => format!("{} ±{}", shown(mean.mean), shown(half)),
        None => shown(mean.mean),
    }
}
