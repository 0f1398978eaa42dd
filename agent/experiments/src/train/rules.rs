//! The baseline of a training: the rule with the best setting on its validation worlds. Owns the tuning; the settings
//! are data of `qscale_evaluate`.

use std::sync::atomic::{AtomicBool, Ordering};

use qscale_common::document::{self, Format};
use qscale_evaluate::suite::{CompetitorEntry, TRAINING_RULES};
use qscale_policies::{Policy, by_name};
use qscale_train::evaluate::{Evaluator, Score};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::TrainEvent;

/// A rule with its parameters and scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BaselineRule {
    policy: String,
    params: Value,
    /// Score on the validation worlds.
    pub validation: Score,
    /// Score on the test worlds, once a model is evaluated there.
    pub test: Option<Score>,
}

impl BaselineRule {
    /// Name and parameters.
    pub fn name(&self) -> String {
        let params: Vec<String> = self.params.as_object().into_iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
        format!("{} {}", self.policy, params.join(" ").replace('"', "")).trim_end().to_owned()
    }

    /// The policy.
    pub fn policy(&self) -> Box<dyn Policy> {
        by_name(&self.policy, &self.params).expect("a setting of ours, which a test makes")
    }
}

/// Policies with their grids, in the format of a suite.
#[derive(Deserialize)]
struct Competitors {
    competitors: Vec<CompetitorEntry>,
}

/// The settings to try: policies with parameters.
fn settings() -> Vec<(String, Value)> {
    let rules: Competitors = document::parse(TRAINING_RULES, Format::Toml).expect("the bundled list is valid, which a test checks");
    let settings = |entry: &CompetitorEntry| entry.settings().expect("the bundled grids are valid, which a test checks");
    rules.competitors.iter().flat_map(|entry| settings(entry).into_iter().map(|setting| (entry.policy.clone(), setting))).collect()
}

/// The setting with the highest reward on the worlds of `evaluator`; `None` if stopped.
pub fn best(evaluator: &Evaluator, progress: &dyn Fn(TrainEvent<'_>), stop: &AtomicBool) -> Option<BaselineRule> {
    let settings = settings();
    let mut best: Option<BaselineRule> = None;
    for (number, (policy, params)) in settings.iter().enumerate() {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        progress(TrainEvent::Tuning { setting: number, settings: settings.len() });
        let mut rule = BaselineRule { policy: policy.clone(), params: params.clone(), validation: Score::default(), test: None };
        rule.validation = Score::of(&evaluator.rule(&*rule.policy()));
        if best.as_ref().is_none_or(|best| rule.validation.mean.reward > best.validation.mean.reward) {
            best = Some(rule);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_a_policy_with_a_unique_name() {
        let rule = |(policy, params): (String, Value)| BaselineRule { policy, params, validation: Score::default(), test: None };
        let rules: Vec<BaselineRule> = settings().into_iter().map(rule).collect();
        let mut names: Vec<String> = rules.iter().map(BaselineRule::name).collect();
        rules.iter().for_each(|rule| drop(rule.policy()));
        names.sort();
        names.dedup();
        assert_eq!((names.len(), rules.len()), (31, 31));
        assert!(names.contains(&"hpa cpu_utilization=30 downscale_stabilization=60s".to_owned()), "{names:?}");
    }
}
