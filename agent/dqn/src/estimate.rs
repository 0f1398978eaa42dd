//! What a function's load asks for in cores, from one State. Owns the estimate that observations and actions are told in; must not decide.
//!
//! Utilisation law: cores asked for = requests a second x CPU seconds of one request. It holds however loaded the function is, since CPU used and
//! requests answered fall short together (Ursa and Autothrottle build on the same; `learning.md` names both).

use qscale_common::contract::{State, Window};

/// Requests that a window must have answered so that its CPU time a request is told by it alone.
const ENOUGH_ANSWERS: f64 = 20.0;

/// What the load of a function asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// CPU time of one request, seconds on one core.
    pub request_seconds: f64,
    /// Requests a second to provide for: those that arrive, and those that wait, spread over a tick.
    pub rate_rps: f64,
    /// Cores that they keep busy.
    pub cores: f64,
}

impl Estimate {
    /// The estimate from `state`; `None` where arrivals, answers or CPU were not measured, so that nothing can be said.
    #[must_use]
    pub fn of(state: &State) -> Option<Self> {
        let windows = &state.windows;
        let tick_seconds = state.tick_length_ms as f64 / 1000.0;
        // A rise counts at once and a fall only as the mean of 12 ticks follows: late cores cost the objective, late savings cost little.
        let arriving = match (measured(windows.tick.rate_rps), measured(windows.short.rate_rps)) {
            (Some(tick), Some(short)) => tick.max(short),
            (tick, short) => tick.or(short)?,
        };
        let waiting = measured(windows.tick.queued).unwrap_or(0.0) / tick_seconds.max(0.1);
        let rate_rps = (arriving + waiting).min(MOST);
        if rate_rps == 0.0 {
            return Some(Self { request_seconds: request_seconds(state).unwrap_or(0.0), rate_rps, cores: 0.0 });
        }
        let request_seconds = request_seconds(state)?;
        Some(Self { request_seconds, rate_rps, cores: (rate_rps * request_seconds).min(MOST) })
    }
}

/// Far above what any function does, and low enough that products stay finite.
const MOST: f64 = 1e9;

/// A number that was measured; one that is not finite was not.
pub(crate) fn measured(value: Option<f64>) -> Option<f64> {
    value.filter(|value| value.is_finite() && *value >= 0.0).map(|value| value.min(MOST))
}

/// CPU seconds of one request by the newest window that answered enough of them, else by the longest that answered any.
fn request_seconds(state: &State) -> Option<f64> {
    let replicas =
        f64::from(state.replicas.map(|counts| counts.reporting.max(counts.ready)).or(Some(state.allocation?.replicas))?.0.max(1));
    let windows = [&state.windows.tick, &state.windows.short, &state.windows.long];
    let told = |window: &Window| {
        let answered = answered_rps(window)?;
        let used = measured(window.cpu_millicores.map(|usage| usage.mean))? / 1000.0 * replicas;
        (answered > 0.0).then(|| (answered * window.covered_ms as f64 / 1000.0, (used / answered).min(MOST)))
    };
    let told = windows.map(told);
    let enough = told.iter().flatten().find(|(answers, _)| *answers >= ENOUGH_ANSWERS);
    enough.or(told.iter().flatten().last()).map(|(_, seconds)| *seconds)
}

/// Requests answered a second, well or not.
fn answered_rps(window: &Window) -> Option<f64> {
    let well = measured(window.completed_rps)?;
    let failed = measured(window.failed_share).unwrap_or(0.0).min(0.99);
    Some(well / (1.0 - failed))
}

#[cfg(test)]
mod tests {
    use qscale_common::contract::Usage;

    use super::*;
    use crate::sample;

    #[test]
    fn cores_are_rate_times_cpu_time_of_a_request() {
        let mut state = sample::state();
        let tick = &mut state.windows.tick;
        (tick.covered_ms, tick.rate_rps, tick.completed_rps) = (5000, Some(100.0), Some(50.0));
        tick.cpu_millicores = Some(Usage { mean: 500.0, max: 500.0 });
        let estimate = Estimate::of(&state).expect("all is measured");
        // Two replicas use one core for 50 answers a second: 20 ms each, and twice as many arrive.
        assert!((estimate.request_seconds - 0.02).abs() < 1e-12 && (estimate.cores - 2.0).abs() < 1e-12, "{estimate:?}");
    }

    #[test]
    fn those_that_wait_are_provided_for_within_a_tick() {
        let mut state = sample::state();
        let tick = &mut state.windows.tick;
        (tick.covered_ms, tick.rate_rps, tick.completed_rps, tick.queued) = (5000, Some(10.0), Some(10.0), Some(50.0));
        tick.cpu_millicores = Some(Usage { mean: 100.0, max: 100.0 });
        assert!((Estimate::of(&state).expect("measured").rate_rps - 20.0).abs() < 1e-12);
    }

    #[test]
    fn nothing_is_said_where_nothing_was_answered_and_no_load_asks_for_nothing() {
        let mut state = sample::state();
        state.windows.tick.rate_rps = Some(10.0);
        assert_eq!(Estimate::of(&state), None);
        state.windows.tick.rate_rps = Some(0.0);
        assert_eq!(Estimate::of(&state).map(|estimate| estimate.cores), Some(0.0));
    }
}
