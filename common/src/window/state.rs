//! The State of a function from its windows and its policy: the one place where measurements become fields of a State.

use super::FunctionWindows;
use crate::contract::{Headroom, State, StateId, Version};
use crate::policy::ScalingPolicy;
use crate::time::Timestamp;

/// The State of `state_id`, computed at `now`. A function that was never read has a State too: everything measured is absent from it.
#[must_use]
pub fn assemble(policy: &ScalingPolicy, state_id: StateId, now: Timestamp, windows: &FunctionWindows, headroom: Option<Headroom>) -> State {
    let mut state = State::unmeasured(policy);
    windows.write_state(&mut state, state_id, now, headroom);
    state
}

impl FunctionWindows {
    /// Writes everything that was measured into `state`, which becomes the State of `state_id`, computed at `now`; what
    /// the policy says of the function stays. Allocates nothing.
    pub fn write_state(&self, state: &mut State, state_id: StateId, now: Timestamp, measured_headroom: Option<Headroom>) {
        // A new field of a State fails to compile here until it is measured, or listed with those that the policy gives.
        let State {
            version: _,
            namespace: _,
            function: _,
            epoch,
            tick,
            tick_length_ms,
            observed_at_ms,
            agent: _,
            allocation,
            replicas,
            age,
            windows,
            changes,
            startup_ms,
            headroom,
            objective,
            bounds: _,
            prices: _,
        } = state;
        (*epoch, *tick, *observed_at_ms) = (state_id.epoch, state_id.tick, now);
        *tick_length_ms = self.tick_length().millis();
        *allocation = self.allocation();
        *replicas = self.replicas(now);
        *age = self.ages(now);
        *windows = self.measured(objective.percentile);
        *changes = self.changes();
        *startup_ms = self.startup_ms();
        *headroom = measured_headroom;
    }
}

impl State {
    /// A State of which only what `policy` says of the function is known.
    #[must_use]
    pub fn unmeasured(policy: &ScalingPolicy) -> Self {
        Self {
            version: Version::CURRENT,
            namespace: policy.namespace.clone(),
            function: policy.name.clone(),
            epoch: Default::default(),
            tick: Default::default(),
            tick_length_ms: policy.tick.millis(),
            observed_at_ms: Timestamp(0),
            agent: policy.agent.clone(),
            allocation: None,
            replicas: None,
            age: Default::default(),
            windows: Default::default(),
            changes: Default::default(),
            startup_ms: None,
            headroom: None,
            objective: policy.objective.wire(),
            bounds: policy.bounds,
            prices: policy.prices.clone(),
        }
    }
}
