//! Replay: what was lived through, to be learned from more than once. Owns flat arrays, n-step returns and priorities; must not know what is learned.
//!
//! Observations are kept in 16 bits, as their size is what bounds how far back a replay reaches; three digits are more than they are measured to.

mod rollout;
mod steps;
mod tree;

pub use rollout::Rollout;
pub use steps::{Ending, Steps};

use half::f16;
use half::slice::HalfFloatSliceExt;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};
use tree::SumTree;

use crate::mask::Mask;

/// How transitions are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampling {
    /// All alike.
    Uniform,
    /// Those that surprised most, more often (Schaul et al., ICLR 2016).
    Prioritised {
        /// How much more often: 0 is uniform, 1 in proportion to the error.
        alpha: f32,
        /// How far the bias that this brings is taken back at the beginning, 0 to 1.
        beta: f32,
        /// Updates over which beta rises to 1.
        beta_over: u64,
    },
}

/// One n-step transition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transition<'a> {
    /// What was seen.
    pub observation: &'a [f32],
    /// What could be chosen.
    pub mask: Mask,
    /// What was chosen.
    pub action: u8,
    /// Rewards of the n steps, discounted.
    pub reward: f32,
    /// What the value of the next observation counts: the discount to the n, 0 where the episode terminated.
    pub bootstrap: f32,
    /// What was seen n steps later.
    pub next: &'a [f32],
    /// What could be chosen there.
    pub next_mask: Mask,
}

/// Transitions in a ring.
#[derive(Debug, Clone)]
pub struct Replay {
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
    /// Priority of what was never learned from: the largest so far, so that it soon is.
    largest: f32,
}

/// Transitions drawn for one update, row by row.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// Where they lie in the replay.
    pub places: Vec<usize>,
    /// What was seen, row by row.
    pub observations: Vec<f32>,
    /// What could be chosen.
    pub masks: Vec<Mask>,
    /// What was chosen.
    pub actions: Vec<u8>,
    /// Discounted rewards.
    pub rewards: Vec<f32>,
    /// What the next value counts.
    pub bootstraps: Vec<f32>,
    /// What was seen then, row by row.
    pub nexts: Vec<f32>,
    /// What could be chosen then.
    pub next_masks: Vec<Mask>,
    /// Weight of each in the loss, at most 1.
    pub weights: Vec<f32>,
}

/// Added to an error, so that nothing is never drawn again (Schaul et al.).
const LEAST_PRIORITY: f32 = 1e-3;

impl Replay {
    /// Room for `capacity` transitions, taken as they come, between observations of `width` numbers.
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

    /// How many transitions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Remembers `transition` in the place of the oldest where there is no other.
    pub fn push(&mut self, transition: &Transition<'_>) {
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

    /// Draws `count` transitions into `batch`, with replacement. `beta` says how far the bias of priorities is taken back.
    ///
    /// # Panics
    /// When there are none.
    pub fn sample(&self, count: usize, beta: f32, rng: &mut (impl Rng + ?Sized), batch: &mut Batch) {
        assert!(self.length > 0, "a replay without transitions has nothing to draw");
        batch.clear();
        match &self.priorities {
            None => {
                batch.places.extend((0..count).map(|_| rng.random_range(0..self.length)));
                batch.weights.resize(count, 1.0);
            }
            Some(priorities) => self.draw_by_priority(priorities, count, beta, rng, batch),
        }
        batch.observations.resize(count * self.width, 0.0);
        batch.nexts.resize(count * self.width, 0.0);
        let rows = batch.observations.chunks_exact_mut(self.width).zip(batch.nexts.chunks_exact_mut(self.width));
        for (&at, (observation, next)) in batch.places.iter().zip(rows) {
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

    /// One from each of `count` equal parts of the priorities' sum, weighted against how often it is drawn.
    fn draw_by_priority(&self, priorities: &Priorities, count: usize, beta: f32, rng: &mut (impl Rng + ?Sized), batch: &mut Batch) {
        let total = priorities.tree.total();
        let part = total / count as f64;
        let mut largest = 0f32;
        for index in 0..count {
            let at = priorities.tree.find((index as f64 + rng.random::<f64>()) * part).min(self.length - 1);
            let share = (priorities.tree.get(at) / total).max(f64::MIN_POSITIVE);
            let weight = (1.0 / (self.length as f64 * share)).powf(f64::from(beta)) as f32;
            largest = largest.max(weight);
            batch.places.push(at);
            batch.weights.push(weight);
        }
        batch.weights.iter_mut().for_each(|weight| *weight /= largest);
    }

    /// Says how wrong was what the network expected of the transitions at `places`.
    pub fn learned(&mut self, places: &[usize], errors: &[f32]) {
        let Some(priorities) = &mut self.priorities else { return };
        for (&at, error) in places.iter().zip(errors) {
            let error = if error.is_finite() { error.abs() } else { 0.0 };
            let priority = (error + LEAST_PRIORITY).powf(priorities.alpha);
            priorities.largest = priorities.largest.max(priority);
            priorities.tree.set(at, f64::from(priority));
        }
    }
}

impl Batch {
    /// The rows at `places` of a batch that has nothing to bootstrap from.
    #[must_use]
    pub fn rows(&self, places: &[usize]) -> Self {
        let width = self.observations.len() / self.actions.len().max(1);
        let mut rows = Self::default();
        for &at in places {
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
        self.places.clear();
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
