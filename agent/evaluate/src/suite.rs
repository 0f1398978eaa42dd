//! Suites: what is compared on what, registered in a file before it is run. Owns the file's form and what makes no sense in it; runs nothing.

mod check;
mod competitor;
mod filter;
mod function;
mod shipped;
mod trace;

use qscale_common::document::{self, DocumentError, Format};
use qscale_common::name::Name;
use qscale_common::policy::{Guardrails, Prices, RewardWeights};
use qscale_common::time::{Span, TickLength};
use qscale_common::workload::{Gaps, Pattern};
use qscale_sim::Perturbation;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use competitor::{CompetitorEntry, Grid, with_params};
pub use filter::SuiteFilter;
pub use function::{FunctionEntry, Profile};
pub use shipped::{SHIPPED, Shipped};
pub use trace::TraceEntry;

/// A suite, as registered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Suite {
    /// Its name.
    pub name: Name,
    /// What it is for, in a sentence.
    #[serde(default)]
    pub description: String,
    /// Test runs of every competitor in every cell, 1 to 10,000; the n-th of each meets the same arrivals, demands and perturbations.
    #[serde(default = "default_seeds")]
    pub seeds: u32,
    /// Length of a run of patterns, its warm-up included; a trace has its own.
    #[serde(default = "default_length")]
    pub length: Span,
    /// Time at the beginning of a run that is lived through and not measured.
    #[serde(default = "default_warm_up")]
    pub warm_up: Span,
    /// Length of an interval in which the objective holds or is violated, the same for every competitor.
    #[serde(default = "default_interval")]
    pub interval: Span,
    /// How often a State is made for competitors that do not ask for another tick.
    #[serde(default)]
    pub tick: TickLength,
    /// A change of the allocation that goes the other way than one within this time before it is a reversal.
    #[serde(default = "default_reversal")]
    pub reversal_within: Span,
    /// What the terms of the loss weigh; only `violation` and `cost` are part of it.
    #[serde(default)]
    pub weights: RewardWeights,
    /// What allocations cost.
    #[serde(default)]
    pub prices: Prices,
    /// The guard that stands between every competitor and its function.
    #[serde(default)]
    pub guard: Guardrails,
    /// The functions.
    #[serde(default)]
    pub functions: Vec<FunctionEntry>,
    /// What arrives at them.
    #[serde(default)]
    pub workloads: Vec<Workload>,
    /// The perturbations.
    #[serde(default = "default_perturbations")]
    pub perturbations: Vec<PerturbationEntry>,
    /// Which of their combinations are cells; all of them where none is listed.
    #[serde(default)]
    pub cells: Vec<Selection>,
    /// How the functions of a trace are played, where the suite is one for traces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceEntry>,
    /// Who competes.
    pub competitors: Vec<CompetitorEntry>,
    /// How rules are tuned.
    #[serde(default)]
    pub tuning: TuningPlan,
    /// Of which cells one run's course is kept; those without perturbation where none is listed.
    #[serde(default)]
    pub timelines: Vec<Selection>,
    /// What is left of it where a quick look is asked for.
    #[serde(default)]
    pub quick: Quick,
}

/// What arrives at a function when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// Its name.
    pub name: Name,
    /// The rate over time, in multiples of the function's `rate`.
    pub pattern: Pattern,
    /// The gaps between requests.
    #[serde(default)]
    pub gaps: Gaps,
    /// A level that wanders about the pattern, another one in every run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise: Option<Noise>,
    /// When it changes so much that time to recover is measured from there.
    #[serde(default)]
    pub disturbed: Vec<Span>,
}

/// A level that wanders about a pattern: the rate is multiplied by `exp(x)`, where x is an autoregressive normal process drawn anew at every step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Noise {
    /// Standard deviation of x, above 0 to 2.
    pub sigma: f64,
    /// How much of x is left at the next step, 0 to below 1.
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
}

/// Some combinations of functions, workloads and perturbations: all of those named, each kind complete where none of it is named.
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
    /// Whether the combination is one of them.
    #[must_use]
    pub fn holds(&self, function: &str, workload: &str, perturbation: &str) -> bool {
        let any = |names: &[Name], name: &str| names.is_empty() || names.iter().any(|known| known.as_str() == name);
        any(&self.functions, function) && any(&self.workloads, workload) && any(&self.perturbations, perturbation)
    }
}

/// How rules are tuned: the same for all of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TuningPlan {
    /// Most settings of one rule that are tried, its default among them, 1 to 10,000.
    pub settings: usize,
    /// Validation runs of each setting in each cell, 1 to 10,000.
    pub seeds: u32,
    /// The cells that they are tried in; those without perturbation where none is listed.
    pub cells: Vec<Selection>,
}

impl Default for TuningPlan {
    fn default() -> Self {
        Self { settings: 32, seeds: 2, cells: Vec::new() }
    }
}

/// What is left of a suite where a quick look is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Quick {
    /// Test runs.
    pub seeds: u32,
    /// Cells, of those of the suite; all of them where none is listed.
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
    vec![PerturbationEntry { name, perturbation: Perturbation::default() }]
}

impl PerturbationEntry {
    /// Name of the entry without any perturbation.
    pub const NONE: &'static str = "none";
}

/// Why a text is no suite.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SuiteError {
    /// It could not be read as one.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// Something in it makes no sense.
    #[error("field `{field}`: {reason}")]
    Field {
        /// Path of the field.
        field: String,
        /// Value, range and way out.
        reason: String,
    },
}

impl Suite {
    /// Reads a suite that a person wrote; a key that a suite does not have is an error.
    ///
    /// # Errors
    /// Names the field, its value and its range.
    pub fn parse(text: &str, format: Format) -> Result<Self, SuiteError> {
        let suite: Self = document::parse(text, format)?;
        suite.check()?;
        Ok(suite)
    }

    /// The perturbation called so.
    #[must_use]
    pub fn perturbation(&self, name: &str) -> Option<&PerturbationEntry> {
        self.perturbations.iter().find(|entry| entry.name.as_str() == name)
    }
}

#[cfg(test)]
mod tests;
