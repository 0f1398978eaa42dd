//! Tabular Q-learning as an agent that learns.

use qscale_dqn::actions::Actions;
use qscale_dqn::tabular::Tabular;
use qscale_rl::learner::UpdateStats;
use qscale_rl::network::DeviceError;

use crate::agent::{Actor, Agent, EnvAction, EnvStep};
use crate::env::Env;

impl Actor for Tabular {
    fn act(&self, first: usize, envs: &[Env]) -> Result<Vec<EnvAction>, DeviceError> {
        let action = |(row, env): (usize, &Env)| match self.choose(env.state(), self.steps + (first + row) as u64) {
            Some(action) => EnvAction { index: Some(action.index), requested: action.requested },
            None => EnvAction::default(),
        };
        Ok(envs.iter().enumerate().map(action).collect())
    }
}

impl Agent for Tabular {
    type Actor = Self;

    fn actions(&self) -> Option<&Actions> {
        None
    }

    fn actor(&self) -> Self {
        self.clone()
    }

    /// Does not learn here: a table learns from each step when it is observed.
    fn learn(&mut self, functions: usize) -> Result<Option<UpdateStats>, DeviceError> {
        self.steps += functions as u64;
        Ok(None)
    }

    fn observe(&mut self, envs: &[Env], steps: &[EnvStep]) {
        for (env, step) in envs.iter().zip(steps) {
            if let (Some(index), Some(reward)) = (step.action.index, step.reward) {
                self.update(index, reward, step.end, env.state());
            }
        }
    }
}
