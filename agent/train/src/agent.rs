//! Agents that learn by acting on many functions in parallel. Owns what happens between acting and learning; must not simulate.

use qscale_common::units::Allocation;
use qscale_dqn::actions::Actions;
use qscale_dqn::checkpoint::{Checkpoint, NetworkPurpose};
use qscale_dqn::observation::COUNT;
use qscale_dqn::reward::TrainingReward;
use qscale_rl::Mask;
use qscale_rl::device::Device;
use qscale_rl::learner::{EpsilonGreedy, Hyperparameters, Learner, LearnerError, UpdateStats};
use qscale_rl::network::DeviceError;
use qscale_rl::replay::StepEnd;

use crate::env::Env;

/// An agent that learns. In each tick, the result of [`Agent::actor`] acts, possibly on several threads, while [`Agent::learn`] runs; then
/// [`Agent::observe`] is called.
pub trait Agent {
    /// The part that acts.
    type Actor: Actor;

    /// Its actions, if it needs observations and candidates of every function.
    fn actions(&self) -> Option<&Actions>;

    /// A copy of its policy, which acts in the next tick.
    fn actor(&self) -> Self::Actor;

    /// Learns from the steps before this tick, in which `functions` functions are controlled.
    ///
    /// # Errors
    /// When the device fails.
    fn learn(&mut self, functions: usize) -> Result<Option<UpdateStats>, DeviceError>;

    /// Stores one step of each function; `envs` are in the state after it.
    fn observe(&mut self, envs: &[Env], steps: &[EnvStep]);
}

/// Selects actions with exploration. The action depends only on the function and its number.
pub trait Actor: Sync {
    /// An action for each of `envs`, of which the first has the number `first`.
    ///
    /// # Errors
    /// When the device fails.
    fn act(&self, first: usize, envs: &[Env]) -> Result<Vec<EnvAction>, DeviceError>;
}

/// An action on one function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EnvAction {
    /// Index of the action; `None` if none could be taken.
    pub index: Option<usize>,
    /// Requested allocation; `None` keeps the current one.
    pub requested: Option<Allocation>,
}

/// One step of one function.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EnvStep {
    /// The action taken.
    pub action: EnvAction,
    /// Its reward; `None` if it was not measured.
    pub reward: Option<f64>,
    /// How the step ended.
    pub end: StepEnd,
}

/// A [`Learner`] that controls functions.
pub struct DqnAgent {
    learner: Learner,
    actions: Actions,
    /// Updates per step of a function.
    replay_ratio: f64,
    /// Updates that are due, including a fraction.
    due: f64,
}

impl DqnAgent {
    /// A new agent that makes `replay_ratio` updates per step of a function.
    ///
    /// # Errors
    /// When a hyperparameter is out of range.
    pub fn new(
        hyperparameters: Hyperparameters,
        actions: Actions,
        replay_ratio: f64,
        seed: u64,
        device: &Device,
    ) -> Result<Self, LearnerError> {
        Ok(Self::with(Learner::new(hyperparameters, COUNT, actions.count(), seed, device)?, actions, replay_ratio))
    }

    /// An agent with `learner`, whose network values `actions`.
    #[must_use]
    pub fn with(learner: Learner, actions: Actions, replay_ratio: f64) -> Self {
        Self { learner, actions, replay_ratio, due: 0.0 }
    }

    /// The learner.
    #[must_use]
    pub fn learner(&self) -> &Learner {
        &self.learner
    }

    /// A checkpoint from which training can continue.
    ///
    /// # Errors
    /// When the device fails.
    pub fn checkpoint(&self, reward: Option<TrainingReward>, note: &str) -> Result<Checkpoint, DeviceError> {
        let purpose = NetworkPurpose { actions: self.actions.clone(), reward, note: note.to_owned() };
        let (weights, state) = (self.learner.network().weights()?, self.learner.state()?);
        Ok(Checkpoint::new(weights, Some(state), self.learner.parameters(), self.learner.seed(), &purpose))
    }
}

/// The policy of a [`DqnAgent`] at one moment.
pub struct DqnActor {
    policy: EpsilonGreedy,
}

impl Actor for DqnActor {
    fn act(&self, first: usize, envs: &[Env]) -> Result<Vec<EnvAction>, DeviceError> {
        let observations: Vec<f32> = envs.iter().flat_map(|env| env.observation().iter().copied()).collect();
        let masks: Vec<Mask> = envs.iter().map(|env| env.candidates().mask()).collect();
        let selected = self.policy.select(first, &observations, &masks)?;
        let action = |(index, env): (Option<usize>, &Env)| EnvAction {
            index,
            requested: index.and_then(|index| env.candidates().entry(index).ok()),
        };
        Ok(selected.into_iter().zip(envs).map(action).collect())
    }
}

impl Agent for DqnAgent {
    type Actor = DqnActor;

    fn actions(&self) -> Option<&Actions> {
        Some(&self.actions)
    }

    fn actor(&self) -> DqnActor {
        DqnActor { policy: self.learner.policy() }
    }

    fn learn(&mut self, functions: usize) -> Result<Option<UpdateStats>, DeviceError> {
        self.learner.record_actions(functions);
        self.due += self.replay_ratio * functions as f64;
        let mut last = None;
        while self.due >= 1.0 {
            self.due -= 1.0;
            last = self.learner.update()?;
            if last.is_none() {
                // Updates missed during the warm-up are not made up for.
                self.due = 0.0;
            }
        }
        Ok(last)
    }

    fn observe(&mut self, envs: &[Env], steps: &[EnvStep]) {
        for (number, (env, step)) in envs.iter().zip(steps).enumerate() {
            let (Some(action), Some(reward)) = (step.action.index, step.reward) else {
                self.learner.interrupt(number);
                continue;
            };
            self.learner.observe(number, &env.transition(action, reward, step.end));
        }
    }
}
