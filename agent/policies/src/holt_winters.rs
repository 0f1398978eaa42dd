//! The policy `holt-winters`: the predictive HPA with one Holt-Winters model. Owns the history of the plain HPA's
//! recommendations; the forecast is in [`model`].
//!
//! As shipped, the original stores its history newest first but appends the newest observation, so its model sees time
//! out of order. By default the history is in order here, as a fair baseline; `as_shipped` reproduces the original.

pub mod model;

use std::time::Duration;

use qscale_common::contract::State;
use qscale_common::time::{Span, Timestamp};
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::hpa::Hpa;
use crate::hpa::HpaMemory;
use crate::hpa::behavior::Behavior;
use crate::inputs::check_range;
use crate::{Decision, Memory, Policy, Rule, Timing};
use model::{Form, Model, whole};

/// Parameters of the predictive HPA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HoltWinters {
    /// The HPA whose recommendations are forecast.
    pub hpa: Hpa,
    /// Smoothing factor of the level, 0 to 1.
    pub alpha: f64,
    /// Smoothing factor of the trend, 0 to 1.
    pub beta: f64,
    /// Smoothing factor of the season, 0 to 1.
    pub gamma: f64,
    /// Syncs in a season, 2 to 1000.
    pub seasonal_periods: usize,
    /// Seasons in the history, 2 to 100; at most 10,000 syncs in total.
    pub stored_seasons: usize,
    /// Form of the trend.
    pub trend: Form,
    /// Form of the season.
    pub seasonal: Form,
    /// Combination of the HPA's recommendation with the forecast.
    pub decision_type: DecisionType,
    /// Whether the history is out of order, as in the original.
    pub as_shipped: bool,
}

/// Combination of several recommendations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DecisionType {
    /// The highest.
    #[default]
    Maximum,
    /// The lowest.
    Minimum,
    /// The mean, rounded down.
    Mean,
    /// The median, rounded down.
    Median,
}

impl DecisionType {
    /// Combines `proposals`; zero if empty.
    #[must_use]
    pub fn decide(self, proposals: &[u32]) -> u32 {
        let mut sorted: Vec<u64> = proposals.iter().map(|proposal| u64::from(*proposal)).collect();
        sorted.sort_unstable();
        let middle = sorted.len() / 2;
        let decided = match (self, &sorted[..]) {
            (_, []) => 0,
            (Self::Maximum, [.., last]) => *last,
            (Self::Minimum, [first, ..]) => *first,
            (Self::Mean, all) => all.iter().sum::<u64>() / all.len() as u64,
            (Self::Median, all) if all.len() % 2 == 0 => (all[middle - 1] + all[middle]) / 2,
            (Self::Median, all) => all[middle],
        };
        u32::try_from(decided).unwrap_or(u32::MAX)
    }
}

/// Memory of a predictive HPA about one function.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HoltWintersMemory {
    hpa: HpaMemory,
    history: Vec<u32>,
}

/// The HPA inside the predictive one: upstream's, with rate limit periods of 60 s.
pub(crate) fn predictive_hpa() -> Hpa {
    let mut behavior = Behavior::default();
    behavior.scale_up.policies.iter_mut().chain(&mut behavior.scale_down.policies).for_each(|policy| policy.period = Span::seconds(60));
    Hpa { behavior: Some(behavior), ..Hpa::default() }
}

impl Default for HoltWinters {
    /// Smoothing factors and seasons of the original's example; it has no defaults for them.
    fn default() -> Self {
        Self {
            hpa: predictive_hpa(),
            alpha: 0.9,
            beta: 0.9,
            gamma: 0.9,
            seasonal_periods: 6,
            stored_seasons: 4,
            trend: Form::Additive,
            seasonal: Form::Additive,
            decision_type: DecisionType::Maximum,
            as_shipped: false,
        }
    }
}

