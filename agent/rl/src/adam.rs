//! Adam (Kingma and Ba, ICLR 2015): its constants, its moments as plain numbers, and its step on the CPU. Must not know
//! where gradients come from.
//!
//! burn's own optimiser is not used for burn's tensors either: it reads its record onto the default device, which
//! panics where that is a GPU that the machine lacks, and it identifies moments by keys that differ in every process.

use crate::network::Architecture;

/// Decay of the first moment: the paper's.
pub const BETA_1: f32 = 0.9;
/// Decay of the second moment: the paper's.
pub const BETA_2: f32 = 0.999;

/// The optimiser's state, in the order of the weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    /// Steps made so far.
    pub steps: u64,
    /// Running means of the gradients.
    pub first: Vec<f32>,
    /// Running means of the squared gradients.
    pub second: Vec<f32>,
}

impl Moments {
    /// The state before the first step.
    #[must_use]
    pub fn zero(architecture: &Architecture) -> Self {
        let zeros = || vec![0.0; architecture.parameters()];
        Self { steps: 0, first: zeros(), second: zeros() }
    }

    /// # Errors
    /// When there are more or fewer moments than `architecture` has weights.
    pub(crate) fn check(&self, architecture: &Architecture) -> Result<(), String> {
        for (what, found) in [("first moments", self.first.len()), ("second moments", self.second.len())] {
            if found != architecture.parameters() {
                return Err(format!("{found} {what}, the architecture has {} weights", architecture.parameters()));
            }
        }
        Ok(())
    }

    /// One step of `weights` against `gradient`, in place.
    pub(crate) fn step(&mut self, weights: &mut [f32], gradient: &[f32], size: StepSize) {
        self.steps += 1;
        let StepSize { rate, epsilon } = size.corrected(self.steps);
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((value, gradient), (first, second)) in weights.iter_mut().zip(gradient).zip(moments) {
            *first = BETA_1 * *first + (1.0 - BETA_1) * gradient;
            *second = BETA_2 * *second + (1.0 - BETA_2) * gradient * gradient;
            *value -= rate * *first / (second.sqrt() + epsilon);
        }
    }
}

/// Size of an optimiser step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepSize {
    /// Learning rate.
    pub rate: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
}

impl StepSize {
    /// The size with both corrections of the moments' bias after `steps` steps, this one included, as proposed at the
    /// end of section 2 of the paper.
    #[must_use]
    pub fn corrected(self, steps: u64) -> Self {
        let steps = i32::try_from(steps).unwrap_or(i32::MAX);
        let root = (1.0 - BETA_2.powi(steps)).sqrt();
        Self { rate: self.rate * root / (1.0 - BETA_1.powi(steps)), epsilon: self.epsilon * root }
    }
}
