//! The rule that a model in training is held against: the best of many settings on its validation worlds. Owns which settings are tried.

use std::sync::atomic::{AtomicBool, Ordering};

use qscale_policies::{Policy, by_name};
use qscale_train::judge::{Court, Score};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::progress::Watcher;

/// A rule with its parameters, and what it is worth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    policy: String,
    params: Value,
    /// On the validation worlds, by which it was chosen.
    pub validation: Score,
    /// On the test worlds, once a model is judged there.
    pub test: Option<Score>,
}

impl Rule {
    /// What it is called, with its parameters.
    pub fn name(&self) -> String {
        let told: Vec<String> = self.params.as_object().into_iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
        format!("{} {}", self.policy, told.join(" ").replace('"', "")).trim_end().to_owned()
    }

    /// The policy.
    pub fn policy(&self) -> Box<dyn Policy> {
        by_name(&self.policy, &self.params).expect("a setting of ours, which a test makes")
    }
}

/// The settings that are tried.
fn settings() -> Vec<(&'static str, Value)> {
    let mut all = vec![("threshold-both", json!({})), ("openfaas", json!({})), ("keep-alive-histogram", json!({}))];
    for utilization in [30, 45, 60, 75] {
        all.push(("hpa", json!({ "cpu_utilization": utilization })));
        all.push(("hpa", json!({ "cpu_utilization": utilization, "downscale_stabilization": "60s" })));
    }
    for utilization in [40, 60] {
        all.push(("hpa-behavior", json!({ "cpu_utilization": utilization })));
        all.push(("hpa-vpa", json!({ "hpa": { "cpu_utilization": utilization } })));
        all.push(("holt-winters", json!({ "hpa": { "cpu_utilization": utilization } })));
        all.push(("phpa-linear", json!({ "hpa": { "cpu_utilization": utilization } })));
    }
    all.push(("kpa", json!({})));
    for minutes in [1, 10] {
        all.push(("keep-alive-fixed", json!({ "keep_alive": format!("{minutes}m") })));
    }
    all
}

/// The best of all settings on the worlds of `court`; `None` where it was stopped.
pub fn best(court: &Court, watcher: &Watcher, stop: &AtomicBool) -> Option<Rule> {
    let settings = settings();
    let mut best: Option<Rule> = None;
    for (number, (policy, params)) in settings.iter().enumerate() {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        watcher.tuning(number, settings.len());
        let mut rule = Rule { policy: (*policy).to_owned(), params: params.clone(), validation: Score::default(), test: None };
        rule.validation = Score::of(&court.rule(&*rule.policy()));
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
    fn every_setting_is_a_policy_and_has_a_name_of_its_own() {
        let rule = |(policy, params): (&str, Value)| Rule { policy: policy.to_owned(), params, validation: Score::default(), test: None };
        let rules: Vec<Rule> = settings().into_iter().map(rule).collect();
        let mut names: Vec<String> = rules.iter().map(Rule::name).collect();
        rules.iter().for_each(|rule| drop(rule.policy()));
        names.sort();
        names.dedup();
        assert_eq!(names.len(), rules.len());
        assert!(names.contains(&"hpa cpu_utilization=30 downscale_stabilization=60s".to_owned()), "{names:?}");
    }
}
