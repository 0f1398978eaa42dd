//! The learner: double DQN with a dueling network, n-step returns and replay. Owns the update and what it needs; must not know what is learned about.
//!
//! Deviations from textbook DQN (Mnih et al., Nature 2015), each chosen for control of a function rather than of a game:
//! - Double targets, a dueling head, n-step returns and, where asked for, priorities, as Rainbow has them (Hessel et al., AAAI 2018); none of its noise.
//!   n-step returns are not corrected for exploration, as in Rainbow.
//! - Where asked for it learns from rollouts by λ-returns instead, as PQN does, without a replay or a target network; or quantiles of returns; or adds
//!   the logarithm of its policy to rewards, as Munchausen DQN does, with n-step returns to the first of them.
//! - The target follows softly at every update, not by copies.
//! - Each hidden layer is normalised; what is seen is normalised by means and deviations of the first steps, which then stay as they are.
//! - Choices that cannot be made are masked in choosing and in targets.
//! - Targets, errors and the loss' gradient by the values are computed as plain numbers ([`crate::loss`]); only the network is differentiated, by burn or
//!   by hand. No gradient can reach a target, and a test differentiates the whole loss with burn to hold both against it.
//! - Gradients are not clipped: Huber's loss bounds what each transition adds.
//! - Chance is drawn from streams named by the seed and the number of the choice or update, so that whoever resumes goes on with the same chance.

mod adam;
mod normaliser;
mod parameters;

pub use parameters::{Hyperparameters, Munchausen, Rollouts};

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use thiserror::Error;

use crate::device::Device;
use crate::explore::choose;
use crate::loss::{self, Rule, Values, Verdict};
use crate::mask::Mask;
use crate::network::{Architecture, DeviceFailed, Network, Scratch, Way, Weights};
use crate::replay::{Batch, Ending, Replay, Rollout, Sampling, Steps};
pub use adam::Moments;
use adam::{Adam, Gradient};
use normaliser::Normaliser;

/// A learner of action values.
pub struct Learner {
    parameters: Hyperparameters,
    seed: u64,
    online: Network,
    target: Network,
    adam: Adam,
    replay: Replay,
    lanes: Vec<Steps>,
    rollout: Rollout,
    /// What is still to be learned from the rollout before, the next at the end.
    due: Vec<Batch>,
    normaliser: Option<Normaliser>,
    architecture: Architecture,
    batch: Batch,
    memory: Memory,
    choices: u64,
    updates: u64,
}

/// Makes choices by a network as it was at one moment, on any thread. The chance of each choice is its own, so that they may be made in any order.
#[derive(Debug, Clone)]
pub struct Chooser {
    network: Network,
    epsilon: f32,
    seed: u64,
    choices: u64,
}

impl Chooser {
    /// Chooses for each of `observations`, the first of which is number `first` of those that are chosen for at once; `None` where nothing is allowed.
    ///
    /// # Errors
    /// When the device fails.
    pub fn choose(&self, first: usize, observations: &[f32], masks: &[Mask]) -> Result<Vec<Option<usize>>, DeviceFailed> {
        if masks.is_empty() {
            return Ok(Vec::new());
        }
        let values = self.network.values(observations)?;
        let choices = masks.iter().zip(values.chunks_exact(values.len() / masks.len())).enumerate().map(|(row, (mask, values))| {
            let mut rng = stream(self.seed, Purpose::Exploration, self.choices + (first + row) as u64);
            choose(values, *mask, self.epsilon, &mut rng)
        });
        Ok(choices.collect())
    }
}

/// Memory that updates on the CPU use again and again.
#[derive(Default)]
struct Memory {
    seen: Scratch,
    next: Scratch,
    next_by_target: Scratch,
    seen_by_target: Scratch,
    gradient: Vec<f32>,
}

/// Why there is no learner, or why it could not go on.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LearnerError {
    /// A hyperparameter outside its range.
    #[error("{0}")]
    Invalid(String),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceFailed),
}

