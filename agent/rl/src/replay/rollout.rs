//! Rollouts: the latest steps of all environments, learned from together once there are enough, then dropped. Owns
//! λ-returns; must not sample.

use super::{Batch, StepEnd, Transition};
use crate::mask::Mask;

/// The latest steps of all environments.
#[derive(Debug, Clone, Default)]
pub struct RolloutBuffer {
    environments: Vec<Vec<RolloutStep>>,
    steps: usize,
}

#[derive(Debug, Clone)]
struct RolloutStep {
    observation: Vec<f32>,
    mask: Mask,
    action: u8,
    reward: f32,
    next: Vec<f32>,
    next_mask: Mask,
    /// Whether the following step of the same episode is the next one in the buffer.
    continues: bool,
    terminated: bool,
}

impl RolloutBuffer {
    /// Adds one step of `environment`.
    pub fn push(&mut self, environment: usize, transition: &Transition<'_>) {
        let Transition { observation, mask, action, reward, next, next_mask, end } = *transition;
        if self.environments.len() <= environment {
            self.environments.resize_with(environment + 1, Vec::new);
        }
        self.steps += 1;
        self.environments[environment].push(RolloutStep {
            observation: observation.to_vec(),
            mask,
            action,
            reward,
            next: next.to_vec(),
            next_mask,
            continues: end == StepEnd::Continues,
            terminated: end == StepEnd::Terminated,
        });
    }

    /// Marks that a step of `environment` is missing after the latest one.
    pub fn interrupt(&mut self, environment: usize) {
        if let Some(last) = self.environments.get_mut(environment).and_then(|steps| steps.last_mut()) {
            last.continues = false;
        }
    }

    /// Whether the environments have `length` steps each on average.
    #[must_use]
    pub fn is_full(&self, length: usize) -> bool {
        self.steps > 0 && self.steps >= length * self.environments.len()
    }

    /// The next observation of each step, row by row.
    #[must_use]
    pub fn nexts(&self) -> Vec<f32> {
        self.environments.iter().flatten().flat_map(|step| step.next.iter().copied()).collect()
    }

    /// Empties the buffer into a batch whose rewards are λ-returns and whose rows have no bootstrap. `values` are the action values of
    /// [`RolloutBuffer::nexts`].
    ///
    /// A return is the reward plus the discounted blend of the following step's return, weighted `lambda`, and the best
    /// value there (Peng and Williams, Machine Learning 1996; for networks without a target network Gallici et al.,
    /// ICLR 2025).
    #[must_use]
    pub fn take(&mut self, values: &[f32], actions: usize, discount: f32, lambda: f32) -> Batch {
        let mut batch = Batch::default();
        let mut rows = values.chunks_exact(actions);
        for steps in std::mem::take(&mut self.environments) {
            let best: Vec<f32> = steps
                .iter()
                .zip(&mut rows)
                .map(|(step, values)| step.next_mask.best(values).filter(|_| !step.terminated).map_or(0.0, |action| values[action]))
                .collect();
            let mut returns = vec![0.0; steps.len()];
            for at in (0..steps.len()).rev() {
                let further = returns.get(at + 1).copied().filter(|_| steps[at].continues);
                let future = further.map_or(best[at], |further| lambda * further + (1.0 - lambda) * best[at]);
                returns[at] = steps[at].reward + discount * future;
            }
            for (step, lambda_return) in steps.into_iter().zip(returns) {
                batch.observations.extend(step.observation);
                batch.masks.push(step.mask);
                batch.actions.push(step.action);
                batch.rewards.push(lambda_return);
            }
        }
        self.steps = 0;
        batch.bootstraps.resize(batch.actions.len(), 0.0);
        batch.next_masks.resize(batch.actions.len(), Mask::default());
        batch.weights.resize(batch.actions.len(), 1.0);
        batch
    }
}
