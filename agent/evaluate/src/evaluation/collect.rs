//! Collection of outcomes into results. Owns the place of each run; must not depend on the order of arrival.

use std::collections::BTreeMap;

use serde_json::Value;

use super::jobs::{JobOutcome, OutcomeSlot, end_of_bucket};
use super::plan::ConfiguredCompetitor;
use super::tune::Tuned;
use super::{SuiteEvaluation, TEST};
use crate::results::{EvaluationSettings, Group, Latencies, Measure, Measures, RegisteredSuite, Results, TimeSeries, Timeline, rounded};

/// Runs of all groups.
pub(super) struct Collected {
    groups: Vec<GroupRuns>,
}

#[derive(Default)]
struct GroupRuns {
    runs: Vec<Measures>,
    buckets: BTreeMap<usize, u64>,
    failed: u64,
    time_series: Option<TimeSeries>,
}

impl Collected {
    pub(super) fn new(groups: usize, seeds: usize) -> Self {
        let group = || GroupRuns { runs: vec![Measures::default(); seeds], ..GroupRuns::default() };
        Self { groups: (0..groups).map(|_| group()).collect() }
    }

    /// Competitor with the least loss in run `run` of cell `cell` of `cells`.
    pub(super) fn best_run(&self, cell: usize, cells: usize, run: usize) -> Option<usize> {
        let groups = self.groups.iter().skip(cell).step_by(cells).enumerate();
        let scored = groups.filter_map(|(competitor, group)| Some((group.runs[run].get(Measure::Loss)?, competitor)));
        scored.min_by(|(loss, _), (other, _)| loss.total_cmp(other)).map(|(_, competitor)| competitor)
    }

    /// Replaces each run of the competitor `bound` by the run with the least loss of all competitors in the same cell with the same seed. `cells` is the
    /// number of cells.
    pub(super) fn tighten(&mut self, bound: usize, cells: usize) {
        for cell in 0..cells {
            for run in 0..self.groups[cell].runs.len() {
                if let Some(best) = self.best_run(cell, cells, run) {
                    self.groups[bound * cells + cell].runs[run] = self.groups[best * cells + cell].runs[run].clone();
                }
            }
        }
    }

    /// Forgets the latencies of a group whose runs are all replaced.
    pub(super) fn clear_latencies(&mut self, group: usize) {
        let group = &mut self.groups[group];
        group.buckets.clear();
        group.failed = 0;
    }

    pub(super) fn take(&mut self, target: &OutcomeSlot, outcome: &JobOutcome) {
        let group = &mut self.groups[target.group];
        group.runs[target.first..target.first + outcome.runs.len()].clone_from_slice(&outcome.runs);
        outcome.buckets.iter().for_each(|(place, count)| *group.buckets.entry(*place).or_insert(0) += count);
        group.failed += outcome.failed;
        if let Some(time_series) = &outcome.time_series {
            group.time_series = Some(time_series.clone().rounded());
        }
    }
}

impl SuiteEvaluation {
    pub(super) fn results(&self, configured: Vec<ConfiguredCompetitor<'_>>, collected: Collected, tuned: Vec<Tuned>) -> Results {
        let (mut groups, mut timelines, mut latencies) = (Vec::new(), Vec::new(), Vec::new());
        let seeds = self.seeds();
        for (number, of_group) in collected.groups.into_iter().enumerate() {
            let (competitor, cell) = (number / self.tested.len(), number % self.tested.len());
            groups.push(Group { competitor, cell, measures: Measures::columns(of_group.runs.iter()) });
            timelines.extend(of_group.time_series.map(|time_series| Timeline { competitor, cell, seed: seeds[0], time_series }));
            let buckets = of_group.buckets.into_iter().map(|(place, count)| (rounded(end_of_bucket(place)), count)).collect();
            latencies.push(Latencies { competitor, cell, buckets, failed: of_group.failed });
        }
        Results {
            version: Results::VERSION.to_owned(),
            suite: RegisteredSuite {
                name: self.suite.name.to_string(),
                description: self.suite.description.clone(),
                document: serde_json::to_value(&self.suite).unwrap_or(Value::Null),
            },
            settings: self.settings(!tuned.is_empty()),
            competitors: configured.iter().map(|competitor| competitor.report(self)).collect(),
            cells: self.tested.iter().map(|index| self.parts[TEST][*index].report.clone()).collect(),
            groups,
            tuning: tuned.into_iter().map(|tuned| tuned.tuning).collect(),
            timelines,
            latencies,
        }
    }

    fn settings(&self, tuned: bool) -> EvaluationSettings {
        let measurement = self.parts[TEST][self.tested[0]].measurement;
        EvaluationSettings {
            command: self.asked.command.clone(),
            seeds: self.seeds(),
            validation_seeds: if tuned { self.validation_seeds() } else { Vec::new() },
            measured_s: measurement.measured_s(),
            warm_up_s: measurement.warm_up_s(),
            interval_s: measurement.interval.as_secs_f64(),
            currency: self.suite.prices.currency.clone(),
            violation_weight: self.suite.weights.violation.get(),
            cost_weight: self.suite.weights.cost.get(),
            quick: self.asked.quick,
            trace: self.played.clone(),
        }
    }
}
