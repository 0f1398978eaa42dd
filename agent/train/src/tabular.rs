//! The table of the study as an agent that learns.

use qscale_dqn::actions::Actions;
use qscale_dqn::tabular::Tabular;
use qscale_rl::learner::UpdateStats;
use qscale_rl::network::DeviceError;

use crate::agent::{Act, Actor, Agent, Outcome};
use crate::lane::Lane;

impl Actor for Tabular {
    fn act(&self, first: usize, lanes: &[Lane]) -> Result<Vec<Act>, DeviceError> {
        let act = |(row, lane): (usize, &Lane)| match self.choose(lane.state(), self.steps + (first + row) as u64) {
            Some(chosen) => Act { choice: Some(chosen.choice), wanted: chosen.wanted },
            None => Act::default(),
        };
        Ok(lanes.iter().enumerate().map(act).collect())
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

    /// A table learns from each step at once.
    fn study(&mut self, functions: usize) -> Result<Option<UpdateStats>, DeviceError> {
        self.steps += functions as u64;
        Ok(None)
    }

    fn remember(&mut self, lanes: &[Lane], outcomes: &[Outcome]) {
        for (lane, outcome) in lanes.iter().zip(outcomes) {
            if let (Some(choice), Some(reward)) = (outcome.act.choice, outcome.reward) {
                self.learn(choice, reward, outcome.ending, lane.state());
            }
        }
    }
}
