//! The network: a multilayer perceptron with layer normalisation and a head that may be dueling, branching and
//! distributional. Owns its weights and its computation on the CPU; must not learn.

mod cpu;
mod head;
mod weights;

use std::fmt::Debug;

use thiserror::Error;

pub use cpu::{CpuNetwork, Scratch};
pub use head::Head;
pub use weights::{Architecture, Weights};

/// Added to the variance in layer normalisation: PyTorch's default.
pub const LAYER_NORM_EPSILON: f64 = 1e-5;

/// A network on a device.
pub trait Network: Debug + Send + Sync {
    /// Its shape.
    fn architecture(&self) -> &Architecture;

    /// A copy of its weights.
    ///
    /// # Errors
    /// When the device fails.
    fn weights(&self) -> Result<Weights, DeviceError>;

    /// The quantiles of each action's value for each row of `observations`: row by row, in a row quantile by quantile,
    /// in a quantile action by action.
    ///
    /// # Errors
    /// When the device fails.
    ///
    /// # Panics
    /// When `observations` is not a whole number of rows.
    fn quantiles(&self, observations: &[f32]) -> Result<Vec<f32>, DeviceError>;

    /// A copy on the same device.
    fn clone_box(&self) -> Box<dyn Network>;

    /// The value of each action, the mean of its quantiles, for each row of `observations`.
    ///
    /// # Errors
    /// When the device fails.
    ///
    /// # Panics
    /// When `observations` is not a whole number of rows.
    fn values(&self, observations: &[f32]) -> Result<Vec<f32>, DeviceError> {
        let values = self.quantiles(observations)?;
        let architecture = self.architecture();
        Ok(means(values, architecture.actions, architecture.quantiles))
    }
}

impl Clone for Box<dyn Network> {
    fn clone(&self) -> Self {
        self.clone_box()
    }
}

/// The device failed to return what it computed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the device failed: {0}")]
pub struct DeviceError(pub String);

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
