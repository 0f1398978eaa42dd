//! Settings of fine-tuning and promotion, and the request of an operator. Owns their form and their ranges; must not act on them.

use std::num::NonZeroUsize;

use qscale_common::name::Name;
use qscale_common::time::Span;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::finetune::{FinetuneConfig, FinetuneError};

/// Rules by which a candidate is tried, watched and rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PromotionRules {
    /// Pause between two rounds, 1 s to 90 days, as all durations here.
    pub every: Span,
    /// Length of the shadow: the candidate decides on the same States, and its decisions are not applied.
    pub shadow_for: Span,
    /// Length of the watch after the candidate was put in use.
    pub watch_for: Span,
    /// Violation minutes per day (UTC) that candidates under watch may spend. Without a budget, or with 0, no candidate is put in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_minutes: Option<f64>,
    /// Accepted increase of the violation rate over the period before, a share of that rate: 0.25 accepts a quarter more.
    pub margin: f64,
    /// Additional violation minutes below which a candidate is never rolled back: so few may be chance.
    pub least_minutes: f64,
}

impl Default for PromotionRules {
    fn default() -> Self {
        Self {
            every: Span::seconds(6 * 3600),
            shadow_for: Span::seconds(30 * 60),
            watch_for: Span::seconds(3600),
            budget_minutes: None,
            margin: 0.25,
            least_minutes: 1.0,
        }
    }
}

/// Settings of the rounds of one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PromotionSettings {
    /// Agent that uses the model.
    pub agent: Name,
    /// Parameters of its policy.
    pub params: Value,
    /// Age of the oldest recorded State that a candidate learns from.
    pub since: Span,
    /// Rules of the trial.
    pub rules: PromotionRules,
    /// Configuration of training.
    pub finetune: FinetuneConfig,
    /// Validation worlds on which the candidate must not get worse, 1 to 10,000.
    pub validation_worlds: u64,
    /// Simulations of each model over the recorded arrivals of each function, 2 to 1,000.
    pub seeds: u64,
    /// Threads that simulate validation worlds; absent: one per core. They do not change the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<NonZeroUsize>,
}

impl Default for PromotionSettings {
    fn default() -> Self {
        Self {
            agent: Name::new(DEFAULT_AGENT).expect("a valid name"),
            params: json!({}),
            since: Span::seconds(24 * 3600),
            rules: PromotionRules::default(),
            finetune: FinetuneConfig::default(),
            validation_worlds: 60,
            seeds: 10,
            threads: None,
        }
    }
}

/// Longest duration of a setting, s: 90 days.
const MAX_SPAN_S: f64 = 90.0 * 86_400.0;

/// The agent of `qscale up` that uses the learned policy.
const DEFAULT_AGENT: &str = "dqn";

impl PromotionSettings {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// Names the setting, its value and its range.
    pub fn check(&self) -> Result<(), FinetuneError> {
        self.finetune.check()?;
        let within = |name: &'static str, value: f64, min: f64, max: f64| {
            if value >= min && value <= max { Ok(()) } else { Err(FinetuneError::OutOfRange { name, value, min, max }) }
        };
        let spans = [
            ("since", self.since),
            ("every", self.rules.every),
            ("shadow_for", self.rules.shadow_for),
            ("watch_for", self.rules.watch_for),
        ];
        for (name, span) in spans {
            within(name, span.0.as_secs_f64(), 1.0, MAX_SPAN_S)?;
        }
        within("validation_worlds", self.validation_worlds as f64, 1.0, 10_000.0)?;
        within("seeds", self.seeds as f64, 2.0, 1_000.0)?;
        within("budget_minutes", self.rules.budget_minutes.unwrap_or(0.0), 0.0, f64::MAX)?;
        within("margin", self.rules.margin, 0.0, f64::MAX)?;
        within("least_minutes", self.rules.least_minutes, 0.0, f64::MAX)
    }

    /// The command that trains the same candidate again from the same recording.
    #[must_use]
    pub fn command(&self, model: &Name) -> String {
        let FinetuneConfig { updates, learning_rate, simulated, seed, .. } = self.finetune;
        let mut command = format!("qscale finetune {model} --since {} --seed {seed}", self.since);
        let default = FinetuneConfig::default();
        if updates != default.updates {
            command += &format!(" --updates {updates}");
        }
        if learning_rate != default.learning_rate {
            command += &format!(" --learning-rate {learning_rate}");
        }
        if simulated != default.simulated {
            command += &format!(" --simulated {simulated}");
        }
        command
    }
}

/// Request of operators for one model. Written by `qscale finetune`, read by the promoter.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PromotionRequest {
    /// Settings of periodic rounds; absent: there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub periodic: Option<PromotionSettings>,
    /// The latest request for a single round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round: Option<RoundRequest>,
}

/// Request for a single round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoundRequest {
    /// Number that is higher than that of any earlier request for this model.
    pub id: u64,
    /// Its settings.
    #[serde(default)]
    pub settings: PromotionSettings,
    /// Stored version to try instead of training a candidate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_they_were_written() {
        let settings = PromotionSettings { since: Span::seconds(60), ..PromotionSettings::default() };
        let request = PromotionRequest {
            periodic: Some(PromotionSettings::default()),
            round: Some(RoundRequest { id: 7, settings, candidate: Some(3) }),
        };
        let text = serde_json::to_string(&request).expect("writes");
        assert_eq!(serde_json::from_str::<PromotionRequest>(&text).expect("reads"), request);
        assert_eq!(serde_json::from_str::<PromotionRequest>("{}").expect("reads"), PromotionRequest::default());
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        PromotionSettings::default().check().expect("the defaults are valid");
        let refused = |settings: PromotionSettings| match settings.check() {
            Err(FinetuneError::OutOfRange { name, .. }) => name,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(PromotionSettings { seeds: 1, ..PromotionSettings::default() }), "seeds");
        let rules = PromotionRules { budget_minutes: Some(f64::NAN), ..PromotionRules::default() };
        assert_eq!(refused(PromotionSettings { rules, ..PromotionSettings::default() }), "budget_minutes");
        for (name, span) in [("every", Span::seconds(0)), ("watch_for", Span::seconds(0)), ("shadow_for", Span::seconds(100 * 86_400))] {
            let mut rules = PromotionRules::default();
            match name {
                "every" => rules.every = span,
                "watch_for" => rules.watch_for = span,
                _ => rules.shadow_for = span,
            }
            assert_eq!(refused(PromotionSettings { rules, ..PromotionSettings::default() }), name);
        }
        assert_eq!(refused(PromotionSettings { since: Span::seconds(0), ..PromotionSettings::default() }), "since");
    }

    #[test]
    fn the_command_names_what_differs_from_the_defaults() {
        let model = Name::new("mine").expect("valid");
        assert_eq!(PromotionSettings::default().command(&model), "qscale finetune mine --since 1day --seed 1");
        let finetune = FinetuneConfig { updates: 20, seed: 3, ..FinetuneConfig::default() };
        let settings = PromotionSettings { finetune, ..PromotionSettings::default() };
        assert_eq!(settings.command(&model), "qscale finetune mine --since 1day --seed 3 --updates 20");
    }
}