impl Policy for HoltWinters {
    fn name(&self) -> &'static str {
        "holt-winters"
    }

    fn model(&self) -> String {
        let shipped = if self.as_shipped { ", as shipped" } else { "" };
        let Self { alpha, beta, gamma, seasonal_periods, .. } = self;
        format!("holt-winters/0.13 {alpha}/{beta}/{gamma} season {seasonal_periods}{shipped}; {}", self.hpa.model())
    }

    fn lookback(&self) -> Option<Duration> {
        let syncs = u32::try_from((self.stored_seasons + 1) * self.seasonal_periods).unwrap_or(u32::MAX);
        self.hpa.lookback().max(Some(self.hpa.sync_period.0.saturating_mul(syncs)))
    }

    /// The HPA's, whose sync it replaces (`syncPeriod` 15000).
    fn timing(&self) -> Timing {
        self.hpa.timing()
    }

    fn decide(&self, state: &State, memory: &mut Memory, _: Timestamp, _: &mut dyn Rng) -> Decision {
        let HoltWintersMemory { hpa, history } = memory.of::<HoltWintersMemory>();
        self.hpa.sync_with(state, hpa, |proposal| {
            let forecast = self.forecast_next(history, proposal);
            (self.decision_type.decide(&[proposal, forecast]), format!(", forecast {forecast}"))
        })
    }
}

impl Rule for HoltWinters {
    fn check(&self) -> Result<(), String> {
        self.hpa.check().map_err(|error| format!("hpa.{error}"))?;
        for (field, factor) in [("alpha", self.alpha), ("beta", self.beta), ("gamma", self.gamma)] {
            check_range(field, factor, 0.0, 1.0)?;
        }
        check_range("seasonal_periods", self.seasonal_periods as f64, 2.0, 1000.0)?;
        if self.stored_seasons == 1 {
            return Err("stored_seasons = 1, must be at least 2: a season is forecast from those before it".to_owned());
        }
        check_range("stored_seasons", self.stored_seasons as f64, 2.0, 100.0)?;
        let stored = self.seasonal_periods * self.stored_seasons;
        if stored > 10_000 {
            return Err(format!("seasonal_periods x stored_seasons = {stored}, must be at most 10000"));
        }
        let (longest, least) = ((self.stored_seasons + 1) * self.seasonal_periods, self.smoothing().least());
        if longest < least {
            let enough = least.div_ceil(self.seasonal_periods) - 1;
            return Err(format!(
                "stored_seasons = {}, must be at least {enough} with seasonal_periods = {}: a forecast needs {least} syncs, the history holds {longest}",
                self.stored_seasons, self.seasonal_periods
            ));
        }
        Ok(())
    }
}

impl HoltWinters {
    /// Adds the HPA's recommendation to the history and forecasts the next one; zero if the history is too short.
    fn forecast_next(&self, history: &mut Vec<u32>, proposal: u32) -> u32 {
        history.push(proposal);
        let series: Vec<f64> = history.iter().map(|replicas| f64::from(*replicas)).collect();
        let forecast = self.smoothing().forecast(&series).filter(|forecast| forecast.is_finite()).map_or(0, whole);
        self.prune(history);
        forecast
    }

    /// Drops the oldest seasons beyond the stored ones.
    fn prune(&self, history: &mut Vec<u32>) {
        if self.as_shipped {
            // The newest moves to the front; the others are already newest first.
            history.rotate_right(1);
        }
        while history.len() >= (self.stored_seasons + 1) * self.seasonal_periods {
            if self.as_shipped {
                history.truncate(history.len() - self.seasonal_periods);
            } else {
                history.drain(..self.seasonal_periods);
            }
        }
    }

    fn smoothing(&self) -> Model {
        let Self { alpha, beta, gamma, seasonal_periods: periods, trend, seasonal, .. } = *self;
        Model { alpha, beta, gamma, periods, trend, seasonal }
    }
}

#[cfg(test)]
mod tests;