/// What one update said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Update {
    /// The loss before it.
    pub loss: f32,
    /// Mean of what was expected of the batch's choices.
    pub value: f32,
    /// Mean size of the errors.
    pub error: f32,
}

/// What is needed besides the weights in order to go on learning.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// Weights of the target network.
    pub target: Weights,
    /// The optimiser's moments.
    pub moments: Moments,
    /// Choices made so far: where exploration is.
    pub choices: u64,
    /// Updates made so far.
    pub updates: u64,
}

impl Learner {
    /// A learner that begins, of observations of `inputs` numbers, on `device`.
    ///
    /// # Errors
    /// When a hyperparameter lies outside its range.
    pub fn new(parameters: Hyperparameters, inputs: usize, actions: usize, seed: u64, device: &Device) -> Result<Self, LearnerError> {
        let Hyperparameters { hidden, dueling, layer_norm, quantiles, branches, .. } = parameters.clone();
        let architecture = Architecture { inputs, hidden, actions, dueling, layer_norm, quantiles, branches };
        let weights = Weights::begin(architecture, &mut stream(seed, Purpose::Weights, 0)).map_err(LearnerError::Invalid)?;
        let normaliser = parameters.normalise.then(|| Normaliser::new(inputs));
        Self::assemble(parameters, &weights, None, normaliser, seed, device)
    }

    /// A learner that goes on from `weights`, and from `progress` where that was kept; what it lived through before is forgotten.
    ///
    /// # Errors
    /// When a hyperparameter lies outside its range, or weights and progress do not belong together.
    pub fn resume(
        parameters: Hyperparameters,
        weights: &Weights,
        progress: Option<&Progress>,
        seed: u64,
        device: &Device,
    ) -> Result<Self, LearnerError> {
        let normaliser = (parameters.normalise && progress.is_none_or(|progress| progress.updates == 0))
            .then(|| Normaliser::new(weights.architecture().inputs));
        Self::assemble(parameters, weights, progress, normaliser, seed, device)
    }

    fn assemble(
        parameters: Hyperparameters,
        weights: &Weights,
        progress: Option<&Progress>,
        normaliser: Option<Normaliser>,
        seed: u64,
        device: &Device,
    ) -> Result<Self, LearnerError> {
        parameters.check().map_err(LearnerError::Invalid)?;
        let architecture = weights.architecture();
        let target = progress.map_or(weights, |progress| &progress.target);
        if target.architecture() != architecture {
            return Err(LearnerError::Invalid("the target network has another architecture than the network".into()));
        }
        let adam = match progress {
            Some(progress) => Adam::resume(architecture, &progress.moments, device).map_err(LearnerError::Invalid)?,
            None => Adam::new(architecture, device),
        };
        Ok(Self {
            online: Network::new(weights, device),
            target: Network::new(target, device),
            adam,
            replay: Replay::new(architecture.inputs, parameters.capacity, parameters.sampling),
            lanes: Vec::new(),
            rollout: Rollout::default(),
            due: Vec::new(),
            normaliser,
            architecture: architecture.clone(),
            batch: Batch::default(),
            memory: Memory::default(),
            choices: progress.map_or(0, |progress| progress.choices),
            updates: progress.map_or(0, |progress| progress.updates),
            parameters,
            seed,
        })
    }

    /// Whoever makes the next choices by what was learned so far.
    #[must_use]
    pub fn chooser(&self) -> Chooser {
        Chooser {
            network: self.online.clone(),
            epsilon: self.parameters.exploration.epsilon(self.choices),
            seed: self.seed,
            choices: self.choices,
        }
    }

    /// Says that so many choices were made since the last [`Learner::chooser`].
    pub fn chose(&mut self, count: usize) {
        self.choices += count as u64;
    }

    /// Chooses for each of `observations`, row by row, among what its mask allows, exploring as the schedule says; `None` where nothing is allowed.
    ///
    /// # Errors
    /// When the device fails.
    pub fn choose(&mut self, observations: &[f32], masks: &[Mask]) -> Result<Vec<Option<usize>>, DeviceFailed> {
        let choices = self.chooser().choose(0, observations, masks)?;
        self.chose(masks.len());
        Ok(choices)
    }

