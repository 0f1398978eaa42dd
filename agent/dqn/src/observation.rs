//! Observation: what the network sees of a State. Owns which features there are, their order and their scale; must not decide.
//!
//! Every feature lies within [-1, 1] whatever the State holds. A measurement that was not taken becomes its feature's neutral value, and five features at
//! the end say which kinds of measurement there were. Features are ratios to the function's own bounds, objective and tick, so that what is learned of one
//! function holds for another. Time of day is left out: every simulated world begins at midnight, so that it would only tell how long a run has lasted.

use qscale_common::contract::{Direction, State, Window};

use crate::estimate::{Estimate, measured};

/// Changes with the features, their order or their scale: a network reads only the observation that it was trained on.
pub const VERSION: u32 = 1;

/// One number that the network sees.
pub struct Feature {
    /// What it is called in checkpoints and decision records.
    pub name: &'static str,
    /// What it is where the measurement was not taken.
    pub neutral: f64,
    of: fn(&Sight<'_>) -> Option<f64>,
}

/// A State with what is told from it more than once.
struct Sight<'a> {
    state: &'a State,
    estimate: Option<Estimate>,
    tick_ms: f64,
}

const fn feature(name: &'static str, neutral: f64, of: fn(&Sight<'_>) -> Option<f64>) -> Feature {
    Feature { name, neutral, of }
}

