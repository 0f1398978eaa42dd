//! What was found, and how it is written down and shown. Owns the form of `results.json`; must not run anything.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use qscale_common::units::Allocation;
use serde::Serialize;

use super::experiment::{Experiment, Judged, Place, Which};
use super::figures;
use super::findings::{self, Finding, Line, Mean};
use super::learn::Effort;
use super::live::{Course, Figure};
use crate::show::{self, Cell, Table, Tone};
use crate::train::replace;

/// Version of the form of `results.json`.
pub(super) const VERSION: &str = "1.1";

/// All of `results.json`. In the simulator a function of experiment, seeds and effort alone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Results {
    pub(super) version: &'static str,
    pub(super) experiment: Which,
    pub(super) settings: Settings,
    /// Whether everything was finished.
    pub(super) complete: bool,
    pub(super) contestants: Vec<&'static str>,
    pub(super) loads: Vec<Judged>,
    pub(super) table: Vec<Line>,
    pub(super) findings: Vec<Finding>,
    pub(super) learning: Vec<Learning>,
    pub(super) runs: Vec<Run>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Settings {
    pub(super) command: String,
    pub(super) place: Place,
    pub(super) function: &'static str,
    pub(super) seeds: Vec<u64>,
    pub(super) effort: Effort,
    pub(super) tick_s: f64,
    pub(super) run_ticks: u32,
    pub(super) percentile: f64,
    pub(super) latency_ms: f64,
    pub(super) currency: String,
    /// The model that comes along.
    pub(super) model: String,
    pub(super) least: Allocation,
    pub(super) begins: Allocation,
    pub(super) most: Allocation,
}

/// What a contestant earned a tick, episode by episode while it learned; one number where it does not learn here.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Learning {
    pub(super) contestant: &'static str,
    pub(super) seed: u64,
    pub(super) reward: Vec<f64>,
}

/// One run of one contestant.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Run {
    pub(super) contestant: &'static str,
    pub(super) load: &'static str,
    pub(super) seed: u64,
    #[serde(flatten)]
    pub(super) figures: BTreeMap<Figure, f64>,
    pub(super) course: Course,
    /// What a reader of its figures should know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) remarks: Vec<String>,
}

pub(super) fn write(out: &Path, results: &Results) -> anyhow::Result<()> {
    let mut files = vec![
        ("results.json".to_owned(), serde_json::to_string(results)?),
        ("results.csv".to_owned(), csv(&results.runs)),
        ("learning.svg".to_owned(), figures::learning(results.experiment, &results.contestants, &results.learning)),
    ];
    let experiment = Experiment { which: results.experiment, place: results.settings.place };
    for load in &results.loads {
        let drawn = figures::courses(experiment, load, &results.contestants, &results.runs);
        files.extend(drawn.map(|svg| (format!("{}.svg", load.name), svg)));
    }
    files.into_iter().try_for_each(|(name, text)| write_file(&out.join(name), text.as_bytes()))
}

/// Writes a file, and the folder that it lies in.
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    replace(path, bytes)
}

/// What a reader of the figures should know of single runs.
pub(super) fn remarks(results: &Results) -> Vec<String> {
    let of = |run: &Run| {
        let about = format!("{} under load {}, seed {}", run.contestant, run.load, run.seed);
        run.remarks.iter().map(move |remark| format!("{about}: {remark}")).collect::<Vec<_>>()
    };
    results.runs.iter().flat_map(of).collect()
}

pub(super) fn csv(runs: &[Run]) -> String {
    let mut text = format!("contestant,load,seed,{}\n", Figure::ALL.map(Figure::name).join(","));
    for run in runs {
        let figures = Figure::ALL.map(|figure| run.figures[&figure].to_string()).join(",");
        text += &format!("{},{},{},{figures}\n", run.contestant, run.load, run.seed);
    }
    text
}

pub(super) fn tell(out: &Path, results: &Results) -> anyhow::Result<()> {
    table(results).print()?;
    show::line("")?;
    for load in &results.loads {
        show::line(format!("{:6} {}", load.name, load.pattern))?;
    }
    let Settings { percentile, latency_ms, currency, seeds, .. } = &results.settings;
    show::line(format!(
        "late: above {} ms, of which p{percentile} is the objective, or failed; cost: {currency} an hour; ±: 95 % intervals over {} seeds",
        latency_ms,
        seeds.len()
    ))?;
    show::line("")?;
    for sentence in findings::sentences(&results.findings) {
        show::line(format!("{sentence}\n"))?;
    }
    let remarks = remarks(results);
    if !remarks.is_empty() {
        show::line("To know of single runs")?;
        remarks.iter().try_for_each(|remark| show::line(format!("  {remark}")))?;
        show::line("")?;
    }
    show::line(format!("{0}/results.json, {0}/results.csv, {0}/learning.svg and a figure for each load", out.display()))
}

pub(super) fn table(results: &Results) -> Table {
    let allocated = match results.experiment {
        Which::Horizontal => ("REPLICAS", Figure::Replicas),
        Which::Vertical => ("CORES", Figure::Cores),
    };
    let mut table = Table::new(&["LOAD", "CONTESTANT", "P95", "LATE %", "ANSWERED/S", allocated.0, "COST/H", "CHANGES/H"]);
    let mut last = "";
    for line in &results.table {
        let mean = |figure| line.figures[&figure];
        let load = if line.load == last { "" } else { line.load };
        last = line.load;
        table.row([
            Cell::new(load, Tone::Strong),
            line.contestant.into(),
            told(mean(Figure::P95Ms), show::latency).into(),
            told(mean(Figure::LateShare), |share| show::number(share * 100.0)).into(),
            told(mean(Figure::ThroughputRps), show::number).into(),
            told(mean(allocated.1), show::number).into(),
            told(mean(Figure::CostPerHour), |cost| format!("{cost:.4}")).into(),
            told(mean(Figure::ChangesPerHour), show::number).into(),
        ]);
    }
    table
}

/// A mean with half of its interval.
pub(super) fn told(mean: Mean, shown: impl Fn(f64) -> String) -> String {
    match mean.half() {
        Some(half) => format!("{} ±{}", shown(mean.mean), shown(half)),
        None => shown(mean.mean),
    }
}
