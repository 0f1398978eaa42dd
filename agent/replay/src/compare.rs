//! Compares a policy with the acting one by simulating both over recorded arrivals. Owns which policies and recordings
//! are compared; [`scenario`] reads what the simulation needs, [`simulation`], [`profile`] and [`metrics`] are pure.
//!
//! The acting policy is simulated as well, so that the simulation can be checked: its error is the difference between
//! simulated and recorded figures of that policy.

pub mod curve;
pub mod metrics;
pub mod profile;
pub mod scenario;
pub mod simulation;

use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, bail, ensure};
use qscale_common::contract::{DecisionSource, Message as _, Outcome, State};
use qscale_common::name::{FunctionId, Name};
use qscale_common::runtime::bus::Bus;
use qscale_common::runtime::platform::PlatformClient;
use qscale_common::time::Timestamp;
use qscale_dqn::Checkpoint;
use qscale_policies::History;
use qscale_sim::FunctionProfile;

pub use self::metrics::{Conclusion, MeanInterval, MetricComparison, MetricsComparison, ScenarioMetric};
pub use self::scenario::RecordedScenario;
pub use self::simulation::{RecordedSimulation, RunMetrics};
use crate::policy::{ReplayPolicy, SettingsFolder};
use crate::recording::{self, NothingRecorded, Period};

/// The policy that is compared with the acting one.
pub enum Challenger<'a> {
    /// The policy of a shadow agent, by default the only recorded one.
    Shadow {
        /// Name of the agent.
        agent: Option<&'a Name>,
        /// Model that replaces the one that decided.
        model: Option<&'a Checkpoint>,
    },
    /// This policy.
    Policy(ReplayPolicy),
}

/// Everything that determines the result of a comparison.
pub struct ComparisonSpec {
    /// The acting agent.
    pub agent: Name,
    /// Its policy.
    pub acting: ReplayPolicy,
    /// The other policy.
    pub other: ReplayPolicy,
    /// Function and arrivals.
    pub scenario: RecordedScenario,
    /// Assumptions, in sentences.
    pub assumptions: Vec<String>,
}

impl ComparisonSpec {
    /// Reads what is recorded of `function` in `period`. Without `profile` the function's profile is estimated from the States.
    ///
    /// # Errors
    /// [`NothingRecorded`]; too few States; a policy that cannot be reconstructed; no shadow, or several.
    pub async fn read(
        bus: &Bus,
        platform: Option<&PlatformClient>,
        settings: &SettingsFolder,
        (function, period): (&FunctionId, Period),
        challenger: Challenger<'_>,
        profile: Option<FunctionProfile>,
    ) -> anyhow::Result<Self> {
        let since = period.since;
        let recorded = recording::states(bus, function, Period { since: since.minus(History::REACH), ..period }).await?;
        let states = &recorded.states;
        let Some(last) = states.last().filter(|last| last.observed_at_ms >= since) else {
            return Err(NothingRecorded { function: function.clone(), since }.into());
        };
        let agent = last.agent.clone();
        let acting = policy_of(bus, settings, &agent, last, since, None).await.context("the acting policy cannot be simulated")?;
        let other = match challenger {
            Challenger::Policy(policy) => policy,
            Challenger::Shadow { agent: named, model } => {
                let outcomes: Vec<Outcome> = recording::messages(bus, function, since).await?;
                let shadow = named.cloned().map_or_else(|| only_shadow(&outcomes, function), Ok)?;
                ensure!(shadow != agent, "{shadow} is the acting agent of {function}, not a shadow; specify another agent, or a policy");
                policy_of(bus, settings, &shadow, last, since, model).await?
            }
        };
        let mut assumptions: Vec<String> = acting.assumptions.iter().chain(&other.assumptions).cloned().collect();
        let lookback = [&acting, &other].into_iter().filter_map(|policy| policy.decider.lookback()).max().unwrap_or_default();
        let scenario = RecordedScenario::read(bus, platform, states, lookback, period, profile).await?;
        assumptions.extend(recorded.faults());
        assumptions.extend(scenario.assumptions.iter().cloned());
        Ok(Self { agent, acting, other, scenario, assumptions })
    }

    /// Simulates both policies under the same `seeds`; `None` if `stop` was set.
    ///
    /// # Errors
    /// When no simulated run completed a request.
    pub fn run(&self, seeds: u64, stop: &AtomicBool) -> anyhow::Result<Option<MetricsComparison>> {
        self.scenario.compare(self.acting.decider.policy(), self.other.decider.policy(), seeds, stop)
    }
}

/// The policy of `agent` as of its last Action up to the State `last`.
async fn policy_of(
    bus: &Bus,
    settings: &SettingsFolder,
    agent: &Name,
    last: &State,
    since: Timestamp,
    model: Option<&Checkpoint>,
) -> anyhow::Result<ReplayPolicy> {
    let actions = recording::actions(bus, agent, &last.function(), since).await?;
    ReplayPolicy::of_agent(bus, settings, agent, recording::last_until(&actions, last.state_id()), model).await
}

/// The only shadow agent among `outcomes`.
fn only_shadow(outcomes: &[Outcome], function: &FunctionId) -> anyhow::Result<Name> {
    let mut shadows: Vec<&Name> =
        outcomes.iter().filter(|outcome| outcome.source == DecisionSource::Shadow).map(|outcome| &outcome.agent).collect();
    shadows.sort();
    shadows.dedup();
    match shadows.as_slice() {
        [only] => Ok((*only).clone()),
        [] => bail!("no shadow of {function} was recorded; specify a policy, such as --policy hpa"),
        several => {
            let names: Vec<&str> = several.iter().map(|name| name.as_str()).collect();
            bail!("{function} has the shadows {}; select one with --shadow", names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use qscale_common::contract::{Effect, Epoch, Provenance, Version};
    use qscale_common::time::Tick;
    use qscale_common::units::Allocation;

    use super::*;

    fn outcome(source: DecisionSource, agent: &str) -> Outcome {
        let name = |text: &str| Name::new(text).expect("valid");
        Outcome {
            version: Version::CURRENT,
            namespace: name("default"),
            function: name("f"),
            epoch: Epoch(1),
            tick: Tick(1),
            source,
            agent: name(agent),
            provenance: Provenance::default(),
            effect: Effect::Recorded,
            requested: Allocation::new(1, 500, 128),
            before: None,
            allowed: None,
            guard: Vec::new(),
            reason: String::new(),
            decided_at_ms: Timestamp(1),
            actuator: String::new(),
            attempts: 0,
        }
    }

    #[test]
    fn only_shadow_is_the_default() {
        let function = "f".parse().expect("valid");
        let shadow =
            |outcomes: &[Outcome]| only_shadow(outcomes, &function).map(|name| name.to_string()).map_err(|error| error.to_string());
        let (acting, hpa, kpa) =
            (outcome(DecisionSource::Agent, "static"), outcome(DecisionSource::Shadow, "hpa"), outcome(DecisionSource::Shadow, "kpa"));
        assert_eq!(shadow(&[acting.clone(), hpa.clone(), hpa.clone()]), Ok("hpa".to_owned()));
        assert!(shadow(std::slice::from_ref(&acting)).expect_err("none").contains("--policy"));
        assert!(shadow(&[acting, kpa, hpa]).expect_err("two").contains("hpa, kpa"));
    }
}
