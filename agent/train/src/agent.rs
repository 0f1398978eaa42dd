//! Agents that learn by acting on many functions at once. Owns what happens between acting and learning; must not simulate.

use qscale_common::units::Allocation;
use qscale_dqn::actions::Actions;
use qscale_dqn::checkpoint::{Checkpoint, Purpose};
use qscale_dqn::observation::COUNT;
use qscale_dqn::worth::Worth;
use qscale_rl::Mask;
use qscale_rl::device::Device;
use qscale_rl::learner::{EpsilonGreedy, Hyperparameters, Learner, LearnerError, UpdateStats};
use qscale_rl::network::DeviceError;
use qscale_rl::replay::StepEnd;

use crate::lane::Lane;

/// Something that learns by acting. Each tick is one [`Agent::actor`], whose acts may be made on several threads while [`Agent::study`] goes on, and one call of
/// [`Agent::remember`].
pub trait Agent {
    /// Whoever acts by what was learned so far.
    type Actor: Actor;

    /// What it may choose, where it wants observations and menus of every function.
    fn actions(&self) -> Option<&Actions>;

    /// Whoever acts in the next tick.
    fn actor(&self) -> Self::Actor;

    /// Learns from what was lived through before this tick, in which so many functions are acted on.
    ///
    /// # Errors
    /// When the device fails.
    fn study(&mut self, functions: usize) -> Result<Option<UpdateStats>, DeviceError>;

    /// Takes in what became of it: what was done to each function, what its tick was worth and how the step ended, and the function then.
    fn remember(&mut self, lanes: &[Lane], outcomes: &[Outcome]);
}

/// Acts on functions, exploring. What it does to a function depends on nothing but the function and its number.
pub trait Actor: Sync {
    /// What each of `lanes` should be given, of which the first is function number `first`.
    ///
    /// # Errors
    /// When the device fails.
    fn act(&self, first: usize, lanes: &[Lane]) -> Result<Vec<Act>, DeviceError>;
}

/// What is done to a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Act {
    /// The number of the choice, where there was one.
    pub choice: Option<usize>,
    /// What the function should be given; `None` wants nothing else than there is.
    pub wanted: Option<Allocation>,
}

/// What became of one function after it was acted on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// What was done.
    pub act: Act,
    /// What the tick was worth; `None` where that was not measured.
    pub reward: Option<f64>,
    /// How the step ended.
    pub ending: StepEnd,
}

/// The learner of [`qscale_rl::learner`], acting on functions.
pub struct DqnAgent {
    learner: Learner,
    actions: Actions,
    /// Updates for each step of a function.
    replay_ratio: f64,
    due: f64,
}

impl DqnAgent {
    /// An agent that begins, making `replay_ratio` updates for each step of a function.
    ///
    /// # Errors
    /// When a hyperparameter lies outside its range.
    pub fn new(
        hyperparameters: Hyperparameters,
        actions: Actions,
        replay_ratio: f64,
        seed: u64,
        device: &Device,
    ) -> Result<Self, LearnerError> {
        Ok(Self::with(Learner::new(hyperparameters, COUNT, actions.count(), seed, device)?, actions, replay_ratio))
    }

    /// An agent around `learner`, whose network values `actions`.
    #[must_use]
    pub fn with(learner: Learner, actions: Actions, replay_ratio: f64) -> Self {
        Self { learner, actions, replay_ratio, due: 0.0 }
    }

    /// The learner.
    #[must_use]
    pub fn learner(&self) -> &Learner {
        &self.learner
    }

    /// What was learned so far, with what is needed to go on.
    ///
    /// # Errors
    /// When the device fails.
    pub fn checkpoint(&self, worth: Option<Worth>, note: &str) -> Result<Checkpoint, DeviceError> {
        let purpose = Purpose { actions: self.actions.clone(), worth, note: note.to_owned() };
        let (weights, state) = (self.learner.network().weights()?, self.learner.state()?);
        Ok(Checkpoint::new(weights, Some(state), self.learner.parameters(), self.learner.seed(), &purpose))
    }
}

/// The network of a [`DqnAgent`] as it was at one moment, acting.
pub struct DqnActor {
    policy: EpsilonGreedy,
}

impl Actor for DqnActor {
    fn act(&self, first: usize, lanes: &[Lane]) -> Result<Vec<Act>, DeviceError> {
        let seen: Vec<f32> = lanes.iter().flat_map(|lane| lane.observation().iter().copied()).collect();
        let masks: Vec<Mask> = lanes.iter().map(|lane| lane.menu().mask()).collect();
        let chosen = self.policy.select(first, &seen, &masks)?;
        let act = |(choice, lane): (Option<usize>, &Lane)| Act { choice, wanted: choice.and_then(|choice| lane.menu().entry(choice).ok()) };
        Ok(chosen.into_iter().zip(lanes).map(act).collect())
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

    fn study(&mut self, functions: usize) -> Result<Option<UpdateStats>, DeviceError> {
        self.learner.record_actions(functions);
        self.due += self.replay_ratio * functions as f64;
        let mut last = None;
        while self.due >= 1.0 {
            self.due -= 1.0;
            last = self.learner.update()?;
            if last.is_none() {
                // What is lived through before the first update is not made up for.
                self.due = 0.0;
            }
        }
        Ok(last)
    }

    fn remember(&mut self, lanes: &[Lane], outcomes: &[Outcome]) {
        for (number, (lane, outcome)) in lanes.iter().zip(outcomes).enumerate() {
            let (Some(choice), Some(reward)) = (outcome.act.choice, outcome.reward) else {
                self.learner.interrupt(number);
                continue;
            };
            self.learner.observe(number, &lane.transition(choice, reward, outcome.ending));
        }
    }
}
