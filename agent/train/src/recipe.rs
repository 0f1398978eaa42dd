//! How a model is trained. Owns the defaults that the command and the model that comes along have, and their ranges.

use std::num::NonZeroUsize;

use qscale_dqn::actions::{ActionSet, Actions, BRANCHES, Scope};
use qscale_dqn::domain::{Domain, Part};
use qscale_dqn::policy::Caution;
use qscale_dqn::worth::Worth;
use qscale_rl::learner::Hyperparameters;
use serde::{Deserialize, Serialize};

use crate::judge::Court;

/// Everything that the result of a training depends on besides its seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// Ticks of simulated functions to live through, all together, 10,000 to 10,000,000,000.
    pub ticks: u64,
    /// Functions that are lived through at once, 1 to 100,000.
    pub worlds: usize,
    /// Updates for each tick of a function, above 0 and at most 10.
    pub replay_ratio: f64,
    /// How often the network is judged on validation worlds, 1 to 1,000 times.
    pub judgements: u32,
    /// Validation worlds, 1 to 10,000.
    pub validation_worlds: u64,
    /// Worlds in which the chosen network is judged at last, 1 to 10,000.
    pub test_worlds: u64,
    /// Which choices there are.
    pub action_set: ActionSet,
    /// Which of them may be taken.
    pub scope: Scope,
    /// What the learner is told.
    pub hyperparameters: Hyperparameters,
    /// What worlds are drawn from.
    pub domain: Domain,
    /// What ticks are worth.
    pub worth: Worth,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            ticks: 6_000_000,
            worlds: 256,
            // A batch of 512 for each 170 ticks: each transition is learned from three times.
            replay_ratio: 0.006,
            judgements: 20,
            validation_worlds: 100,
            test_worlds: 300,
            action_set: ActionSet::Headroom,
            scope: Scope::Joint,
            hyperparameters: Hyperparameters::default(),
            domain: Domain::default(),
            worth: Worth::default(),
        }
    }
}

impl Recipe {
    /// The choices.
    #[must_use]
    pub fn actions(&self) -> Actions {
        Actions::new(self.action_set, self.scope)
    }

    /// Worlds of `part` that networks and rules are judged on, on so many threads, at the caution at which models are judged.
    #[must_use]
    pub fn court(&self, part: Part, threads: NonZeroUsize) -> Court {
        let worlds = if part == Part::Validation { self.validation_worlds } else { self.test_worlds };
        Court { domain: self.domain.clone(), worth: self.worth, caution: Caution::JUDGED, part, worlds: 0..worlds, threads }
    }

    /// What the learner is told, its step size settling as training ends where nothing else is said.
    #[must_use]
    pub fn settling(&self) -> Hyperparameters {
        let mut hyperparameters = self.hyperparameters.clone();
        if hyperparameters.decay_over == 0 {
            hyperparameters.decay_over = (self.ticks as f64 * self.replay_ratio) as u64;
        }
        hyperparameters
    }

    /// # Errors
    /// Names the first that lies outside its range.
    pub fn check(&self) -> Result<(), String> {
        let within = |name: &str, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) { Ok(()) } else { Err(format!("{name} = {value}, must be from {least} to {most}")) }
        };
        within("ticks", self.ticks, 10_000, 10_000_000_000)?;
        within("worlds", self.worlds as u64, 1, 100_000)?;
        within("judgements", u64::from(self.judgements), 1, 1000)?;
        within("validation_worlds", self.validation_worlds, 1, 10_000)?;
        within("test_worlds", self.test_worlds, 1, 10_000)?;
        if !(self.replay_ratio > 0.0 && self.replay_ratio <= 10.0) {
            return Err(format!("replay_ratio = {}, must be above 0 and at most 10", self.replay_ratio));
        }
        self.domain.check()?;
        self.worth.check()?;
        let (branches, actions) = (&self.hyperparameters.branches, self.actions().count());
        if !branches.is_empty() && branches.iter().product::<usize>() != actions {
            let told = format!(
                "hyperparameters.branches = {branches:?}, their product must be the {actions} choices of action set {}",
                self.action_set
            );
            return Err(format!("{told}; action set {} has {BRANCHES:?}", ActionSet::Grid));
        }
        self.hyperparameters.check().map_err(|error| format!("hyperparameters.{error}"))
    }
}
