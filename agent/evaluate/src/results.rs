//! Results of an evaluation: the types of `results.json`. Owns the format and the precision of numbers; must not compute any.
//!
//! Results depend only on suite, settings and seeds, not on time, host or thread count, so equal evaluations write equal bytes.

mod measure;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::policy_set::FutureKnowledge;

pub use measure::{Better, Measure, Measures};

/// Results of an evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Version of the format.
    pub version: String,
    /// The registered suite.
    pub suite: RegisteredSuite,
    /// Settings of the command.
    pub settings: EvaluationSettings,
    /// Competitors in the order of the suite; a tuned policy follows its default.
    pub competitors: Vec<Competitor>,
    /// Cells in the order of the suite.
    pub cells: Vec<Cell>,
    /// All runs: one group for each competitor and cell, ordered by competitor, then cell.
    pub groups: Vec<Group>,
    /// Tuning records; empty without tuning.
    pub tuning: Vec<Tuning>,
    /// Time series of one run of each group that the suite selects, in the order of the groups.
    pub timelines: Vec<Timeline>,
    /// Latencies of each group over all its runs, in the order of the groups.
    pub latencies: Vec<Latencies>,
}

/// The suite as it was registered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegisteredSuite {
    /// Its name.
    pub name: String,
    /// Purpose, in a sentence.
    pub description: String,
    /// Complete document, with all defaults.
    pub document: Value,
}

/// Part of the suite that was evaluated, and settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvaluationSettings {
    /// Command that reproduces these results.
    pub command: String,
    /// Seeds of the test runs: the n-th value of every measure of every group belongs to the n-th seed.
    pub seeds: Vec<u64>,
    /// Seeds of the validation runs, disjoint from the test seeds; empty without tuning.
    pub validation_seeds: Vec<u64>,
    /// Length of the measured part of a run, seconds.
    pub measured_s: f64,
    /// Length of the warm-up before it, seconds.
    pub warm_up_s: f64,
    /// Length of an interval, seconds.
    pub interval_s: f64,
    /// Currency of costs.
    pub currency: String,
    /// Weight of violations in the loss.
    pub violation_weight: f64,
    /// Weight of cost in the loss.
    pub cost_weight: f64,
    /// Whether the suite was shortened; these are not the published numbers then.
    pub quick: bool,
    /// The trace; absent for patterns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TracePart>,
}

/// A trace and the part of it that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TracePart {
    /// Last part of its path, as a name.
    pub name: String,
    /// Number of functions used.
    pub functions: usize,
    /// Length, minutes.
    pub minutes: u32,
    /// Shares of its minutes for training, validation and test, in percent.
    pub split: [u32; 3],
    /// First measured minute, from 0.
    pub test_from_minute: u32,
    /// Invocations within the measured part.
    pub invocations: u64,
    /// Hash of the trace, hexadecimal.
    #[serde(default)]
    pub digest: String,
    /// Functions that were left out because they cannot meet their objective with the largest allocation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
}

/// A competitor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Competitor {
    /// Its name, unique with `variant`.
    pub name: String,
    /// Default, tuned, or a bound.
    pub variant: CompetitorVariant,
    /// Name of its policy.
    pub policy: String,
    /// Version and main parameters, as the policy reports them.
    pub model: String,
    /// Parameters for each function; the key `*` stands for all.
    pub params: BTreeMap<String, Value>,
    /// Tick at which it sees States, seconds.
    pub tick_s: f64,
    /// Additional metric lag, seconds.
    pub lag_s: f64,
}

impl Competitor {
    /// Label in reports: `hpa`, `hpa, tuned`.
    #[must_use]
    pub fn label(&self) -> String {
        match self.variant {
            CompetitorVariant::Default | CompetitorVariant::Bound | CompetitorVariant::KnownRates => self.name.clone(),
            CompetitorVariant::Tuned => format!("{}, tuned", self.name),
        }
    }
}

/// Origin of a competitor's parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompetitorVariant {
    /// Defaults, or as registered or given.
    Default,
    /// The best setting on the validation part.
    Tuned,
    /// A bound with knowledge of the future, not a competitor.
    Bound,
    /// A planner that knows the rates of requests, but not single requests: what a perfect forecast of rates could reach. Not a competitor.
    KnownRates,
}

impl CompetitorVariant {
    /// The variant of a policy with this knowledge of the future.
    #[must_use]
    pub fn of(knowledge: FutureKnowledge) -> Self {
        match knowledge {
            FutureKnowledge::Requests => Self::Bound,
            FutureKnowledge::Rates => Self::KnownRates,
        }
    }

