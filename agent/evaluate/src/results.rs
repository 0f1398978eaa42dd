//! What an evaluation found: the types of `results.json`. Owns their form and how numbers are written; must not compute any of them.
//!
//! Everything is a function of the suite, the settings and the seeds: no time, no host, no thread count, so that the same evaluation writes the same bytes.

mod measure;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

pub use measure::{Better, Measure, Measures};

/// All that an evaluation found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Form of this document.
    pub version: String,
    /// What was registered before it was run.
    pub suite: Registered,
    /// What the command asked for.
    pub settings: Settings,
    /// Who competed, in the order of the suite; a tuned rule follows its default.
    pub competitors: Vec<Competitor>,
    /// What they competed in, in the order of the suite.
    pub cells: Vec<Cell>,
    /// Every run: one group a competitor and cell, competitor by competitor, the cells in their order.
    pub groups: Vec<Group>,
    /// How rules were tuned; empty where they were not.
    pub tuning: Vec<Tuning>,
    /// The course of one run of each group that the suite asks for, in the order of the groups.
    pub timelines: Vec<Timeline>,
    /// Latencies of each group, all its runs together, in the order of the groups.
    pub latencies: Vec<Latencies>,
}

/// The suite as it was registered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Registered {
    /// Its name.
    pub name: String,
    /// What it is for, in a sentence.
    pub description: String,
    /// All of it, every default written out.
    pub document: Value,
}

/// What was evaluated of the suite, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The command that gives these results again.
    pub command: String,
    /// Seeds of the test runs: the n-th value of every measure of every group belongs to the n-th seed.
    pub seeds: Vec<u64>,
    /// Seeds of the validation runs, none of them a test seed; empty where nothing was tuned.
    pub validation_seeds: Vec<u64>,
    /// Seconds of each run that were measured.
    pub measured_s: f64,
    /// Seconds before them that were not.
    pub warm_up_s: f64,
    /// Seconds of an interval in which the objective holds or is violated.
    pub interval_s: f64,
    /// In which currency costs are.
    pub currency: String,
    /// Weight of violations in the loss.
    pub violation_weight: f64,
    /// Weight of cost in the loss.
    pub cost_weight: f64,
    /// Whether this was shortened, and is not the published table.
    pub quick: bool,
    /// The trace that was played; absent for patterns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TracePart>,
}

/// A trace and the part of it that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TracePart {
    /// Last part of its path, as a name.
    pub name: String,
    /// Functions that were kept.
    pub functions: usize,
    /// Minutes that it covers.
    pub minutes: u32,
    /// Shares of its minutes for training, validation and test, in percent.
    pub split: [u32; 3],
    /// First minute that was measured, counted from 0.
    pub test_from_minute: u32,
    /// Invocations within the measured part.
    pub invocations: u64,
    /// A number, in hexadecimal, that another trace hardly has.
    #[serde(default)]
    pub digest: String,
}

/// One who competed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Competitor {
    /// Its name, unique with `variant`.
    pub name: String,
    /// As it comes, tuned, or a bound.
    pub variant: Variant,
    /// The policy behind it.
    pub policy: String,
    /// Version of the policy and what it heeds, as it says itself.
    pub model: String,
    /// What it was told, for each function; the key `*` stands for all of them.
    pub params: BTreeMap<String, Value>,
    /// How often it sees a State, seconds.
    pub tick_s: f64,
    /// How old its measurements are at least, seconds.
    pub lag_s: f64,
}

impl Competitor {
    /// Its name for a reader: `hpa`, `hpa, tuned`.
    #[must_use]
    pub fn label(&self) -> String {
        match self.variant {
            Variant::Default | Variant::Bound => self.name.clone(),
            Variant::Tuned => format!("{}, tuned", self.name),
        }
    }
}

/// How a competitor came by its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// As it comes, or as it was registered or named.
    Default,
    /// With what did best on the validation part.
    Tuned,
    /// Knows what no policy can know; a bound, not a competitor.
    Bound,
}

/// What is competed in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Its name, unique: function, workload and perturbation with slashes between.
    pub name: String,
    /// The function, or the name of the trace.
    pub function: String,
    /// The workload; `trace` for a trace.
    pub workload: String,
    /// What goes wrong.
    pub perturbation: String,
    /// How many functions it holds; their measures are taken together.
    pub functions: usize,
    /// Bound of latency, milliseconds; absent where every function has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
    /// Percentile of latency that is bounded.
    pub percentile: f64,
}

/// The runs of one competitor in one cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Index into [`Results::competitors`].
    pub competitor: usize,
    /// Index into [`Results::cells`].
    pub cell: usize,
    /// Every measure of every run, in the order of [`Settings::seeds`]; `None` where there was nothing to measure.
    pub measures: BTreeMap<Measure, Vec<Option<f64>>>,
}

impl Group {
    /// The values of one measure, seed by seed; empty where it is not there.
    #[must_use]
    pub fn values(&self, measure: Measure) -> &[Option<f64>] {
        self.measures.get(&measure).map_or(&[], Vec::as_slice)
    }
}

