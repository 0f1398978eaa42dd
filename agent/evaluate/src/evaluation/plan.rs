//! Competitors with their parameters, and the resulting jobs.

use std::collections::BTreeMap;

use serde_json::Value;

use super::jobs::{Job, OutcomeSlot, chunks};
use super::tune::Tuned;
use super::unique_jobs::{UniqueJobs, key};
use super::{EvaluateError, Jobs, SuiteEvaluation, TEST};
use crate::policy_set::PolicySet;
use crate::results::{Cell, Competitor, CompetitorVariant};
use crate::run::RunSpec;
use crate::suite::CompetitorEntry;

/// A competitor with its settings.
#[derive(Debug, Clone)]
pub(super) struct ConfiguredCompetitor<'a> {
    pub(super) entry: &'a CompetitorEntry,
    pub(super) variant: CompetitorVariant,
    /// Parameters for all (`*`), for a function or for a cell; the most specific applies.
    pub(super) params: BTreeMap<String, Value>,
    model: String,
}

/// Key of the parameters for all functions.
pub(super) const ALL: &str = "*";

impl ConfiguredCompetitor<'_> {
    pub(super) fn params(&self, cell: &Cell) -> &Value {
        let found = [cell.name.as_str(), &cell.function, ALL].into_iter().find_map(|key| self.params.get(key));
        found.unwrap_or(&self.entry.params)
    }

    pub(super) fn report(&self, evaluation: &SuiteEvaluation) -> Competitor {
        Competitor {
            name: self.entry.called().to_owned(),
            variant: self.variant,
            policy: self.entry.policy.clone(),
            model: self.model.clone(),
            params: self.params.clone(),
            tick_s: evaluation.spec(self.entry, &Value::Null).tick.duration().as_secs_f64(),
            lag_s: self.entry.lag.0.as_secs_f64(),
        }
    }
}

impl SuiteEvaluation {
    /// All competitors, in the order of the suite.
    pub(super) fn competitors<'a>(
        &'a self,
        policy_set: &dyn PolicySet,
        tuned: &[Tuned],
    ) -> Result<Vec<ConfiguredCompetitor<'a>>, EvaluateError> {
        let mut configured = Vec::new();
        for entry in &self.suite.competitors {
            let mut add = |variant: CompetitorVariant, params: BTreeMap<String, Value>| {
                let first = params.values().next().unwrap_or(&entry.params);
                let model = policy_set.policy(&entry.policy, first, None).map_err(|error| EvaluateError::competitor(entry, error))?.model();
                configured.push(ConfiguredCompetitor { entry, variant, params, model });
                Ok::<(), EvaluateError>(())
            };
            let found: BTreeMap<String, Value> =
                tuned.iter().filter(|tuned| tuned.name == entry.called()).map(|tuned| (tuned.scope.clone(), tuned.params())).collect();
            let default = BTreeMap::from([(ALL.to_owned(), entry.params.clone())]);
            if let Some(knowledge) = policy_set.knowledge(&entry.policy) {
                add(CompetitorVariant::of(knowledge), if found.is_empty() { default } else { found })?;
                continue;
            }
            if found.is_empty() || !self.asked.tuned_alone {
                add(CompetitorVariant::Default, default)?;
            }
            if !found.is_empty() {
                add(CompetitorVariant::Tuned, found)?;
            }
        }
        Ok(configured)
    }

    pub(super) fn spec(&self, entry: &CompetitorEntry, params: &Value) -> RunSpec {
        RunSpec {
            name: entry.called().to_owned(),
            policy: entry.policy.clone(),
            params: params.clone(),
            tick: entry.tick.unwrap_or(self.suite.tick),
            lag: entry.lag,
        }
    }

    /// Jobs of the test part. Equal work, as when tuning chose the default, is done once.
    pub(super) fn test_jobs(&self, configured: &[ConfiguredCompetitor<'_>]) -> Jobs {
        let seeds = self.seeds();
        let mut jobs = UniqueJobs::default();
        for (number, competitor) in configured.iter().enumerate() {
            for (place, &index) in self.tested.iter().enumerate() {
                let cell = &self.parts[TEST][index];
                let spec = self.spec(competitor.entry, competitor.params(&cell.report));
                let series_of = self.keeps_series(&cell.report).then_some(seeds[0]);
                for (first, seeds) in chunks(cell, &seeds) {
                    let target = OutcomeSlot { group: number * self.tested.len() + place, first };
                    let key = key(&spec, TEST, &cell.report.name, seeds);
                    let series_of = series_of.filter(|seed| seeds.contains(seed));
                    jobs.add(
                        target,
                        || Job {
                            key: key.clone(),
                            spec: spec.clone(),
                            cell: index,
                            seeds: seeds.to_vec(),
                            series_of,
                            latencies: true,
                            plan: None,
                            targets: Vec::new(),
                        },
                        &key,
                    );
                }
            }
        }
        jobs.jobs
    }

    pub(super) fn keeps_series(&self, cell: &Cell) -> bool {
        match &self.suite.timelines[..] {
            [] => cell.perturbation == crate::suite::PerturbationEntry::NONE,
            listed => listed.iter().any(|one| one.holds(&cell.function, &cell.workload, &cell.perturbation)),
        }
    }
}