    /// Takes in one step of environment number `lane`: what was seen and could be chosen, what was chosen, what it was worth, what was seen then and could
    /// be chosen there.
    pub fn remember(&mut self, lane: usize, seen: (&[f32], Mask), action: usize, reward: f32, next: (&[f32], Mask), ending: Ending) {
        if let Some(normaliser) = &mut self.normaliser {
            normaliser.see(seen.0);
        }
        if self.parameters.rollouts.is_some() {
            return self.rollout.push(lane, seen, action as u8, reward, next, ending);
        }
        let (length, discount) = (self.parameters.steps, self.parameters.discount);
        while self.lanes.len() <= lane {
            self.lanes.push(Steps::new(length, discount));
        }
        self.lanes[lane].push(seen, action as u8, reward, next, ending, &mut self.replay);
    }

    /// Says that a step of environment number `lane` is missing, so that no return reaches across it.
    pub fn interrupt(&mut self, lane: usize) {
        if let Some(steps) = self.lanes.get_mut(lane) {
            steps.interrupt();
        }
        self.rollout.interrupt(lane);
    }

    /// Learns from one batch; `None` while too little was lived through.
    ///
    /// # Errors
    /// When the device fails.
    pub fn update(&mut self) -> Result<Option<Update>, DeviceFailed> {
        let ready = match self.parameters.rollouts {
            Some(rollouts) => !self.due.is_empty() || self.rollout.is_full(rollouts.length),
            None => self.replay.len() >= self.parameters.warm_up.max(1),
        };
        if !ready {
            return Ok(None);
        }
        if let Some(normaliser) = self.normaliser.take() {
            let (shift, scale) = normaliser.told();
            self.online.normalise(&shift, &scale);
            self.target.normalise(&shift, &scale);
        }
        let mut rng = stream(self.seed, Purpose::Replay, self.updates);
        let batch = match self.parameters.rollouts {
            Some(rollouts) => self.next_of_rollout(rollouts, &mut rng)?,
            None => {
                self.replay.sample(self.parameters.batch, self.beta(), &mut rng, &mut self.batch);
                std::mem::take(&mut self.batch)
            }
        };
        let verdict = self.learn(&batch);
        self.batch = batch;
        let (verdict, value) = verdict?;
        self.replay.learned(&self.batch.places, &verdict.errors);
        self.updates += 1;
        let error = verdict.errors.iter().map(|error| error.abs()).sum::<f32>() / verdict.errors.len() as f32;
        Ok(Some(Update { loss: verdict.loss, value, error }))
    }

    /// What is learned from next of the latest rollout that was full.
    fn next_of_rollout(&mut self, rollouts: Rollouts, rng: &mut SmallRng) -> Result<Batch, DeviceFailed> {
        if self.rollout.is_full(rollouts.length) {
            let values = self.online.values(&self.rollout.nexts())?;
            let whole = self.rollout.take(&values, self.architecture.actions, self.parameters.discount, rollouts.lambda);
            let mut places: Vec<usize> = (0..whole.actions.len()).collect();
            self.due.clear();
            for _ in 0..rollouts.epochs {
                places.shuffle(rng);
                self.due.extend(places.chunks(self.parameters.batch).map(|places| whole.rows(places)));
            }
        }
        Ok(self.due.pop().unwrap_or_default())
    }

