//! What the learned policy makes of a State and of those before it. Pure: owns the choice of figures.

use qscale_common::contract::State;
use qscale_dqn::policy::usual_caution;
use qscale_dqn::sight::{Basis, Sight};
use qscale_policies::history::Told;
use serde::Serialize;

/// What the history tells, and what both ask for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hindsight {
    /// Rate of arrivals as the last ticks tell it together, requests a second.
    pub level_rps: f64,
    /// Its change, requests a second each second.
    pub slope_rps_a_second: f64,
    /// How many times its error that is.
    pub slope_significance: f64,
    /// Requests a second that are expected until a change would take effect; absent where arrivals are not known.
    pub next_rps: Option<f64>,
    /// Cores that these keep busy.
    pub next_cores: Option<f64>,
    /// Highest rates of the last 5 minutes, quarter of an hour, hour and four hours (where a tick is longer than a minute, of so many ticks), requests a second.
    pub peaks_rps: [f64; 4],
    /// CPU seconds of one request.
    pub request_seconds: Option<f64>,
    /// Requests that one replica takes at once at most.
    pub replica_takes: Option<f64>,
    /// Time without a request until now, seconds.
    pub idle_s: u64,
    /// Chance of a request within this minute and within the next, 0 to 1.
    pub wake_chances: [f64; 2],
    /// How many times its cost a warm replica is worth while nothing comes.
    pub warm_worth: f64,
    /// Peak that the season foretells, requests a second; absent where there is no season.
    pub foretold_rps: Option<f64>,
    /// How much of the course the season explains, 0 to 1.
    pub season_trust: f64,
    /// How much of the time that it looks back over was seen, seconds.
    pub seen_s: u64,
    /// How cautious it is told to be.
    pub caution: f64,
}

impl Hindsight {
    /// What is seen of `state` with what was `told` of those before, by whoever heeds so much `caution`.
    pub fn new(state: &State, told: Told, caution: Option<f64>) -> Self {
        let caution = caution.unwrap_or_else(|| usual_caution(state));
        let (sight, heights) = (Sight::new(state, told, caution), told.rate_heights);
        // What a history keeps apart is a minute, or a tick where that is longer.
        let slot_s = (state.tick_length_ms / 1000).max(60);
        Self {
            level_rps: told.rate.level,
            slope_rps_a_second: told.rate.slope_a_second,
            slope_significance: told.rate.significance,
            next_rps: sight.next_rps,
            next_cores: sight.need(Basis::Next).map(|need| need.cores),
            peaks_rps: [heights.peak_5, heights.peak_15, heights.peak_60, heights.peak_240],
            request_seconds: told.request_seconds,
            replica_takes: told.limit,
            idle_s: u64::from(told.idle_slots) * slot_s,
            wake_chances: [told.wake_chance, told.next_wake_chance],
            warm_worth: sight.warm_worth(),
            foretold_rps: told.foretold,
            season_trust: told.season_trust,
            seen_s: u64::from(told.seen_240) * slot_s,
            caution,
        }
    }
}
