//! The observation: the features that the network sees of a State. Owns their list, order and scale; must not decide.
//!
//! Every feature lies in [-1, 1] for any State. A missing measurement gives the feature's neutral value, and five
//! features at the end mark which kinds of measurement exist. Features are ratios to the function's own bounds,
//! objective and tick, so that a network generalises over functions. Time of day is left out: every simulated world
//! starts at midnight, so that it would only encode the time since the start of a run.

pub mod quantity;

use qscale_common::contract::{Direction, State, Window};
use qscale_policies::history::PeakStats;

use crate::context::{DemandHorizon, FeatureContext, feature_value};

/// Version of the feature list; a network requires the version that it was trained on. Increase it with any change of
/// features, order or scale.
pub const VERSION: u32 = 2;

/// One number of the observation.
pub struct Feature {
    /// Name in checkpoints and decision records. Models are checked against it, so `caution` stays the name of the violation cost here.
    pub name: &'static str,
    /// Value if the measurement is missing.
    pub neutral: f64,
    compute: fn(&Inputs<'_>) -> Option<f64>,
}

/// Inputs of the features.
struct Inputs<'a> {
    context: &'a FeatureContext<'a>,
    state: &'a State,
    rates: &'a PeakStats,
    /// Expected arrival rate, requests/s.
    next: Option<f64>,
    /// Cores that it demands.
    cores: Option<f64>,
    objective_ms: f64,
    tick_ms: f64,
}

const fn feature(name: &'static str, neutral: f64, compute: fn(&Inputs<'_>) -> Option<f64>) -> Feature {
    Feature { name, neutral, compute }
}

