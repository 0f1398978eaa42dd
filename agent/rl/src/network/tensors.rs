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
    /// Turns what the head says of a quantile into action values, where they are not the same.
    combined: Option<Tensor<2>>,
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
        let combined = (architecture.dueling || !architecture.branches.is_empty()).then(|| combined(&architecture, device));
        let (shift, scale) = weights.normalisation();
        Self { architecture, device: device.clone(), tensors, shift: shift.to_vec(), scale: scale.to_vec(), combined }
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

    /// The value of each action for each of `observations`, quantile by quantile and row by row.
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

    /// What it looks like.
    pub(crate) fn architecture(&self) -> &Architecture {
        &self.architecture
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
        let slope = self.rows(slope, self.architecture.actions * self.architecture.quantiles);
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
        let Some(combined) = &self.combined else { return out };
        let Architecture { quantiles, actions, .. } = self.architecture;
        if quantiles == 1 {
            return out.matmul(combined.clone());
        }
        let [rows, width] = out.dims();
        out.reshape([rows * quantiles, width / quantiles]).matmul(combined.clone()).reshape([rows, quantiles * actions])
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

/// The matrix that makes Q = V + A - mean(A) of a row (V, A) (Wang et al., ICML 2016), where there are branches with the sum of theirs: one product in
/// place of five operations.
fn combined(architecture: &Architecture, device: &Device) -> Tensor<2> {
    let (height, actions) = (architecture.head_of_quantile(), architecture.actions);
    let mut values = vec![0.0; height * actions];
    for branch in architecture.branches() {
        let mean = if architecture.dueling { 1.0 / branch.places().len() as f32 } else { 0.0 };
        for place in branch.places() {
            values[place * actions..(place + 1) * actions].fill(-mean);
        }
        for (action, place) in branch.places().flat_map(|place| std::iter::repeat_n(place, branch.stride)).cycle().take(actions).enumerate()
        {
            values[place * actions + action] += 1.0;
        }
    }
    if architecture.dueling {
        values[..actions].fill(1.0);
    }
    Tensor::from_data(TensorData::new(values, [height, actions]), device)
}

/// What lies in `tensor`, row by row.
pub(crate) fn read(tensor: Tensor<2>) -> Result<Vec<f32>, DeviceFailed> {
    let data = tensor.try_into_data().map_err(|error| DeviceFailed(error.to_string()))?;
    data.try_into_vec::<f32>().map_err(|error| DeviceFailed(format!("{error:?}")))
}
