//! What is known of a function at a State: the State, what its history tells, and what both ask for. Owns the estimates that observations and actions are told
//! in; must not decide.
//!
//! Utilisation law: cores asked for = requests a second x CPU seconds of one request. It holds however loaded the function is, since CPU used and
//! requests answered fall short together (Ursa and Autothrottle build on the same; `learning.md` names both). Where replicas take only so many requests at
//! once, Little's law says the rest: replicas asked for = requests present / requests that one replica takes.

use qscale_common::contract::State;
use qscale_common::units::{Allocation, Mebibytes, Replicas};
use qscale_policies::history::{Heights, Told};
use qscale_policies::{History, ready_in};

use crate::worth::UNIT_S;

/// Time to become ready of a replica where none was seen to start.
const USUAL_STARTUP_S: f64 = 1.0;
/// A slope that is so many times its error is no chance.
const SIGNIFICANT: f64 = 2.5;
/// A trend is followed at most to so many times what there is.
const MOST_GROWTH: f64 = 3.0;
/// Shortest time within which those that wait are provided for, seconds.
const DRAIN_S: f64 = 2.0;
/// Far above what any function does, and low enough that products stay finite.
const MOST: f64 = 1e9;

/// What a multiple is taken of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// What comes until a change would take effect, by level and trend, and those that wait.
    Next,
    /// The highest tick of the last five minutes.
    Minutes,
    /// The highest tick of the last quarter of an hour.
    Quarter,
    /// The highest tick of the last hour.
    Hour,
    /// The highest tick of the last four hours.
    Hours,
    /// What nine in ten minutes of the last hour did not exceed.
    Usual,
    /// What 97 in a hundred minutes of the last four hours did not exceed.
    Rare,
    /// What the season foretells, where there is one, and at least what comes next.
    Season,
}

impl Basis {
    /// Every one of them, in a fixed order.
    pub const ALL: [Self; 8] = [Self::Next, Self::Minutes, Self::Quarter, Self::Hour, Self::Hours, Self::Usual, Self::Rare, Self::Season];
}

/// What a load asks for.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Need {
    /// Cores that it keeps busy.
    pub cores: f64,
    /// Replicas that it keeps full, a fraction; 0 where no replica was seen to be full.
    pub full: f64,
}

/// What is known of a function at a State.
#[derive(Debug, Clone)]
pub struct Sight<'a> {
    /// The State.
    pub state: &'a State,
    /// What its history tells.
    pub told: Told,
    /// Requests a second that come until a change would take effect.
    pub next_rps: Option<f64>,
    /// Requests at the function at once.
    pub presence: Option<f64>,
    /// Length of a tick, seconds.
    pub tick_s: f64,
    /// What a violated tick may cost to avoid, in units of five seconds of the usual cost ([`crate::policy::Caution`]).
    pub caution: f64,
}

impl<'a> Sight<'a> {
    /// Takes `state` into `history` and says what is known then, for whoever heeds so much `caution`.
    pub fn take(state: &'a State, history: &mut History, caution: f64) -> Self {
        history.see(state);
        Self::new(state, history.told(), caution)
    }

    /// What is known of `state` with what its history tells.
    #[must_use]
    pub fn new(state: &'a State, told: Told, caution: f64) -> Self {
        let tick_s = (state.tick_length_ms as f64 / 1000.0).max(0.1);
        let mut sight = Self { state, told, next_rps: None, presence: presence(state), tick_s, caution };
        sight.next_rps = sight.next();
        sight
    }

    /// Time until a replica that is wanted now is ready, seconds.
    #[must_use]
    pub fn startup_s(&self) -> f64 {
        self.state.startup_ms.map_or(USUAL_STARTUP_S, |ms| ms as f64 / 1000.0).min(600.0)
    }

    /// How old the newest arrivals are, seconds.
    #[must_use]
    pub fn age_s(&self) -> f64 {
        self.state.age.requests_ms.map_or(0.0, |ms| ms as f64 / 1000.0).min(600.0)
    }

    fn next(&self) -> Option<f64> {
        let windows = &self.state.windows;
        let newest = measured(windows.tick.rate_rps).or_else(|| measured(windows.short.rate_rps));
        let trend = self.told.rate;
        let level = if newest.is_some() { trend.level.max(0.0) } else { return None };
        let mut comes = level;
        if trend.significance.abs() >= SIGNIFICANT {
            // The level is that of the middle of its span.
            let at = |ahead: f64| level + trend.slope_a_second * (trend.span_s / 2.0 + ahead);
            let (now, then) = (self.age_s(), self.age_s() + self.startup_s() + self.tick_s);
            comes = at(now).max(at(then)).clamp(level / MOST_GROWTH, level * MOST_GROWTH + 0.1);
        }
        Some((comes + self.waiting_rps(level)).min(MOST))
    }

