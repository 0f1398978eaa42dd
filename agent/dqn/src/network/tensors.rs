//! The network as burn's tensors, on any device of burn's. Owns its forward pass and its gradient; must not decide where to compute.
//!
//! Weights are plain tensors outside any autodiff graph. A pass that is to be differentiated makes leaves of them for itself, so that no graph outlives an
//! update and a target network can never be part of one.

use burn::tensor::activation::relu;
use burn::tensor::module::layer_norm;
use burn::tensor::{Device, Tensor, TensorData};

use super::{Architecture, DeviceFailed, EPSILON, Weights};

/// A network on a device of burn's.
#[derive(Debug, Clone)]
pub struct Tensors {
    architecture: Architecture,
    device: Device,
    /// In the order of [`Architecture::shapes`]. Biases and normalisations are rows, so that all are alike.
    pub(crate) tensors: Vec<Tensor<2>>,
    shift: Vec<f32>,
    scale: Vec<f32>,
    /// Turns value and advantages into action values where the head is dueling.
    duel: Option<Tensor<2>>,
}

impl Tensors {
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

    /// Begins a pass over `observations` that can be differentiated.
    pub(crate) fn pass(&self, observations: &[f32]) -> Pass {
        let leaves: Vec<Tensor<2>> = self.tensors.iter().map(|tensor| Tensor::from_inner(tensor.clone()).require_grad()).collect();
        let values = self.forward(&leaves, self.input(observations));
        Pass { leaves, values }
    }

    /// The gradient of each tensor by a pass whose values have the gradient `slope`, row by row.
    pub(crate) fn backward(&self, pass: Pass, slope: Vec<f32>) -> Vec<Option<Tensor<2>>> {
        let slope = self.rows(slope, self.architecture.actions);
        let mut gradients = (pass.values * slope).sum().backward();
        pass.leaves.iter().map(|leaf| leaf.grad_remove(&mut gradients)).collect()
    }

    /// Moves by a part of the way towards `other`.
    pub(crate) fn follow(&mut self, other: &Tensors, rate: f32) {
        let old = std::mem::take(&mut self.tensors).into_iter().zip(&other.tensors);
        self.tensors = old.map(|(old, other)| old.mul_scalar(1.0 - rate) + other.clone().mul_scalar(rate)).collect();
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

/// A pass that can be differentiated once.
pub(crate) struct Pass {
    leaves: Vec<Tensor<2>>,
    values: Tensor<2>,
}

impl Pass {
    /// What it computed, row by row.
    pub(crate) fn values(&self) -> Result<Vec<f32>, DeviceFailed> {
        read(self.values.clone().inner())
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