    /// Whether it is a policy that can be used, and not a plan with knowledge of the future.
    #[must_use]
    pub fn competes(self) -> bool {
        match self {
            Self::Default | Self::Tuned => true,
            Self::Bound | Self::KnownRates => false,
        }
    }
}

/// Description of a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Unique name: function, workload and perturbation, separated by slashes.
    pub name: String,
    /// The function, or the name of the trace.
    pub function: String,
    /// The workload; `trace` for a trace.
    pub workload: String,
    /// The perturbation.
    pub perturbation: String,
    /// Number of functions, measured together.
    pub functions: usize,
    /// Latency bound, milliseconds; absent if every function has its own.
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
    /// Every measure of every run, in the order of [`EvaluationSettings::seeds`]; `None` if not measurable.
    pub measures: BTreeMap<Measure, Vec<Option<f64>>>,
}

impl Group {
    /// Values of a measure by seed; empty if absent.
    #[must_use]
    pub fn values(&self, measure: Measure) -> &[Option<f64>] {
        self.measures.get(&measure).map_or(&[], Vec::as_slice)
    }
}

/// Tuning of one policy for one function.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tuning {
    /// Name of the competitor.
    pub competitor: String,
    /// The function; `*` if one setting is for all.
    pub function: String,
    /// Names of the cells used for tuning.
    pub cells: Vec<String>,
    /// Settings in the order of the grid; the first is the default.
    pub tried: Vec<ScoredSetting>,
    /// Index of the setting with the least score, the first among equals.
    pub chosen: usize,
}

/// A setting with its score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoredSetting {
    /// Parameters.
    pub params: Value,
    /// Mean loss over cells and validation seeds; the least is best.
    pub score: f64,
    /// Means of the measures over cells and validation seeds.
    pub measures: BTreeMap<Measure, f64>,
}

/// Time series of one run by interval, warm-up included. All columns have equal length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// Index into [`Results::competitors`].
    pub competitor: usize,
    /// Index into [`Results::cells`].
    pub cell: usize,
    /// Seed of the run.
    pub seed: u64,
    /// The columns.
    #[serde(flatten)]
    pub time_series: TimeSeries,
}

/// Time series of a run by interval. All columns have equal length.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TimeSeries {
    /// End of each interval since the start, seconds.
    pub until_s: Vec<f64>,
    /// Requests a second that arrived.
    pub rate_rps: Vec<f64>,
    /// Requested replicas at the end of the interval.
    pub replicas: Vec<f64>,
    /// CPU limit of all replicas, cores, mean over the interval.
    pub cores: Vec<f64>,
    /// The objective's latency percentile with failures, milliseconds; `None` if no request ended, and for several functions.
    pub latency_ms: Vec<Option<f64>>,
    /// Queued requests at the end of the interval.
    pub waiting: Vec<f64>,
    /// Share of the functions whose objective was violated, 0 to 1.
    pub violated: Vec<f64>,
}

impl TimeSeries {
    /// Sum of two time series over the same intervals, without latencies.
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

    /// The time series of `functions` functions as it is written: shares instead of counts, numbers rounded.
    #[must_use]
    pub fn averaged(mut self, functions: usize) -> TimeSeries {
        self.violated.iter_mut().for_each(|violated| *violated /= functions.max(1) as f64);
        self.rounded()
    }

    /// Rounds every number to the written precision.
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
    /// Non-empty buckets in rising order: upper bound, milliseconds, and number of successful requests.
    pub buckets: Vec<(f64, u64)>,
    /// Requests that failed.
    pub failed: u64,
}

/// Why results cannot be read.
#[derive(Debug, Error)]
pub enum ResultsError {
    /// Wrong format.
    #[error(transparent)]
    Form(#[from] serde_json::Error),
    /// Another version.
    #[error("version `{found}`, this program reads {expected}")]
    Version {
        /// Version found.
        found: String,
        /// Supported version.
        expected: &'static str,
    },
}

impl Results {
    /// Version of the format.
    pub const VERSION: &'static str = "1.0";

    /// Reads `results.json`.
    ///
    /// # Errors
    /// A wrong format or version.
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

/// `value` rounded to seven significant digits, more than runs reproduce across seeds.
#[must_use]
pub fn rounded(value: f64) -> f64 {
    format!("{value:.6e}").parse().unwrap_or(value)
}