    /// Those that are there and cannot be served within half of the objective, to be served within a tick.
    fn waiting_rps(&self, level: f64) -> f64 {
        let objective_s = self.state.objective.latency_ms as f64 / 1000.0;
        let in_time = level * objective_s / 2.0 + 1.0;
        let late = (self.presence.unwrap_or(0.0) - in_time).max(0.0);
        late / self.tick_s.max(DRAIN_S)
    }

    /// What is asked for by `basis`; `None` where arrivals, or what they compute, are not known.
    #[must_use]
    pub fn need(&self, basis: Basis) -> Option<Need> {
        let next = self.next_rps?;
        let (rates, presences) = (&self.told.rate_heights, &self.told.presence_heights);
        let of = |height: fn(&Heights) -> f64| (height(rates), height(presences));
        let (rate, presence) = match basis {
            Basis::Next => (next, self.told.presence.level),
            Basis::Minutes => of(|heights| heights.peak_5),
            Basis::Quarter => of(|heights| heights.peak_15),
            Basis::Hour => of(|heights| heights.peak_60),
            Basis::Hours => of(|heights| heights.peak_240),
            Basis::Usual => of(|heights| heights.high_60),
            Basis::Rare => of(|heights| heights.high_240),
            Basis::Season => (self.told.foretold?.max(next), self.told.presence.level),
        };
        if rate == 0.0 && presence == 0.0 {
            return Some(Need::default());
        }
        let cores = (rate * self.told.request_seconds?).min(MOST);
        Some(Need { cores, full: self.told.limit.map_or(0.0, |limit| presence / limit.max(0.01)).min(MOST) })
    }

    /// Cores that one replica can use as far as is known: one, or half as many again as one was seen to use.
    #[must_use]
    pub fn useful_cores(&self) -> f64 {
        let used = measured(self.state.windows.long.cpu_millicores.map(|usage| usage.max)).unwrap_or(0.0) / 1000.0;
        (used * 1.5).max(1.0)
    }

    /// How many times what it costs a replica is worth that is ready while no request is there: what a violation costs, by the chance that a request comes within
    /// the next minutes, over what a replica costs in that time. Above 1 it pays to keep one, and to have one again before it is asked for.
    #[must_use]
    pub fn warm_worth(&self) -> f64 {
        let (told, slot_s) = (&self.told, self.tick_s.max(60.0));
        let chance = told.wake_chance.max(told.next_wake_chance);
        let bounds = &self.state.bounds;
        let held = self.state.allocation.unwrap_or(bounds.largest());
        let one = bounds.clamp(Allocation { replicas: Replicas(1), ..held });
        let cost = self.state.prices.per_hour(Allocation { replicas: Replicas(1), ..one }) * slot_s;
        (self.caution * UNIT_S * chance * self.usual_price() / cost.max(1e-12)).min(MOST)
    }

    /// What the smallest allocation costs an hour that carries the usual load at full use: what costs are held against.
    #[must_use]
    pub fn usual_price(&self) -> f64 {
        let State { bounds, prices, .. } = self.state;
        let mean = if self.told.seen_240 > 0 { self.told.rate_heights.mean_240 } else { self.told.rate.level };
        let cores = mean * self.told.request_seconds.unwrap_or(0.0);
        let used = measured(self.state.windows.long.memory_mib.map(|usage| usage.max)).unwrap_or(0.0);
        let memory_mib = bounds.memory_mib.clamp(Mebibytes((used * 1.2) as u32));
        let least = Allocation { memory_mib, cpu_millicores: bounds.cpu_millicores.min(), replicas: Replicas(1) };
        let floor = prices.per_hour(least);
        (cores * prices.cpu_core_hour.get()).min(prices.per_hour(bounds.largest())).max(floor).max(1e-9)
    }
}

/// A number that was measured; one that is not finite was not.
#[must_use]
pub fn measured(value: Option<f64>) -> Option<f64> {
    value.filter(|value| value.is_finite() && *value >= 0.0).map(|value| value.min(MOST))
}