/// Every feature, in the order in which the network sees them.
pub const FEATURES: &[Feature] = &[
    // Arrivals: level and trend.
    feature("rate", 0.0, |s| Some(log(s.context.history.rate.level, 1e5))),
    feature("cores_asked_for", 0.0, |s| Some(log(s.cores? * 10.0, 1e4))),
    feature("cores_asked_for_of_most", 0.0, |s| Some((s.cores? / s.state.bounds.largest().total_cores().max(1e-3)).min(1.0))),
    feature("next_over_rate", 0.0, |s| ratio(s.next?, s.context.history.rate.level)),
    feature("slope_of_a_minute", 0.0, |s| signed(s.context.history.rate.slope_a_second * 60.0 / (s.context.history.rate.level + 0.1))),
    feature("slope_significance", 0.0, |s| signed(s.context.history.rate.significance / 4.0)),
    feature("slope_short", 0.0, |s| slope(&s.state.windows.short, 12.0)),
    feature("slope_long", 0.0, |s| slope(&s.state.windows.long, 60.0)),
    feature("variation_short", 0.0, |s| Some(saturating(feature_value(s.state.windows.short.rate_variation)?))),
    feature("variation_long", 0.0, |s| Some(saturating(feature_value(s.state.windows.long.rate_variation)?))),
    // Past rates relative to the expected one.
    feature("peak_2_over_next", 0.0, |s| ratio(s.rates.peak_2, s.next?)),
    feature("peak_5_over_next", 0.0, |s| ratio(s.rates.peak_5, s.next?)),
    feature("peak_15_over_next", 0.0, |s| ratio(s.rates.peak_15, s.next?)),
    feature("peak_60_over_next", 0.0, |s| ratio(s.rates.peak_60, s.next?)),
    feature("peak_240_over_next", 0.0, |s| ratio(s.rates.peak_240, s.next?)),
    feature("usual_over_next", 0.0, |s| ratio(s.rates.high_60, s.next?)),
    feature("caution_over_hours", 0.0, |s| ratio(s.context.violation_cost / 12.0, f64::from(s.context.history.seen_240.max(1)))),
    feature("usual_240_over_next", 0.0, |s| ratio(s.rates.high_240, s.next?)),
    feature("mean_60_over_next", 0.0, |s| ratio(s.rates.mean_60, s.next?)),
    feature("mean_240_over_next", 0.0, |s| ratio(s.rates.mean_240, s.next?)),
    feature("season_over_next", 0.0, |s| ratio(s.context.history.seasonal_peak?, s.next?)),
    feature("season_trust", 0.0, |s| Some(s.context.history.season_trust)),
    // Sparse arrivals.
    feature("idle_slots", 0.0, |s| Some(log(f64::from(s.context.history.idle_slots), 240.0))),
    feature("wake_chance", 0.5, |s| Some(s.context.history.wake_chance)),
    feature("next_wake_chance", 0.5, |s| Some(s.context.history.next_wake_chance)),
    feature("wake_chance_log", 0.0, |s| Some((s.context.history.wake_chance.max(s.context.history.next_wake_chance) + 1e-4).log10() / 4.0)),
    feature("warm_worth", 0.0, |s| ratio(s.context.keep_warm_ratio(), 1.0)),
    feature("active_share", 0.5, |s| Some(s.context.history.active_60)),
    feature("slots_seen", 0.0, |s| Some(log(f64::from(s.context.history.seen_240), 240.0))),
    // Current allocation relative to demand.
    feature("allocated_over_next", 0.0, |s| ratio(allocated_cores(s)?, s.cores?)),
    feature("ready_over_next", 0.0, |s| ratio(ready(s.state) * useful_size(s)?, s.cores?)),
    feature("allocated_over_usual", 0.0, |s| ratio(allocated_cores(s)?, s.context.demand(DemandHorizon::Usual)?.cores)),
    feature("allocated_over_hour", 0.0, |s| ratio(allocated_cores(s)?, s.context.demand(DemandHorizon::Hour)?.cores)),
    feature("allocated_over_hours", 0.0, |s| ratio(allocated_cores(s)?, s.context.demand(DemandHorizon::Hours)?.cores)),
    feature("replicas_over_full", 0.0, |s| ratio(desired(s.state)?, s.context.demand(DemandHorizon::Next)?.full)),
    feature("replicas_over_full_usual", 0.0, |s| ratio(desired(s.state)?, s.context.demand(DemandHorizon::Usual)?.full)),
    feature("replicas_over_full_hour", 0.0, |s| ratio(desired(s.state)?, s.context.demand(DemandHorizon::Hour)?.full)),
    feature("replicas_over_full_hours", 0.0, |s| ratio(desired(s.state)?, s.context.demand(DemandHorizon::Hours)?.full)),
    feature("knows_full", 0.0, |s| Some(seen(s.context.history.limit.is_some()))),
    feature("price_over_usual", 0.0, |s| ratio(s.state.prices.per_hour(s.state.allocation?), s.context.usual_price())),
    // Concurrency, latency and failures.
    feature("in_flight_a_replica", 0.0, |s| Some(log(feature_value(s.state.windows.tick.concurrency)?, 1e3))),
    feature("queued_a_replica", 0.0, |s| Some(log(feature_value(s.state.windows.tick.queued)? / ready(s.state).max(1.0), 1e3))),
    feature("objective_over_latency", 1.0, |s| in_time(s, &s.state.windows.tick)),
    feature("objective_over_latency_short", 1.0, |s| in_time(s, &s.state.windows.short)),
    feature("objective_over_latency_long", 1.0, |s| in_time(s, &s.state.windows.long)),
    feature("median_over_objective", 0.0, |s| {
        Some(saturating(feature_value(s.state.windows.tick.latency.map(|l| l.p50_ms))? / s.objective_ms))
    }),
    feature("tail_over_median", 0.0, |s| {
        let latency = s.state.windows.short.latency?;
        Some(log(feature_value(Some(latency.p99_ms))? / feature_value(Some(latency.p50_ms))?.max(0.01), 1e3))
    }),
    feature("failed_share", 0.0, |s| feature_value(s.state.windows.tick.failed_share)),
    feature("failed_share_short", 0.0, |s| feature_value(s.state.windows.short.failed_share)),
    // Utilisation.
    feature("cpu_mean_over_limit", 0.0, |s| Some(cpu_over_limit(s, s.state.windows.tick.cpu_millicores?.mean)?.min(2.0) / 2.0)),
    feature("cpu_max_over_limit", 0.0, |s| Some(cpu_over_limit(s, s.state.windows.tick.cpu_millicores?.max)?.min(2.0) / 2.0)),
    feature("cpu_mean_over_limit_short", 0.0, |s| Some(cpu_over_limit(s, s.state.windows.short.cpu_millicores?.mean)?.min(2.0) / 2.0)),
    feature("throttled_share", 0.0, |s| feature_value(s.state.windows.tick.throttled_share)),
    feature("throttled_share_short", 0.0, |s| feature_value(s.state.windows.short.throttled_share)),
    feature("memory_max_over_limit", 0.0, |s| {
        Some(feature_value(Some(s.state.windows.tick.memory_mib?.max))? / limit(s.state.allocation?.memory_mib.0))
    }),
    feature("crashes_short", 0.0, |s| {
        Some(saturating(f64::from(s.state.windows.short.restarts) + f64::from(s.state.windows.short.oom_kills)))
    }),
    // Current allocation.
    feature("replicas_ready", 0.0, |s| Some(f64::from(s.state.replicas?.ready.0) / most_replicas(s.state))),
    feature("replicas_pending", 0.0, |s| Some(f64::from(s.state.replicas?.pending.0) / most_replicas(s.state))),
    feature("replicas_desired", 0.0, |s| Some(desired(s.state)? / most_replicas(s.state))),
    feature("replicas_desired_log", 0.0, |s| Some(log(desired(s.state)?, 1e3))),
    feature("replicas_none", 0.0, |s| Some(seen(s.state.allocation?.replicas.0 == 0))),
    feature("cpu_limit", 0.0, |s| Some(f64::from(s.state.allocation?.cpu_millicores.0) / limit(s.state.bounds.cpu_millicores.max().0))),
    feature("cpu_limit_log", 0.0, |s| Some(log(f64::from(s.state.allocation?.cpu_millicores.0) / 100.0, 1e3))),
    feature("cpu_is_fixed", 0.0, |s| Some(seen(s.state.bounds.cpu_millicores.min() == s.state.bounds.cpu_millicores.max()))),
    feature("own_time_over_objective", 0.0, |s| Some(saturating(s.context.history.request_seconds? * 1000.0 / s.objective_ms))),
    feature("own_time_at_this_size_over_objective", 0.0, |s| {
        Some(saturating(s.context.history.request_seconds? * 1000.0 / useful_size(s)?.clamp(1e-3, 1.0) / s.objective_ms))
    }),
    // Recent changes, startup time and age of the measurements.
    feature("startup_over_tick", 0.5, |s| Some(saturating(s.state.startup_ms? as f64 / s.tick_ms))),
    feature("startup_log", 0.3, |s| Some(log(s.state.startup_ms? as f64 / 1000.0, 100.0))),
    feature("tick_log", 0.0, |s| Some(log(s.context.tick_s, 100.0))),
    feature("since_horizontal_change", 1.0, |s| Some(saturating(f64::from(s.state.changes.horizontal_ticks?) / 12.0))),
    feature("since_vertical_change", 1.0, |s| Some(saturating(f64::from(s.state.changes.vertical_ticks?) / 12.0))),
    feature("last_change_within_a_minute_of_ticks", 0.0, |s| Some(last_change(s.state))),
    feature("age", 1.0, |s| Some(saturating(s.state.age.oldest()?.as_secs_f64() * 1000.0 / s.tick_ms))),
    feature("age_log", 0.0, |s| Some(log(s.context.age_s(), 100.0))),
    feature("node_headroom", 1.0, |s| {
        Some((s.state.headroom?.cpu_millicores.cores() / s.state.bounds.largest().total_cores().max(1e-3)).min(1.0))
    }),
    // Objective and bounds.
    feature("objective_over_tick", 0.0, |s| Some(saturating(s.objective_ms / s.tick_ms))),
    feature("objective_log", 0.0, |s| Some(log(s.objective_ms, 1e5))),
    feature("least_replicas", 0.0, |s| Some(f64::from(s.state.bounds.replicas.min().0) / most_replicas(s.state))),
    feature("most_replicas_log", 0.0, |s| Some(log(most_replicas(s.state), 1e3))),
    feature("caution", 0.0, |s| Some((s.context.violation_cost / MIDDLE_VIOLATION_COST).ln() / 30f64.ln())),
    // Which kinds of measurement exist: 1 if there is one.
    feature("saw_arrivals", 0.0, |s| Some(seen(s.state.windows.tick.rate_rps.is_some()))),
    feature("saw_latency", 0.0, |s| Some(seen(s.state.windows.tick.latency.is_some()))),
    feature("saw_cpu", 0.0, |s| Some(seen(s.state.windows.tick.cpu_millicores.is_some()))),
    feature("saw_replicas", 0.0, |s| Some(seen(s.state.replicas.is_some()))),
    feature("saw_demand", 0.0, |s| Some(seen(s.cores.is_some()))),
];

