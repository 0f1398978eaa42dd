//! An evaluation: who meets whom where, under which seeds, as a list of jobs. Owns the plan and how outcomes become results; threads are [`jobs`]'.

mod gather;
pub mod jobs;
mod plan;
mod tune;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::{Value, json};
use thiserror::Error;

use crate::arena::Arena;
use crate::pace::Pace;
use crate::results::{Played, Results};
use crate::roster::Roster;
use crate::run::{Conditions, RunError};
use crate::suite::{Entry, Selection, Suite};
use gather::Gathered;
use jobs::{Job, Ledger, Stage};

/// What is evaluated: a suite, and the arenas that it makes.
#[derive(Debug, Clone)]
pub struct Evaluation {
    suite: Suite,
    /// The arenas of the test part and those of the validation part: the same cells in the same order.
    parts: [Vec<Arena>; 2],
    /// Those of them that are tested.
    tested: Vec<usize>,
    /// Those of them in which rules are tuned.
    tuned: Vec<usize>,
    asked: Asked,
    played: Option<Played>,
}

/// What is asked for beside the suite.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asked {
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
    pub fn of_patterns(suite: Suite, asked: Asked) -> Result<Self, EvaluateError> {
        let mut every = suite.clone();
        if !every.cells.is_empty() {
            every.cells.extend(tuning_cells(&suite));
        }
        let arenas = every.arenas();
        Self::new(suite, [arenas.clone(), arenas], asked, None)
    }

    /// The evaluation of a trace whose arenas were made with `suite`.
    ///
    /// # Errors
    /// When no cell is left of it.
    pub fn of_trace(suite: Suite, arenas: [Vec<Arena>; 2], asked: Asked, played: Played) -> Result<Self, EvaluateError> {
        Self::new(suite, arenas, asked, Some(played))
    }

    fn new(suite: Suite, parts: [Vec<Arena>; 2], asked: Asked, played: Option<Played>) -> Result<Self, EvaluateError> {
        let chosen = |selections: &[Selection]| -> Vec<usize> {
            let holds = |arena: &Arena| {
                let cell = &arena.cell;
                selections.is_empty() || selections.iter().any(|one| one.holds(&cell.function, &cell.workload, &cell.perturbation))
            };
            parts[TEST].iter().enumerate().filter(|(_, arena)| holds(arena)).map(|(index, _)| index).collect()
        };
        let tested = chosen(&suite.cells);
        if tested.is_empty() {
            return Err(EvaluateError::Nothing("no cell is left; name fewer workloads and perturbations, or others".into()));
        }
        // A function that is not tested need not be tuned for.
        let functions: Vec<&str> = tested.iter().map(|index| parts[TEST][*index].cell.function.as_str()).collect();
        let tuned = chosen(&tuning_cells(&suite))
            .into_iter()
            .filter(|index| functions.contains(&parts[TEST][*index].cell.function.as_str()))
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

    /// All that results depend on, with the competitors that `roster` makes: two evaluations that say the same give the same results.
    #[must_use]
    pub fn identity(&self, roster: &dyn Roster) -> Value {
        let model = |entry: &Entry| roster.policy(&entry.policy, &entry.params, None).map(|policy| policy.model()).unwrap_or_default();
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
        self.tested.iter().map(|index| self.parts[TEST][*index].cell.name.as_str())
    }

    /// Runs it; `ledger` is told what was done and asked what was done before. Gives the results, and how long the decisions of each competitor took.
    ///
    /// # Errors
    /// A competitor that cannot be made, a ledger that cannot be written, or the wish to stop.
    pub fn run(
        &self,
        roster: &dyn Roster,
        options: &Options<'_>,
        ledger: &mut dyn Ledger,
    ) -> Result<(Results, BTreeMap<String, Pace>), EvaluateError> {
        self.check(roster)?;
        let conditions = Conditions {
            roster,
            weights: self.suite.weights,
            reversal_within: self.suite.reversal_within.0,
            stop: options.stop,
            clock: options.clock,
        };
        let tunings = self.tune(&conditions, options, ledger)?;
        let competitors = self.competitors(roster, &tunings)?;
        let jobs = self.test_jobs(&competitors);
        let mut gathered = Gathered::new(competitors.len() * self.tested.len(), self.suite.seeds as usize);
        let mut paces: BTreeMap<String, Pace> = BTreeMap::new();
        let arenas = &self.parts[TEST];
        jobs::run(Stage::Test, &jobs, arenas, &conditions, options, ledger, |job, outcome| {
            paces.entry(job.contestant.name.clone()).or_default().include(&outcome.pace);
            job.targets.iter().for_each(|target| gathered.take(target, &outcome));
        })?;
        Ok((self.results(competitors, gathered, tunings), paces))
    }

    /// Refuses competitors that cannot be made, with any of their settings.
    ///
    /// # Errors
    /// The first of them, by name.
    pub fn check(&self, roster: &dyn Roster) -> Result<(), EvaluateError> {
        for entry in &self.suite.competitors {
            let refused = |reason: String| EvaluateError::Competitor { name: entry.called().to_owned(), reason };
            for setting in entry.settings().map_err(refused)? {
                roster.policy(&entry.policy, &setting, None).map_err(refused)?;
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
