//! Recordings of the functions that a model serves. Owns which functions those are, and since when the model has decided; must not judge.

use std::collections::BTreeMap;

use anyhow::Context as _;
use qscale_common::contract::{Reward, State, StateId};
use qscale_common::name::{FunctionId, Name};
use qscale_common::policy::Mode;
use qscale_common::policy::ViolationCost;
use qscale_common::runtime::bus::Bus;
use qscale_common::runtime::kv;
use qscale_common::runtime::signature::TrustConfig;
use qscale_common::slo;
use qscale_dqn::policy::{DqnParams, default_violation_cost};
use qscale_dqn::registry::DQN;
use qscale_policies::History;
use qscale_replay::recording::{self, Period};
use serde_json::Value;

use crate::promotion::ViolationMinutes;

/// An agent and the parameters of its policy.
pub struct ServedAgent<'a> {
    /// Its name.
    pub agent: &'a Name,
    /// Parameters of its policy.
    pub params: &'a Value,
    parsed: DqnParams,
}

impl<'a> ServedAgent<'a> {
    /// The agent `agent` with `params`.
    ///
    /// # Errors
    /// If the learned policy does not accept `params`.
    pub fn new(agent: &'a Name, params: &'a Value) -> anyhow::Result<Self> {
        let parsed = qscale_policies::read(DQN, params).with_context(|| format!("parameters of agent {agent}"))?;
        Ok(Self { agent, params, parsed })
    }

    /// Violation cost with which it decides on `state`.
    #[must_use]
    pub fn violation_cost(&self, state: &State) -> f64 {
        self.parsed.violation_cost.map_or_else(|| default_violation_cost(state), ViolationCost::get)
    }
}

/// Functions that obey `agent`: their ScalingPolicy is signed as `trust` requires, names it, is active and not paused.
///
/// # Errors
/// If the ScalingPolicies cannot be read.
pub async fn functions_of(bus: &Bus, agent: &Name, trust: &TrustConfig) -> anyhow::Result<Vec<FunctionId>> {
    let policies = kv::policies(bus, trust).await?.into_iter().filter_map(|(function, policy)| {
        policy.inspect_err(|error| tracing::warn!(%function, %error, "ScalingPolicy cannot be read; the function is left out")).ok()
    });
    let active = policies.filter(|policy| policy.agent == *agent && policy.mode == Mode::Active && !policy.paused);
    Ok(active.map(|policy| policy.function()).collect())
}

/// Recording of one function.
pub struct RecordedFunction {
    /// The function.
    pub function: FunctionId,
    /// Its States in order. Those before `period.since` only fill the policy's memory.
    pub states: Vec<State>,
    /// The recorded period.
    pub period: Period,
}

impl RecordedFunction {
    /// Reads the recording of `function` in `period`.
    ///
    /// # Errors
    /// If the stream cannot be read.
    pub async fn read(bus: &Bus, function: &FunctionId, period: Period) -> anyhow::Result<Self> {
        let recorded = recording::states(bus, function, Period { since: period.since.minus(History::REACH), ..period }).await?;
        recorded.faults().for_each(|fault| tracing::warn!(%function, fault, "the recording is incomplete"));
        Ok(Self { function: function.clone(), states: recorded.states, period })
    }

    /// States of the period.
    #[must_use]
    pub fn in_period(&self) -> &[State] {
        let first = self.states.partition_point(|state| state.observed_at_ms < self.period.since);
        &self.states[first..]
    }

    /// Whether arrivals were measured in the period and there were none.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let mut rates = self.in_period().iter().filter_map(|state| state.windows.tick.rate_rps).peekable();
        rates.peek().is_some() && rates.all(|rate| rate == 0.0)
    }

    /// Its Rewards, by the State whose tick they measure.
    ///
    /// # Errors
    /// If the stream cannot be read.
    pub async fn rewards(&self, bus: &Bus) -> anyhow::Result<BTreeMap<StateId, Reward>> {
        let rewards: Vec<Reward> = recording::messages(bus, &self.function, self.period.since).await?;
        let state_id = |reward: &Reward| StateId { epoch: reward.epoch, tick: reward.tick };
        Ok(rewards.into_iter().map(|reward| (state_id(&reward), reward)).collect())
    }

    /// Shortens the period to the time in which the model of `fingerprint` decided, as far as `agent` used it.
    ///
    /// # Errors
    /// If the stream cannot be read.
    pub async fn restrict_to_model(&mut self, bus: &Bus, agent: &Name, fingerprint: &str) -> anyhow::Result<()> {
        let actions = recording::actions(bus, agent, &self.function, self.period.since).await?;
        let others = actions.into_values().filter(|action| action.provenance.fingerprint() != Some(fingerprint));
        let last = others.map(|action| action.decided_at_ms).max();
        self.period.since = last.map_or(self.period.since, |last| last.max(self.period.since));
        Ok(())
    }
}

/// Violations of all `functions` in `period`.
///
/// # Errors
/// If the stream cannot be read.
pub async fn burn(bus: &Bus, functions: &[FunctionId], period: Period) -> anyhow::Result<ViolationMinutes> {
    let mut burn = ViolationMinutes::default();
    for function in functions {
        for state in recording::states(bus, function, period).await?.states {
            burn.add(slo::is_violated_in(&state.windows.tick, &state.objective), state.tick_length_ms);
        }
    }
    Ok(burn)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_are_accepted_by_their_former_names() {
        let (agent, params) = (Name::new("dqn").expect("valid"), json!({"caution": 300}));
        let served = ServedAgent::new(&agent, &params).expect("the agent accepts them, too");
        assert_eq!(served.parsed.violation_cost.map(ViolationCost::get), Some(300.0));
    }
}
