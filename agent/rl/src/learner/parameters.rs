//! Hyperparameters of the learner. Owns their defaults, ranges and sources. EXPERIMENTS.md of the training crate
//! records the measurements behind them.

use serde::{Deserialize, Serialize};

use crate::explore::EpsilonSchedule;
use crate::loss::Munchausen;
use crate::network::Architecture;
use crate::replay::Sampling;

/// Largest capacity of the replay buffer, transitions.
pub const MAX_CAPACITY: usize = 10_000_000;

/// Hyperparameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hyperparameters {
    /// Units of each hidden layer.
    pub hidden: Vec<usize>,
    /// Whether the online network selects the next action (double Q-learning) rather than the target network.
    pub double: bool,
    /// Whether the head is dueling.
    pub dueling: bool,
    /// Whether hidden layers have layer normalisation.
    pub layer_norm: bool,
    /// Whether observations are normalised by their mean and standard deviation before the first update.
    pub normalise: bool,
    /// Discount of a reward per step, 0 to below 1.
    pub discount: f32,
    /// Steps of an n-step return, 1 to 100.
    pub steps: usize,
    /// Transitions of an update, 1 to 65,536.
    pub batch: usize,
    /// Learning rate of Adam, above 0 and at most 1.
    pub learning_rate: f32,
    /// Updates over which the learning rate falls linearly to a twentieth; 0 keeps it constant. Training replaces 0 by the number of its updates.
    pub decay_over: u64,
    /// Epsilon of Adam, added to the root of the second moment, above 0.
    pub adam_epsilon: f32,
    /// Temporal-difference error beyond which the Huber loss is linear, above 0.
    #[serde(alias = "corner")]
    pub huber_delta: f32,
    /// Share by which the target network moves towards the online network at each update, above 0 and at most 1.
    pub target_rate: f32,
    /// Capacity of the replay, 1 to 10,000,000 transitions.
    pub capacity: usize,
    /// How the replay is sampled.
    pub sampling: Sampling,
    /// Transitions before the first update.
    pub warm_up: usize,
    /// Probability of a random action.
    pub exploration: EpsilonSchedule,
    /// Learns from rollouts; without it, from a replay.
    pub rollouts: Option<RolloutConfig>,
    /// Quantiles of each action's return, 1 to 64; 1 learns the mean ([`Architecture::quantiles`]).
    pub quantiles: usize,
    /// Sizes of the head's branches, if the actions are a product ([`Architecture::branches`]).
    pub branches: Vec<usize>,
    /// Munchausen Q-learning; from a replay only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub munchausen: Option<Munchausen>,
}

/// Learning from the latest steps of all environments by λ-returns, without a replay and a target network (PQN; Gallici et al., ICLR 2025).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutConfig {
    /// Steps of each environment in a rollout, 1 to 10,000.
    pub length: usize,
    /// λ: weight of the following return against the value estimate, 0 to 1.
    pub lambda: f32,
    /// Passes over each rollout, 1 to 100; fewer if steps arrive faster than updates.
    pub epochs: usize,
}

impl Default for RolloutConfig {
    /// As in the paper's experiments with many environments; as many epochs as a transition in a replay is sampled.
    fn default() -> Self {
        Self { length: 32, lambda: 0.65, epochs: 3 }
    }
}

impl Default for Hyperparameters {
    /// For the control of functions at ticks of seconds.
    fn default() -> Self {
        Self {
            hidden: vec![256, 256],
            double: true,
            dueling: true,
            layer_norm: true,
            normalise: true,
            // A horizon of ten ticks. Longer dependencies are features of the history (EXPERIMENTS.md).
            discount: 0.9,
            // Rainbow (Hessel et al., AAAI 2018).
            steps: 3,
            // At the same number of transitions a second and a matching learning rate, better than 128 (EXPERIMENTS.md).
            batch: 512,
            // CleanRL's DQN for classic control: 2.5e-4 at a batch of 128; scaled linearly with the batch.
            learning_rate: 1e-3,
            decay_over: 0,
            // Rainbow: 1.5e-4. Larger than Adam's default, so that small gradients near the end of training do not become large steps.
            adam_epsilon: 1.5e-4,
            // Dabney et al., AAAI 2018: small in relation to the returns, so that the loss approximates quantile regression.
            huber_delta: 1.0,
            // Lillicrap et al., DDPG (ICLR 2016): 1e-3. Stable-Baselines3 and the reproduced study: 5e-3.
            target_rate: 5e-3,
            // Hundreds of environments write at once: a small replay would hold minutes of each.
            capacity: 1_000_000,
            // Priorities were not better (EXPERIMENTS.md).
            sampling: Sampling::Uniform,
            warm_up: 20_000,
            exploration: EpsilonSchedule { from: 1.0, to: 0.1, over: 100_000 },
            // With quantiles a replay learned more per tick (EXPERIMENTS.md 19).
            rollouts: None,
            // Few enough that the head stays narrower than the hidden layers (EXPERIMENTS.md).
            quantiles: 8,
            branches: Vec::new(),
            munchausen: None,
        }
    }
}

