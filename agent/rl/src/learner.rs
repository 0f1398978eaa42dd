//! The learner: double DQN with a dueling network, n-step returns and a replay. Owns the update and its state; must not
//! know the environment.
//!
//! Deviations from the original DQN (Mnih et al., Nature 2015), chosen for controlling functions:
//! - Double targets, a dueling head, n-step returns and optional priorities, as in Rainbow (Hessel et al., AAAI 2018);
//!   no noisy networks. N-step returns are not corrected for exploration, as in Rainbow.
//! - Optionally: rollouts with λ-returns, as in PQN, without a replay or a target network; quantiles of returns;
//!   Munchausen DQN, with n-step returns and the log-probability added to the first reward.
//! - The target network follows by a moving average instead of copies.
//! - Hidden layers have layer normalisation. Observations are normalised by the mean and deviation of the first steps,
//!   which stay fixed afterwards.
//! - Invalid actions are masked in action selection and in targets.
//! - Targets, errors and the gradient of the loss by the values are plain numbers ([`crate::loss`]); only the network
//!   is differentiated. No gradient can flow through a target; `qscale-burn` tests this by differentiating the whole
//!   loss.
//! - Gradients are not clipped: the Huber loss bounds the gradient of each transition.
//! - Random streams are identified by seed, purpose and number of the action or update, so that a resumed learner draws the same numbers.

mod normaliser;
mod parameters;

pub use parameters::{Hyperparameters, MAX_CAPACITY, RolloutConfig};

use normaliser::Normaliser;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use thiserror::Error;

use crate::adam::{Moments, StepSize};
use crate::device::Device;
use crate::explore::epsilon_greedy;
use crate::loss::{self, BatchValues, LossConfig, LossOutput, td_loss};
use crate::mask::Mask;
use crate::network::{Architecture, DeviceError, Network, Weights};
use crate::replay::{Batch, NStepBuffer, ReplayBuffer, RolloutBuffer, Sampling, Transition};
use crate::training::TrainableNetwork;

/// A learner of action values.
pub struct Learner {
    parameters: Hyperparameters,
    seed: u64,
    networks: Box<dyn TrainableNetwork>,
    replay: ReplayBuffer,
    /// N-step returns of each environment.
    returns: Vec<NStepBuffer>,
    rollout: RolloutBuffer,
    /// Batches of the latest full rollout that are still to be learned from, the next at the end.
    rollout_batches: Vec<Batch>,
    normaliser: Option<Normaliser>,
    architecture: Architecture,
    batch: Batch,
    buffers: Buffers,
    actions_taken: u64,
    updates: u64,
}

/// An ε-greedy policy by a copy of the network at one moment, usable on any thread. Each action has its own random
/// stream, so that actions may be selected in any order.
#[derive(Debug, Clone)]
pub struct EpsilonGreedy {
    network: Box<dyn Network>,
    epsilon: f32,
    seed: u64,
    actions_taken: u64,
}

impl EpsilonGreedy {
    /// An action for each row of `observations`, the first of which is number `first` of all environments in this step;
    /// `None` where nothing is allowed.
    ///
    /// # Errors
    /// When the device fails.
    pub fn select(&self, first: usize, observations: &[f32], masks: &[Mask]) -> Result<Vec<Option<usize>>, DeviceError> {
        if masks.is_empty() {
            return Ok(Vec::new());
        }
        let values = self.network.values(observations)?;
        let selected = masks.iter().zip(values.chunks_exact(values.len() / masks.len())).enumerate().map(|(row, (mask, values))| {
            let mut rng = stream(self.seed, RandomPurpose::Exploration, self.actions_taken + (first + row) as u64);
            epsilon_greedy(values, *mask, self.epsilon, &mut rng)
        });
        Ok(selected.collect())
    }
}

/// Memory that updates reuse.
#[derive(Default)]
struct Buffers {
    next: Vec<f32>,
    next_by_target: Vec<f32>,
    current_by_target: Vec<f32>,
}

/// Why a learner could not be made or could not continue.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LearnerError {
    /// A hyperparameter is out of range.
    #[error("{0}")]
    Invalid(String),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Statistics of one update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UpdateStats {
    /// Loss before the update.
    pub loss: f32,
    /// Mean value of the batch's actions.
    pub value: f32,
    /// Mean absolute temporal-difference error.
    pub error: f32,
}

/// State needed in addition to the weights to continue training.
#[derive(Debug, Clone, PartialEq)]
pub struct LearnerState {
    /// Weights of the target network.
    pub target: Weights,
    /// The optimiser's moments.
    pub moments: Moments,
    /// Actions taken so far, which determine the position in the exploration schedule.
    pub actions_taken: u64,
    /// Updates made so far.
    pub updates: u64,
}