    /// One gradient step on `batch`: what it said, and the mean value of its choices before.
    fn learn(&mut self, batch: &Batch) -> Result<(Verdict, f32), DeviceFailed> {
        let rate = self.parameters.rate_at(self.updates);
        let (verdict, value) = {
            let Architecture { actions, quantiles, .. } = self.architecture;
            let Hyperparameters { corner, double, munchausen, .. } = self.parameters;
            let rule = Rule { actions, quantiles, corner, munchausen };
            let judge = |mut values: Values<'_>| {
                if !double {
                    values.next = values.next_by_target;
                }
                let verdict = loss::judge(batch, values, rule);
                let chosen = batch.actions.iter().zip(values.seen.chunks_exact(actions * quantiles));
                let value = chosen.map(|(action, values)| loss::value(values, usize::from(*action), rule)).sum::<f32>();
                (verdict, value / batch.actions.len() as f32)
            };
            let Memory { seen, next, next_by_target, seen_by_target, gradient } = &mut self.memory;
            match (&self.online.0, &self.target.0) {
                (Way::Loops(online), Way::Loops(target)) => {
                    if !batch.nexts.is_empty() {
                        online.forward(&batch.nexts, next);
                        target.forward(&batch.nexts, next_by_target);
                    }
                    if munchausen.is_some() {
                        target.forward(&batch.observations, seen_by_target);
                    }
                    online.forward(&batch.observations, seen);
                    let judged = judge(Values {
                        seen: &seen.values,
                        next: &next.values,
                        next_by_target: &next_by_target.values,
                        seen_by_target: &seen_by_target.values,
                    });
                    online.backward(seen, &judged.0.gradient, gradient);
                    self.adam.step(&mut self.online, Gradient::Plain(gradient), rate, self.parameters.adam_epsilon);
                    judged
                }
                (Way::Tensors(online), Way::Tensors(target)) => {
                    let (next, next_by_target) = match batch.nexts.is_empty() {
                        true => (Vec::new(), Vec::new()),
                        false => (online.values(&batch.nexts)?, target.values(&batch.nexts)?),
                    };
                    let seen_by_target = if munchausen.is_some() { target.values(&batch.observations)? } else { Vec::new() };
                    let pass = online.pass(&batch.observations);
                    let seen = pass.values()?;
                    let judged =
                        judge(Values { seen: &seen, next: &next, next_by_target: &next_by_target, seen_by_target: &seen_by_target });
                    let gradient = Gradient::Tensors(online.backward(pass, judged.0.gradient.clone()));
                    self.adam.step(&mut self.online, gradient, rate, self.parameters.adam_epsilon);
                    judged
                }
                _ => unreachable!("both networks lie on one device"),
            }
        };
        self.follow();
        Ok((verdict, value))
    }

    /// The target follows the network by a small part.
    fn follow(&mut self) {
        let rate = self.parameters.target_rate;
        match (&mut self.target.0, &self.online.0) {
            (Way::Loops(target), Way::Loops(online)) => {
                let pairs = target.values_mut().iter_mut().zip(online.weights().values());
                pairs.for_each(|(target, online)| *target += rate * (online - *target));
            }
            (Way::Tensors(target), Way::Tensors(online)) => target.follow(online, rate),
            _ => unreachable!("both networks lie on one device"),
        }
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

    /// What its network looks like.
    #[must_use]
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// The network that learns.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.online
    }

    /// What it was told.
    #[must_use]
    pub fn parameters(&self) -> &Hyperparameters {
        &self.parameters
    }

    /// Its seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Choices made so far.
    #[must_use]
    pub fn choices(&self) -> u64 {
        self.choices
    }

    /// Updates made so far.
    #[must_use]
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Transitions that can be learned from.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.replay.len()
    }

    /// What is needed besides the weights in order to go on.
    ///
    /// # Errors
    /// When the device fails.
    pub fn progress(&self) -> Result<Progress, DeviceFailed> {
        Ok(Progress { target: self.target.weights()?, moments: self.adam.moments()?, choices: self.choices, updates: self.updates })
    }
}

/// What chance is drawn for.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    Weights = 1,
    Exploration = 2,
    Replay = 3,
}

/// Chance of its own for the `number`-th time of `purpose`: a round of splitmix64 between each (Steele, Lea and Flood, OOPSLA 2014).
fn stream(seed: u64, purpose: Purpose, number: u64) -> SmallRng {
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
