//! The network: layers of a perceptron with layer normalisation and a dueling head. Owns what its weights are and where they are computed with; must not
//! learn.
//!
//! Two ways compute the same: loops of our own on the CPU, and burn's tensors on any device of burn's. Tests hold them against each other and against the
//! formulas.

mod loops;
pub(crate) mod tensors;
mod weights;

pub(crate) use loops::{Loops, Scratch};
pub(crate) use tensors::Tensors;
pub use weights::{Architecture, Weights};

use thiserror::Error;

use crate::device::Device;

/// Added to the variance in layer normalisation: PyTorch's default.
const EPSILON: f64 = 1e-5;

/// A network on a device.
#[derive(Debug, Clone)]
pub struct Network(pub(crate) Way);

/// Which way a network is computed.
#[derive(Debug, Clone)]
pub(crate) enum Way {
    Loops(Loops),
    Tensors(Box<Tensors>),
}

/// The device failed to give back what it computed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the device failed: {0}")]
pub struct DeviceFailed(pub String);

impl Network {
    /// A network of `weights` on `device`.
    #[must_use]
    pub fn new(weights: &Weights, device: &Device) -> Self {
        Self(match device {
            Device::Cpu => Way::Loops(Loops::new(weights)),
            Device::Burn(device) => Way::Tensors(Box::new(Tensors::new(weights, device))),
        })
    }

    /// Its weights.
    ///
    /// # Errors
    /// When the device fails.
    pub fn weights(&self) -> Result<Weights, DeviceFailed> {
        match &self.0 {
            Way::Loops(network) => Ok(network.weights().clone()),
            Way::Tensors(network) => network.weights(),
        }
    }

    /// The value of each action for each of `observations`, row by row.
    ///
    /// # Errors
    /// When the device fails.
    ///
    /// # Panics
    /// When `observations` is no whole number of rows.
    pub fn values(&self, observations: &[f32]) -> Result<Vec<f32>, DeviceFailed> {
        match &self.0 {
            Way::Loops(network) => {
                let mut scratch = Scratch::default();
                network.forward(observations, &mut scratch);
                Ok(scratch.values)
            }
            Way::Tensors(network) => network.values(observations),
        }
    }

    /// Sets what is taken from each observation, and what the rest is multiplied with.
    pub(crate) fn normalise(&mut self, shift: &[f32], scale: &[f32]) {
        match &mut self.0 {
            Way::Loops(network) => network.normalise(shift, scale),
            Way::Tensors(network) => network.normalise(shift, scale),
        }
    }
}

#[cfg(test)]
mod tests;
