//! Training configuration. Owns the defaults, which are those of the command and of the bundled model, and the ranges.

use std::num::NonZeroUsize;

use qscale_dqn::Scope;
use qscale_dqn::actions::{ActionSet, Actions, BRANCHES};
use qscale_dqn::policy::evaluated_violation_cost;
use qscale_dqn::reward::TrainingReward;
use qscale_dqn::tasks::{Split, TaskDistribution};
use qscale_rl::learner::Hyperparameters;
use serde::{Deserialize, Serialize};

use crate::evaluate::Evaluator;

/// Everything that determines the result of a training run, except its seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingConfig {
    /// Simulated ticks of all functions together, 10,000 to 10,000,000,000.
    pub ticks: u64,
    /// Functions simulated in parallel, 1 to 100,000.
    pub worlds: usize,
    /// Updates per simulated tick, above 0 and at most 10.
    pub replay_ratio: f64,
    /// Number of evaluations on validation worlds, 1 to 1,000.
    #[serde(alias = "judgements")]
    pub validations: u32,
    /// Validation worlds, 1 to 10,000.
    pub validation_worlds: u64,
    /// Worlds on which the selected network is evaluated at the end, 1 to 10,000.
    pub test_worlds: u64,
    /// The action set.
    pub action_set: ActionSet,
    /// The scope of the actions.
    pub scope: Scope,
    /// Hyperparameters of the learner.
    pub hyperparameters: Hyperparameters,
    /// The distribution of training tasks.
    #[serde(alias = "domain")]
    pub tasks: TaskDistribution,
    /// The training reward.
    #[serde(alias = "worth")]
    pub reward: TrainingReward,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            ticks: 6_000_000,
            worlds: 256,
            // A batch of 512 every 170 ticks: each transition is sampled three times on average.
            replay_ratio: 0.006,
            validations: 20,
            validation_worlds: 100,
            test_worlds: 300,
            action_set: ActionSet::Headroom,
            scope: Scope::Joint,
            hyperparameters: Hyperparameters::default(),
            tasks: TaskDistribution::default(),
            reward: TrainingReward::default(),
        }
    }
}

impl TrainingConfig {
    /// The actions.
    #[must_use]
    pub fn actions(&self) -> Actions {
        Actions::new(self.action_set, self.scope)
    }

    /// The evaluator on worlds of `split`, with `threads` threads, at [`evaluated_violation_cost`].
    #[must_use]
    pub fn evaluator(&self, split: Split, threads: NonZeroUsize) -> Evaluator {
        let worlds = if split == Split::Validation { self.validation_worlds } else { self.test_worlds };
        Evaluator {
            tasks: self.tasks.clone(),
            reward: self.reward,
            violation_cost: evaluated_violation_cost(),
            split,
            worlds: 0..worlds,
            threads,
        }
    }

    /// The hyperparameters; unless `decay_over` is set, the learning rate falls until the end of training.
    #[must_use]
    pub fn with_decay(&self) -> Hyperparameters {
        let mut hyperparameters = self.hyperparameters.clone();
        if hyperparameters.decay_over == 0 {
            hyperparameters.decay_over = (self.ticks as f64 * self.replay_ratio) as u64;
        }
        hyperparameters
    }