impl Learner {
    /// A new learner for observations of `inputs` numbers and `actions` actions, on `device`.
    ///
    /// # Errors
    /// When a hyperparameter is out of range.
    pub fn new(parameters: Hyperparameters, inputs: usize, actions: usize, seed: u64, device: &Device) -> Result<Self, LearnerError> {
        let Hyperparameters { hidden, dueling, layer_norm, quantiles, branches, .. } = parameters.clone();
        let architecture = Architecture { inputs, hidden, actions, dueling, layer_norm, quantiles, branches };
        let weights = Weights::initialise(architecture, &mut stream(seed, RandomPurpose::Weights, 0)).map_err(LearnerError::Invalid)?;
        let normaliser = parameters.normalise.then(|| Normaliser::new(inputs));
        Self::assemble(parameters, &weights, None, normaliser, seed, device)
    }

    /// A learner that continues from `weights`, and from `state` if there is one. The replay starts empty.
    ///
    /// # Errors
    /// When a hyperparameter is out of range, or weights and state do not match.
    pub fn resume(
        parameters: Hyperparameters,
        weights: &Weights,
        state: Option<&LearnerState>,
        seed: u64,
        device: &Device,
    ) -> Result<Self, LearnerError> {
        let normaliser =
            (parameters.normalise && state.is_none_or(|state| state.updates == 0)).then(|| Normaliser::new(weights.architecture().inputs));
        Self::assemble(parameters, weights, state, normaliser, seed, device)
    }

    fn assemble(
        parameters: Hyperparameters,
        weights: &Weights,
        state: Option<&LearnerState>,
        normaliser: Option<Normaliser>,
        seed: u64,
        device: &Device,
    ) -> Result<Self, LearnerError> {
        parameters.check().map_err(LearnerError::Invalid)?;
        let architecture = weights.architecture();
        let target = state.map_or(weights, |state| &state.target);
        if target.architecture() != architecture {
            return Err(LearnerError::Invalid("the target network and the network have different architectures".into()));
        }
        let moments = state.map_or_else(|| Moments::zero(architecture), |state| state.moments.clone());
        moments.check(architecture).map_err(LearnerError::Invalid)?;
        Ok(Self {
            networks: device.trainable(weights, target, moments),
            replay: ReplayBuffer::new(architecture.inputs, parameters.capacity, parameters.sampling),
            returns: Vec::new(),
            rollout: RolloutBuffer::default(),
            rollout_batches: Vec::new(),
            normaliser,
            architecture: architecture.clone(),
            batch: Batch::default(),
            buffers: Buffers::default(),
            actions_taken: state.map_or(0, |state| state.actions_taken),
            updates: state.map_or(0, |state| state.updates),
            parameters,
            seed,
        })
    }

    /// The policy by which the next actions are selected.
    #[must_use]
    pub fn policy(&self) -> EpsilonGreedy {
        EpsilonGreedy {
            network: self.networks.online().clone_box(),
            epsilon: self.parameters.exploration.epsilon(self.actions_taken),
            seed: self.seed,
            actions_taken: self.actions_taken,
        }
    }

    /// Counts `count` actions selected by [`Learner::policy`], which advances the exploration schedule.
    pub fn record_actions(&mut self, count: usize) {
        self.actions_taken += count as u64;
    }

    /// Selects an action for each row of `observations` and counts it; `None` where the mask allows nothing.
    ///
    /// # Errors
    /// When the device fails.
    pub fn select(&mut self, observations: &[f32], masks: &[Mask]) -> Result<Vec<Option<usize>>, DeviceError> {
        let selected = self.policy().select(0, observations, masks)?;
        self.record_actions(masks.len());
        Ok(selected)
    }

    /// Stores one step of `environment`.
    pub fn observe(&mut self, environment: usize, transition: &Transition<'_>) {
        if let Some(normaliser) = &mut self.normaliser {
            normaliser.update(transition.observation);
        }
        if self.parameters.rollouts.is_some() {
            return self.rollout.push(environment, transition);
        }
        let (length, discount) = (self.parameters.steps, self.parameters.discount);
        while self.returns.len() <= environment {
            self.returns.push(NStepBuffer::new(length, discount));
        }
        self.returns[environment].push(transition, &mut self.replay);
    }

    /// Marks that a step of `environment` is missing, so that no return spans the gap.
    pub fn interrupt(&mut self, environment: usize) {
        if let Some(returns) = self.returns.get_mut(environment) {
            returns.interrupt();
        }
        self.rollout.interrupt(environment);
    }

    /// Learns from one batch; `None` while there are too few transitions.
    ///
    /// # Errors
    /// When the device fails.
    pub fn update(&mut self) -> Result<Option<UpdateStats>, DeviceError> {
        let ready = match self.parameters.rollouts {
            Some(rollouts) => !self.rollout_batches.is_empty() || self.rollout.is_full(rollouts.length),
            None => self.replay.len() >= self.parameters.warm_up.max(1),
        };
        if !ready {
            return Ok(None);
        }
        if let Some(normaliser) = self.normaliser.take() {
            let (shift, scale) = normaliser.shift_and_scale();
            self.networks.normalise(&shift, &scale);
        }
        let mut rng = stream(self.seed, RandomPurpose::Replay, self.updates);
        let batch = match self.parameters.rollouts {
            Some(rollouts) => self.next_of_rollout(rollouts, &mut rng)?,
            None => {
                self.replay.sample(self.parameters.batch, self.beta(), &mut rng, &mut self.batch);
                std::mem::take(&mut self.batch)
            }
        };
        let learned = self.learn(&batch);
        self.batch = batch;
        let (output, value) = learned?;
        self.replay.update_priorities(&self.batch.indices, &output.errors);
        self.updates += 1;
        let error = output.errors.iter().map(|error| error.abs()).sum::<f32>() / output.errors.len() as f32;
        Ok(Some(UpdateStats { loss: output.loss, value, error }))
    }