/// Every feature, in the order in which the network sees them.
pub static FEATURES: [Feature; COUNT] = [
    // What arrives: its size, and how it changes.
    feature("rate_tick", 0.0, |s| Some(log(measured(s.state.windows.tick.rate_rps)?, 1e5))),
    feature("rate_short", 0.0, |s| Some(log(measured(s.state.windows.short.rate_rps)?, 1e5))),
    feature("rate_long", 0.0, |s| Some(log(measured(s.state.windows.long.rate_rps)?, 1e5))),
    feature("rate_tick_over_short", 0.0, |s| growth(&s.state.windows.tick, &s.state.windows.short)),
    feature("rate_short_over_long", 0.0, |s| growth(&s.state.windows.short, &s.state.windows.long)),
    feature("rate_slope_short", 0.0, |s| slope(&s.state.windows.short, 12.0)),
    feature("rate_slope_long", 0.0, |s| slope(&s.state.windows.long, 60.0)),
    feature("rate_variation_short", 0.0, |s| Some(saturating(measured(s.state.windows.short.rate_variation)?))),
    feature("rate_variation_long", 0.0, |s| Some(saturating(measured(s.state.windows.long.rate_variation)?))),
    // What waits, and how it is served.
    feature("in_flight_a_replica", 0.0, |s| Some(log(measured(s.state.windows.tick.concurrency)?, 1e3))),
    feature("queued_a_replica", 0.0, |s| Some(log(measured(s.state.windows.tick.queued)? / ready(s.state).max(1.0), 1e3))),
    feature("objective_over_latency", 1.0, |s| in_time(s, &s.state.windows.tick)),
    feature("objective_over_latency_short", 1.0, |s| in_time(s, &s.state.windows.short)),
    feature("median_over_objective", 0.0, |s| {
        Some(saturating(measured(s.state.windows.tick.latency.map(|l| l.p50_ms))? / objective_ms(s)))
    }),
    feature("tail_over_median", 0.0, |s| {
        let latency = s.state.windows.short.latency?;
        Some(log(measured(Some(latency.p99_ms))? / measured(Some(latency.p50_ms))?.max(0.01), 1e3))
    }),
    feature("failed_share", 0.0, |s| measured(s.state.windows.tick.failed_share)),
    feature("failed_share_short", 0.0, |s| measured(s.state.windows.short.failed_share)),
    // What the replicas use of what they have.
    feature("cpu_mean_over_limit", 0.0, |s| Some(cpu_over_limit(s, s.state.windows.tick.cpu_millicores?.mean)?.min(2.0) / 2.0)),
    feature("cpu_max_over_limit", 0.0, |s| Some(cpu_over_limit(s, s.state.windows.tick.cpu_millicores?.max)?.min(2.0) / 2.0)),
    feature("cpu_mean_over_limit_short", 0.0, |s| Some(cpu_over_limit(s, s.state.windows.short.cpu_millicores?.mean)?.min(2.0) / 2.0)),
    feature("throttled_share", 0.0, |s| measured(s.state.windows.tick.throttled_share)),
    feature("throttled_share_short", 0.0, |s| measured(s.state.windows.short.throttled_share)),
    feature("memory_max_over_limit", 0.0, |s| {
        Some(measured(Some(s.state.windows.tick.memory_mib?.max))? / limit(s.state.allocation?.memory_mib.0))
    }),
    feature("crashes_short", 0.0, |s| {
        Some(saturating(f64::from(s.state.windows.short.restarts) + f64::from(s.state.windows.short.oom_kills)))
    }),
    // What there is.
    feature("replicas_ready", 0.0, |s| Some(f64::from(s.state.replicas?.ready.0) / most_replicas(s.state))),
    feature("replicas_pending", 0.0, |s| Some(f64::from(s.state.replicas?.pending.0) / most_replicas(s.state))),
    feature("replicas_desired", 0.0, |s| Some(f64::from(s.state.allocation?.replicas.0) / most_replicas(s.state))),
    feature("replicas_desired_log", 0.0, |s| Some(log(f64::from(s.state.allocation?.replicas.0), 1e3))),
    feature("cpu_limit", 0.0, |s| Some(f64::from(s.state.allocation?.cpu_millicores.0) / limit(s.state.bounds.cpu_millicores.max().0))),
    feature("cpu_limit_log", 0.0, |s| Some(log(f64::from(s.state.allocation?.cpu_millicores.0) / 100.0, 1e3))),
    feature("memory_limit", 0.0, |s| Some(f64::from(s.state.allocation?.memory_mib.0) / limit(s.state.bounds.memory_mib.max().0))),
    feature("cost_share", 0.0, |s| cost_share(s.state)),
    // What the estimate says of it.
    feature("demand_over_allocated", 0.0, |s| Some(saturating(s.estimate?.cores / allocated_cores(s.state)?))),
    feature("demand_over_ready", 0.0, |s| {
        Some(saturating(s.estimate?.cores / (ready(s.state) * s.state.allocation?.cpu_millicores.cores()).max(1e-3)))
    }),
    feature("demand_over_largest", 0.0, |s| Some((s.estimate?.cores / s.state.bounds.largest().total_cores().max(1e-3)).min(1.0))),
    feature("demand_cores_log", 0.0, |s| Some(log(s.estimate?.cores * 10.0, 1e4))),
    feature("cpu_time_over_objective", 0.0, |s| Some(saturating(s.estimate?.request_seconds * 1000.0 / objective_ms(s)))),
    // When it changed, how long a change takes, and how old all this is.
    feature("startup_over_tick", 0.5, |s| Some(saturating(s.state.startup_ms? as f64 / s.tick_ms))),
    feature("since_horizontal_change", 1.0, |s| Some(saturating(f64::from(s.state.changes.horizontal_ticks?) / 12.0))),
    feature("since_vertical_change", 1.0, |s| Some(saturating(f64::from(s.state.changes.vertical_ticks?) / 12.0))),
    feature("last_change_within_a_minute_of_ticks", 0.0, |s| Some(last_change(s.state))),
    feature("age", 1.0, |s| Some(saturating(s.state.age.oldest()?.as_secs_f64() * 1000.0 / s.tick_ms))),
    feature("node_headroom", 1.0, |s| {
        Some((s.state.headroom?.cpu_millicores.cores() / s.state.bounds.largest().total_cores().max(1e-3)).min(1.0))
    }),
    // What is promised and allowed.
    feature("objective_over_tick", 0.0, |s| Some(saturating(objective_ms(s) / s.tick_ms))),
    feature("objective_log", 0.0, |s| Some(log(objective_ms(s), 1e5))),
    feature("least_replicas", 0.0, |s| Some(f64::from(s.state.bounds.replicas.min().0) / most_replicas(s.state))),
    feature("most_replicas_log", 0.0, |s| Some(log(most_replicas(s.state), 1e3))),
    // Which kinds of measurement there were: 1 where there was one.
    feature("saw_arrivals", 0.0, |s| Some(seen(s.state.windows.tick.rate_rps.is_some()))),
    feature("saw_latency", 0.0, |s| Some(seen(s.state.windows.tick.latency.is_some()))),
    feature("saw_cpu", 0.0, |s| Some(seen(s.state.windows.tick.cpu_millicores.is_some()))),
    feature("saw_replicas", 0.0, |s| Some(seen(s.state.replicas.is_some()))),
    feature("saw_demand", 0.0, |s| Some(seen(s.estimate.is_some()))),
];

