//! The reward of a tick, by one formula for every agent. Owns the terms; must not know who decides.
//!
//! `r = - w_v V - w_c C - w_s S - w_f F - w_o O`. If a term could not be measured, it and the sum are absent.

use crate::contract::{DecidedBy, Epoch, Reward, Term, Terms, Version, Window};
use crate::policy::ScalingPolicy;
use crate::slo;
use crate::time::{Tick, Timestamp};
use crate::window::ClosedTick;

/// Reward of a tick with its terms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeasuredReward {
    /// Sum of the terms, each times its weight, negated: 0 is best.
    pub value: Option<f64>,
    /// The terms.
    pub terms: Terms,
    /// Share of the ended requests that succeeded, 0 to 1; `None` if none ended.
    pub completion: Option<f64>,
    /// The objective's latency percentile, milliseconds; `None` if no request succeeded.
    pub latency_ms: Option<f64>,
    /// Cost of the allocation per hour.
    pub cost_per_hour: Option<f64>,
}

/// Computes the reward of the tick `closed` from its `window`, with the objective, prices, bounds and weights of `policy`.
#[must_use]
pub fn measure(window: &Window, closed: &ClosedTick, policy: &ScalingPolicy) -> MeasuredReward {
    let weights = &policy.reward;
    let bound_ms = policy.objective.latency.get().as_secs_f64() * 1000.0;
    let cost_per_hour = closed.allocation.map(|allocation| policy.prices.per_hour(allocation));
    let changes_seen = |happened: bool| closed.allocation.map(|_| f64::from(u8::from(happened)));
    let term = |value, weight: crate::policy::Weight| Term { value, weight: weight.get() };
    let terms = Terms {
        violation: term(violation(window, closed, bound_ms), weights.violation),
        cost: term(cost_per_hour.map(|cost| share_of_largest(cost, policy)), weights.cost),
        resize: term(changes_seen(restarted_to_resize(closed)), weights.resize),
        reversal: term(changes_seen(closed.reversed_after.is_some_and(|ticks| ticks <= weights.reversal_ticks.get())), weights.reversal),
        kill: term(closed.kills.map(f64::from), weights.kill),
    };
    MeasuredReward {
        value: total(&terms),
        terms,
        completion: window.failed_share.map(|failed| 1.0 - failed),
        latency_ms: window.latency.map(|latency| latency.objective_ms),
        cost_per_hour,
    }
}

/// The Reward message.
#[must_use]
pub fn message(measured: &MeasuredReward, closed: &ClosedTick, context: RewardContext, policy: &ScalingPolicy) -> Reward {
    Reward {
        version: Version::CURRENT,
        namespace: policy.namespace.clone(),
        function: policy.name.clone(),
        epoch: context.epoch,
        tick: context.tick,
        measured_at_ms: context.at,
        allocation: closed.allocation,
        decided_by: context.decided_by,
        value: measured.value,
        terms: measured.terms,
        completion: measured.completion,
        latency_ms: measured.latency_ms,
        cost_per_hour: measured.cost_per_hour,
    }
}

/// Identity of a Reward: tick, time and decision.
#[derive(Debug, Clone, PartialEq)]
pub struct RewardContext {
    /// Epoch of the collector.
    pub epoch: Epoch,
    /// Tick of the State before the window, so that it is the reward of the decision on that State.
    pub tick: Tick,
    /// Time of the measurement.
    pub at: Timestamp,
    /// Decision behind the allocation.
    pub decided_by: Option<DecidedBy>,
}

/// Severity of the violation, 0 to 1; 0 if no request completed: a waiting request counts in the tick in which it completes or fails.
fn violation(window: &Window, closed: &ClosedTick, bound_ms: f64) -> Option<f64> {
    if !closed.answers_read {
        return None;
    }
    let severity = |failed| slo::severity(failed, window.latency.map(|latency| latency.objective_ms), bound_ms);
    Some(window.failed_share.map_or(0.0, severity))
}

fn share_of_largest(cost: f64, policy: &ScalingPolicy) -> f64 {
    let largest = policy.prices.per_hour(policy.bounds.largest());
    if largest > 0.0 { cost / largest } else { 0.0 }
}

/// Whether processes were restarted in a tick with a resize, in addition to crashes and kills.
fn restarted_to_resize(closed: &ClosedTick) -> bool {
    closed.resized && closed.restarted > closed.kills.unwrap_or(0)
}

fn total(terms: &Terms) -> Option<f64> {
    let mut total = 0.0;
    for (_, term) in terms.all() {
        total -= term.weight * term.value?;
    }
    // Avoids negative zero.
    Some(total + 0.0)
}

#[cfg(test)]
mod tests;
