//! Inputs of a decision about one function: the State, a summary of its history, and estimates of its demand and cost.
//! Observations and actions are expressed in these estimates. Must not decide.
//!
//! Utilisation law: demanded cores = arrival rate x CPU seconds per request. It holds at any load, because CPU use and
//! completed requests saturate together; Ursa and Autothrottle use the same relation. Where a replica accepts a limited
//! number of concurrent requests, Little's law adds: demanded replicas = concurrency / that limit.

use qscale_common::contract::State;
use qscale_common::units::{Allocation, Mebibytes, Replicas};
use qscale_policies::history::{HistorySummary, PeakStats, waiting_rps};
use qscale_policies::sizing::EstimatedDemand;
use qscale_policies::{History, ready_in};

use crate::reward::UNIT_S;

/// Startup time of a replica if none was measured, seconds.
const DEFAULT_STARTUP_S: f64 = 1.0;
/// Ratio of a slope to its standard error from which it is significant.
const SIGNIFICANT: f64 = 2.5;
/// Largest factor by which a trend may change the rate.
const MAX_GROWTH: f64 = 3.0;
/// Upper bound of any measurement: far above real values, and low enough that products stay finite.
const MAX_MEASUREMENT: f64 = 1e9;

/// Minutes after which a load may count as steady.
const STEADY_MINUTES: u32 = 10;
/// Relative deviation of a steady rate from its mean, besides the noise of a Poisson process.
const STEADY_DEVIATION: f64 = 0.05;
/// Standard deviations of that noise: an hour has 720 ticks of five seconds, of which the highest lies 3.2 above the mean.
const STEADY_NOISE: f64 = 4.5;
/// Requests that are added to it, because small counts are not normally distributed.
const STEADY_REQUESTS: f64 = 3.0;

/// The load that an action provides for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DemandHorizon {
    /// The load expected until a change takes effect, by level and trend, plus waiting requests.
    Next,
    /// The highest tick of the last five minutes.
    Minutes,
    /// The highest tick of the last quarter of an hour.
    Quarter,
    /// The highest tick of the last hour.
    Hour,
    /// The highest tick of the last four hours.
    Hours,
    /// 90th percentile of the minutes of the last hour.
    Usual,
    /// 97th percentile of the minutes of the last four hours.
    Rare,
    /// The seasonal forecast, and at least `Next`.
    Season,
}

impl DemandHorizon {
    /// All horizons, in a fixed order.
    pub const ALL: [Self; 8] = [Self::Next, Self::Minutes, Self::Quarter, Self::Hour, Self::Hours, Self::Usual, Self::Rare, Self::Season];
}

/// Inputs of a decision at one State.
#[derive(Debug, Clone)]
pub struct FeatureContext<'a> {
    /// The State.
    pub state: &'a State,
    /// Summary of the States before it.
    pub history: HistorySummary,
    /// Expected arrival rate until a change takes effect, requests/s.
    pub next_rps: Option<f64>,
    /// Requests in flight and queued.
    pub concurrency: Option<f64>,
    /// Tick length, seconds.
    pub tick_s: f64,
    /// Cost of a violated tick ([`crate::policy::ViolationCost`]).
    pub violation_cost: f64,
}

impl<'a> FeatureContext<'a> {
    /// Adds `state` to `history` and returns its context.
    pub fn update(state: &'a State, history: &mut History, violation_cost: f64) -> Self {
        history.add(state);
        Self::new(state, history.summary(), violation_cost)
    }

    /// The context of `state`, with the summary of a history that includes it.
    #[must_use]
    pub fn new(state: &'a State, history: HistorySummary, violation_cost: f64) -> Self {
        let tick_s = (state.tick_length_ms as f64 / 1000.0).max(0.1);
        let mut context = Self { state, history, next_rps: None, concurrency: concurrency(state), tick_s, violation_cost };
        context.next_rps = context.next();
        context
    }