/// How many features there are.
pub const COUNT: usize = 52;

/// The names of the features, in order.
#[must_use]
pub fn names() -> Vec<String> {
    FEATURES.iter().map(|feature| feature.name.to_owned()).collect()
}

/// Writes what the network sees of `state` into `out`.
///
/// # Panics
/// When `out` has not [`COUNT`] places.
pub fn observe(state: &State, out: &mut [f32]) {
    assert_eq!(out.len(), COUNT, "an observation has {COUNT} features");
    let sight = Sight { state, estimate: Estimate::of(state), tick_ms: (state.tick_length_ms as f64).max(1.0) };
    for (place, feature) in out.iter_mut().zip(&FEATURES) {
        let value = (feature.of)(&sight).filter(|value| value.is_finite()).unwrap_or(feature.neutral);
        *place = value.clamp(-1.0, 1.0) as f32;
    }
}

/// 0 at 0 and 1 at `most`, by orders of magnitude.
fn log(value: f64, most: f64) -> f64 {
    value.ln_1p() / most.ln_1p()
}

/// 0 at 0, a half at 1, near 1 for much.
fn saturating(value: f64) -> f64 {
    let value = value.max(0.0);
    if value.is_finite() { value / (1.0 + value) } else { 1.0 }
}

/// Signed log of how many times as much arrives in `near` as in `far`: 0 where alike, 1 at sixteen times.
fn growth(near: &Window, far: &Window) -> Option<f64> {
    let (near, far) = (measured(near.rate_rps)?, measured(far.rate_rps)?);
    // A tenth of a request a second more on both sides: nothing after nothing is no change.
    Some(((near + 0.1) / (far + 0.1)).ln() / 16f64.ln())
}

/// Signed log of the growth along the slope over the window's ticks, relative to its mean.
fn slope(window: &Window, ticks: f64) -> Option<f64> {
    let slope = window.rate_slope_rps.filter(|slope| slope.is_finite())?;
    let relative = slope * ticks / (measured(window.rate_rps)? + 0.1);
    Some(relative.signum() * log(relative.abs(), 16.0))
}

fn objective_ms(sight: &Sight<'_>) -> f64 {
    (sight.state.objective.latency_ms as f64).max(1.0)
}

fn in_time(sight: &Sight<'_>, window: &Window) -> Option<f64> {
    let latency = measured(window.latency.map(|latency| latency.objective_ms))?;
    Some((objective_ms(sight) / latency.max(0.01)).min(1.0))
}

fn limit(of: u32) -> f64 {
    f64::from(of.max(1))
}

fn cpu_over_limit(sight: &Sight<'_>, millicores: f64) -> Option<f64> {
    Some(measured(Some(millicores))? / limit(sight.state.allocation?.cpu_millicores.0))
}

/// Replicas that take requests; those in force where the platform does not tell.
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

fn allocated_cores(state: &State) -> Option<f64> {
    Some(state.allocation?.total_cores().max(1e-3))
}

fn cost_share(state: &State) -> Option<f64> {
    let largest = state.prices.per_hour(state.bounds.largest());
    (largest > 0.0).then_some(())?;
    Some(state.prices.per_hour(state.allocation?) / largest)
}

/// The last direction, fading as it falls out of what counts as a reversal.
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
