//! Jobs without duplicates. Owns the keys of jobs: equal work has equal keys.

use std::collections::BTreeMap;

use serde_json::json;

use super::jobs::{Job, OutcomeSlot};
use super::{Jobs, VALIDATION};
use crate::run::RunSpec;

/// Jobs by key, each once, with all the places that need its outcome.
#[derive(Default)]
pub(super) struct UniqueJobs {
    pub(super) jobs: Jobs,
    places: BTreeMap<String, usize>,
}

impl UniqueJobs {
    pub(super) fn add(&mut self, target: OutcomeSlot, job: impl FnOnce() -> Job, key: &str) {
        let place = *self.places.entry(key.to_owned()).or_insert_with(|| {
            self.jobs.push(job());
            self.jobs.len() - 1
        });
        self.jobs[place].targets.push(target);
    }
}

/// Key of the work of a job.
pub(super) fn key(spec: &RunSpec, part: usize, cell: &str, seeds: &[u64]) -> String {
    let RunSpec { policy, params, tick, lag, .. } = spec;
    let part = if part == VALIDATION { "validation" } else { "test" };
    json!([policy, params, tick.millis(), lag, part, cell, seeds.first(), seeds.len()]).to_string()
}