    /// Time until a replica requested now is ready, seconds.
    #[must_use]
    pub fn startup_s(&self) -> f64 {
        self.state.startup_ms.map_or(DEFAULT_STARTUP_S, |ms| ms as f64 / 1000.0).min(600.0)
    }

    /// Age of the newest arrival measurement, seconds.
    #[must_use]
    pub fn age_s(&self) -> f64 {
        self.state.age.requests_ms.map_or(0.0, |ms| ms as f64 / 1000.0).min(600.0)
    }

    fn next(&self) -> Option<f64> {
        let windows = &self.state.windows;
        let newest = feature_value(windows.tick.rate_rps).or_else(|| feature_value(windows.short.rate_rps));
        let trend = self.history.rate;
        let level = if newest.is_some() { trend.level.max(0.0) } else { return None };
        let mut rate = level;
        if trend.significance.abs() >= SIGNIFICANT {
            // The level is the mean over its span, so it belongs to the middle of it.
            let at = |ahead: f64| level + trend.slope_a_second * (trend.span_s / 2.0 + ahead);
            let (now, then) = (self.age_s(), self.age_s() + self.startup_s() + self.tick_s);
            rate = at(now).max(at(then)).clamp(level / MAX_GROWTH, level * MAX_GROWTH + 0.1);
        }
        Some((rate + waiting_rps(self.state, self.concurrency.unwrap_or(0.0), level)).min(MAX_MEASUREMENT))
    }

    /// Demand over `horizon`; `None` if arrivals or their CPU time are unknown.
    #[must_use]
    pub fn demand(&self, horizon: DemandHorizon) -> Option<EstimatedDemand> {
        let next = self.next_rps?;
        let (rates, concurrencies) = (&self.history.rate_peaks, &self.history.concurrency_peaks);
        let of = |peak: fn(&PeakStats) -> f64| (peak(rates), peak(concurrencies));
        let (rate, concurrency) = match horizon {
            DemandHorizon::Next => (next, self.history.concurrency.level),
            DemandHorizon::Minutes => of(|peaks| peaks.peak_5),
            DemandHorizon::Quarter => of(|peaks| peaks.peak_15),
            DemandHorizon::Hour => of(|peaks| peaks.peak_60),
            DemandHorizon::Hours => of(|peaks| peaks.peak_240),
            DemandHorizon::Usual => of(|peaks| peaks.high_60),
            DemandHorizon::Rare => of(|peaks| peaks.high_240),
            DemandHorizon::Season => (self.history.seasonal_peak?.max(next), self.history.concurrency.level),
        };
        if rate == 0.0 && concurrency == 0.0 {
            return Some(EstimatedDemand::default());
        }
        let cores = (rate * self.history.request_seconds?).min(MAX_MEASUREMENT);
        Some(EstimatedDemand { cores, full: self.history.limit.map_or(0.0, |limit| concurrency / limit.max(0.01)).min(MAX_MEASUREMENT) })
    }

    /// Whether arrivals look like a Poisson process of constant rate: the highest tick of the last hour, or of the at least ten minutes seen so far, and the
    /// present level are as near to the mean as its noise explains.
    #[must_use]
    pub fn is_steady(&self) -> bool {
        let HistorySummary { rate, rate_peaks: PeakStats { peak_60, mean_60: mean, .. }, seen_240, .. } = self.history;
        let of_poisson = |seconds: f64| STEADY_NOISE * (mean / seconds).sqrt() + STEADY_REQUESTS / seconds;
        let noise = |seconds: f64| mean * STEADY_DEVIATION + of_poisson(seconds.max(0.1));
        seen_240 >= STEADY_MINUTES && mean > 0.0 && peak_60 - mean <= noise(self.tick_s) && mean - rate.level <= noise(rate.span_s)
    }

