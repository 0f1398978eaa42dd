//! The network: layers of a perceptron with layer normalisation and a dueling head, on a device of burn's. Owns the forward pass and where weights lie;
//! must not learn.
//!
//! Weights are plain tensors outside any autodiff graph. Whoever wants gradients makes leaves of them for one pass (see [`crate::learner`]), so that no
//! graph outlives an update and a target network can never be part of one.

mod weights;

pub use weights::{Architecture, Weights};

use burn::tensor::activation::relu;
use burn::tensor::module::layer_norm;
use burn::tensor::{Device, Tensor, TensorData};
use thiserror::Error;

/// Added to the variance in layer normalisation: PyTorch's default.
const EPSILON: f64 = 1e-5;

/// A network on a device.
#[derive(Debug, Clone)]
pub struct Network {
    architecture: Architecture,
    device: Device,
    /// In the order of [`Architecture::shapes`]. Biases and normalisations are rows, so that all are alike.
    pub(crate) tensors: Vec<Tensor<2>>,
    shift: Vec<f32>,
    scale: Vec<f32>,
    /// Turns value and advantages into action values where the head is dueling.
    duel: Option<Tensor<2>>,
}

/// The device failed to give back what it computed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the device failed: {0}")]
pub struct DeviceFailed(pub String);

impl Network {
    /// A network of `weights` on `device`.
    #[must_use]
    pub fn new(weights: &Weights, device: &Device) -> Self {
        let architecture = weights.architecture().clone();
        let mut tensors = Vec::new();
        let mut rest = weights.values();
        for shape in architecture.shapes() {
            let (these, others) = rest.split_at(shape[0] * shape[1]);
            tensors.push(Tensor::from_data(TensorData::new(these.to_vec(), shape), device));
            rest = others;
        }
        let duel = architecture.dueling.then(|| duel(architecture.actions, device));
        let (shift, scale) = weights.normalisation();
        Self { architecture, device: device.clone(), tensors, shift: shift.to_vec(), scale: scale.to_vec(), duel }
    }

    /// Its weights.
    ///
    /// # Errors
    /// When the device fails.
    pub fn weights(&self) -> Result<Weights, DeviceFailed> {
        let mut values = Vec::with_capacity(self.architecture.parameters());
        for tensor in &self.tensors {
            values.extend(read(tensor.clone())?);
        }
        Weights::from_parts(self.architecture.clone(), values, self.shift.clone(), self.scale.clone()).map_err(DeviceFailed)
    }

    /// What it looks like.
    #[must_use]
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Where it lies.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The value of each action for each of `observations`, row by row.
    ///
    /// # Errors
    /// When the device fails.
    ///
    /// # Panics
    /// When `observations` is no whole number of rows.
    pub fn values(&self, observations: &[f32]) -> Result<Vec<f32>, DeviceFailed> {
        if observations.is_empty() {
            return Ok(Vec::new());
        }
        read(self.forward(&self.tensors, self.input(observations)))
    }

    /// Sets what is taken from each observation, and what the rest is multiplied with.
    pub(crate) fn normalise(&mut self, shift: &[f32], scale: &[f32]) {
        (self.shift, self.scale) = (shift.to_vec(), scale.to_vec());
    }

    /// `observations`, normalised, on the device.
    pub(crate) fn input(&self, observations: &[f32]) -> Tensor<2> {
        let width = self.architecture.inputs;
        assert_eq!(observations.len() % width, 0, "{} numbers are no rows of {width}", observations.len());
        let mut normalised = Vec::with_capacity(observations.len());
        for row in observations.chunks_exact(width) {
            normalised.extend(row.iter().zip(&self.shift).zip(&self.scale).map(|((value, shift), scale)| (value - shift) * scale));
        }
        self.rows(normalised, width)
    }

    /// Rows of `width` numbers on the device.
    pub(crate) fn rows(&self, values: Vec<f32>, width: usize) -> Tensor<2> {
        let rows = values.len() / width;
        Tensor::from_data(TensorData::new(values, [rows, width]), &self.device)
    }

    /// The value of each action, computed with `tensors` in place of the network's own.
    pub(crate) fn forward(&self, tensors: &[Tensor<2>], input: Tensor<2>) -> Tensor<2> {
        let mut tensors = tensors.iter();
        let mut next = || tensors.next().cloned().expect("the architecture says how many tensors there are");
        let mut x = input;
        for size in &self.architecture.hidden {
            x = x.matmul(next()) + next();
            if self.architecture.layer_norm {
                x = layer_norm(x, next().reshape([*size]), Some(next().reshape([*size])), EPSILON);
            }
            x = relu(x);
        }
        let out = x.matmul(next()) + next();
        match &self.duel {
            Some(duel) => out.matmul(duel.clone()),
            None => out,
        }
    }
}

/// The matrix that makes Q = V + A - mean(A) of a row (V, A) (Wang et al., ICML 2016): one product in place of five operations.
fn duel(actions: usize, device: &Device) -> Tensor<2> {
    let mean = 1.0 / actions as f32;
    let entry = |row: usize, column: usize| match row {
        0 => 1.0,
        row if row - 1 == column => 1.0 - mean,
        _ => -mean,
    };
    let values: Vec<f32> = (0..=actions).flat_map(|row| (0..actions).map(move |column| entry(row, column))).collect();
    Tensor::from_data(TensorData::new(values, [actions + 1, actions]), device)
}

/// What lies in `tensor`, row by row.
pub(crate) fn read(tensor: Tensor<2>) -> Result<Vec<f32>, DeviceFailed> {
    let data = tensor.try_into_data().map_err(|error| DeviceFailed(error.to_string()))?;
    data.try_into_vec::<f32>().map_err(|error| DeviceFailed(format!("{error:?}")))
}

#[cfg(test)]
mod tests;
