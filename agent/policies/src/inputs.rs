//! Inputs of rules as their originals would see them. Owns control intervals, metric pipelines with lag, and the step
//! from a proposal to a decision; must not decide.

use std::time::Duration;

use qscale_common::contract::{ReplicaCounts, State, Window};
use qscale_common::time::{Span, Timestamp, millis};
use qscale_common::units::Allocation;

use crate::{Decision, HoldReason};

/// Begin of the tick of `state`; it jitters less than the time of observation.
pub(crate) fn instant(state: &State) -> Timestamp {
    Timestamp(state.tick.0.saturating_mul(state.tick_length_ms))
}

/// Length of the tick that `state` closes.
pub(crate) fn tick_length(state: &State) -> Duration {
    Duration::from_millis(state.tick_length_ms)
}

/// A valid measurement: finite, not negative, at most 1e15.
#[must_use]
pub fn measured(value: Option<f64>) -> Option<f64> {
    value.filter(|value| value.is_finite() && *value >= 0.0).map(|value| value.min(MAX_VALUE))
}

/// Far above any real measurement, and low enough that sums over a memory stay finite.
pub(crate) const MAX_VALUE: f64 = 1e15;

/// Counts of replicas; without counts from the platform all replicas of the allocation are ready and reporting.
pub(crate) fn counts(state: &State) -> Option<ReplicaCounts> {
    state.replicas.or_else(|| {
        let all = state.allocation?.replicas;
        Some(ReplicaCounts::all(all))
    })
}

/// Ready replicas that `window` describes: at most those that were scraped in it, since others may have become ready later.
#[must_use]
pub fn ready_in(state: &State, window: &Window) -> Option<f64> {
    let ready = f64::from(counts(state)?.ready.0);
    Some(measured(window.replicas).map_or(ready, |read| read.min(ready)))
}

/// Share of failures above which the CPU time of a request is unknown, since failed requests may have computed or not.
const MAX_FAILED_SHARE: f64 = 0.1;

/// Rate of answered requests in `window`, including failures, requests/s; `None` if not measured or if more than 10 %
/// failed, so that it must not be related to CPU time.
#[must_use]
pub fn answered_rps(window: &Window) -> Option<f64> {
    let failed = measured(window.failed_share).unwrap_or(0.0);
    measured(window.completed_rps).filter(|_| failed <= MAX_FAILED_SHARE).map(|completed| completed / (1.0 - failed))
}

/// Concurrency: requests in flight and queued of the whole function, mean over the tick.
pub(crate) fn in_flight(state: &State) -> Option<f64> {
    let window = &state.windows.tick;
    let ready = ready_in(state, window)?;
    match (measured(window.concurrency), measured(window.queued)) {
        (None, None) => None,
        (None, Some(_)) if ready > 0.0 => None,
        (concurrency, queued) => Some((concurrency.unwrap_or(0.0) * ready + queued.unwrap_or(0.0)).min(MAX_VALUE)),
    }
}

/// A rule's own control interval. If States come less often, each is a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Cadence {
    last: Option<Timestamp>,
}

impl Cadence {
    /// Whether a new tick of `period` has begun since the last one. Restarts if the clock was set back.
    pub(crate) fn due(&mut self, now: Timestamp, period: Span) -> bool {
        let period = millis(period.0).max(1);
        match self.last.filter(|last| *last <= now).map(|last| (last, (now.0 - last.0) / period)) {
            Some((_, 0)) => return false,
            // Ticks stay a period apart, so that States between them do not slow the rule down.
            Some((last, passed)) => self.last = Some(Timestamp(last.0 + passed * period)),
            None => self.last = Some(now),
        }
        true
    }

    /// Holds until the next own tick.
    pub(crate) fn hold(period: Span) -> Decision {
        Decision::hold(HoldReason::NotDue, format!("the rule decides every {period}"))
    }
}

/// A metric as a pipeline publishes it: the mean of a span, available when the span has ended.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Meter {
    since: Option<Timestamp>,
    sum: f64,
    weight_ms: u64,
    latest: Option<PublishedValue>,
}

/// A published value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct PublishedValue {
    /// End of the span.
    pub(crate) at: Timestamp,
    /// Mean of the span.
    pub(crate) mean: f64,
}

impl Meter {
    /// Adds the measurement of a tick that ends `now`. A span without any measurement publishes nothing.
    pub(crate) fn add(&mut self, now: Timestamp, tick: Duration, value: Option<f64>, span: Span) {
        let begun = self.since.filter(|since| *since <= now).unwrap_or(now.minus(tick));
        self.since = Some(begun);
        if let Some(value) = measured(value) {
            self.sum += value * millis(tick) as f64;
            self.weight_ms = self.weight_ms.saturating_add(millis(tick));
        }
        if now.since(begun) >= span.0 {
            self.latest = (self.weight_ms > 0).then(|| PublishedValue { at: now, mean: self.sum / self.weight_ms as f64 });
            (self.since, self.sum, self.weight_ms) = (Some(now), 0.0, 0);
        }
    }

    /// The newest reading, if it is at most four spans old.
    pub(crate) fn read(&self, now: Timestamp, span: Span) -> Option<PublishedValue> {
        self.latest.filter(|reading| now.since(reading.at) <= span.0 * 4)
    }
}

/// The decision for wanting `wanted` with the allocation `current`.
pub(crate) fn propose(state: &State, current: Allocation, wanted: Allocation, reason: String) -> Decision {
    let allocation = state.bounds.clamp(wanted);
    if allocation != current {
        Decision::Want { allocation, reason, choices: Vec::new() }
    } else if allocation == wanted {
        Decision::hold(HoldReason::NothingToDo, reason)
    } else {
        Decision::hold(HoldReason::NotAllowed, reason)
    }
}

/// Refuses a value outside `least` to `most`, and NaN.
pub(crate) fn check_range(field: &str, value: f64, least: f64, most: f64) -> Result<(), String> {
    if (least..=most).contains(&value) { Ok(()) } else { Err(format!("{field} = {value}, must be from {least} to {most}")) }
}

/// Refuses a span outside `least` to `most`.
pub(crate) fn check_span(field: &str, value: Span, least: Span, most: Span) -> Result<(), String> {
    if (least..=most).contains(&value) { Ok(()) } else { Err(format!("{field} = {value}, must be {least} to {most}")) }
}