    /// Expected benefit of keeping one idle replica warm, divided by its cost: probability of a request in the next
    /// minutes x violation cost / cost of a replica in that time. Above 1 it pays to keep or start a replica before a
    /// request arrives.
    #[must_use]
    pub fn keep_warm_ratio(&self) -> f64 {
        let (history, slot_s) = (&self.history, self.tick_s.max(60.0));
        let chance = history.wake_chance.max(history.next_wake_chance);
        let bounds = &self.state.bounds;
        let held = self.state.allocation.unwrap_or(bounds.largest());
        let one = bounds.clamp(Allocation { replicas: Replicas(1), ..held });
        let cost = self.state.prices.per_hour(Allocation { replicas: Replicas(1), ..one }) * slot_s;
        (self.violation_cost * UNIT_S * chance * self.usual_price() / cost.max(1e-12)).min(MAX_MEASUREMENT)
    }

    /// Usual cost: price per hour of the smallest allocation that carries the mean load at full utilisation. Costs are
    /// expressed as multiples of it.
    #[must_use]
    pub fn usual_price(&self) -> f64 {
        let State { bounds, prices, .. } = self.state;
        let mean = if self.history.seen_240 > 0 { self.history.rate_peaks.mean_240 } else { self.history.rate.level };
        let cores = mean * self.history.request_seconds.unwrap_or(0.0);
        let used = feature_value(self.state.windows.long.memory_mib.map(|usage| usage.max)).unwrap_or(0.0);
        let memory_mib = bounds.memory_mib.clamp(Mebibytes((used * 1.2) as u32));
        let least = Allocation { memory_mib, cpu_millicores: bounds.cpu_millicores.min(), replicas: Replicas(1) };
        let floor = prices.per_hour(least);
        (cores * prices.cpu_core_hour.get()).min(prices.per_hour(bounds.largest())).max(floor).max(1e-9)
    }
}

/// A measurement as the features take it: finite, not negative, at most 1e9.
#[must_use]
pub fn feature_value(value: Option<f64>) -> Option<f64> {
    qscale_policies::measured(value).map(|value| value.min(MAX_MEASUREMENT))
}

/// Requests in flight and queued of the whole function. Unlike for the rules, the queue alone counts, too: it is a
/// feature, not the input of a formula.
fn concurrency(state: &State) -> Option<f64> {
    let window = &state.windows.tick;
    let in_flight = feature_value(window.concurrency).zip(ready_in(state, window)).map(|(each, ready)| each * ready);
    let queued = feature_value(window.queued);
    (in_flight.is_some() || queued.is_some()).then(|| (in_flight.unwrap_or(0.0) + queued.unwrap_or(0.0)).min(MAX_MEASUREMENT))
}

#[cfg(test)]
mod tests {
    use qscale_common::contract::Usage;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;
    use rand_distr::{Distribution, Poisson};

    use super::*;
    use crate::fixtures;

