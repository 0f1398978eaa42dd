//! Results of a study and their files. Owns the format of `results.json`; must not run anything.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use qscale_common::units::Allocation;
use serde::Serialize;

use super::experiment::{Experiment, ExperimentKind, Site, StudyLoad};
use super::figures;
use super::findings::{Finding, Mean, SummaryRow};
use super::learn::TrainingBudget;
use super::run::{RunMetric, TimeSeries};
use crate::train::replace;

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
    /// Names of the entrants.
    #[serde(rename = "contestants")]
    pub entrants: Vec<&'static str>,
    /// The loads.
    pub loads: Vec<StudyLoad>,
    /// Means over seeds, one line a load and entrant.
    pub table: Vec<SummaryRow>,
    /// Comparisons with the rule.
    pub findings: Vec<Finding>,
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
    #[serde(rename = "place")]
    pub site: Site,
    /// The function.
    pub function: &'static str,
    /// The seeds.
    pub seeds: Vec<u64>,
    /// Amount of training.
    #[serde(rename = "effort")]
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

/// Mean reward a tick of an entrant by episode of its training; one value if it does not learn here.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LearningCurve {
    /// The entrant.
    #[serde(rename = "contestant")]
    pub entrant: &'static str,
    /// The seed.
    pub seed: u64,
    /// Mean training reward a tick, by episode.
    pub reward: Vec<f64>,
}

/// One run of one entrant.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StudyRun {
    /// The entrant.
    #[serde(rename = "contestant")]
    pub entrant: &'static str,
    /// The load.
    pub load: &'static str,
    /// The seed.
    pub seed: u64,
    /// Its figures.
    #[serde(flatten)]
    pub figures: BTreeMap<RunMetric, f64>,
    /// Its course, tick by tick.
    pub course: TimeSeries,
    /// Remarks on its figures.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

pub(super) fn write(out: &Path, results: &StudyResults) -> anyhow::Result<()> {
    let mut files = vec![
        ("results.json".to_owned(), serde_json::to_string(results)?),
        ("results.csv".to_owned(), csv(&results.runs)),
        ("learning.svg".to_owned(), figures::learning(results.experiment, &results.entrants, &results.learning)),
    ];
    let experiment = Experiment { kind: results.experiment, site: results.settings.site };
    for load in &results.loads {
        let drawn = figures::courses(experiment, load, &results.entrants, &results.runs);
        files.extend(drawn.map(|svg| (format!("{}.svg", load.name), svg)));
    }
    files.into_iter().try_for_each(|(name, text)| write_file(&out.join(name), text.as_bytes()))
}

/// Writes a file and creates its folder.
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    replace(path, bytes)
}

/// Remarks on single runs.
pub fn remarks(results: &StudyResults) -> Vec<String> {
    let of = |run: &StudyRun| {
        let about = format!("{} under load {}, seed {}", run.entrant, run.load, run.seed);
        run.remarks.iter().map(move |remark| format!("{about}: {remark}")).collect::<Vec<_>>()
    };
    results.runs.iter().flat_map(of).collect()
}

pub(super) fn csv(runs: &[StudyRun]) -> String {
    let mut text = format!("contestant,load,seed,{}\n", RunMetric::ALL.map(RunMetric::name).join(","));
    for run in runs {
        let figures = RunMetric::ALL.map(|figure| run.figures[&figure].to_string()).join(",");
        text += &format!("{},{},{},{figures}\n", run.entrant, run.load, run.seed);
    }
    text
}

/// A mean with half the width of its interval.
pub fn format_mean(mean: Mean, shown: impl Fn(f64) -> String) -> String {
    match mean.half() {
        Some(half) => format!("{} ±{}", shown(mean.mean), shown(half)),
        None => shown(mean.mean),
    }
}