/// Requests in flight and queued of the whole function.
fn presence(state: &State) -> Option<f64> {
    let window = &state.windows.tick;
    let in_flight = measured(window.concurrency).zip(ready_in(state, window)).map(|(each, ready)| each * ready);
    let queued = measured(window.queued);
    (in_flight.is_some() || queued.is_some()).then(|| (in_flight.unwrap_or(0.0) + queued.unwrap_or(0.0)).min(MOST))
}

#[cfg(test)]
mod tests {
    use qscale_common::contract::Usage;

    use super::*;
    use crate::sample;

    fn sight(state: &State) -> Sight<'_> {
        Sight::take(state, &mut History::default(), 200.0)
    }

    #[test]
    fn cores_are_rate_times_cpu_time_of_a_request() {
        let mut state = sample::state();
        let tick = &mut state.windows.tick;
        (tick.covered_ms, tick.rate_rps, tick.completed_rps) = (5000, Some(100.0), Some(50.0));
        tick.cpu_millicores = Some(Usage { mean: 500.0, max: 500.0 });
        let sight = sight(&state);
        // Two replicas use one core for 50 answers a second: 20 ms each, and twice as many arrive.
        let need = sight.need(Basis::Next).expect("all is measured");
        assert!((sight.told.request_seconds.expect("told") - 0.02).abs() < 1e-9 && (need.cores - 2.0).abs() < 1e-5, "{need:?}");
        assert!((sight.need(Basis::Hour).expect("seen").cores - 2.0).abs() < 2e-3);
    }

    #[test]
    fn those_that_wait_are_provided_for_within_a_tick() {
        let mut state = sample::state();
        let tick = &mut state.windows.tick;
        (tick.covered_ms, tick.rate_rps, tick.completed_rps, tick.queued) = (5000, Some(10.0), Some(10.0), Some(53.5));
        tick.cpu_millicores = Some(Usage { mean: 100.0, max: 100.0 });
        // Of 53.5 the 3.5 are served in time; 50 more within 5 s.
        assert!((sight(&state).next_rps.expect("measured") - 20.0).abs() < 1e-6);
    }

    #[test]
    fn a_full_replica_says_how_many_are_asked_for() {
        let mut state = sample::busy(0.5);
        state.windows.tick.queued = Some(4.0);
        state.windows.tick.concurrency = Some(2.0);
        // Two replicas take two requests each, and four more wait, nobody knows for how long.
        assert_eq!(sight(&state).need(Basis::Next).map(|need| need.full), Some(4.0));
        (state.windows.short.concurrency, state.windows.short.completed_rps) = (Some(2.0), Some(8.0));
        // Requests last half a second, so that half a one more at once does the four within five seconds.
        let full = sight(&state).need(Basis::Next).expect("told").full;
        assert!((full - 2.2).abs() < 1e-3, "{full}");
        state.windows.tick.queued = Some(0.0);
        assert_eq!(sight(&state).need(Basis::Next).map(|need| need.full), Some(0.0), "nobody waits, so nothing is known to be full");
    }

    #[test]
    fn a_rise_that_is_no_chance_is_followed_until_a_start_would_be_ready() {
        let mut history = History::default();
        let mut state = sample::busy(1.0);
        for tick in 0..40 {
            state.tick = qscale_common::time::Tick(100 + tick);
            state.windows.tick.rate_rps = Some(100.0 + 10.0 * tick as f64);
            history.see(&state);
        }
        (state.age.requests_ms, state.startup_ms) = (Some(10_000), Some(5_000));
        let sight = Sight::new(&state, history.told(), 200.0);
        // 2 a second more each second: 20 s ahead of the end of the last tick.
        assert!((sight.next_rps.expect("measured") - 530.0).abs() < 15.0, "{sight:?}");
    }

    #[test]
    fn nothing_is_said_where_nothing_was_answered_and_no_load_asks_for_nothing() {
        let mut state = sample::state();
        state.windows.tick.rate_rps = Some(10.0);
        assert_eq!(sight(&state).need(Basis::Next), None);
        state.windows.tick.rate_rps = Some(0.0);
        assert_eq!(sight(&state).need(Basis::Next), Some(Need::default()));
        let mut history = History::default();
        Sight::take(&sample::busy(1.0), &mut history, 200.0);
        let mut later = sample::state();
        (later.tick, later.windows.tick.rate_rps) = (qscale_common::time::Tick(2), Some(50.0));
        let need = Sight::take(&later, &mut history, 200.0).need(Basis::Next).expect("what a request computes was told before");
        assert!((need.cores - 0.5).abs() < 0.3, "{need:?}");
    }
}