    fn context(state: &State) -> FeatureContext<'_> {
        FeatureContext::update(state, &mut History::default(), 200.0)
    }

    #[test]
    fn demanded_cores_are_rate_times_cpu_seconds_per_request() {
        let mut state = fixtures::state();
        let tick = &mut state.windows.tick;
        (tick.covered_ms, tick.rate_rps, tick.completed_rps) = (5000, Some(100.0), Some(50.0));
        tick.cpu_millicores = Some(Usage { mean: 500.0, max: 500.0 });
        let context = context(&state);
        // Two replicas use one core for 50 completions a second: 20 ms each, and twice as many arrive.
        let demand = context.demand(DemandHorizon::Next).expect("all is measured");
        assert!(
            (context.history.request_seconds.expect("measured") - 0.02).abs() < 1e-9 && (demand.cores - 2.0).abs() < 1e-5,
            "{demand:?}"
        );
        assert!((context.demand(DemandHorizon::Hour).expect("seen").cores - 2.0).abs() < 2e-3);
    }

    #[test]
    fn waiting_requests_are_to_be_served_within_a_tick() {
        let mut state = fixtures::state();
        let tick = &mut state.windows.tick;
        (tick.covered_ms, tick.rate_rps, tick.completed_rps, tick.queued) = (5000, Some(10.0), Some(10.0), Some(53.5));
        tick.cpu_millicores = Some(Usage { mean: 100.0, max: 100.0 });
        // Of 53.5 the 3.5 are served in time; 50 more within 5 s.
        assert!((context(&state).next_rps.expect("measured") - 20.0).abs() < 1e-6);
    }

    #[test]
    fn a_full_replica_reveals_the_concurrency_limit() {
        let mut state = fixtures::busy(0.5);
        state.windows.tick.queued = Some(4.0);
        state.windows.tick.concurrency = Some(2.0);
        // Two replicas hold two requests each, and four more wait; their duration is unknown.
        assert_eq!(context(&state).demand(DemandHorizon::Next).map(|demand| demand.full), Some(4.0));
        (state.windows.short.concurrency, state.windows.short.completed_rps) = (Some(2.0), Some(8.0));
        // Requests last half a second, so that 0.4 more in parallel serve the four within five seconds.
        let full = context(&state).demand(DemandHorizon::Next).expect("measured").full;
        assert!((full - 2.2).abs() < 1e-3, "{full}");
        state.windows.tick.queued = Some(0.0);
        assert_eq!(
            context(&state).demand(DemandHorizon::Next).map(|demand| demand.full),
            Some(0.0),
            "nothing is queued, so nothing is known to be full"
        );
    }

    #[test]
    fn a_significant_rise_is_extrapolated_until_a_new_replica_is_ready() {
        let mut history = History::default();
        let mut state = fixtures::busy(1.0);
        for tick in 0..40 {
            state.tick = qscale_common::time::Tick(100 + tick);
            state.windows.tick.rate_rps = Some(100.0 + 10.0 * tick as f64);
            history.add(&state);
        }
        (state.age.requests_ms, state.startup_ms) = (Some(10_000), Some(5_000));
        let context = FeatureContext::new(&state, history.summary(), 200.0);
        // 2 a second more each second: 20 s ahead of the end of the last tick.
        assert!((context.next_rps.expect("measured") - 530.0).abs() < 15.0, "{context:?}");
    }

    #[test]
    fn a_load_is_steady_after_minutes_without_more_than_noise() {
        let mut rng = SmallRng::seed_from_u64(1);
        for (mean, changed, steady) in
            [(0.5, 0.5, true), (20.0, 20.0, true), (800.0, 800.0, true), (20.0, 30.0, false), (800.0, 680.0, false)]
        {
            let (mut history, mut state) = (History::default(), fixtures::busy(1.0));
            let mut is_steady = |tick: u64, rate: f64| {
                let arrived = Poisson::new(rate * 5.0).expect("a rate").sample(&mut rng);
                state.tick = qscale_common::time::Tick(tick);
                state.windows.tick.rate_rps = Some(arrived / 5.0);
                FeatureContext::update(&state, &mut history, 200.0).is_steady()
            };
            let early = (0..100).any(|tick| is_steady(tick, mean));
            assert!(!early, "too early at {mean}");
            let late: Vec<bool> = (100..600).map(|tick| is_steady(tick, mean)).collect();
            assert!(late[30..].iter().all(|steady| *steady), "{mean}");
            let after = (600..612).map(|tick| is_steady(tick, changed)).last();
            assert_eq!(after, Some(steady), "{mean} to {changed}");
        }
    }

    #[test]
    fn demand_is_unknown_without_completions_and_zero_without_load() {
        let mut state = fixtures::state();
        state.windows.tick.rate_rps = Some(10.0);
        assert_eq!(context(&state).demand(DemandHorizon::Next), None);
        state.windows.tick.rate_rps = Some(0.0);
        assert_eq!(context(&state).demand(DemandHorizon::Next), Some(EstimatedDemand::default()));
        let mut history = History::default();
        FeatureContext::update(&fixtures::busy(1.0), &mut history, 200.0);
        let mut later = fixtures::state();
        (later.tick, later.windows.tick.rate_rps) = (qscale_common::time::Tick(2), Some(50.0));
        let demand = FeatureContext::update(&later, &mut history, 200.0).demand(DemandHorizon::Next).expect("known from the State before");
        assert!((demand.cores - 0.5).abs() < 0.3, "{demand:?}");
    }
}