impl Hyperparameters {
    /// Standard double DQN: means instead of quantiles.
    #[must_use]
    pub fn plain() -> Self {
        Self {
            quantiles: 1,
            // Mnih et al., Nature 2015, clip errors to 1, the size of their rewards. Violations are rare here and cost
            // many times as much as any allocation: with a smaller delta the estimate would be the median rather than
            // the mean.
            huber_delta: 30.0,
            ..Self::default()
        }
    }

    /// Factor of the learning rate after `decay_over` updates.
    const FINAL_RATE: f32 = 0.05;

    /// The learning rate after `updates` updates.
    #[must_use]
    pub fn rate_at(&self, updates: u64) -> f32 {
        let done = if self.decay_over == 0 { 0.0 } else { (updates as f64 / self.decay_over as f64).min(1.0) as f32 };
        self.learning_rate * (1.0 - (1.0 - Self::FINAL_RATE) * done)
    }

    /// # Errors
    /// Names the first hyperparameter that is out of range, with its value and range.
    pub fn check(&self) -> Result<(), String> {
        let count = |name: &str, value: usize, most: usize| {
            if (1..=most).contains(&value) { Ok(()) } else { Err(format!("{name} = {value}, must be from 1 to {most}")) }
        };
        count("steps", self.steps, 100)?;
        count("batch", self.batch, 65_536)?;
        count("capacity", self.capacity, MAX_CAPACITY)?;
        let number = |name: &str, value: f32, most: f32| {
            if value > 0.0 && value <= most { Ok(()) } else { Err(format!("{name} = {value}, must be above 0 and at most {most}")) }
        };
        number("learning_rate", self.learning_rate, 1.0)?;
        number("adam_epsilon", self.adam_epsilon, 1.0)?;
        number("huber_delta", self.huber_delta, 1e6)?;
        number("target_rate", self.target_rate, 1.0)?;
        if !(0.0..1.0).contains(&self.discount) {
            return Err(format!("discount = {}, must be at least 0 and below 1", self.discount));
        }
        if let Sampling::Prioritised { alpha, beta, .. } = self.sampling {
            for (name, share) in [("alpha", alpha), ("beta", beta)] {
                if !(0.0..=1.0).contains(&share) {
                    return Err(format!("sampling.{name} = {share}, must be from 0 to 1"));
                }
            }
        }
        if let Some(RolloutConfig { length, lambda, epochs }) = self.rollouts {
            count("rollouts.length", length, 10_000)?;
            count("rollouts.epochs", epochs, 100)?;
            if !(0.0..=1.0).contains(&lambda) {
                return Err(format!("rollouts.lambda = {lambda}, must be from 0 to 1"));
            }
        }
        count("quantiles", self.quantiles, Architecture::FINEST)?;
        if let Some(Munchausen { alpha, temperature, least }) = self.munchausen {
            if self.rollouts.is_some() {
                return Err("munchausen and rollouts are both set: munchausen requires a replay, remove one of them".to_owned());
            }
            number("munchausen.temperature", temperature, 1e6)?;
            if !(0.0..=1.0).contains(&alpha) {
                return Err(format!("munchausen.alpha = {alpha}, must be from 0 to 1"));
            }
            if !(-1e6..0.0).contains(&least) {
                return Err(format!("munchausen.least = {least}, must be at least -1000000 and below 0"));
            }
        }
        self.exploration.check()
    }
}
