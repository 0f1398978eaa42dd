//! The head: turns the outputs of the last layer into the quantiles of each action's value. Owns its forward and
//! backward pass and its matrix; a new kind of head changes this file, [`Architecture`] and the hyperparameters that
//! ask for it.

use super::weights::Architecture;

/// A head: for each quantile the value of the state where it is dueling, then the advantages of each branch.
///
/// Q = V + A - mean(A) (Wang et al., ICML 2016); with branches, the sum of that over the branches (Tavakoli et al.,
/// AAAI 2018). It is linear and the same for each quantile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    actions: usize,
    quantiles: usize,
    dueling: bool,
    branches: Vec<Branch>,
}

/// One branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Branch {
    first: usize,
    size: usize,
    /// Consecutive actions that share an advantage.
    stride: usize,
}

impl Branch {
    /// Indices of its advantages among the outputs of a quantile. Consecutive actions take each for `stride` actions,
    /// then start again at the first.
    fn outputs(self) -> std::ops::Range<usize> {
        self.first..self.first + self.size
    }
}

impl Head {
    /// The head of `architecture`.
    #[must_use]
    pub fn new(architecture: &Architecture) -> Self {
        let Architecture { actions, quantiles, dueling, branches, .. } = architecture;
        let sizes = if branches.is_empty() { std::slice::from_ref(actions) } else { branches };
        let mut first = usize::from(*dueling);
        let mut stride = *actions;
        let branch = |&size: &usize| {
            stride /= size;
            let branch = Branch { first, size, stride };
            first += size;
            branch
        };
        Self { actions: *actions, quantiles: *quantiles, dueling: *dueling, branches: sizes.iter().map(branch).collect() }
    }

    /// Outputs of the last layer for one quantile.
    #[must_use]
    pub fn outputs_of_quantile(&self) -> usize {
        self.branches.last().map_or(0, |branch| branch.outputs().end)
    }

    /// Outputs of the last layer.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.quantiles * self.outputs_of_quantile()
    }

    /// Whether action values are the outputs as they are.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        !self.dueling && self.branches.len() == 1
    }

    /// Replaces `values` by the quantiles of all actions for rows of `outputs`.
    pub fn forward(&self, outputs: &[f32], values: &mut Vec<f32>) {
        values.clear();
        for row in outputs.chunks_exact(self.outputs_of_quantile()) {
            let mut base = 0.0;
            if self.dueling {
                base = row[0];
                for outputs in self.branches.iter().map(|branch| branch.outputs()) {
                    base -= row[outputs.clone()].iter().sum::<f32>() / outputs.len() as f32;
                }
            }
            let begin = values.len();
            values.resize(begin + self.actions, base);
            for branch in &self.branches {
                let advantages = row[branch.outputs()].iter().cycle();
                let runs = values[begin..].chunks_exact_mut(branch.stride);
                runs.zip(advantages).for_each(|(run, advantage)| run.iter_mut().for_each(|value| *value += advantage));
            }
        }
    }

    /// Replaces `outputs` by the gradient of the outputs, for values whose gradient is `values`.
    pub fn backward(&self, values: &[f32], outputs: &mut Vec<f32>) {
        outputs.clear();
        for row in values.chunks_exact(self.actions) {
            let begin = outputs.len();
            outputs.resize(begin + self.outputs_of_quantile(), 0.0);
            let outputs = &mut outputs[begin..];
            let sum: f32 = row.iter().sum();
            if self.dueling {
                outputs[0] = sum;
            }
            for branch in &self.branches {
                let advantages = &mut outputs[branch.outputs()];
                let runs = row.chunks_exact(branch.stride).enumerate();
                runs.for_each(|(number, run)| advantages[number % advantages.len()] += run.iter().sum::<f32>());
                if self.dueling {
                    let mean = sum / advantages.len() as f32;
                    advantages.iter_mut().for_each(|slope| *slope -= mean);
                }
            }
        }
    }

    /// The matrix of one quantile, [`Head::outputs_of_quantile`] rows by as many columns as there are actions: for
    /// libraries of tensors, which multiply by it.
    #[must_use]
    pub fn matrix(&self) -> Vec<f32> {
        let height = self.outputs_of_quantile();
        let (mut matrix, mut row) = (Vec::with_capacity(height * self.actions), Vec::new());
        for output in 0..height {
            let unit: Vec<f32> = (0..height).map(|other| f32::from(u8::from(other == output))).collect();
            self.forward(&unit, &mut row);
            matrix.extend_from_slice(&row);
        }
        matrix
    }
}
