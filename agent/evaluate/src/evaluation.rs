//! An evaluation: who meets whom where, under which seeds, as a list of jobs. Owns the plan and how outcomes become results; threads are [`jobs`]'.

mod collect;
pub mod jobs;
mod plan;
mod tune;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::{Value, json};
use thiserror::Error;

use crate::cell::EvaluationCell;
use crate::decision_latency::DecisionLatency;
use crate::policy_set::PolicySet;
use crate::results::{Results, TracePart};
use crate::run::{Conditions, RunError};
use crate::suite::{CompetitorEntry, Selection, Suite};
use collect::Collected;
use jobs::{Job, Ledger, Stage};

/// What is evaluated: a suite, and the cells that it makes.
#[derive(Debug, Clone)]
pub struct Evaluation {
    suite: Suite,
    /// The cells of the test part and those of the validation part: the same cells in the same order.
    parts: [Vec<EvaluationCell>; 2],
    /// Those of them that are tested.
    tested: Vec<usize>,
    /// Those of them in which rules are tuned.
    tuned: Vec<usize>,
    asked: EvaluationRequest,
    played: Option<TracePart>,
}

/// What is asked for beside the suite.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EvaluationRequest {
    /// The command that gives the same results again.
    pub command: String,
    /// Whether rules are tuned and reported beside their defaults.
    pub tune: bool,
    /// Whether this is a quick look.
    pub quick: bool,
}

/// How it is run; nothing of this changes a result.
pub struct Options<'a> {
    /// On so many threads.
    pub threads: NonZeroUsize,
    /// Set by whoever wants it to end early.
    pub stop: &'a AtomicBool,
    /// Tells the time, for measuring how long decisions take.
    pub clock: Option<&'a (dyn Fn() -> Duration + Sync)>,
}

/// Why there are no results.
#[derive(Debug, Error)]
pub enum EvaluateError {
    /// Somebody wanted it to end; what was done is in the ledger.
    #[error("stopped")]
    Stopped,
    /// A competitor that there is not.
    #[error("competitor `{name}`: {reason}")]
    Competitor {
        /// What it is called.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is nothing to evaluate.
    #[error("{0}")]
    Nothing(String),
    /// The ledger cannot be written.
    #[error("{0}")]
    Ledger(String),
}

/// Seeds of validation runs begin here, far from those of tests, which begin at 1.
const FIRST_VALIDATION_SEED: u64 = 1_000_001;

const TEST: usize = 0;
const VALIDATION: usize = 1;

impl Evaluation {
    /// The evaluation of the patterns of `suite`, which was checked.
    ///
    /// # Errors
    /// When no cell is left of it.
    pub fn of_patterns(suite: Suite, asked: EvaluationRequest) -> Result<Self, EvaluateError> {
        let mut every = suite.clone();
        if !every.cells.is_empty() {
            every.cells.extend(tuning_cells(&suite));
        }
        let cells = every.evaluation_cells();
        Self::new(suite, [cells.clone(), cells], asked, None)
    }

    /// The evaluation of a trace whose cells were made with `suite`.
    ///
    /// # Errors
    /// When no cell is left of it.
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
            return Err(EvaluateError::Nothing("no cell is left; name fewer workloads and perturbations, or others".into()));
        }
        // A function that is not tested need not be tuned for.
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

    /// All that results depend on, with the competitors that `policy_set` makes: two evaluations that say the same give the same results.
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

    /// Names of the cells that are tested.
    pub fn cells(&self) -> impl Iterator<Item = &str> {
        self.tested.iter().map(|index| self.parts[TEST][*index].report.name.as_str())
    }

    /// Runs it; `ledger` is told what was done and asked what was done before. Gives the results, and how long the decisions of each competitor took.
    ///
    /// # Errors
    /// A competitor that cannot be made, a ledger that cannot be written, or the wish to stop.
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
        jobs::run(Stage::Test, &jobs, cells, &conditions, options, ledger, |job, outcome| {
            decision_latencies.entry(job.spec.name.clone()).or_default().include(&outcome.decision_latency);
            job.targets.iter().for_each(|target| collected.take(target, &outcome));
        })?;
        Ok((self.results(competitors, collected, tunings), decision_latencies))
    }

    /// Refuses competitors that cannot be made, with any of their settings.
    ///
    /// # Errors
    /// The first of them, by name.
    pub fn check(&self, policy_set: &dyn PolicySet) -> Result<(), EvaluateError> {
        for entry in &self.suite.competitors {
            let refused = |reason: String| EvaluateError::Competitor { name: entry.called().to_owned(), reason };
            for setting in entry.settings().map_err(refused)? {
                policy_set.policy(&entry.policy, &setting, None).map_err(refused)?;
            }
        }
        Ok(())
    }
}

/// The cells in which rules are tuned: those that are listed, else those in which nothing goes wrong.
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
            RunError::Competitor(reason) => Self::Competitor { name: String::new(), reason },
        }
    }
}

/// A job of one part of an evaluation.
pub(crate) type Jobs = Vec<Job>;

#[cfg(test)]
mod tests;
