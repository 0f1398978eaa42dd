//! An evaluation: competitors, cells and seeds as a list of jobs. Owns the plan and the collection of results; threads are in [`jobs`].

mod bound;
mod collect;
pub mod jobs;
mod plan;
mod tune;
mod unique_jobs;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use qscale_policies::PolicyError;
use serde_json::{Value, json};
use thiserror::Error;

use crate::cell::EvaluationCell;
use crate::decision_latency::DecisionLatency;
use crate::policy_set::PolicySet;
use crate::results::{Results, TracePart};
use crate::run::{Conditions, RunError};
use crate::suite::{CompetitorEntry, Selection, Suite};
use collect::Collected;
use jobs::{EvaluationStage, Job, Ledger};

/// A suite with its cells.
#[derive(Debug, Clone)]
pub struct SuiteEvaluation {
    suite: Suite,
    /// Cells of the test part and of the validation part: equal cells in equal order.
    parts: [Vec<EvaluationCell>; 2],
    /// Indices of the tested cells.
    tested: Vec<usize>,
    /// Indices of the cells used for tuning.
    tuned: Vec<usize>,
    asked: EvaluationRequest,
    played: Option<TracePart>,
}

/// Options of an evaluation in addition to the suite.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EvaluationRequest {
    /// Command that reproduces the results.
    pub command: String,
    /// Whether tuned policies are reported in addition to the defaults.
    pub tune: bool,
    /// Whether the defaults of tuned policies are left out.
    pub tuned_alone: bool,
    /// Whether this is the suite's quick version.
    pub quick: bool,
}

/// Options of execution; no result depends on them.
pub struct Options<'a> {
    /// Number of threads.
    pub threads: NonZeroUsize,
    /// Set to stop early.
    pub stop: &'a AtomicBool,
    /// Clock for the latency of decisions.
    pub clock: Option<&'a (dyn Fn() -> Duration + Sync)>,
}

/// Why an evaluation has no results.
#[derive(Debug, Error)]
pub enum EvaluateError {
    /// It was stopped; finished jobs are in the ledger.
    #[error("stopped")]
    Stopped,
    /// A competitor cannot be made.
    #[error("competitor `{name}`: {error}")]
    Competitor {
        /// Its name.
        name: String,
        /// The reason.
        error: CompetitorError,
    },
    /// There is nothing to evaluate.
    #[error("{0}")]
    Nothing(String),
    /// The ledger cannot be written.
    #[error("{0}")]
    Ledger(String),
}

/// Why a competitor cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CompetitorError {
    /// Its policy is unknown or refuses a parameter.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Its grid is malformed.
    #[error("{0}")]
    Grid(String),
}

impl EvaluateError {
    /// The competitor of `entry` cannot be made.
    fn competitor(entry: &CompetitorEntry, error: impl Into<CompetitorError>) -> Self {
        Self::Competitor { name: entry.called().to_owned(), error: error.into() }
    }
}

/// First seed of validation runs, far from the test seeds, which begin at 1.
const FIRST_VALIDATION_SEED: u64 = 1_000_001;

const TEST: usize = 0;
const VALIDATION: usize = 1;

impl SuiteEvaluation {
    /// The evaluation of a checked suite of patterns.
    ///
    /// # Errors
    /// If no cell is left.
    pub fn of_patterns(suite: Suite, asked: EvaluationRequest) -> Result<Self, EvaluateError> {
        let mut every = suite.clone();
        if !every.cells.is_empty() {
            every.cells.extend(tuning_cells(&suite));
        }
        let cells = every.evaluation_cells();
        Self::new(suite, [cells.clone(), cells], asked, None)
    }

    /// The evaluation of `cells` of the test part and of the validation part, which are equal in number and order.
    ///
    /// # Errors
    /// If no cell is left.
    pub fn of_cells(suite: Suite, cells: [Vec<EvaluationCell>; 2], asked: EvaluationRequest) -> Result<Self, EvaluateError> {
        Self::new(suite, cells, asked, None)
    }

    /// The evaluation of a trace, with cells made from `suite`.
    ///
    /// # Errors
    /// If no cell is left.
    pub fn of_trace(
        suite: Suite,
        cells: [Vec<EvaluationCell>; 2],
        asked: EvaluationRequest,
        played: TracePart,
    ) -> Result<Self, EvaluateError> {
        Self::new(suite, cells, asked, Some(played))
    }

