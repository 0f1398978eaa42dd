//! Rollouts: the latest steps of many environments, learned from when they are long enough and then forgotten. Owns λ-returns; must not draw.

use super::{Batch, Ending};
use crate::mask::Mask;

/// The latest steps of many environments.
#[derive(Debug, Clone, Default)]
pub struct Rollout {
    lanes: Vec<Vec<Step>>,
    steps: usize,
}

#[derive(Debug, Clone)]
struct Step {
    observation: Vec<f32>,
    mask: Mask,
    action: u8,
    reward: f32,
    next: Vec<f32>,
    next_mask: Mask,
    /// Whether the step after it is the next that is kept.
    goes_on: bool,
    terminated: bool,
}

impl Rollout {
    /// Takes in one step of environment number `lane`, as [`super::Steps::push`] does.
    pub fn push(
        &mut self,
        lane: usize,
        (observation, mask): (&[f32], Mask),
        action: u8,
        reward: f32,
        (next, next_mask): (&[f32], Mask),
        ending: Ending,
    ) {
        if self.lanes.len() <= lane {
            self.lanes.resize_with(lane + 1, Vec::new);
        }
        self.steps += 1;
        self.lanes[lane].push(Step {
            observation: observation.to_vec(),
            mask,
            action,
            reward,
            next: next.to_vec(),
            next_mask,
            goes_on: ending == Ending::None,
            terminated: ending == Ending::Terminated,
        });
    }

    /// Says that a step of environment number `lane` is missing.
    pub fn interrupt(&mut self, lane: usize) {
        if let Some(last) = self.lanes.get_mut(lane).and_then(|lane| lane.last_mut()) {
            last.goes_on = false;
        }
    }

    /// Whether there are `length` steps of each environment in the mean.
    #[must_use]
    pub fn is_full(&self, length: usize) -> bool {
        self.steps > 0 && self.steps >= length * self.lanes.len()
    }

    /// What was seen after each step, row by row.
    #[must_use]
    pub fn nexts(&self) -> Vec<f32> {
        self.lanes.iter().flatten().flat_map(|step| step.next.iter().copied()).collect()
    }

    /// All steps with their λ-returns as rewards and nothing to bootstrap from, and begins anew. `values` are those of [`Rollout::nexts`].
    ///
    /// A return is what came and, discounted, `lambda` parts of the return of the step after it and the rest of the best value there (Peng and Williams,
    /// Machine Learning 1996; for networks without a target network Gallici et al., ICLR 2025).
    #[must_use]
    pub fn take(&mut self, values: &[f32], actions: usize, discount: f32, lambda: f32) -> Batch {
        let mut batch = Batch::default();
        let mut rows = values.chunks_exact(actions);
        for lane in std::mem::take(&mut self.lanes) {
            let best: Vec<f32> = lane
                .iter()
                .zip(&mut rows)
                .map(|(step, values)| step.next_mask.best(values).filter(|_| !step.terminated).map_or(0.0, |choice| values[choice]))
                .collect();
            let mut returns = vec![0.0; lane.len()];
            for at in (0..lane.len()).rev() {
                let further = returns.get(at + 1).copied().filter(|_| lane[at].goes_on);
                let future = further.map_or(best[at], |further| lambda * further + (1.0 - lambda) * best[at]);
                returns[at] = lane[at].reward + discount * future;
            }
            for (step, told) in lane.into_iter().zip(returns) {
                batch.observations.extend(step.observation);
                batch.masks.push(step.mask);
                batch.actions.push(step.action);
                batch.rewards.push(told);
            }
        }
        self.steps = 0;
        batch.bootstraps.resize(batch.actions.len(), 0.0);
        batch.next_masks.resize(batch.actions.len(), Mask::default());
        batch.weights.resize(batch.actions.len(), 1.0);
        batch
    }
}
