//! Features that the learned policy derives from a State and earlier ones. Owns which of them an explanation shows; pure.

use qscale_common::contract::State;
use qscale_dqn::context::{DemandHorizon, FeatureContext};
use qscale_dqn::policy::default_violation_cost;
use qscale_policies::history::HistorySummary;
use serde::Serialize;

/// Features of a decision.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FeatureSnapshot {
    /// Smoothed arrival rate, requests/s.
    pub level_rps: f64,
    /// Change of the arrival rate, requests/s per second.
    pub slope_rps_per_s: f64,
    /// Change divided by its standard error.
    pub slope_significance: f64,
    /// Expected arrival rate until a change takes effect, requests/s; absent if arrivals are unknown.
    pub next_rps: Option<f64>,
    /// Cores busy at that rate.
    pub next_cores: Option<f64>,
    /// Peak arrival rates over the last 5 minutes, 15 minutes, hour and four hours, requests/s; over as many ticks if a
    /// tick is longer than a minute.
    pub peaks_rps: [f64; 4],
    /// CPU time per request, seconds.
    pub request_seconds: Option<f64>,
    /// Largest concurrency of one replica.
    pub replica_concurrency: Option<f64>,
    /// Time since the last request, seconds.
    pub idle_s: u64,
    /// Probability of a request within this minute and within the next, 0 to 1.
    pub wake_probabilities: [f64; 2],
    /// Expected benefit of keeping one idle replica divided by its cost.
    pub keep_warm_ratio: f64,
    /// Peak predicted by the seasonal pattern, requests/s; absent without one.
    pub seasonal_peak_rps: Option<f64>,
    /// Share of the variation that the seasonal pattern explains, 0 to 1.
    pub season_explained: f64,
    /// Observed part of the four hours that it looks back, seconds.
    pub observed_s: u64,
    /// Penalty weight of SLO violations.
    pub violation_cost: f64,
}

impl FeatureSnapshot {
    /// Features of `state` and the history `summary`; `violation_cost` is `None` for the default.
    #[must_use]
    pub fn new(state: &State, summary: HistorySummary, violation_cost: Option<f64>) -> Self {
        let violation_cost = violation_cost.unwrap_or_else(|| default_violation_cost(state));
        let (context, heights) = (FeatureContext::new(state, summary, violation_cost), summary.rate_peaks);
        // A slot of the history is a minute, or a tick if that is longer.
        let slot_s = (state.tick_length_ms / 1000).max(60);
        Self {
            level_rps: summary.rate.level,
            slope_rps_per_s: summary.rate.slope_a_second,
            slope_significance: summary.rate.significance,
            next_rps: context.next_rps,
            next_cores: context.demand(DemandHorizon::Next).map(|demand| demand.cores),
            peaks_rps: [heights.peak_5, heights.peak_15, heights.peak_60, heights.peak_240],
            request_seconds: summary.request_seconds,
            replica_concurrency: summary.limit,
            idle_s: u64::from(summary.idle_slots) * slot_s,
            wake_probabilities: [summary.wake_chance, summary.next_wake_chance],
            keep_warm_ratio: context.keep_warm_ratio(),
            seasonal_peak_rps: summary.seasonal_peak,
            season_explained: summary.season_trust,
            observed_s: u64::from(summary.seen_240) * slot_s,
            violation_cost,
        }
    }
}
