//! Hyperparameters of the learner. Owns their defaults, ranges and sources.

use serde::{Deserialize, Serialize};

use crate::explore::Schedule;
use crate::network::Architecture;
use crate::replay::Sampling;

/// What the learner is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hyperparameters {
    /// Widths of the hidden layers.
    pub hidden: Vec<usize>,
    /// Whether the network that learns makes the choice that the target network values; else the target network makes it itself.
    pub double: bool,
    /// Whether the head is dueling.
    pub dueling: bool,
    /// Whether hidden layers are normalised.
    pub layer_norm: bool,
    /// Whether what is seen is normalised by the mean and deviation of what was seen before the first update.
    pub normalise: bool,
    /// How much a reward counts one step later, 0 to below 1.
    pub discount: f32,
    /// Steps that a return sums, 1 to 100.
    pub steps: usize,
    /// Transitions that an update learns from, 1 to 65,536.
    pub batch: usize,
    /// Step size of the optimiser, above 0 and at most 1.
    pub learning_rate: f32,
    /// Updates over which the step size falls in a straight line to a twentieth, so that what was learned settles; 0 keeps it.
    pub decay_over: u64,
    /// What Adam adds to the root of the second moment, above 0.
    pub adam_epsilon: f32,
    /// Error beyond which the loss grows in a straight line, above 0.
    pub corner: f32,
    /// Part by which the target follows at each update, above 0 and at most 1.
    pub target_rate: f32,
    /// Transitions that are kept, 1 to 10,000,000.
    pub capacity: usize,
    /// How they are drawn.
    pub sampling: Sampling,
    /// Transitions that are lived through before the first update.
    pub warm_up: usize,
    /// How often choices are left to chance.
    pub exploration: Schedule,
    /// Learns from rollouts; where there is nothing, from a replay.
    pub rollouts: Option<Rollouts>,
    /// Quantiles of each action's return that are learned, 1 to 64; 1 is the mean alone ([`Architecture::quantiles`]).
    pub quantiles: usize,
    /// Sizes of the head's branches, where the action set is a product ([`Architecture::branches`]).
    pub branches: Vec<usize>,
    /// Adds what the policy thinks of its choices to their rewards, where told; from a replay only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub munchausen: Option<Munchausen>,
}

/// A soft policy by the target network whose logarithm is part of the reward (Vieillard et al., NeurIPS 2020).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Munchausen {
    /// Part of the scaled logarithm that is added, 0 to 1.
    pub alpha: f32,
    /// How much the values of two choices must differ for the policy to prefer one by a factor of e, above 0.
    pub temperature: f32,
    /// The least that the scaled logarithm counts, below 0.
    pub least: f32,
}

impl Default for Munchausen {
    /// As in the paper, where rewards are at most 1; those of a usual tick are about 1 here.
    fn default() -> Self {
        Self { alpha: 0.9, temperature: 0.03, least: -1.0 }
    }
}

/// Learning from the latest steps of all environments alone, by λ-returns, without a replay and a target network (PQN; Gallici et al., ICLR 2025).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rollouts {
    /// Steps of each environment that are learned from together, 1 to 10,000.
    pub length: usize,
    /// Part of a return that is what came later rather than what is expected there, 0 to 1.
    pub lambda: f32,
    /// How often each step is learned from, 1 to 100; less often where steps come faster than updates.
    pub epochs: usize,
}

impl Default for Rollouts {
    /// As in the paper's experiments with many environments; as many epochs as each transition of a replay is learned from.
    fn default() -> Self {
        Self { length: 32, lambda: 0.65, epochs: 3 }
    }
}

