//! Replay: stored transitions, to be learned from more than once. Owns their arrays, n-step returns and priorities;
//! must not know what is learned.
//!
//! Observations are stored in 16 bits, because their size limits how far back a replay reaches. Three digits exceed the
//! precision of the measurements.

mod rollout;
mod steps;
mod tree;

pub use rollout::RolloutBuffer;
pub use steps::NStepBuffer;

use half::f16;
use half::slice::HalfFloatSliceExt;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};
use tree::SumTree;

use crate::mask::Mask;

/// How transitions are sampled.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampling {
    /// Uniformly.
    Uniform,
    /// In proportion to a power of their temporal-difference error (Schaul et al., ICLR 2016).
    Prioritised {
        /// The power: 0 is uniform, 1 is proportional to the error.
        alpha: f32,
        /// Exponent of the importance weights that correct the bias, at the first update, 0 to 1.
        beta: f32,
        /// Updates over which `beta` rises to 1.
        beta_over: u64,
    },
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepEnd {
    /// The episode continues.
    Continues,
    /// The episode is over by its own rules: no future value is bootstrapped.
    Terminated,
    /// The episode was cut off by a time limit: the value of the next observation is bootstrapped.
    Truncated,
}

/// One step of an environment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transition<'a> {
    /// The observation.
    pub observation: &'a [f32],
    /// The actions that could be taken.
    pub mask: Mask,
    /// The action taken.
    pub action: u8,
    /// Its reward.
    pub reward: f32,
    /// The observation after it.
    pub next: &'a [f32],
    /// The actions that could be taken there.
    pub next_mask: Mask,
    /// How the step ended.
    pub end: StepEnd,
}

/// The sum of n steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NStepTransition<'a> {
    /// The observation before the first step.
    pub observation: &'a [f32],
    /// The actions that could be taken there.
    pub mask: Mask,
    /// The action taken there.
    pub action: u8,
    /// Discounted sum of the n rewards.
    pub reward: f32,
    /// Weight of the value of `next` in the target: the discount to the power of n; 0 if the episode terminated.
    pub bootstrap: f32,
    /// The observation after the last step.
    pub next: &'a [f32],
    /// The actions that could be taken there.
    pub next_mask: Mask,
}

/// A ring of n-step transitions.
#[derive(Debug, Clone)]
pub struct ReplayBuffer {
    width: usize,
    capacity: usize,
    length: usize,
    head: usize,
    observations: Vec<f16>,
    nexts: Vec<f16>,
    actions: Vec<u8>,
    rewards: Vec<f32>,
    bootstraps: Vec<f32>,
    masks: Vec<Mask>,
    next_masks: Vec<Mask>,
    priorities: Option<Priorities>,
}

#[derive(Debug, Clone)]
struct Priorities {
    tree: SumTree,
    alpha: f32,
    /// Priority of a transition that was never sampled: the largest so far, so that it soon is.
    largest: f32,
}

/// Transitions of one update, row by row.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// Their indices in the replay.
    pub indices: Vec<usize>,
    /// Observations, row by row.
    pub observations: Vec<f32>,
    /// Actions that could be taken.
    pub masks: Vec<Mask>,
    /// Actions taken.
    pub actions: Vec<u8>,
    /// Discounted sums of rewards.
    pub rewards: Vec<f32>,
    /// Weights of the next values in the targets.
    pub bootstraps: Vec<f32>,
    /// Next observations, row by row.
    pub nexts: Vec<f32>,
    /// Actions that could be taken there.
    pub next_masks: Vec<Mask>,
    /// Weight of each row in the loss, at most 1.
    pub weights: Vec<f32>,
}

/// Added to an error, so that every transition can be sampled again (Schaul et al.).
const LEAST_PRIORITY: f32 = 1e-3;

impl ReplayBuffer {
    /// A replay of at most `capacity` transitions between observations of `width` numbers.
    #[must_use]
    pub fn new(width: usize, capacity: usize, sampling: Sampling) -> Self {
        let capacity = capacity.max(1);
        let priorities = match sampling {
            Sampling::Uniform => None,
            Sampling::Prioritised { alpha, .. } => Some(Priorities { tree: SumTree::new(capacity), alpha, largest: 1.0 }),
        };
        Self {
            width,
            capacity,
            length: 0,
            head: 0,
            observations: Vec::new(),
            nexts: Vec::new(),
            actions: Vec::new(),
            rewards: Vec::new(),
            bootstraps: Vec::new(),
            masks: Vec::new(),
            next_masks: Vec::new(),
            priorities,
        }
    }

