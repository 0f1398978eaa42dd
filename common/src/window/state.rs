//! The State of a function, put together from its windows and its policy.

use super::Windows;
use crate::contract::{Headroom, Moment, State, Version};
use crate::policy::ScalingPolicy;
use crate::time::Timestamp;

/// The State of `moment`, computed at `now`. A function that was never read has a State too: everything measured is absent from it.
#[must_use]
pub fn assemble(policy: &ScalingPolicy, moment: Moment, now: Timestamp, windows: &Windows, headroom: Option<Headroom>) -> State {
    State {
        version: Version::CURRENT,
        namespace: policy.namespace.clone(),
        function: policy.name.clone(),
        epoch: moment.epoch,
        tick: moment.tick,
        tick_length_ms: windows.tick_length().millis(),
        observed_at_ms: now,
        agent: policy.agent.clone(),
        allocation: windows.allocation(),
        replicas: windows.replicas(now),
        age: windows.ages(now),
        windows: windows.measured(policy.objective.percentile.get()),
        changes: windows.changes(),
        startup_ms: windows.startup_ms(),
        headroom,
        objective: policy.objective.wire(),
        bounds: policy.bounds,
        prices: policy.prices.clone(),
    }
}