/// How one rule was tuned for one function.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tuning {
    /// Name of the competitor.
    pub competitor: String,
    /// The function; `*` where one setting is for all.
    pub function: String,
    /// Names of the cells that settings were tried in.
    pub cells: Vec<String>,
    /// Every setting that was tried, in the order of the grid; the first is the default.
    pub tried: Vec<Tried>,
    /// Index of the best one: the least score, the earlier one among equals.
    pub chosen: usize,
}

/// One setting that was tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// What the policy was told.
    pub params: Value,
    /// Mean loss over cells and validation seeds; the least is best.
    pub score: f64,
    /// Means of the measures over cells and validation seeds.
    pub measures: BTreeMap<Measure, f64>,
}

/// The course of one run, interval by interval from the beginning, warm-up included. All columns are equally long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// Index into [`Results::competitors`].
    pub competitor: usize,
    /// Index into [`Results::cells`].
    pub cell: usize,
    /// Which run.
    pub seed: u64,
    /// The columns.
    #[serde(flatten)]
    pub course: TimeSeries,
}

/// What a run did, interval by interval. All columns are equally long.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TimeSeries {
    /// Seconds since the beginning at which each interval ends.
    pub until_s: Vec<f64>,
    /// Requests a second that arrived.
    pub rate_rps: Vec<f64>,
    /// Replicas that were wanted at the end of the interval.
    pub replicas: Vec<f64>,
    /// CPU limit of all replicas that there were, cores, mean over the interval.
    pub cores: Vec<f64>,
    /// Percentile of latency that the objective bounds, milliseconds, failures counted; `None` where nothing was answered, and for several functions.
    pub latency_ms: Vec<Option<f64>>,
    /// Requests that waited at the end of the interval.
    pub waiting: Vec<f64>,
    /// Share of the functions whose objective was violated, 0 to 1; mostly there is one function.
    pub violated: Vec<f64>,
}

impl TimeSeries {
    /// Two courses over the same intervals as one: sums, and the latency of neither, which no sum tells.
    #[must_use]
    pub fn together(one: Option<TimeSeries>, other: Option<TimeSeries>) -> Option<TimeSeries> {
        let (Some(mut one), Some(other)) = (one.clone(), other.clone()) else { return one.or(other) };
        let add = |sums: &mut [f64], values: &[f64]| sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        add(&mut one.rate_rps, &other.rate_rps);
        add(&mut one.replicas, &other.replicas);
        add(&mut one.cores, &other.cores);
        add(&mut one.waiting, &other.waiting);
        add(&mut one.violated, &other.violated);
        one.latency_ms.fill(None);
        Some(one)
    }

    /// The course of `functions` functions, as it is written: shares instead of counts, and every number rounded.
    #[must_use]
    pub fn averaged(mut self, functions: usize) -> TimeSeries {
        self.violated.iter_mut().for_each(|violated| *violated /= functions.max(1) as f64);
        self.rounded()
    }

    /// Every number as precise as it is written; a reader of JSON may miss one by its last bit.
    #[must_use]
    pub fn rounded(mut self) -> TimeSeries {
        let TimeSeries { until_s, rate_rps, replicas, cores, latency_ms, waiting, violated } = &mut self;
        for column in [until_s, rate_rps, replicas, cores, waiting, violated] {
            column.iter_mut().for_each(|value| *value = rounded(*value));
        }
        latency_ms.iter_mut().flatten().for_each(|value| *value = rounded(*value));
        self
    }
}

/// Latencies of one group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Latencies {
    /// Index into [`Results::competitors`].
    pub competitor: usize,
    /// Index into [`Results::cells`].
    pub cell: usize,
    /// Buckets that hold anything: upper end in milliseconds, requests answered well within it. Rising.
    pub buckets: Vec<(f64, u64)>,
    /// Requests that failed.
    pub failed: u64,
}

/// Results that cannot be read.
#[derive(Debug, Error)]
pub enum ResultsError {
    /// Not of this form.
    #[error("{0}")]
    Form(#[from] serde_json::Error),
    /// Of another version.
    #[error("version `{found}`, this program reads {expected}")]
    Version {
        /// The one that was found.
        found: String,
        /// The one that is read.
        expected: &'static str,
    },
}

impl Results {
    /// The version of the form that is written.
    pub const VERSION: &'static str = "1.0";

    /// Reads `results.json`.
    ///
    /// # Errors
    /// What is not of this form or version.
    pub fn from_json(text: &str) -> Result<Self, ResultsError> {
        let results: Self = serde_json::from_str(text)?;
        if results.version != Self::VERSION {
            return Err(ResultsError::Version { found: results.version, expected: Self::VERSION });
        }
        Ok(results)
    }

    /// The runs of a competitor in a cell.
    #[must_use]
    pub fn group(&self, competitor: usize, cell: usize) -> Option<&Group> {
        self.groups.iter().find(|group| group.competitor == competitor && group.cell == cell)
    }
}

/// `value` to seven significant digits: more than any run repeats, and half as long to write.
#[must_use]
pub fn rounded(value: f64) -> f64 {
    format!("{value:.6e}").parse().unwrap_or(value)
}
