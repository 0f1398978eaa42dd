//! Suites: comparisons registered in a file before they run. Owns the file's format and its checks; must not run anything.

mod bundled;
mod check;
mod competitor;
mod filter;
mod function;
mod trace;

use qscale_common::document::{self, DocumentError, Format};
use qscale_common::name::Name;
use qscale_common::policy::{Guardrails, Prices, Range, RewardWeights, Share};
use qscale_common::time::{Span, TickLength};
use qscale_common::units::{Mebibytes, Millicores};
use qscale_common::workload::{Gaps, Pattern};
use qscale_sim::Perturbation;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use bundled::{BUNDLED, BundledSuite, TRAINING_RULES};
pub use competitor::{CompetitorEntry, Grid, with_params};
pub use filter::SuiteFilter;
pub use function::{FunctionEntry, Profile};
pub use trace::TraceEntry;

/// A registered suite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Suite {
    /// Its name.
    pub name: Name,
    /// Purpose, in a sentence.
    #[serde(default)]
    pub description: String,
    /// Test runs of every competitor in every cell, 1 to 10,000; the n-th runs have equal arrivals, demands and perturbations.
    #[serde(default = "default_seeds")]
    pub seeds: u32,
    /// Length of a run of patterns, including the warm-up; a trace has its own.
    #[serde(default = "default_length")]
    pub length: Span,
    /// Begin of a run that is not measured.
    #[serde(default = "default_warm_up")]
    pub warm_up: Span,
    /// Length of the intervals in which the objective holds or is violated.
    #[serde(default = "default_interval")]
    pub interval: Span,
    /// Tick of competitors without their own.
    #[serde(default)]
    pub tick: TickLength,
    /// Time within which an opposite change of the allocation counts as a reversal.
    #[serde(default = "default_reversal")]
    pub reversal_within: Span,
    /// Weights of the loss; only `violation` and `cost` are used.
    #[serde(default)]
    pub weights: RewardWeights,
    /// Prices.
    #[serde(default)]
    pub prices: Prices,
    /// The guard between every competitor and its function.
    #[serde(default)]
    pub guard: Guardrails,
    /// The functions.
    #[serde(default)]
    pub functions: Vec<FunctionEntry>,
    /// The workloads.
    #[serde(default)]
    pub workloads: Vec<SuiteWorkload>,
    /// The perturbations.
    #[serde(default = "default_perturbations")]
    pub perturbations: Vec<PerturbationEntry>,
    /// Combinations that are cells; all if none is listed.
    #[serde(default)]
    pub cells: Vec<Selection>,
    /// Simulation of the functions of a trace, in a suite for traces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceEntry>,
    /// The competitors.
    pub competitors: Vec<CompetitorEntry>,
    /// Settings of tuning.
    #[serde(default)]
    pub tuning: TuningPlan,
    /// Search for the bound.
    #[serde(default)]
    pub planning: PlanSearch,
    /// Cells of which the time series of one run is stored; those without perturbation if none is listed.
    #[serde(default)]
    pub timelines: Vec<Selection>,
    /// The quick version.
    #[serde(default)]
    pub quick: Quick,
}

/// A workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SuiteWorkload {
    /// Its name.
    pub name: Name,
    /// Arrival rate over time, in multiples of the function's `rate`.
    pub pattern: Pattern,
    /// Distribution of the gaps between requests.
    #[serde(default)]
    pub gaps: Gaps,
    /// Random level around the pattern, different in every run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise: Option<Noise>,
    /// Disturbances from which the time to recover is measured.
    #[serde(default)]
    pub disturbed: Vec<Span>,
}

/// Random level around a pattern: the rate is multiplied by `exp(x)`, where x is a first-order autoregressive normal process.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Noise {
    /// Standard deviation of x, above 0 to 2.
    pub sigma: f64,
    /// Autocorrelation of x between steps, 0 to below 1.
    #[serde(default)]
    pub memory: f64,
    /// Length of a step, at least 1 s.
    pub every: Span,
}

