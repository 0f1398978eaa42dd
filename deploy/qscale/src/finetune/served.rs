//! The functions that a model serves, and what was recorded of them. Owns who follows the model, and since when it decides; judges nothing.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};
use qscale_common::contract::{Reward, State, StateId};
use qscale_common::name::{FunctionId, Name};
use qscale_common::policy::Mode;
use qscale_common::runtime::bus::Bus;
use qscale_common::time::Timestamp;
use qscale_dqn::policy::{Caution, DqnParams, usual_caution};
use qscale_dqn::registry::DQN;
use qscale_policies::History;
use qscale_promote::Burn;
use serde_json::{Value, json};

use qscale_replay::compare::simulation::is_violated;
use qscale_replay::policy::STORE_PREFIX;
use qscale_replay::{Period, recording};

use crate::store;
use crate::system::Locate;

/// The agent that follows a model.
pub struct Follower {
    /// Its name.
    pub agent: Name,
    /// What its policy is told.
    pub params: Value,
    told: DqnParams,
}

impl Follower {
    /// The agent called `agent`, which is to follow the model `name` of the store.
    pub fn of(locate: &Locate, agent: &Name, name: &Name) -> anyhow::Result<Self> {
        let configured = locate.agent_settings().read(agent)?;
        if let Some(configured) = &configured {
            let model = configured.model.as_deref().unwrap_or("the model that comes along");
            ensure!(
                model.strip_prefix(STORE_PREFIX) == Some(name.as_str()),
                "agent {agent} decides by {model}, not by {STORE_PREFIX}{name}: start it with `qscale up --model {STORE_PREFIX}{name}`, or name its model"
            );
        }
        let params = configured.map(|configured| configured.params).filter(|params| !params.is_null()).unwrap_or_else(|| json!({}));
        let told = qscale_policies::read(DQN, &params).with_context(|| format!("what agent {agent} is told"))?;
        Ok(Self { agent: agent.clone(), params, told })
    }

    /// The caution that it decides on `state` with.
    pub fn caution(&self, state: &State) -> f64 {
        self.told.caution.map_or_else(|| usual_caution(state), Caution::get)
    }

    /// The functions that obey it.
    pub async fn functions(&self, bus: &Bus) -> anyhow::Result<Vec<FunctionId>> {
        let policies = store::policies(bus).await?;
        let obeys = policies.into_values().filter_map(Result::ok);
        let obeys = obeys.filter(|policy| policy.agent == self.agent && policy.mode == Mode::Active && !policy.paused);
        let functions: Vec<FunctionId> = obeys.map(|policy| policy.function()).collect();
        if functions.is_empty() {
            bail!(
                "no function obeys agent {0} in mode active; `qscale policy set FUNCTION agent={0} mode=active` has one do so",
                self.agent
            );
        }
        Ok(functions)
    }
}

/// What was recorded of one function.
pub struct Recorded {
    /// It.
    pub function: FunctionId,
    /// Its States, those that policies remember before `since` included.
    pub states: Vec<State>,
    /// When what is looked at begins.
    pub since: Timestamp,
}

impl Recorded {
    /// What was recorded of `function` since `since`.
    pub async fn read(bus: &Bus, function: &FunctionId, since: Timestamp, until: Timestamp) -> anyhow::Result<Self> {
        let states = recording::states(bus, function, Period { since: since.minus(History::REACH), until }).await?;
        Ok(Self { function: function.clone(), states, since })
    }

    /// The States that are looked at.
    pub fn looked_at(&self) -> &[State] {
        let first = self.states.partition_point(|state| state.observed_at_ms < self.since);
        &self.states[first..]
    }

    /// Its Rewards, by the State whose tick they judge.
    pub async fn rewards(&self, bus: &Bus) -> anyhow::Result<BTreeMap<StateId, Reward>> {
        let rewards: Vec<Reward> = recording::messages(bus, &self.function, self.since).await?;
        let state_id = |reward: &Reward| StateId { epoch: reward.epoch, tick: reward.tick };
        Ok(rewards.into_iter().map(|reward| (state_id(&reward), reward)).collect())
    }

    /// Since when the model of `fingerprint` has decided by itself, by what `agent` answered: what came before is another model's doing.
    pub async fn decided_by(&self, bus: &Bus, agent: &Name, fingerprint: &str) -> anyhow::Result<Timestamp> {
        let actions = recording::actions(bus, agent, &self.function, self.since).await?;
        let others = actions.into_values().filter(|action| action.provenance.fingerprint() != Some(fingerprint));
        Ok(others.map(|action| action.decided_at_ms).max().map_or(self.since, |last| last.max(self.since)))
    }
}

/// What the objectives of `functions` burned from `since` to `until`.
pub async fn burn(bus: &Bus, functions: &[FunctionId], since: Timestamp, until: Timestamp) -> anyhow::Result<Burn> {
    let mut burn = Burn::default();
    for function in functions {
        for state in recording::states(bus, function, Period { since, until }).await? {
            burn.add(is_violated(&state), state.tick_length_ms);
        }
    }
    Ok(burn)
}
