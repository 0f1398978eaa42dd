//! A training from its beginning to its end: lives, learns, judges now and then and keeps the best. Owns what is kept; writes no file and reads no clock.

use std::num::NonZeroUsize;

use qscale_dqn::checkpoint::{Card, Checkpoint, CheckpointError, Judged};
use qscale_dqn::domain::Part;
use qscale_dqn::observation;
use qscale_rl::device::Device;
use qscale_rl::learner::{Learner, LearnerError};
use qscale_rl::network::DeviceError;

use crate::agent::DqnAgent;
use crate::judge::{Court, Score};
use crate::recipe::Recipe;
use crate::trainer::{Loss, Plan, Trainer};

/// A training.
pub struct Course {
    recipe: Recipe,
    seed: u64,
    device: Device,
    threads: NonZeroUsize,
    trainer: Trainer<DqnAgent>,
    best: Option<Best>,
    judged: u32,
}

/// The best network so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Best {
    /// The network, without what is needed to go on.
    pub model: Checkpoint,
    /// Ticks that had been lived through.
    pub ticks: u64,
    /// What it was worth on the validation worlds.
    pub score: Score,
}

/// How far a training is and what came of it since the last judgement.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// Ticks lived through, all together.
    pub ticks: u64,
    /// Updates made.
    pub updates: u64,
    /// Share of choices left to chance.
    pub epsilon: f32,
    /// What was earned while exploring.
    pub explored: Score,
    /// What updates said.
    pub loss: Loss,
    /// What the network is worth on the validation worlds.
    pub validation: Score,
    /// Whether it is the best so far.
    pub best: bool,
}

impl Course {
    /// A training that begins, or goes on from `last`. Of what was lived through before `last` only what was learned is left: the replay fills anew.
    ///
    /// # Errors
    /// When the recipe is out of range, or `last` was trained for something else.
    pub fn new(recipe: Recipe, seed: u64, last: Option<&Checkpoint>, device: &Device, threads: NonZeroUsize) -> Result<Self, CourseError> {
        recipe.check().map_err(CourseError::Recipe)?;
        let actions = recipe.actions();
        let learner = match last {
            None => Learner::new(recipe.settling(), observation::COUNT, actions.count(), seed, device)?,
            Some(last) => {
                let trained_for = last.check()?;
                if trained_for != actions {
                    return Err(CourseError::Recipe(format!(
                        "the checkpoint chooses among {} {}, the recipe says {} {}",
                        trained_for.set(),
                        trained_for.scope(),
                        actions.set(),
                        actions.scope()
                    )));
                }
                Learner::resume(recipe.settling(), &last.weights, last.training.as_ref(), seed, device)?
            }
        };
        let plan = Plan {
            domain: recipe.domain.clone(),
            worth: recipe.worth,
            worlds: recipe.worlds,
            threads,
            seed,
            first_world: learner.actions_taken(),
        };
        let judged = (learner.actions_taken() / (recipe.ticks / u64::from(recipe.judgements)).max(1)) as u32;
        let trainer = Trainer::new(plan, DqnAgent::with(learner, actions, recipe.replay_ratio));
        Ok(Self { seed, device: device.clone(), threads, trainer, best: None, judged, recipe })
    }

    /// Takes `best` for the best so far, as it was kept before.
    pub fn keep(&mut self, best: Best) {
        self.best = Some(best);
    }

    /// Lives through one tick of every world. Gives a judgement where one is due.
    ///
    /// # Errors
    /// When the device fails.
    pub fn advance(&mut self) -> Result<Option<Judgement>, DeviceError> {
        self.trainer.tick()?;
        let due = u64::from(self.judged + 1) * self.recipe.ticks / u64::from(self.recipe.judgements);
        if self.ticks() < due { Ok(None) } else { self.judge().map(Some) }
    }

    fn judge(&mut self) -> Result<Judgement, DeviceError> {
        self.judged += 1;
        let (explored, loss) = self.trainer.take();
        let model = self.last()?.model(None);
        let validation = Score::of(&self.court(Part::Validation).model(&model, &self.device)?);
        let ticks = self.ticks();
        let best = self.best.as_ref().is_none_or(|best| validation.mean.reward > best.score.mean.reward);
        if best {
            self.best = Some(Best { model, ticks, score: validation });
        }
        let learner = self.trainer.agent().learner();
        let epsilon = learner.parameters().exploration.epsilon(learner.actions_taken());
        Ok(Judgement { ticks, updates: learner.updates(), epsilon, explored, loss, validation, best })
    }

    /// Worlds of `part` that networks and rules are judged on.
    #[must_use]
    pub fn court(&self, part: Part) -> Court {
        self.recipe.court(part, self.threads)
    }

    /// The best model so far in each world of `part`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn judged(&self, best: &Best, part: Part) -> Result<Vec<Score>, DeviceError> {
        self.court(part).model(&best.model, &self.device)
    }

    /// The best model with its card, on which `others` stand beside it.
    #[must_use]
    pub fn with_card(&self, best: &Best, command: &str, judged: Vec<Judged>) -> Checkpoint {
        let card = Card { command: command.to_owned(), ticks: best.ticks, domain: self.recipe.domain.clone(), judged, specialist: None };
        best.model.clone().model(Some(card))
    }

    /// What was learned so far, with what is needed to go on.
    ///
    /// # Errors
    /// When the device fails.
    pub fn last(&self) -> Result<Checkpoint, DeviceError> {
        self.trainer.agent().checkpoint(Some(self.recipe.worth), "")
    }

    /// The best so far.
    #[must_use]
    pub fn best(&self) -> Option<&Best> {
        self.best.as_ref()
    }

    /// Ticks lived through, those before the training went on included.
    #[must_use]
    pub fn ticks(&self) -> u64 {
        self.trainer.agent().learner().actions_taken()
    }

    /// Whether all ticks of the recipe are lived through.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ticks() >= self.recipe.ticks
    }

    /// What it depends on.
    #[must_use]
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Its seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }
}

/// Why a training cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum CourseError {
    /// The recipe makes no sense.
    #[error("{0}")]
    Recipe(String),
    /// The learner refuses it.
    #[error(transparent)]
    Learner(#[from] LearnerError),
    /// The checkpoint is for something else.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}