    fn new(
        suite: Suite,
        parts: [Vec<EvaluationCell>; 2],
        asked: EvaluationRequest,
        played: Option<TracePart>,
    ) -> Result<Self, EvaluateError> {
        let chosen = |selections: &[Selection]| -> Vec<usize> {
            let holds = |cell: &EvaluationCell| {
                let cell = &cell.report;
                selections.is_empty() || selections.iter().any(|one| one.holds(&cell.function, &cell.workload, &cell.perturbation))
            };
            parts[TEST].iter().enumerate().filter(|(_, cell)| holds(cell)).map(|(index, _)| index).collect()
        };
        let tested = chosen(&suite.cells);
        if tested.is_empty() {
            return Err(EvaluateError::Nothing("no cell is left; name other workloads or perturbations, or fewer".into()));
        }
        // Functions that are not tested need no tuning.
        let functions: Vec<&str> = tested.iter().map(|index| parts[TEST][*index].report.function.as_str()).collect();
        let tuned = chosen(&tuning_cells(&suite))
            .into_iter()
            .filter(|index| functions.contains(&parts[TEST][*index].report.function.as_str()))
            .collect();
        Ok(Self { suite, parts, tested, tuned, asked, played })
    }

    /// The suite.
    #[must_use]
    pub fn suite(&self) -> &Suite {
        &self.suite
    }

    /// Seeds of the test runs.
    #[must_use]
    pub fn seeds(&self) -> Vec<u64> {
        (1..=u64::from(self.suite.seeds)).collect()
    }

    /// Seeds of the validation runs.
    #[must_use]
    pub fn validation_seeds(&self) -> Vec<u64> {
        (FIRST_VALIDATION_SEED..).take(self.suite.tuning.seeds as usize).collect()
    }

    /// All inputs of the results, with the policies of `policy_set`: evaluations with equal identity have equal results.
    #[must_use]
    pub fn identity(&self, policy_set: &dyn PolicySet) -> Value {
        let model = |entry: &CompetitorEntry| {
            policy_set.policy(&entry.policy, &entry.params, None).map(|policy| policy.model()).unwrap_or_default()
        };
        let models: Vec<String> = self.suite.competitors.iter().map(model).collect();
        json!({
            "version": Results::VERSION,
            "program": env!("CARGO_PKG_VERSION"),
            "suite": self.suite,
            "models": models,
            "tune": self.asked.tune,
            "quick": self.asked.quick,
            "trace": self.played,
        })
    }

    /// Names of the tested cells.
    pub fn cells(&self) -> impl Iterator<Item = &str> {
        self.tested.iter().map(|index| self.parts[TEST][*index].report.name.as_str())
    }

    /// Runs the evaluation; `ledger` records finished jobs and returns earlier ones. Returns the results, and the
    /// decision latency of each competitor.
    ///
    /// # Errors
    /// A competitor cannot be made, the ledger cannot be written, or the evaluation was stopped.
    pub fn run(
        &self,
        policy_set: &dyn PolicySet,
        options: &Options<'_>,
        ledger: &mut dyn Ledger,
    ) -> Result<(Results, BTreeMap<String, DecisionLatency>), EvaluateError> {
        self.check(policy_set)?;
        let conditions = Conditions {
            policy_set,
            weights: self.suite.weights,
            reversal_within: self.suite.reversal_within.0,
            stop: options.stop,
            clock: options.clock,
        };
        let tunings = self.tune(&conditions, options, ledger)?;
        let competitors = self.competitors(policy_set, &tunings)?;
        let jobs = self.test_jobs(&competitors);
        let mut collected = Collected::new(competitors.len() * self.tested.len(), self.suite.seeds as usize);
        let mut decision_latencies: BTreeMap<String, DecisionLatency> = BTreeMap::new();
        let cells = &self.parts[TEST];
        jobs::run(EvaluationStage::Test, &jobs, cells, &conditions, options, ledger, |job, outcome| {
            decision_latencies.entry(job.spec.name.clone()).or_default().include(&outcome.decision_latency);
            job.targets.iter().for_each(|target| collected.take(target, &outcome));
        })?;
        self.bound(&competitors, &mut collected, &conditions, options, ledger)?;
        Ok((self.results(competitors, collected, tunings), decision_latencies))
    }

    /// Checks that every competitor can be made with all its settings.
    ///
    /// # Errors
    /// The first that cannot, by name.
    pub fn check(&self, policy_set: &dyn PolicySet) -> Result<(), EvaluateError> {
        for entry in &self.suite.competitors {
            for setting in entry.settings().map_err(|reason| EvaluateError::competitor(entry, CompetitorError::Grid(reason)))? {
                policy_set.policy(&entry.policy, &setting, None).map_err(|error| EvaluateError::competitor(entry, error))?;
            }
        }
        Ok(())
    }
}

/// Cells used for tuning: the listed ones, else those without perturbation.
fn tuning_cells(suite: &Suite) -> Vec<Selection> {
    let calm = crate::suite::PerturbationEntry::NONE;
    match suite.perturbation(calm) {
        Some(none) if suite.tuning.cells.is_empty() => vec![Selection { perturbations: vec![none.name.clone()], ..Selection::default() }],
        _ => suite.tuning.cells.clone(),
    }
}

impl From<RunError> for EvaluateError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Stopped => Self::Stopped,
            RunError::Competitor(error) => Self::Competitor { name: String::new(), error: error.into() },
        }
    }
}

/// Jobs of one stage of an evaluation.
pub(crate) type Jobs = Vec<Job>;

#[cfg(test)]
mod tests;