/// Number of features.
pub const COUNT: usize = FEATURES.len();

/// Index of the feature with the lower bound of replicas.
pub const LEAST_REPLICAS: usize = index_of("least_replicas");

/// Index of the feature called `name`.
const fn index_of(name: &str) -> usize {
    let mut index = 0;
    while !equal(FEATURES[index].name.as_bytes(), name.as_bytes()) {
        index += 1;
    }
    index
}

const fn equal(a: &[u8], b: &[u8]) -> bool {
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}

/// Whether `observation` belongs to a function that always keeps a replica.
#[must_use]
pub fn keeps_one(observation: &[f32]) -> bool {
    observation[LEAST_REPLICAS] > 0.0
}

/// The names of the features, in order.
#[must_use]
pub fn names() -> Vec<String> {
    FEATURES.iter().map(|feature| feature.name.to_owned()).collect()
}

/// Violation cost in the middle of its range, whose feature is 0.
pub const MIDDLE_VIOLATION_COST: f64 = 600.0;

/// Writes the observation of `context` into `out`.
///
/// # Panics
/// When the length of `out` is not [`COUNT`].
pub fn observe(context: &FeatureContext<'_>, out: &mut [f32]) {
    assert_eq!(out.len(), COUNT, "an observation has {COUNT} features");
    let state = context.state;
    let inputs = Inputs {
        context,
        state,
        rates: &context.history.rate_peaks,
        next: context.next_rps,
        cores: context.demand(DemandHorizon::Next).map(|demand| demand.cores),
        objective_ms: (state.objective.latency_ms as f64).max(1.0),
        tick_ms: (state.tick_length_ms as f64).max(1.0),
    };
    for (place, feature) in out.iter_mut().zip(FEATURES) {
        let value = (feature.compute)(&inputs).filter(|value| value.is_finite()).unwrap_or(feature.neutral);
        *place = value.clamp(-1.0, 1.0) as f32;
    }
}