    /// Number of transitions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Stores `transition`, replacing the oldest one if the replay is full.
    pub fn push(&mut self, transition: &NStepTransition<'_>) {
        let (at, row) = (self.head, self.head * self.width..(self.head + 1) * self.width);
        if at == self.actions.len() {
            self.observations.resize(row.end, f16::ZERO);
            self.nexts.resize(row.end, f16::ZERO);
            self.actions.push(0);
            self.rewards.push(0.0);
            self.bootstraps.push(0.0);
            self.masks.push(Mask::default());
            self.next_masks.push(Mask::default());
        }
        self.observations[row.clone()].convert_from_f32_slice(transition.observation);
        self.nexts[row].convert_from_f32_slice(transition.next);
        self.actions[at] = transition.action;
        self.rewards[at] = transition.reward;
        self.bootstraps[at] = transition.bootstrap;
        self.masks[at] = transition.mask;
        self.next_masks[at] = transition.next_mask;
        if let Some(priorities) = &mut self.priorities {
            priorities.tree.set(at, f64::from(priorities.largest));
        }
        self.head = (self.head + 1) % self.capacity;
        self.length = (self.length + 1).min(self.capacity);
    }

    /// Samples `count` transitions with replacement into `batch`. `beta` is the exponent of the importance weights.
    ///
    /// # Panics
    /// When the replay is empty.
    pub fn sample(&self, count: usize, beta: f32, rng: &mut (impl Rng + ?Sized), batch: &mut Batch) {
        assert!(self.length > 0, "the replay is empty");
        batch.clear();
        match &self.priorities {
            None => {
                batch.indices.extend((0..count).map(|_| rng.random_range(0..self.length)));
                batch.weights.resize(count, 1.0);
            }
            Some(priorities) => self.sample_by_priority(priorities, count, beta, rng, batch),
        }
        batch.observations.resize(count * self.width, 0.0);
        batch.nexts.resize(count * self.width, 0.0);
        let rows = batch.observations.chunks_exact_mut(self.width).zip(batch.nexts.chunks_exact_mut(self.width));
        for (&at, (observation, next)) in batch.indices.iter().zip(rows) {
            let row = at * self.width..(at + 1) * self.width;
            self.observations[row.clone()].convert_to_f32_slice(observation);
            self.nexts[row].convert_to_f32_slice(next);
            batch.actions.push(self.actions[at]);
            batch.rewards.push(self.rewards[at]);
            batch.bootstraps.push(self.bootstraps[at]);
            batch.masks.push(self.masks[at]);
            batch.next_masks.push(self.next_masks[at]);
        }
    }

    /// Samples one from each of `count` equal parts of the sum of priorities, with importance weights.
    fn sample_by_priority(&self, priorities: &Priorities, count: usize, beta: f32, rng: &mut (impl Rng + ?Sized), batch: &mut Batch) {
        let total = priorities.tree.total();
        let part = total / count as f64;
        let mut largest = 0f32;
        for index in 0..count {
            let at = priorities.tree.find((index as f64 + rng.random::<f64>()) * part).min(self.length - 1);
            let share = (priorities.tree.get(at) / total).max(f64::MIN_POSITIVE);
            let weight = (1.0 / (self.length as f64 * share)).powf(f64::from(beta)) as f32;
            largest = largest.max(weight);
            batch.indices.push(at);
            batch.weights.push(weight);
        }
        batch.weights.iter_mut().for_each(|weight| *weight /= largest);
    }

    /// Sets the priorities of the transitions at `indices` from their temporal-difference `errors`.
    pub fn update_priorities(&mut self, indices: &[usize], errors: &[f32]) {
        let Some(priorities) = &mut self.priorities else { return };
        for (&at, error) in indices.iter().zip(errors) {
            let error = if error.is_finite() { error.abs() } else { 0.0 };
            let priority = (error + LEAST_PRIORITY).powf(priorities.alpha);
            priorities.largest = priorities.largest.max(priority);
            priorities.tree.set(at, f64::from(priority));
        }
    }
}

impl Batch {
    /// The rows at `indices` of a batch without bootstraps.
    #[must_use]
    pub fn rows(&self, indices: &[usize]) -> Self {
        let width = self.observations.len() / self.actions.len().max(1);
        let mut rows = Self::default();
        for &at in indices {
            rows.observations.extend_from_slice(&self.observations[at * width..(at + 1) * width]);
            rows.masks.push(self.masks[at]);
            rows.actions.push(self.actions[at]);
            rows.rewards.push(self.rewards[at]);
            rows.bootstraps.push(self.bootstraps[at]);
            rows.next_masks.push(self.next_masks[at]);
            rows.weights.push(self.weights[at]);
        }
        rows
    }

    fn clear(&mut self) {
        self.indices.clear();
        self.observations.clear();
        self.masks.clear();
        self.actions.clear();
        self.rewards.clear();
        self.bootstraps.clear();
        self.nexts.clear();
        self.next_masks.clear();
        self.weights.clear();
    }
}

#[cfg(test)]
mod tests;
