//! The network: layers of a perceptron with layer normalisation and a dueling head, with quantiles and branches where asked for. Owns what its
//! weights are and where they are computed with; must not learn.
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
        let (values, architecture) = match &self.0 {
            Way::Loops(network) => {
                let mut scratch = Scratch::default();
                network.forward(observations, &mut scratch);
                (scratch.values, network.weights().architecture())
            }
            Way::Tensors(network) => (network.values(observations)?, network.architecture()),
        };
        Ok(means(values, architecture.actions, architecture.quantiles))
    }

    /// Sets what is taken from each observation, and what the rest is multiplied with.
    pub(crate) fn normalise(&mut self, shift: &[f32], scale: &[f32]) {
        match &mut self.0 {
            Way::Loops(network) => network.normalise(shift, scale),
            Way::Tensors(network) => network.normalise(shift, scale),
        }
    }
}

/// The mean of each action's quantiles, row by row.
fn means(values: Vec<f32>, actions: usize, quantiles: usize) -> Vec<f32> {
    if quantiles == 1 {
        return values;
    }
    let mut means = Vec::with_capacity(values.len() / quantiles);
    for row in values.chunks_exact(actions * quantiles) {
        let begin = means.len();
        means.resize(begin + actions, 0.0);
        mean_of(row, quantiles, &mut means[begin..]);
    }
    means
}

/// The mean of each action's quantiles in `row` into `mean`.
pub(crate) fn mean_of(row: &[f32], quantiles: usize, mean: &mut [f32]) {
    mean.fill(0.0);
    for values in row.chunks_exact(mean.len()) {
        mean.iter_mut().zip(values).for_each(|(mean, value)| *mean += value);
    }
    mean.iter_mut().for_each(|mean| *mean /= quantiles as f32);
}

#[cfg(test)]
mod tests;
