//! Steps of one environment on their way to becoming n-step transitions. Owns the last n steps; must not draw.

use std::collections::VecDeque;

use super::{Replay, Transition};
use crate::mask::Mask;

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The episode goes on.
    None,
    /// The episode is over by its own rules: nothing comes after it, so that nothing is bootstrapped.
    Terminated,
    /// The episode was cut by time: it would have gone on, so that the value of what was seen last counts.
    Truncated,
}

/// The last steps of one environment.
#[derive(Debug, Clone)]
pub struct Steps {
    length: usize,
    discount: f32,
    pending: VecDeque<Step>,
    spare: Vec<Vec<f32>>,
}

#[derive(Debug, Clone)]
struct Step {
    observation: Vec<f32>,
    mask: Mask,
    action: u8,
    reward: f32,
    /// The discount to the number of rewards that `reward` sums.
    factor: f32,
    rewards: usize,
}

impl Steps {
    /// Returns of `length` steps, each discounted by `discount`.
    #[must_use]
    pub fn new(length: usize, discount: f32) -> Self {
        Self { length: length.max(1), discount, pending: VecDeque::new(), spare: Vec::new() }
    }

    /// Takes in one step: what was seen and could be chosen, what was chosen, what it was worth, what was seen then and could be chosen there. Transitions
    /// that this completes go to `replay`; an ending completes all.
    pub fn push(
        &mut self,
        (observation, mask): (&[f32], Mask),
        action: u8,
        reward: f32,
        (next, next_mask): (&[f32], Mask),
        ending: Ending,
        replay: &mut Replay,
    ) {
        let mut kept = self.spare.pop().unwrap_or_default();
        kept.clear();
        kept.extend_from_slice(observation);
        self.pending.push_back(Step { observation: kept, mask, action, reward: 0.0, factor: 1.0, rewards: 0 });
        for step in &mut self.pending {
            step.reward += step.factor * reward;
            step.factor *= self.discount;
            step.rewards += 1;
        }
        while self.pending.front().is_some_and(|step| step.rewards >= self.length || ending != Ending::None) {
            let Some(step) = self.pending.pop_front() else { break };
            let bootstrap = if ending == Ending::Terminated { 0.0 } else { step.factor };
            replay.push(&Transition {
                observation: &step.observation,
                mask: step.mask,
                action: step.action,
                reward: step.reward,
                bootstrap,
                next,
                next_mask,
            });
            self.spare.push(step.observation);
        }
    }

    /// Forgets what is not complete: a step is missing.
    pub fn interrupt(&mut self) {
        self.spare.extend(self.pending.drain(..).map(|step| step.observation));
    }
}
