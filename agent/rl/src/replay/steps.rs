//! N-step returns: the steps of one environment on their way into a replay. Owns the last n steps; must not sample.

use std::collections::VecDeque;

use super::{NStepTransition, ReplayBuffer, StepEnd, Transition};
use crate::mask::Mask;

/// The last steps of one environment.
#[derive(Debug, Clone)]
pub struct NStepBuffer {
    length: usize,
    discount: f32,
    pending: VecDeque<PendingStep>,
    spare: Vec<Vec<f32>>,
}

#[derive(Debug, Clone)]
struct PendingStep {
    observation: Vec<f32>,
    mask: Mask,
    action: u8,
    reward: f32,
    /// The discount to the power of `rewards`.
    factor: f32,
    /// Number of rewards in `reward`.
    rewards: usize,
}

impl NStepBuffer {
    /// A buffer for returns of `length` steps, each discounted by `discount`.
    #[must_use]
    pub fn new(length: usize, discount: f32) -> Self {
        Self { length: length.max(1), discount, pending: VecDeque::new(), spare: Vec::new() }
    }

    /// Adds one step. The n-step transitions that it completes go to `replay`; the end of an episode completes all.
    pub fn push(&mut self, transition: &Transition<'_>, replay: &mut ReplayBuffer) {
        let Transition { observation, mask, action, reward, next, next_mask, end } = *transition;
        let mut kept = self.spare.pop().unwrap_or_default();
        kept.clear();
        kept.extend_from_slice(observation);
        self.pending.push_back(PendingStep { observation: kept, mask, action, reward: 0.0, factor: 1.0, rewards: 0 });
        for step in &mut self.pending {
            step.reward += step.factor * reward;
            step.factor *= self.discount;
            step.rewards += 1;
        }
        while self.pending.front().is_some_and(|step| step.rewards >= self.length || end != StepEnd::Continues) {
            let Some(step) = self.pending.pop_front() else { break };
            let bootstrap = if end == StepEnd::Terminated { 0.0 } else { step.factor };
            replay.push(&NStepTransition {
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

    /// Drops all incomplete returns, because a step is missing.
    pub fn interrupt(&mut self) {
        self.spare.extend(self.pending.drain(..).map(|step| step.observation));
    }
}
