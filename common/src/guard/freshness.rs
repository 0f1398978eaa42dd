//! Freshness of measurements. Owns the definition of stale, and the floor of memory; must not know the requested allocation.

use std::time::Duration;

use crate::contract::{State, Usage};
use crate::time::{Span, Timestamp, millis};
use crate::units::{Allocation, Mebibytes};

/// Measurements older than this many times the maximum age for scaling down count as unknown: with the default of three
/// ticks, after 30 ticks.
const UNKNOWN_FACTOR: u32 = 10;

/// Freshness of the measurements of a function.
pub(super) enum Freshness {
    /// All measurements are recent.
    Fresh,
    /// A measurement is too old for a decrease; with the reason.
    Stale(String),
    /// Nothing recent is known; with the reason.
    Unknown(String),
}

/// Freshness of `state` at `now`.
pub(super) fn freshness(state: Option<&State>, max_age: Duration, current: Allocation, now: Timestamp) -> Freshness {
    let Some(state) = state else { return Freshness::Unknown("no State was received yet".into()) };
    // Without replicas there is no CPU or memory to measure, so the age of those samples is irrelevant.
    let running = current.replicas.0 > 0;
    let load = [state.age.requests_ms, state.age.cpu_ms.filter(|_| running), state.age.memory_ms.filter(|_| running)];
    let Some(newest) = load.into_iter().flatten().min() else { return Freshness::Unknown("nothing was measured yet".into()) };
    let oldest = load.into_iter().chain([state.age.replicas_ms]).flatten().max().unwrap_or(newest);
    let delay = millis(now.since(state.observed_at_ms));
    let (newest, oldest) = (Duration::from_millis(newest.saturating_add(delay)), Duration::from_millis(oldest.saturating_add(delay)));
    let unknown_after = max_age.saturating_mul(UNKNOWN_FACTOR);
    if newest > unknown_after {
        Freshness::Unknown(format!("the newest measurement is {} old, at most {} is acted on", Span(newest), Span(unknown_after)))
    } else if oldest > max_age {
        Freshness::Stale(format!("a measurement is {} old, scaling down needs {}", Span(oldest), Span(max_age)))
    } else {
        Freshness::Fresh
    }
}

/// Floor of memory per replica, and its reason; `None` if memory must not be lowered at all.
pub(super) fn memory_floor(state: Option<&State>, margin: f64) -> (Option<Mebibytes>, String) {
    let Some(state) = state else { return (None, "the working set is not known".into()) };
    let windows = [&state.windows.tick, &state.windows.short, &state.windows.long];
    if let Some(kills) = windows.iter().map(|window| window.oom_kills).max().filter(|kills| *kills > 0) {
        return (None, format!("{kills} OOM kills in the long window"));
    }
    let largest = windows.iter().filter_map(|window| window.memory_mib).map(|Usage { max, .. }| max).max_by(f64::total_cmp);
    match largest {
        None => (None, "the working set is not known".into()),
        // The conversion saturates: an excessive working set allows no decrease.
        Some(largest) => {
            (Some(Mebibytes((largest * margin).ceil() as u32)), format!("the largest working set was {largest:.0}Mi, kept {margin} times"))
        }
    }
}
