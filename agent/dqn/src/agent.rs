//! Agents that learn by acting on many functions at once. Owns what happens between acting and learning; must not simulate.

use qscale_common::contract::State;
use qscale_common::units::Allocation;

use crate::actions::{Actions, Mask, Menu};
use crate::checkpoint::{Checkpoint, Purpose};
use crate::device::Device;
use crate::learner::{Hyperparameters, Learner, LearnerError, Update};
use crate::network::DeviceFailed;
use crate::observation::{self, COUNT};
use crate::replay::Ending;

/// Something that learns by acting. Between two calls of [`Agent::act`] comes one of [`Agent::learn`], with as many functions in the same order.
pub trait Agent {
    /// What each of `states` should be given, exploring; `None` wants nothing else than there is.
    ///
    /// # Errors
    /// When the device fails.
    fn act(&mut self, states: &[&State]) -> Result<Vec<Option<Allocation>>, DeviceFailed>;

    /// What became of it: for each function what the tick was worth (`None` where it was not measured), and the State then.
    ///
    /// # Errors
    /// When the device fails.
    fn learn(&mut self, outcomes: &[Outcome<'_>]) -> Result<Option<Update>, DeviceFailed>;
}

/// What became of one function after it was acted on.
#[derive(Debug, Clone, Copy)]
pub struct Outcome<'a> {
    /// What the tick was worth; `None` where that was not measured.
    pub reward: Option<f64>,
    /// The State then.
    pub state: &'a State,
    /// How the step ended.
    pub ending: Ending,
}

/// The learner of [`crate::learner`], acting on functions.
pub struct DqnAgent {
    learner: Learner,
    actions: Actions,
    /// Updates for each step of a function.
    replay_ratio: f64,
    due: f64,
    seen: Vec<f32>,
    chosen: Vec<Option<usize>>,
    menu: Menu,
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
        Self { learner, actions, replay_ratio, due: 0.0, seen: Vec::new(), chosen: Vec::new(), menu: Menu::default() }
    }

    /// The learner.
    #[must_use]
    pub fn learner(&self) -> &Learner {
        &self.learner
    }

    /// The choices.
    #[must_use]
    pub fn actions(&self) -> &Actions {
        &self.actions
    }

    /// What was learned so far, with what is needed to go on.
    ///
    /// # Errors
    /// When the device fails.
    pub fn checkpoint(&self, reward: Option<qscale_common::policy::RewardWeights>, note: &str) -> Result<Checkpoint, DeviceFailed> {
        let purpose = Purpose { actions: self.actions.clone(), reward, note: note.to_owned() };
        let (weights, progress) = (self.learner.network().weights()?, self.learner.progress()?);
        Ok(Checkpoint::new(weights, Some(progress), self.learner.parameters(), self.learner.seed(), &purpose))
    }
}

impl Agent for DqnAgent {
    fn act(&mut self, states: &[&State]) -> Result<Vec<Option<Allocation>>, DeviceFailed> {
        self.seen.resize(states.len() * COUNT, 0.0);
        let (mut menus, mut masks) = (Vec::with_capacity(states.len()), Vec::with_capacity(states.len()));
        for (state, row) in states.iter().zip(self.seen.chunks_exact_mut(COUNT)) {
            observation::observe(state, row);
            self.actions.decode(state, &mut self.menu);
            masks.push(self.menu.mask());
            menus.push(self.menu.clone());
        }
        self.chosen = self.learner.choose(&self.seen, &masks)?;
        let wanted = self.chosen.iter().zip(&menus).map(|(choice, menu)| choice.and_then(|choice| menu.entry(choice).ok()));
        Ok(wanted.collect())
    }

    fn learn(&mut self, outcomes: &[Outcome<'_>]) -> Result<Option<Update>, DeviceFailed> {
        let mut next = [0.0; COUNT];
        for (lane, (outcome, choice)) in outcomes.iter().zip(&self.chosen).enumerate() {
            let (Some(choice), Some(reward)) = (choice, outcome.reward) else {
                self.learner.interrupt(lane);
                continue;
            };
            observation::observe(outcome.state, &mut next);
            self.actions.decode(outcome.state, &mut self.menu);
            let seen = &self.seen[lane * COUNT..(lane + 1) * COUNT];
            let mask: Mask = self.menu.mask();
            self.learner.remember(lane, seen, *choice, reward as f32, (&next, mask), outcome.ending);
        }
        self.due += self.replay_ratio * outcomes.len() as f64;
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
}