    /// Checks that every value is in its range.
    ///
    /// # Errors
    /// Names the first value that is out of range, with its range.
    pub fn check(&self) -> Result<(), String> {
        let within = |name: &str, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) { Ok(()) } else { Err(format!("{name} = {value}, must be from {least} to {most}")) }
        };
        within("ticks", self.ticks, 10_000, 10_000_000_000)?;
        within("worlds", self.worlds as u64, 1, 100_000)?;
        within("validations", u64::from(self.validations), 1, 1000)?;
        within("validation_worlds", self.validation_worlds, 1, 10_000)?;
        within("test_worlds", self.test_worlds, 1, 10_000)?;
        if !(self.replay_ratio > 0.0 && self.replay_ratio <= 10.0) {
            return Err(format!("replay_ratio = {}, must be above 0 and at most 10", self.replay_ratio));
        }
        self.tasks.check()?;
        self.reward.check()?;
        let (branches, actions) = (&self.hyperparameters.branches, self.actions().count());
        if !branches.is_empty() && branches.iter().product::<usize>() != actions {
            let error = format!(
                "hyperparameters.branches = {branches:?}, their product must be the {actions} actions of action set {}",
                self.action_set
            );
            return Err(format!("{error}; action set {} has {BRANCHES:?}", ActionSet::Grid));
        }
        self.hyperparameters.check().map_err(|error| format!("hyperparameters.{error}"))?;
        self.check_learns()
    }

    /// Refuses a run without an update of the network, or whose replay is too small for one.
    fn check_learns(&self) -> Result<(), String> {
        let Hyperparameters { warm_up, capacity, batch, steps, rollouts, .. } = self.hyperparameters;
        let (ticks, worlds) = (self.ticks, self.worlds as u64);
        let (needed, why, remedy) = match rollouts {
            Some(rollouts) => {
                let length = rollouts.length as u64;
                (worlds.saturating_mul(length), format!("rollouts.length = {length} in {worlds} worlds takes"), "rollouts.length or worlds")
            }
            None if warm_up > capacity => {
                return Err(format!(
                    "hyperparameters.warm_up = {warm_up}, must be at most capacity = {capacity}: the replay never holds more"
                ));
            }
            None if batch > capacity => {
                return Err(format!(
                    "hyperparameters.batch = {batch}, must be at most capacity = {capacity}: the replay never holds a whole batch"
                ));
            }
            // The last steps of each world wait for their returns.
            None => {
                let waiting = worlds.saturating_mul(steps as u64);
                ((warm_up as u64).saturating_add(waiting), format!("hyperparameters.warm_up = {warm_up} takes"), "warm_up")
            }
        };
        let interval = (1.0 / self.replay_ratio).ceil() as u64;
        let least = needed.saturating_add(interval);
        if ticks >= least {
            return Ok(());
        }
        Err(format!(
            "ticks = {ticks}, must be at least {least}, or the network is never updated: {why} {needed} ticks, and replay_ratio = {} makes an update every \
             {interval} ticks; raise ticks or replay_ratio, or lower {remedy}",
            self.replay_ratio
        ))
    }
}

#[cfg(test)]
mod tests {
    use qscale_rl::learner::RolloutConfig;

    use super::*;

    #[test]
    fn a_run_that_never_updates_the_network_is_refused() {
        let check = |ticks, worlds, hyperparameters| TrainingConfig { ticks, worlds, hyperparameters, ..TrainingConfig::default() }.check();
        let rollouts = Hyperparameters { rollouts: Some(RolloutConfig::default()), ..Hyperparameters::default() };
        let tiny = Hyperparameters { warm_up: 100, capacity: 500, ..Hyperparameters::default() };
        let small = Hyperparameters { capacity: 10_000, ..Hyperparameters::default() };
        for (ticks, worlds, hyperparameters, parts) in [
            (12_000, 16, Hyperparameters::default(), ["ticks = 12000", "warm_up = 20000"]),
            (20_100, 16, Hyperparameters::default(), ["ticks = 20100", "at least 20215"]),
            (20_000, 1000, rollouts.clone(), ["ticks = 20000", "rollouts.length"]),
            (6_000_000, 256, small, ["warm_up = 20000", "capacity = 10000"]),
            (6_000_000, 256, tiny, ["batch = 512", "capacity = 500"]),
        ] {
            let error = check(ticks, worlds, hyperparameters).expect_err("refused");
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
        assert_eq!(check(20_215, 16, Hyperparameters::default()), Ok(()));
        assert_eq!(check(20_000, 100, rollouts), Ok(()));
    }

    #[test]
    fn former_names_are_read() {
        let read = |text: &str| serde_json::from_str::<TrainingConfig>(text).expect("valid");
        let former = read(r#"{"judgements": 3, "domain": {"sparse": 0.5}, "worth": {"cost": 2.0}, "hyperparameters": {"corner": 4.0}}"#);
        let present =
            read(r#"{"validations": 3, "tasks": {"sparse_share": 0.5}, "reward": {"cost": 2.0}, "hyperparameters": {"huber_delta": 4.0}}"#);
        assert_eq!(former, present);
        assert_eq!((former.validations, former.tasks.sparse_share, former.hyperparameters.huber_delta), (3, 0.5, 4.0));
    }
}
