//! The policy `phpa-linear`: the predictive HPA with one linear model. Owns the history of the plain HPA's recommendations; the model is in
//! [`crate::holt_winters::model`].

use std::time::Duration;

use qscale_common::contract::State;
use qscale_common::time::{Span, Timestamp};
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::holt_winters::model::{linear, whole};
use crate::holt_winters::{DecisionType, predictive_hpa};
use crate::hpa::Hpa;
use crate::hpa::HpaMemory;
use crate::inputs::{self, check_range, check_span};
use crate::{Decision, Memory, Policy, Rule, Timing};

/// Parameters of the predictive HPA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PhpaLinear {
    /// The HPA whose recommendations are forecast.
    pub hpa: Hpa,
    /// Forecast horizon, up to 1 h.
    pub look_ahead: Span,
    /// Recommendations that the line is fitted to, 1 to 10,000.
    pub history_size: usize,
    /// Combination of the HPA's recommendation with the forecast.
    pub decision_type: DecisionType,
}

/// Memory about one function.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PhpaLinearMemory {
    hpa: HpaMemory,
    /// Recommendations, oldest first.
    history: Vec<(Timestamp, u32)>,
}

impl Default for PhpaLinear {
    /// Horizon and history of the original's example; it has no defaults for them.
    fn default() -> Self {
        Self { hpa: predictive_hpa(), look_ahead: Span::seconds(10), history_size: 6, decision_type: DecisionType::Maximum }
    }
}

impl Policy for PhpaLinear {
    fn name(&self) -> &'static str {
        "phpa-linear"
    }

    fn model(&self) -> String {
        format!("phpa-linear/0.13 {} ahead of {}; {}", self.look_ahead, self.history_size, self.hpa.model())
    }

    fn lookback(&self) -> Option<Duration> {
        let syncs = u32::try_from(self.history_size + 1).unwrap_or(u32::MAX);
        self.hpa.lookback().max(Some(self.hpa.sync_period.0.saturating_mul(syncs)))
    }

    /// The HPA's, whose sync it replaces (`syncPeriod` 15000).
    fn timing(&self) -> Timing {
        self.hpa.timing()
    }

    fn decide(&self, state: &State, memory: &mut Memory, _: Timestamp, _: &mut dyn Rng) -> Decision {
        let PhpaLinearMemory { hpa, history } = memory.of::<PhpaLinearMemory>();
        let now = inputs::instant(state);
        self.hpa.sync_with(state, hpa, |proposal| {
            let forecast = self.forecast_next(history, proposal, now);
            (self.decision_type.decide(&[proposal, forecast]), format!(", forecast {forecast}"))
        })
    }
}

impl Rule for PhpaLinear {
    fn check(&self) -> Result<(), String> {
        self.hpa.check().map_err(|error| format!("hpa.{error}"))?;
        check_span("look_ahead", self.look_ahead, Span::default(), Span::seconds(3600))?;
        check_range("history_size", self.history_size as f64, 1.0, 10_000.0)
    }
}

impl PhpaLinear {
    /// Adds the HPA's recommendation to the history and forecasts it at the horizon.
    fn forecast_next(&self, history: &mut Vec<(Timestamp, u32)>, proposal: u32, now: Timestamp) -> u32 {
        // Restarts if the clock was set back.
        history.retain(|(at, _)| *at <= now);
        history.push((now, proposal));
        let observed: Vec<(f64, f64)> =
            history.iter().map(|(at, replicas)| (-now.since(*at).as_secs_f64(), f64::from(*replicas))).collect();
        let forecast = linear(&observed, self.look_ahead.0.as_secs_f64()).filter(|forecast| forecast.is_finite());
        // As in the original, entries beyond the size are dropped after the forecast.
        history.drain(..history.len().saturating_sub(self.history_size));
        forecast.map_or(0, whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Forecasts after each of `proposals`, ten seconds apart.
    fn run(policy: &PhpaLinear, proposals: &[u32]) -> Vec<u32> {
        let (mut history, begin) = (Vec::new(), Timestamp(1_000_000_000));
        let forecasts = proposals.iter().zip(0..).map(|(proposal, index)| {
            let forecasts = policy.forecast_next(&mut history, *proposal, begin.plus(Duration::from_secs(10) * index));
            assert!(history.len() <= policy.history_size);
            forecasts
        });
        forecasts.collect()
    }

    #[test]
    fn extrapolates_the_line() {
        assert_eq!(run(&PhpaLinear::default(), &[1, 2, 3, 4]), [1, 3, 4, 5]);
        let ahead = PhpaLinear { look_ahead: Span::seconds(30), ..PhpaLinear::default() };
        assert_eq!(run(&ahead, &[1, 2, 3, 4]), [1, 5, 6, 7]);
        assert_eq!(run(&PhpaLinear { look_ahead: Span::default(), ..ahead }, &[5, 5, 5]), [5, 5, 5]);
    }

    #[test]
    fn forecasts_are_not_negative() {
        let ahead = PhpaLinear { look_ahead: Span::seconds(600), ..PhpaLinear::default() };
        assert_eq!(run(&ahead, &[9, 6, 3]).last(), Some(&0));
    }

    #[test]
    fn ignores_entries_beyond_its_history() {
        let short = PhpaLinear { history_size: 2, ..PhpaLinear::default() };
        assert_eq!(run(&short, &[50, 1, 1, 1, 1]).last(), Some(&1));
    }
}
