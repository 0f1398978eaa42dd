//! A training run: trains, evaluates at intervals and keeps the best network. Owns the results; writes no files and reads no clock.

use std::num::NonZeroUsize;

use qscale_dqn::checkpoint::{Card, Checkpoint, CheckpointError, Evaluation};
use qscale_dqn::observation;
use qscale_dqn::tasks::Split;
use qscale_rl::device::Device;
use qscale_rl::learner::{Learner, LearnerError};
use qscale_rl::network::DeviceError;

use crate::agent::DqnAgent;
use crate::config::TrainingConfig;
use crate::evaluate::{Evaluator, Score};
use crate::trainer::{Trainer, TrainerConfig, UpdateMeans};

/// A training run.
pub struct TrainingRun {
    config: TrainingConfig,
    seed: u64,
    device: Device,
    threads: NonZeroUsize,
    trainer: Trainer<DqnAgent>,
    best: Option<Best>,
    validations: u32,
}

/// The best network so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Best {
    /// The network, without training state.
    pub model: Checkpoint,
    /// Simulated ticks until then.
    pub ticks: u64,
    /// Its score on the validation worlds.
    pub score: Score,
}

/// Progress of a training run at a validation.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingProgress {
    /// Simulated ticks of all functions.
    pub ticks: u64,
    /// Updates made.
    pub updates: u64,
    /// Probability of a random action.
    pub epsilon: f32,
    /// Score while exploring, since the previous validation.
    pub explored: Score,
    /// Means over the updates since the previous validation.
    pub updates_since: UpdateMeans,
    /// Score of the network on the validation worlds.
    pub score: Score,
    /// Whether it is the best so far.
    pub best: bool,
}

impl TrainingRun {
    /// A new run, or one that continues from `last` with an empty replay.
    ///
    /// # Errors
    /// When the configuration is out of range, or `last` does not match it.
    pub fn new(
        config: TrainingConfig,
        seed: u64,
        last: Option<&Checkpoint>,
        device: &Device,
        threads: NonZeroUsize,
    ) -> Result<Self, TrainingRunError> {
        config.check().map_err(TrainingRunError::Config)?;
        let actions = config.actions();
        let learner = match last {
            None => Learner::new(config.with_decay(), observation::COUNT, actions.count(), seed, device)?,
            Some(last) => {
                let trained_for = last.check()?;
                if trained_for != actions {
                    return Err(TrainingRunError::Config(format!(
                        "the checkpoint has actions {} {}, the configuration {} {}",
                        trained_for.set(),
                        trained_for.scope(),
                        actions.set(),
                        actions.scope()
                    )));
                }
                Learner::resume(config.with_decay(), &last.weights, last.training.as_ref(), seed, device)?
            }
        };
        let trainer = TrainerConfig {
            tasks: config.tasks.clone(),
            reward: config.reward,
            worlds: config.worlds,
            threads,
            seed,
            first_world: learner.actions_taken(),
        };
        let validations = (learner.actions_taken() / (config.ticks / u64::from(config.validations)).max(1)) as u32;
        let trainer = Trainer::new(trainer, DqnAgent::with(learner, actions, config.replay_ratio));
        Ok(Self { seed, device: device.clone(), threads, trainer, best: None, validations, config })
    }

    /// Sets the best network so far, from an interrupted run.
    pub fn set_best(&mut self, best: Best) {
        self.best = Some(best);
    }

    /// Simulates one tick of every world. Returns a validation if one is due.
    ///
    /// # Errors
    /// When the device fails.
    pub fn advance(&mut self) -> Result<Option<TrainingProgress>, DeviceError> {
        self.trainer.tick()?;
        let due = u64::from(self.validations + 1) * self.config.ticks / u64::from(self.config.validations);
        if self.ticks() < due { Ok(None) } else { self.validate().map(Some) }
    }

    fn validate(&mut self) -> Result<TrainingProgress, DeviceError> {
        self.validations += 1;
        let (explored, updates_since) = self.trainer.take();
        let model = self.last()?.model(None);
        let score = Score::of(&self.evaluator(Split::Validation).model(&model, &self.device)?);
        let ticks = self.ticks();
        let best = self.best.as_ref().is_none_or(|best| score.mean.reward > best.score.mean.reward);
        if best {
            self.best = Some(Best { model, ticks, score });
        }
        let learner = self.trainer.agent().learner();
        let epsilon = learner.parameters().exploration.epsilon(learner.actions_taken());
        Ok(TrainingProgress { ticks, updates: learner.updates(), epsilon, explored, updates_since, score, best })
    }

    /// The evaluator on worlds of `split`.
    #[must_use]
    pub fn evaluator(&self, split: Split) -> Evaluator {
        self.config.evaluator(split, self.threads)
    }

    /// The scores of `best` in each world of `split`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn evaluate(&self, best: &Best, split: Split) -> Result<Vec<Score>, DeviceError> {
        self.evaluator(split).model(&best.model, &self.device)
    }

    /// The model `best` with its card, which includes `evaluations`.
    #[must_use]
    pub fn with_card(&self, best: &Best, command: &str, evaluations: Vec<Evaluation>) -> Checkpoint {
        let card = Card { command: command.to_owned(), ticks: best.ticks, tasks: self.config.tasks.clone(), evaluations, specialist: None };
        best.model.clone().model(Some(card))
    }

    /// A checkpoint from which the run can continue.
    ///
    /// # Errors
    /// When the device fails.
    pub fn last(&self) -> Result<Checkpoint, DeviceError> {
        self.trainer.agent().checkpoint(Some(self.config.reward), "")
    }

    /// The best network so far.
    #[must_use]
    pub fn best(&self) -> Option<&Best> {
        self.best.as_ref()
    }

    /// Simulated ticks, including those before an interruption.
    #[must_use]
    pub fn ticks(&self) -> u64 {
        self.trainer.agent().learner().actions_taken()
    }

    /// Whether all configured ticks are simulated.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ticks() >= self.config.ticks
    }

    /// Its configuration.
    #[must_use]
    pub fn config(&self) -> &TrainingConfig {
        &self.config
    }

    /// Its seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }
}

/// Why a training run cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TrainingRunError {
    /// The configuration is invalid.
    #[error("{0}")]
    Config(String),
    /// The learner rejects it.
    #[error(transparent)]
    Learner(#[from] LearnerError),
    /// The checkpoint does not match this program.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}