/// A perturbation of a suite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerturbationEntry {
    /// Its name.
    pub name: Name,
    /// Its fields. The lag is added to the lag of a competitor's own metrics pipeline.
    #[serde(flatten)]
    pub perturbation: Perturbation,
    /// Share of the durations of a trace that is CPU time, instead of the suite's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_share: Option<Share>,
    /// Whether the CPU and memory of the functions of a trace are scaled, too, and how far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vertical: Option<VerticalScaling>,
}

/// Vertical scaling of the functions of a trace, which otherwise keep their CPU and memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerticalScaling {
    /// Bounds of the CPU of a replica, instead of the suite's.
    pub cpu_millicores: Range<Millicores>,
    /// Least memory of a replica, MiB; the most is room for the greatest usage of the function.
    pub least_memory_mib: Mebibytes,
}

/// Combinations of the named functions, workloads and perturbations; an empty list stands for all of its kind.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Selection {
    /// Names of functions.
    pub functions: Vec<Name>,
    /// Names of workloads.
    pub workloads: Vec<Name>,
    /// Names of perturbations.
    pub perturbations: Vec<Name>,
}

impl Selection {
    /// Whether the combination is selected.
    #[must_use]
    pub fn holds(&self, function: &str, workload: &str, perturbation: &str) -> bool {
        let any = |names: &[Name], name: &str| names.is_empty() || names.iter().any(|known| known.as_str() == name);
        any(&self.functions, function) && any(&self.workloads, workload) && any(&self.perturbations, perturbation)
    }
}

/// Settings of tuning, common to all policies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TuningPlan {
    /// Greatest number of settings of a policy, including its default, 1 to 10,000.
    pub settings: usize,
    /// Validation runs of each setting in each cell, 1 to 10,000.
    pub seeds: u32,
    /// Cells used for tuning; those without perturbation if none is listed.
    pub cells: Vec<Selection>,
}

impl Default for TuningPlan {
    fn default() -> Self {
        Self { settings: 32, seeds: 2, cells: Vec::new() }
    }
}

/// Settings of the search for the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlanSearch {
    /// Passes over the run, 0 to 100; with 0 the bound is the best competitor of each run.
    pub passes: u32,
}

impl Default for PlanSearch {
    fn default() -> Self {
        Self { passes: 1 }
    }
}

/// The quick version of a suite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Quick {
    /// Test runs.
    pub seeds: u32,
    /// Cells among those of the suite; all if none is listed.
    pub cells: Vec<Selection>,
}

impl Default for Quick {
    fn default() -> Self {
        Self { seeds: 3, cells: Vec::new() }
    }
}

fn default_seeds() -> u32 {
    30
}

fn default_length() -> Span {
    Span::seconds(25 * 60)
}

fn default_warm_up() -> Span {
    Span::seconds(5 * 60)
}

fn default_interval() -> Span {
    Span::seconds(15)
}

fn default_reversal() -> Span {
    Span::seconds(60)
}

fn default_perturbations() -> Vec<PerturbationEntry> {
    let name = Name::new(PerturbationEntry::NONE).expect("a DNS label");
    vec![PerturbationEntry { name, perturbation: Perturbation::default(), cpu_share: None, vertical: None }]
}

impl PerturbationEntry {
    /// Name of the entry without any perturbation.
    pub const NONE: &'static str = "none";
}

/// Why a suite is invalid.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SuiteError {
    /// It cannot be read.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A field is invalid.
    #[error("field `{field}`: {reason}")]
    Field {
        /// Path of the field.
        field: String,
        /// Value, range and remedy.
        reason: String,
    },
}

impl Suite {
    /// Reads a suite; an unknown key is an error.
    ///
    /// # Errors
    /// Names the field, its value and its range.
    pub fn parse(text: &str, format: Format) -> Result<Self, SuiteError> {
        let suite: Self = document::parse(text, format)?;
        suite.check()?;
        Ok(suite)
    }

    /// The perturbation of this name.
    #[must_use]
    pub fn perturbation(&self, name: &str) -> Option<&PerturbationEntry> {
        self.perturbations.iter().find(|entry| entry.name.as_str() == name)
    }
}

#[cfg(test)]
mod tests;
