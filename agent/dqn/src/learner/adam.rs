//! Adam (Kingma and Ba, ICLR 2015) over the network's tensors. Owns the moments; must not know where gradients come from.
//!
//! Not burn's: its record is read onto the default device, which panics where that is a GPU that the machine lacks (`stack.md`), and keys moments by
//! identities that are drawn anew in every process. Moments here are plain numbers in the order of the weights.

use burn::tensor::{Device, Tensor, TensorData};

use crate::network::{Architecture, DeviceFailed, read};

/// How fast the first moment forgets: the paper's.
const BETA_1: f32 = 0.9;
/// How fast the second moment forgets: the paper's.
const BETA_2: f32 = 0.999;

pub(super) struct Adam {
    steps: u64,
    moments: Vec<[Tensor<2>; 2]>,
}

/// The optimiser's memory as plain numbers, in the order of the weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    /// Steps made so far.
    pub steps: u64,
    /// Means of the gradients.
    pub first: Vec<f32>,
    /// Means of their squares.
    pub second: Vec<f32>,
}

impl Adam {
    pub(super) fn new(architecture: &Architecture, device: &Device) -> Self {
        let zeros = |shape: [usize; 2]| Tensor::zeros(shape, device);
        Self { steps: 0, moments: architecture.shapes().into_iter().map(|shape| [zeros(shape), zeros(shape)]).collect() }
    }

    pub(super) fn resume(architecture: &Architecture, moments: &Moments, device: &Device) -> Result<Self, String> {
        for (what, found) in [("first moments", moments.first.len()), ("second moments", moments.second.len())] {
            if found != architecture.parameters() {
                return Err(format!("{found} {what}, the architecture has {} weights", architecture.parameters()));
            }
        }
        let mut at = 0;
        let tensors = architecture.shapes().into_iter().map(|shape| {
            let part = at..at + shape[0] * shape[1];
            at = part.end;
            let tensor = |values: &[f32]| Tensor::from_data(TensorData::new(values[part.clone()].to_vec(), shape), device);
            [tensor(&moments.first), tensor(&moments.second)]
        });
        Ok(Self { steps: moments.steps, moments: tensors.collect() })
    }

    pub(super) fn moments(&self) -> Result<Moments, DeviceFailed> {
        let mut moments = Moments { steps: self.steps, first: Vec::new(), second: Vec::new() };
        for [first, second] in &self.moments {
            moments.first.extend(read(first.clone())?);
            moments.second.extend(read(second.clone())?);
        }
        Ok(moments)
    }

    /// One step of each of `tensors` against its gradient; one without a gradient stays.
    pub(super) fn step(&mut self, tensors: &mut Vec<Tensor<2>>, gradients: Vec<Option<Tensor<2>>>, rate: f32, epsilon: f32) {
        self.steps += 1;
        let steps = i32::try_from(self.steps).unwrap_or(i32::MAX);
        // Both corrections of the bias of young moments, drawn into the step size and epsilon as the paper proposes at the end of its section 2.
        let root = (1.0 - BETA_2.powi(steps)).sqrt();
        let rate = rate * root / (1.0 - BETA_1.powi(steps));
        let epsilon = epsilon * root;
        // By value, so that what nobody else holds is computed in place.
        let old = std::mem::take(tensors).into_iter().zip(std::mem::take(&mut self.moments));
        for ((tensor, [first, second]), gradient) in old.zip(gradients) {
            let Some(gradient) = gradient else {
                tensors.push(tensor);
                self.moments.push([first, second]);
                continue;
            };
            let first = first.mul_scalar(BETA_1) + gradient.clone().mul_scalar(1.0 - BETA_1);
            let second = second.mul_scalar(BETA_2) + gradient.square().mul_scalar(1.0 - BETA_2);
            let direction = first.clone() / second.clone().sqrt().add_scalar(epsilon);
            tensors.push(tensor - direction.mul_scalar(rate));
            self.moments.push([first, second]);
        }
    }
}
