//! A recorded function as both policies are simulated on it. Owns what is read besides States, and the assumptions made; must not simulate.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use qscale_common::contract::{Message as _, Reward, State};
use qscale_common::name::FunctionId;
use qscale_common::policy::{Mode, ScalingPolicy};
use qscale_common::runtime::bus::Bus;
use qscale_common::runtime::kv;
use qscale_common::runtime::platform::PlatformClient;
use qscale_common::runtime::signature::TrustConfig;
use qscale_policies::{History, Policy};
use qscale_sim::{FunctionProfile, Gateway};

use super::metrics::{self, MetricsComparison};
use super::profile::ProfileEstimate;
use super::simulation::{self, RecordedSimulation, RunMetrics};
use crate::recording::{self, NothingRecorded, Period};

/// Minimum number of ticks in a comparison: one minute at the default tick length.
const MIN_TICKS: usize = 12;

/// A recorded function and its simulation.
pub struct RecordedScenario {
    /// The function.
    pub function: FunctionId,
    /// Its simulation.
    pub simulation: RecordedSimulation,
    rewards: Vec<Reward>,
    /// Assumptions, in sentences.
    pub assumptions: Vec<String>,
}

impl RecordedScenario {
    /// The scenario of `states` in `period`; earlier ones warm up policies that look back for `lookback`. The acting agent is that of the last State. Without
    /// `profile` the function's profile is estimated.
    ///
    /// # Errors
    /// Too few States, a profile that cannot be estimated, an unreadable stream.
    pub async fn read(
        bus: &Bus,
        platform: Option<&PlatformClient>,
        states: &[State],
        lookback: Duration,
        period: Period,
        profile: Option<FunctionProfile>,
    ) -> anyhow::Result<Self> {
        let Period { since, until } = period;
        let last = states.last().context("a scenario needs a State")?;
        let (function, agent) = (last.function(), &last.agent);
        let mut assumptions = Vec::new();
        let warm_up = since.minus(lookback.min(History::REACH));
        let measured = (states.iter()).filter(|state| state.observed_at_ms >= since && state.tick_length_ms == last.tick_length_ms).count();
        ensure!(
            measured >= MIN_TICKS,
            "{measured} States of {function} since {since} are retained, at least {MIN_TICKS} are needed; specify an earlier --since"
        );
        let others = states.iter().filter(|state| state.observed_at_ms >= since && state.agent != *agent).count();
        if others > 0 {
            assumptions.push(format!("{agent} was the acting agent throughout; in {others} ticks it was another agent"));
        }
        let (policy, remarks) = scaling_policy(bus, last).await?;
        assumptions.extend(remarks);
        let gateway = gateway(platform, &function).await;
        if gateway.is_none() {
            assumptions.push("the gateway has the local platform's defaults: the platform did not report its settings".to_owned());
        }
        let profile = match profile {
            Some(profile) => profile,
            None => {
                let estimate = ProfileEstimate::from_states(states)?;
                assumptions.extend(estimate.assumptions);
                estimate.profile
            }
        };
        let (simulation, remarks) = RecordedSimulation::new(states, warm_up, since, policy, profile, gateway.unwrap_or_default())?;
        assumptions.extend(remarks);
        let rewards: Vec<Reward> = recording::messages(bus, &function, since).await?;
        let rewards: Vec<Reward> = rewards.into_iter().filter(|reward| reward.measured_at_ms <= until).collect();
        assumptions.extend(metrics::decided_by_others(&rewards, agent));
        Ok(Self { function, simulation, rewards, assumptions })
    }

    /// The scenario of what is recorded of `function` in `period`, for policies that look back as far as any does. Without `profile` the function's profile is
    /// estimated.
    ///
    /// # Errors
    /// [`NothingRecorded`], or as [`Self::read`].
    pub async fn of_function(
        bus: &Bus,
        platform: Option<&PlatformClient>,
        function: &FunctionId,
        period: Period,
        profile: Option<FunctionProfile>,
    ) -> anyhow::Result<Self> {
        let since = period.since;
        let recorded = recording::states(bus, function, Period { since: since.minus(History::REACH), ..period }).await?;
        if recorded.states.last().is_none_or(|last| last.observed_at_ms < since) {
            return Err(NothingRecorded { function: function.clone(), since }.into());
        }
        let mut scenario = Self::read(bus, platform, &recorded.states, History::REACH, period, profile).await?;
        scenario.assumptions.extend(recorded.faults());
        Ok(scenario)
    }

    /// Recorded violations and cost.
    #[must_use]
    pub fn recorded(&self) -> RunMetrics {
        self.simulation.recorded(&self.rewards)
    }

    /// Compares `other` with the `acting` policy under the same `seeds`; `None` if `stop` was set.
    ///
    /// # Errors
    /// When no simulated run completed a request.
    pub fn compare(
        &self,
        acting: &dyn Policy,
        other: &dyn Policy,
        seeds: u64,
        stop: &AtomicBool,
    ) -> anyhow::Result<Option<MetricsComparison>> {
        let mut runs = Vec::new();
        for seed in 0..seeds {
            let run = |policy: &dyn Policy| self.simulation.run(policy, seed, stop);
            let (Some(acting), Some(other)) = (run(acting), run(other)) else { return Ok(None) };
            runs.push((acting, other));
        }
        MetricsComparison::of(&self.recorded(), &runs).map(Some)
    }
}

/// The ScalingPolicy: guard and weights from the current one; objective, bounds and prices from the last State.
async fn scaling_policy(bus: &Bus, last: &State) -> anyhow::Result<(ScalingPolicy, Vec<String>)> {
    let function = last.function();
    let mut remarks = Vec::new();
    let mut policy = match kv::policies(bus, &TrustConfig::default()).await?.remove(&function.tokens()) {
        Some(Ok(policy)) => policy,
        Some(Err(error)) => {
            remarks.push(format!("the guard has default rules: the ScalingPolicy cannot be read: {error}"));
            ScalingPolicy::new(function)
        }
        None => {
            remarks.push("the guard has default rules: the function no longer has a ScalingPolicy".to_owned());
            ScalingPolicy::new(function)
        }
    };
    if policy.mode != Mode::Active || policy.paused {
        let state = if policy.paused { "paused" } else { "not in mode active" };
        remarks.push(format!(
            "the ScalingPolicy is {state}: where decisions were not applied, the recorded figures are not those of the acting policy"
        ));
    }
    simulation::apply_state(&mut policy, last).map_err(|error| anyhow::anyhow!("the last State: {error}"))?;
    Ok((policy, remarks))
}

/// The function's gateway settings, as the platform reports them.
async fn gateway(platform: Option<&PlatformClient>, function: &FunctionId) -> Option<Gateway> {
    let status = platform?.get(function).await.ok()?;
    Some(Gateway::from(&status.spec))
}