    /// The next batch of the latest full rollout.
    fn next_of_rollout(&mut self, rollouts: RolloutConfig, rng: &mut SmallRng) -> Result<Batch, DeviceError> {
        if self.rollout.is_full(rollouts.length) {
            let values = self.networks.online().values(&self.rollout.nexts())?;
            let whole = self.rollout.take(&values, self.architecture.actions, self.parameters.discount, rollouts.lambda);
            let mut indices: Vec<usize> = (0..whole.actions.len()).collect();
            self.rollout_batches.clear();
            for _ in 0..rollouts.epochs {
                indices.shuffle(rng);
                self.rollout_batches.extend(indices.chunks(self.parameters.batch).map(|indices| whole.rows(indices)));
            }
        }
        Ok(self.rollout_batches.pop().unwrap_or_default())
    }

    /// One gradient step on `batch`: its loss without the gradient, and the mean value of its actions before the step.
    fn learn(&mut self, batch: &Batch) -> Result<(LossOutput, f32), DeviceError> {
        let size = StepSize { rate: self.parameters.rate_at(self.updates), epsilon: self.parameters.adam_epsilon };
        let Architecture { actions, quantiles, .. } = self.architecture;
        let Hyperparameters { huber_delta, double, munchausen, target_rate, .. } = self.parameters;
        let config = LossConfig { actions, quantiles, huber_delta, munchausen };
        let Buffers { next, next_by_target, current_by_target } = &mut self.buffers;
        if batch.nexts.is_empty() {
            next.clear();
            next_by_target.clear();
        } else {
            self.networks.online_quantiles(&batch.nexts, next)?;
            self.networks.target_quantiles(&batch.nexts, next_by_target)?;
        }
        if munchausen.is_some() {
            self.networks.target_quantiles(&batch.observations, current_by_target)?;
        }
        let (mut output, mut value) = (LossOutput::default(), 0.0);
        let mut gradient_of = |current: &[f32]| {
            let next = if double { &*next } else { &*next_by_target };
            let values = BatchValues { current, next, next_by_target, current_by_target };
            output = td_loss(batch, values, config);
            let taken = batch.actions.iter().zip(current.chunks_exact(actions * quantiles));
            value =
                taken.map(|(action, values)| loss::value(values, usize::from(*action), config)).sum::<f32>() / batch.actions.len() as f32;
            std::mem::take(&mut output.gradient)
        };
        self.networks.step(&batch.observations, &mut gradient_of, size)?;
        self.networks.update_target(target_rate);
        Ok((output, value))
    }

    fn beta(&self) -> f32 {
        match self.parameters.sampling {
            Sampling::Uniform => 1.0,
            Sampling::Prioritised { beta, beta_over, .. } => {
                let done = if beta_over == 0 { 1.0 } else { (self.updates as f64 / beta_over as f64).min(1.0) };
                beta + (1.0 - beta) * done as f32
            }
        }
    }

    /// Shape of its network.
    #[must_use]
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// The online network.
    #[must_use]
    pub fn network(&self) -> &dyn Network {
        self.networks.online()
    }

    /// Its hyperparameters.
    #[must_use]
    pub fn parameters(&self) -> &Hyperparameters {
        &self.parameters
    }

    /// Its seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Actions taken so far.
    #[must_use]
    pub fn actions_taken(&self) -> u64 {
        self.actions_taken
    }

    /// Updates made so far.
    #[must_use]
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Transitions in the replay.
    #[must_use]
    pub fn transitions(&self) -> usize {
        self.replay.len()
    }

    /// A copy of the state that is needed in addition to the weights to continue.
    ///
    /// # Errors
    /// When the device fails.
    pub fn state(&self) -> Result<LearnerState, DeviceError> {
        let (target, moments) = (self.networks.target().weights()?, self.networks.moments()?);
        Ok(LearnerState { target, moments, actions_taken: self.actions_taken, updates: self.updates })
    }
}

/// Purpose of a random stream.
#[derive(Debug, Clone, Copy)]
enum RandomPurpose {
    Weights = 1,
    Exploration = 2,
    Replay = 3,
}

/// The random stream for the `number`-th use for `purpose`: a round of splitmix64 between each (Steele, Lea and Flood, OOPSLA 2014).
fn stream(seed: u64, purpose: RandomPurpose, number: u64) -> SmallRng {
    let mixed = |number: u64| {
        let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    SmallRng::seed_from_u64(mixed(mixed(mixed(seed) ^ purpose as u64) ^ number))
}

#[cfg(test)]
mod tests;