impl Default for Hyperparameters {
    /// For control of functions at ticks of seconds.
    fn default() -> Self {
        Self {
            hidden: vec![256, 256],
            double: true,
            dueling: true,
            layer_norm: true,
            normalise: true,
            // A horizon of ten ticks. What matters for longer lies in what is seen of the history (EXPERIMENTS.md).
            discount: 0.9,
            // Rainbow (Hessel et al., AAAI 2018).
            steps: 3,
            // With as many transitions read a second as in batches of 128, and a step size that fits, fewer and surer updates learned more (EXPERIMENTS.md).
            batch: 512,
            // CleanRL's DQN for classic control has 2.5e-4 at a batch of 128; four times that at four times the batch.
            learning_rate: 1e-3,
            decay_over: 0,
            // Rainbow: 1.5e-4. Larger than Adam's own, so that small gradients near the end do not become large steps.
            adam_epsilon: 1.5e-4,
            // Dabney et al., AAAI 2018: small beside rewards, so that a quantile is one.
            corner: 1.0,
            // Lillicrap et al., DDPG (ICLR 2016): 1e-3; 5e-3 is what Stable-Baselines3 and the study use.
            target_rate: 5e-3,
            // Many worlds write at once: a small memory would hold minutes of each.
            capacity: 1_000_000,
            // Priorities learned no faster here (EXPERIMENTS.md).
            sampling: Sampling::Uniform,
            warm_up: 20_000,
            exploration: Schedule { from: 1.0, to: 0.1, over: 100_000 },
            // From a replay quantiles learn more of each tick (EXPERIMENTS.md 19).
            rollouts: None,
            // Few enough that the head stays narrower than two hidden layers (EXPERIMENTS.md).
            quantiles: 8,
            branches: Vec::new(),
            munchausen: None,
        }
    }
}

impl Hyperparameters {
    /// Double DQN as it is known: means instead of quantiles.
    #[must_use]
    pub fn plain() -> Self {
        Self {
            quantiles: 1,
            // Mnih et al., Nature 2015, clip errors to 1, where rewards are. A violation here is rare and costs many times as much as a tick of any allocation:
            // with a corner below it a mean would be that of the usual tick.
            corner: 30.0,
            ..Self::default()
        }
    }

    /// What is left of the step size after `decay_over` updates.
    const SETTLED: f32 = 0.05;

    /// The step size of the optimiser after so many updates.
    #[must_use]
    pub fn rate_at(&self, updates: u64) -> f32 {
        let done = if self.decay_over == 0 { 0.0 } else { (updates as f64 / self.decay_over as f64).min(1.0) as f32 };
        self.learning_rate * (1.0 - (1.0 - Self::SETTLED) * done)
    }

    /// # Errors
    /// Names the first that lies outside its range.
    pub fn check(&self) -> Result<(), String> {
        let count = |name: &str, value: usize, most: usize| {
            if (1..=most).contains(&value) { Ok(()) } else { Err(format!("{name} = {value}, must be from 1 to {most}")) }
        };
        count("steps", self.steps, 100)?;
        count("batch", self.batch, 65_536)?;
        count("capacity", self.capacity, 10_000_000)?;
        let number = |name: &str, value: f32, most: f32| {
            if value > 0.0 && value <= most { Ok(()) } else { Err(format!("{name} = {value}, must be above 0 and at most {most}")) }
        };
        number("learning_rate", self.learning_rate, 1.0)?;
        number("adam_epsilon", self.adam_epsilon, 1.0)?;
        number("corner", self.corner, 1e6)?;
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
        if let Some(Rollouts { length, lambda, epochs }) = self.rollouts {
            count("rollouts.length", length, 10_000)?;
            count("rollouts.epochs", epochs, 100)?;
            if !(0.0..=1.0).contains(&lambda) {
                return Err(format!("rollouts.lambda = {lambda}, must be from 0 to 1"));
            }
        }
        count("quantiles", self.quantiles, Architecture::FINEST)?;
        if let Some(Munchausen { alpha, temperature, least }) = self.munchausen {
            if self.rollouts.is_some() {
                return Err("munchausen and rollouts are both told, must be one of them: it is defined for a replay".to_owned());
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