/// Logarithmic scale: 0 at 0 and 1 at `most`.
fn log(value: f64, most: f64) -> f64 {
    value.ln_1p() / most.ln_1p()
}

/// Saturating scale: 0 at 0, 0.5 at 1, approaching 1.
fn saturating(value: f64) -> f64 {
    let value = value.max(0.0);
    if value.is_finite() { value / (1.0 + value) } else { 1.0 }
}

/// Logarithm of the ratio of `one` to `other`: 0 if equal, 1 at 16. A thousandth is added to both, so that 0 and 0 are equal.
fn ratio(one: f64, other: f64) -> Option<f64> {
    Some(((one + 1e-3) / (other + 1e-3)).ln() / 16f64.ln())
}

/// Saturating scale with sign.
fn signed(value: f64) -> Option<f64> {
    value.is_finite().then(|| value.signum() * saturating(value.abs()))
}

/// Signed logarithm of the growth over the window's ticks, relative to its mean.
fn slope(window: &Window, ticks: f64) -> Option<f64> {
    let slope = window.rate_slope_rps.filter(|slope| slope.is_finite())?;
    let relative = slope * ticks / (feature_value(window.rate_rps)? + 0.1);
    Some(relative.signum() * log(relative.abs(), 16.0))
}

fn in_time(inputs: &Inputs<'_>, window: &Window) -> Option<f64> {
    let latency = feature_value(window.latency.map(|latency| latency.objective_ms))?;
    Some((inputs.objective_ms / latency.max(0.01)).min(1.0))
}

fn limit(of: u32) -> f64 {
    f64::from(of.max(1))
}

fn cpu_over_limit(inputs: &Inputs<'_>, millicores: f64) -> Option<f64> {
    Some(feature_value(Some(millicores))? / limit(inputs.state.allocation?.cpu_millicores.0))
}

fn desired(state: &State) -> Option<f64> {
    Some(f64::from(state.allocation?.replicas.0))
}

/// Ready replicas; the requested ones if the platform does not report them.
fn ready(state: &State) -> f64 {
    state
        .replicas
        .map(|counts| counts.ready)
        .or(state.allocation.map(|allocation| allocation.replicas))
        .map_or(0.0, |count| f64::from(count.0))
}

fn most_replicas(state: &State) -> f64 {
    limit(state.bounds.replicas.max().0)
}

/// Cores of one replica that the function can use.
fn useful_size(inputs: &Inputs<'_>) -> Option<f64> {
    Some(inputs.state.allocation?.cpu_millicores.cores().min(qscale_policies::sizing::useful_cores(inputs.state)))
}

fn allocated_cores(inputs: &Inputs<'_>) -> Option<f64> {
    Some(desired(inputs.state)? * useful_size(inputs)?)
}

/// Direction of the last change, decaying over the time in which a change back counts as a reversal.
fn last_change(state: &State) -> f64 {
    let changes = &state.changes;
    let since = [changes.horizontal_ticks, changes.vertical_ticks].into_iter().flatten().min();
    let fresh = since.map_or(0.0, |ticks| 1.0 - saturating(f64::from(ticks) / 12.0));
    match changes.last {
        Some(Direction::Up) => fresh,
        Some(Direction::Down) => -fresh,
        None => 0.0,
    }
}

fn seen(there: bool) -> f64 {
    f64::from(u8::from(there))
}

#[cfg(test)]
mod tests;
