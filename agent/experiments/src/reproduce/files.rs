//! Files of a study: results, tables and figures. Owns their names.

use std::path::Path;

use anyhow::Context;

use super::experiment::Experiment;
use super::figures;
use super::results::StudyResults;
use super::run::{RunMetric, StudyRun};
use crate::files::replace;

pub(super) fn write(out: &Path, results: &StudyResults) -> anyhow::Result<()> {
    let mut files = vec![
        ("results.json".to_owned(), serde_json::to_string(results)?),
        ("results.csv".to_owned(), csv(&results.runs)),
        ("learning.svg".to_owned(), figures::learning(results.experiment, &results.competitors, &results.learning)),
    ];
    let experiment = Experiment { kind: results.experiment, site: results.settings.site };
    for load in &results.loads {
        let drawn = figures::time_series(experiment, load, &results.competitors, &results.runs);
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

pub(super) fn csv(runs: &[StudyRun]) -> String {
    let mut text = format!("competitor,load,seed,{}\n", RunMetric::ALL.map(RunMetric::name).join(","));
    for run in runs {
        let figures = RunMetric::ALL.map(|figure| run.figures[&figure].to_string()).join(",");
        text += &format!("{},{},{},{figures}\n", run.competitor, run.load, run.seed);
    }
    text
}
