//! Tuning: every setting of a policy's grid on the validation part. Owns the choice; the score is the mean loss, the budget is the suite's.
//!
//! A policy is tuned for each function over the suite's tuning cells of that function. A policy that knows the future is
//! tuned for each cell, so that it is as good as possible.

use std::collections::BTreeMap;

use serde_json::Value;

use super::jobs::{self, EvaluationStage, Job, Ledger, OutcomeSlot, chunks};
use super::unique_jobs::{UniqueJobs, key};
use super::{CompetitorError, EvaluateError, Options, SuiteEvaluation, VALIDATION};
use crate::results::{Measure, Measures, ScoredSetting, Tuning, rounded};
use crate::run::Conditions;
use crate::suite::CompetitorEntry;

/// A policy tuned for a function or cell.
#[derive(Debug, Clone)]
pub(super) struct Tuned {
    /// Name of the competitor.
    pub(super) name: String,
    /// The function or cell.
    pub(super) scope: String,
    /// Record of the tuning.
    pub(super) tuning: Tuning,
}

impl Tuned {
    /// The best setting.
    pub(super) fn params(&self) -> Value {
        self.tuning.tried.get(self.tuning.chosen).map_or(Value::Null, |tried| tried.params.clone())
    }
}

/// A competitor to tune, and the cells.
struct Task<'a> {
    entry: &'a CompetitorEntry,
    scope: String,
    cells: Vec<usize>,
    settings: Vec<Value>,
}

impl SuiteEvaluation {
    /// Runs all tuning.
    pub(super) fn tune(
        &self,
        conditions: &Conditions<'_>,
        options: &Options<'_>,
        ledger: &mut dyn Ledger,
    ) -> Result<Vec<Tuned>, EvaluateError> {
        let tasks = self.tasks(conditions)?;
        let seeds = self.validation_seeds();
        let cells = &self.parts[VALIDATION];
        // A group is one setting of one task, with the runs of all its cells in order.
        let (mut shared, mut groups) = (UniqueJobs::default(), Vec::new());
        for task in &tasks {
            for setting in &task.settings {
                let spec = self.spec(task.entry, setting);
                for (place, &index) in task.cells.iter().enumerate() {
                    for (first, seeds_of_job) in chunks(&cells[index], &seeds) {
                        let target = OutcomeSlot { group: groups.len(), first: place * seeds.len() + first };
                        let key = key(&spec, VALIDATION, &cells[index].report.name, seeds_of_job);
                        let job = || Job {
                            key: key.clone(),
                            spec: spec.clone(),
                            cell: index,
                            seeds: seeds_of_job.to_vec(),
                            series_of: None,
                            latencies: false,
                            plan: None,
                            targets: Vec::new(),
                        };
                        shared.add(target, job, &key);
                    }
                }
                groups.push(vec![Measures::default(); task.cells.len() * seeds.len()]);
            }
        }
        jobs::run(EvaluationStage::Tuning, &shared.jobs, cells, conditions, options, ledger, |job, outcome| {
            for target in &job.targets {
                groups[target.group][target.first..target.first + outcome.runs.len()].clone_from_slice(&outcome.runs);
            }
        })?;
        let mut groups = groups.into_iter();
        Ok(tasks.into_iter().map(|task| self.choose(task, &mut groups)).collect())
    }

    fn tasks<'a>(&'a self, conditions: &Conditions<'_>) -> Result<Vec<Task<'a>>, EvaluateError> {
        let mut tasks = Vec::new();
        for entry in &self.suite.competitors {
            let settings = entry.settings().map_err(|reason| EvaluateError::competitor(entry, CompetitorError::Grid(reason)))?;
            let knows_future = conditions.policy_set.knowledge(&entry.policy).is_some();
            if settings.len() < 2 || !(knows_future || self.asked.tune) {
                continue;
            }
            let places: &[usize] = if knows_future { &self.tested } else { &self.tuned };
            if places.iter().any(|index| self.parts[VALIDATION][*index].measurement.measured == 0) {
                if knows_future {
                    continue;
                }
                return Err(EvaluateError::Nothing(
                    "the split leaves no validation part for tuning; give another --split or a longer trace".into(),
                ));
            }
            let mut scopes: Vec<(String, Vec<usize>)> = Vec::new();
            for &index in places {
                let cell = &self.parts[VALIDATION][index].report;
                let scope = if knows_future { &cell.name } else { &cell.function };
                match scopes.iter_mut().find(|(name, _)| name == scope) {
                    Some((_, cells)) => cells.push(index),
                    None => scopes.push((scope.clone(), vec![index])),
                }
            }
            tasks.extend(scopes.into_iter().map(|(scope, cells)| Task { entry, scope, cells, settings: settings.clone() }));
        }
        Ok(tasks)
    }

    fn choose(&self, task: Task<'_>, groups: &mut impl Iterator<Item = Vec<Measures>>) -> Tuned {
        let tried: Vec<ScoredSetting> = task
            .settings
            .into_iter()
            .zip(groups)
            .map(|(params, runs)| {
                let measures = means(&runs);
                ScoredSetting { params, score: measures.get(&Measure::Loss).copied().unwrap_or(f64::MAX), measures }
            })
            .collect();
        let best = |best: usize, index: usize| if tried[index].score < tried[best].score { index } else { best };
        let chosen = (0..tried.len()).fold(0, best);
        let cells = task.cells.iter().map(|index| self.parts[VALIDATION][*index].report.name.clone()).collect();
        let name = task.entry.called().to_owned();
        let tuning = Tuning { competitor: name.clone(), function: task.scope.clone(), cells, tried, chosen };
        Tuned { name, scope: task.scope, tuning }
    }
}

/// The mean of each measure over the runs that have it.
fn means(runs: &[Measures]) -> BTreeMap<Measure, f64> {
    let mean = |measure: Measure| {
        let values: Vec<f64> = runs.iter().filter_map(|run| run.get(measure)).collect();
        (!values.is_empty()).then(|| rounded(values.iter().sum::<f64>() / values.len() as f64))
    };
    Measure::ALL.into_iter().filter_map(|measure| Some((measure, mean(measure)?))).collect()
}
