//! Bounds: for each run, the plan that improves the best competitor's. Owns the choice of the start and the place of the results.

use serde_json::json;

use super::collect::Collected;
use super::jobs::{self, EvaluationStage, Job, Ledger, OutcomeSlot};
use super::plan::ConfiguredCompetitor;
use super::unique_jobs::key;
use super::{EvaluateError, Jobs, Options, SuiteEvaluation, TEST};
use crate::results::CompetitorVariant;
use crate::run::Conditions;

impl SuiteEvaluation {
    /// Replaces the runs of every bound by the best ones of their cells and seeds, and those of the first by plans that start from them.
    pub(super) fn bound(
        &self,
        competitors: &[ConfiguredCompetitor<'_>],
        collected: &mut Collected,
        conditions: &Conditions<'_>,
        options: &Options<'_>,
        ledger: &mut dyn Ledger,
    ) -> Result<(), EvaluateError> {
        let jobs = self.plan_jobs(competitors, collected);
        for (number, _) in competitors.iter().enumerate().filter(|(_, competitor)| competitor.variant == CompetitorVariant::Bound) {
            collected.tighten(number, self.tested.len());
        }
        let mut planned: Vec<usize> = jobs.iter().flat_map(|job| &job.targets).map(|target| target.group).collect();
        planned.dedup();
        planned.into_iter().for_each(|group| collected.clear_latencies(group));
        jobs::run(EvaluationStage::Planning, &jobs, &self.parts[TEST], conditions, options, ledger, |job, outcome| {
            job.targets.iter().for_each(|target| collected.take(target, &outcome));
        })
    }

    fn plan_jobs(&self, competitors: &[ConfiguredCompetitor<'_>], collected: &Collected) -> Jobs {
        let (seeds, cells) = (self.seeds(), self.tested.len());
        let mut jobs = Jobs::new();
        let bound = competitors.iter().position(|competitor| competitor.variant == CompetitorVariant::Bound);
        let Some(number) = bound.filter(|_| self.suite.planning.passes > 0) else { return jobs };
        for (place, &index) in self.tested.iter().enumerate() {
            let cell = &self.parts[TEST][index];
            for (run, &seed) in seeds.iter().enumerate() {
                let Some(best) = collected.best_run(place, cells, run) else { continue };
                let start = &competitors[best];
                let spec = self.spec(start.entry, start.params(&cell.report));
                jobs.push(Job {
                    key: json!(["plan", self.suite.planning, key(&spec, TEST, &cell.report.name, &[seed])]).to_string(),
                    spec,
                    cell: index,
                    seeds: vec![seed],
                    series_of: (run == 0 && self.keeps_series(&cell.report)).then_some(seed),
                    latencies: true,
                    plan: Some(self.suite.planning),
                    targets: vec![OutcomeSlot { group: number * cells + place, first: run }],
                });
            }
        }
        jobs
    }
}
