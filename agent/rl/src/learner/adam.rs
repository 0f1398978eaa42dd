//! Adam (Kingma and Ba, ICLR 2015). Owns the moments; must not know where gradients come from.
//!
//! Not burn's: its record is read onto the default device, which panics where that is a GPU that the machine lacks (`stack.md`), and keys moments by
//! identities that are drawn anew in every process. Moments here are plain numbers in the order of the weights.

use burn::tensor::{Tensor, TensorData};

use crate::device::Device;
use crate::network::tensors::read;
use crate::network::{Architecture, DeviceFailed, Network, Way};

/// How fast the first moment forgets: the paper's.
const BETA_1: f32 = 0.9;
/// How fast the second moment forgets: the paper's.
const BETA_2: f32 = 0.999;

pub(super) struct Adam {
    steps: u64,
    moments: Lies,
}

/// The moments, where the network lies.
enum Lies {
    Plain { first: Vec<f32>, second: Vec<f32> },
    Tensors(Vec<[Tensor<2>; 2]>),
}

/// The gradient of every weight, where the network lies.
pub(super) enum Gradient<'a> {
    Plain(&'a [f32]),
    Tensors(Vec<Option<Tensor<2>>>),
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
        let zeros = || vec![0.0; architecture.parameters()];
        Self::at(0, architecture, zeros(), zeros(), device)
    }

    pub(super) fn resume(architecture: &Architecture, moments: &Moments, device: &Device) -> Result<Self, String> {
        for (what, found) in [("first moments", moments.first.len()), ("second moments", moments.second.len())] {
            if found != architecture.parameters() {
                return Err(format!("{found} {what}, the architecture has {} weights", architecture.parameters()));
            }
        }
        Ok(Self::at(moments.steps, architecture, moments.first.clone(), moments.second.clone(), device))
    }

    fn at(steps: u64, architecture: &Architecture, first: Vec<f32>, second: Vec<f32>, device: &Device) -> Self {
        let moments = match device {
            Device::Cpu => Lies::Plain { first, second },
            Device::Burn(device) => {
                let mut at = 0;
                let tensors = architecture.shapes().into_iter().map(|shape| {
                    let part = at..at + shape[0] * shape[1];
                    at = part.end;
                    [&first, &second].map(|values| Tensor::from_data(TensorData::new(values[part.clone()].to_vec(), shape), device))
                });
                Lies::Tensors(tensors.collect())
            }
        };
        Self { steps, moments }
    }

    pub(super) fn moments(&self) -> Result<Moments, DeviceFailed> {
        let mut moments = Moments { steps: self.steps, first: Vec::new(), second: Vec::new() };
        match &self.moments {
            Lies::Plain { first, second } => (moments.first, moments.second) = (first.clone(), second.clone()),
            Lies::Tensors(tensors) => {
                for [first, second] in tensors {
                    moments.first.extend(read(first.clone())?);
                    moments.second.extend(read(second.clone())?);
                }
            }
        }
        Ok(moments)
    }

    /// One step of `network` against `gradient`, which lies where it does.
    pub(super) fn step(&mut self, network: &mut Network, gradient: Gradient<'_>, rate: f32, epsilon: f32) {
        self.steps += 1;
        let steps = i32::try_from(self.steps).unwrap_or(i32::MAX);
        // Both corrections of the bias of young moments, drawn into the step size and epsilon as the paper proposes at the end of its section 2.
        let root = (1.0 - BETA_2.powi(steps)).sqrt();
        let (rate, epsilon) = (rate * root / (1.0 - BETA_1.powi(steps)), epsilon * root);
        match (&mut self.moments, &mut network.0, gradient) {
            (Lies::Plain { first, second }, Way::Loops(network), Gradient::Plain(gradient)) => {
                let moments = first.iter_mut().zip(second);
                for ((value, gradient), (first, second)) in network.values_mut().iter_mut().zip(gradient).zip(moments) {
                    *first = BETA_1 * *first + (1.0 - BETA_1) * gradient;
                    *second = BETA_2 * *second + (1.0 - BETA_2) * gradient * gradient;
                    *value -= rate * *first / (second.sqrt() + epsilon);
                }
            }
            (Lies::Tensors(moments), Way::Tensors(network), Gradient::Tensors(gradients)) => {
                step_tensors(moments, &mut network.tensors, gradients, rate, epsilon);
            }
            _ => unreachable!("network, moments and gradient lie on one device"),
        }
    }
}

/// One step of each of `tensors` against its gradient; one without a gradient stays.
fn step_tensors(
    moments: &mut Vec<[Tensor<2>; 2]>,
    tensors: &mut Vec<Tensor<2>>,
    gradients: Vec<Option<Tensor<2>>>,
    rate: f32,
    epsilon: f32,
) {
    // By value, so that what nobody else holds is computed in place.
    let old = std::mem::take(tensors).into_iter().zip(std::mem::take(moments));
    for ((tensor, [first, second]), gradient) in old.zip(gradients) {
        let Some(gradient) = gradient else {
            tensors.push(tensor);
            moments.push([first, second]);
            continue;
        };
        let first = first.mul_scalar(BETA_1) + gradient.clone().mul_scalar(1.0 - BETA_1);
        let second = second.mul_scalar(BETA_2) + gradient.square().mul_scalar(1.0 - BETA_2);
        let direction = first.clone() / second.clone().sqrt().add_scalar(epsilon);
        tensors.push(tensor - direction.mul_scalar(rate));
        moments.push([first, second]);
    }
}
