//! What a rule of the real world would see of a State, and when. Owns own ticks, metrics that come late, and what a wish becomes; decides nothing.

use std::time::Duration;

use qscale_common::contract::{ReplicaCounts, State, Window};
use qscale_common::time::{Span, Timestamp, millis};
use qscale_common::units::{Allocation, Replicas};

use crate::{Decision, HoldReason};

/// The instant of `state` by its tick, which jitters less than when it was observed.
pub(crate) fn instant(state: &State) -> Timestamp {
    Timestamp(state.tick.0.saturating_mul(state.tick_length_ms))
}

/// The length of the tick that `state` closes.
pub(crate) fn tick_length(state: &State) -> Duration {
    Duration::from_millis(state.tick_length_ms)
}

/// A number that was measured; one that is not finite was not, and one that no function reaches counts as [`MAX_VALUE`].
pub(crate) fn measured(value: Option<f64>) -> Option<f64> {
    value.filter(|value| value.is_finite() && *value >= 0.0).map(|value| value.min(MAX_VALUE))
}

/// Far above what any function does, and low enough that sums over any memory stay numbers.
pub(crate) const MAX_VALUE: f64 = 1e15;

/// Counts of replicas; where the platform does not tell them, all of those in force take requests and report.
pub(crate) fn counts(state: &State) -> Option<ReplicaCounts> {
    state.replicas.or_else(|| {
        let all = state.allocation?.replicas;
        Some(ReplicaCounts { desired: all, ready: all, pending: Replicas(0), reporting: all })
    })
}

/// Ready replicas that `window` is of: no more than were read in it, which are fewer than there are where some became ready since.
#[must_use]
pub fn ready_in(state: &State, window: &Window) -> Option<f64> {
    let ready = f64::from(counts(state)?.ready.0);
    Some(measured(window.replicas).map_or(ready, |read| read.min(ready)))
}

/// Requests in flight and queued of the whole function, mean over the tick.
pub(crate) fn in_flight(state: &State) -> Option<f64> {
    let window = &state.windows.tick;
    let ready = ready_in(state, window)?;
    match (measured(window.concurrency), measured(window.queued)) {
        (None, None) => None,
        (None, Some(_)) if ready > 0.0 => None,
        (concurrency, queued) => Some((concurrency.unwrap_or(0.0) * ready + queued.unwrap_or(0.0)).min(MAX_VALUE)),
    }
}

/// A rule's own tick. Where States come less often than it, each is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Cadence {
    last: Option<Timestamp>,
}

impl Cadence {
    /// Whether a tick of `period` has begun since this was last so. A clock that was set back begins anew.
    pub(crate) fn due(&mut self, now: Timestamp, period: Span) -> bool {
        let period = millis(period.0).max(1);
        match self.last.filter(|last| *last <= now).map(|last| (last, (now.0 - last.0) / period)) {
            Some((_, 0)) => return false,
            // Ticks stay a period apart, so that States which do not fall on them do not slow the rule down.
            Some((last, passed)) => self.last = Some(Timestamp(last.0 + passed * period)),
            None => self.last = Some(now),
        }
        true
    }

    /// To keep what is in force until the next own tick.
    pub(crate) fn hold(period: Span) -> Decision {
        Decision::hold(HoldReason::NotDue, format!("the rule decides every {period}"))
    }
}

/// A metric as a pipeline gives it: the mean of one span, known when the span has ended.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Meter {
    since: Option<Timestamp>,
    sum: f64,
    weight_ms: u64,
    latest: Option<Reading>,
}

/// A reading of a meter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Reading {
    /// When the span ended.
    pub(crate) at: Timestamp,
    /// Its mean.
    pub(crate) mean: f64,
}

impl Meter {
    /// Takes in what a tick that ends `now` measured. A span without any measurement leaves no reading.
    pub(crate) fn add(&mut self, now: Timestamp, tick: Duration, value: Option<f64>, span: Span) {
        let begun = self.since.filter(|since| *since <= now).unwrap_or(now.minus(tick));
        self.since = Some(begun);
        if let Some(value) = measured(value) {
            self.sum += value * millis(tick) as f64;
            self.weight_ms = self.weight_ms.saturating_add(millis(tick));
        }
        if now.since(begun) >= span.0 {
            self.latest = (self.weight_ms > 0).then(|| Reading { at: now, mean: self.sum / self.weight_ms as f64 });
            (self.since, self.sum, self.weight_ms) = (Some(now), 0.0, 0);
        }
    }

    /// The newest reading that is not older than four spans: a pipeline that is silent for longer has nothing to say.
    pub(crate) fn read(&self, now: Timestamp, span: Span) -> Option<Reading> {
        self.latest.filter(|reading| now.since(reading.at) <= span.0 * 4)
    }
}

/// What wanting `wanted` becomes where `current` is in force.
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

/// Refuses a value that is not a finite number within `least` and `most`.
pub(crate) fn check_range(field: &str, value: f64, least: f64, most: f64) -> Result<(), String> {
    if (least..=most).contains(&value) { Ok(()) } else { Err(format!("{field} = {value}, must be from {least} to {most}")) }
}

/// Refuses a span outside `least` to `most`.
pub(crate) fn check_span(field: &str, value: Span, least: Span, most: Span) -> Result<(), String> {
    if (least..=most).contains(&value) { Ok(()) } else { Err(format!("{field} = {value}, must be {least} to {most}")) }
}
