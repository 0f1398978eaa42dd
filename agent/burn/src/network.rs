//! The network as burn's tensors, on any of burn's devices. Owns its forward pass and its gradient.
//!
//! Weights are tensors outside any autodiff graph. A pass that is to be differentiated makes its own leaves of them, so
//! that no graph outlives an update and a target network can never be part of one.

use burn::tensor::activation::relu;
use burn::tensor::module::layer_norm;
use burn::tensor::{Device, Tensor, TensorData};
use qscale_rl::network::{Architecture, DeviceError, Head, LAYER_NORM_EPSILON, Network, Weights};

/// A network on one of burn's devices.
#[derive(Debug, Clone)]
pub(crate) struct BurnNetwork {
    architecture: Architecture,
    device: Device,
    /// In the order of [`Architecture::shapes`]; all have two dimensions.
    pub(crate) tensors: Vec<Tensor<2>>,
    shift: Vec<f32>,
    scale: Vec<f32>,
    /// The matrix of the head; `None` if it is the identity.
    head: Option<Tensor<2>>,
    outputs_of_quantile: usize,
}

impl Network for BurnNetwork {
    fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    fn weights(&self) -> Result<Weights, DeviceError> {
        let mut values = Vec::with_capacity(self.architecture.parameters());
        for tensor in &self.tensors {
            values.extend(read(tensor.clone())?);
        }
        Weights::from_parts(self.architecture.clone(), values, self.shift.clone(), self.scale.clone()).map_err(DeviceError)
    }

    fn quantiles(&self, observations: &[f32]) -> Result<Vec<f32>, DeviceError> {
        if observations.is_empty() {
            return Ok(Vec::new());
        }
        read(self.forward(&self.tensors, self.input(observations)))
    }

    fn clone_box(&self) -> Box<dyn Network> {
        Box::new(self.clone())
    }
}

impl BurnNetwork {
    pub(crate) fn new(weights: &Weights, device: &Device) -> Self {
        let architecture = weights.architecture().clone();
        let mut tensors = Vec::new();
        let mut rest = weights.values();
        for shape in architecture.shapes() {
            let (these, others) = rest.split_at(shape[0] * shape[1]);
            tensors.push(Tensor::from_data(TensorData::new(these.to_vec(), shape), device));
            rest = others;
        }
        let head = Head::new(&architecture);
        let outputs_of_quantile = head.outputs_of_quantile();
        let matrix = || Tensor::from_data(TensorData::new(head.matrix(), [outputs_of_quantile, architecture.actions]), device);
        let head = (!head.is_identity()).then(matrix);
        let (shift, scale) = weights.normalisation();
        Self { architecture, device: device.clone(), tensors, shift: shift.to_vec(), scale: scale.to_vec(), head, outputs_of_quantile }
    }

    /// Sets the normalisation of observations.
    pub(crate) fn normalise(&mut self, shift: &[f32], scale: &[f32]) {
        (self.shift, self.scale) = (shift.to_vec(), scale.to_vec());
    }

    /// A forward pass over `observations` that can be differentiated.
    pub(crate) fn pass(&self, observations: &[f32]) -> Pass {
        let leaves: Vec<Tensor<2>> = self.tensors.iter().map(|tensor| Tensor::from_inner(tensor.clone()).require_grad()).collect();
        let values = self.forward(&leaves, self.input(observations));
        Pass { leaves, values }
    }

    /// The gradient of each tensor, for a pass whose values have the gradient `slope`.
    pub(crate) fn backward(&self, pass: Pass, slope: Vec<f32>) -> Vec<Option<Tensor<2>>> {
        let slope = self.rows(slope, self.architecture.actions * self.architecture.quantiles);
        let mut gradients = (pass.values * slope).sum().backward();
        pass.leaves.iter().map(|leaf| leaf.grad_remove(&mut gradients)).collect()
    }

    /// Moves the weights by the share `rate` towards those of `other`.
    pub(crate) fn follow(&mut self, other: &Self, rate: f32) {
        let old = std::mem::take(&mut self.tensors).into_iter().zip(&other.tensors);
        self.tensors = old.map(|(old, other)| old.mul_scalar(1.0 - rate) + other.clone().mul_scalar(rate)).collect();
    }

    /// The normalised `observations` on the device.
    pub(crate) fn input(&self, observations: &[f32]) -> Tensor<2> {
        let width = self.architecture.inputs;
        assert_eq!(observations.len() % width, 0, "{} numbers are not a whole number of rows of {width}", observations.len());
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

    /// The quantiles for `input`, computed with `tensors` instead of the network's own.
    pub(crate) fn forward(&self, tensors: &[Tensor<2>], input: Tensor<2>) -> Tensor<2> {
        let mut tensors = tensors.iter();
        let mut next = || tensors.next().cloned().expect("the architecture says how many tensors there are");
        let mut x = input;
        for size in &self.architecture.hidden {
            x = x.matmul(next()) + next();
            if self.architecture.layer_norm {
                x = layer_norm(x, next().reshape([*size]), Some(next().reshape([*size])), LAYER_NORM_EPSILON);
            }
            x = relu(x);
        }
        let out = x.matmul(next()) + next();
        let Some(head) = &self.head else { return out };
        let Architecture { quantiles, actions, .. } = self.architecture;
        if quantiles == 1 {
            return out.matmul(head.clone());
        }
        let [rows, _] = out.dims();
        out.reshape([rows * quantiles, self.outputs_of_quantile]).matmul(head.clone()).reshape([rows, quantiles * actions])
    }
}

/// A forward pass that can be differentiated once.
pub(crate) struct Pass {
    leaves: Vec<Tensor<2>>,
    values: Tensor<2>,
}

impl Pass {
    /// The quantiles, row by row.
    pub(crate) fn values(&self) -> Result<Vec<f32>, DeviceError> {
        read(self.values.clone().inner())
    }
}

/// The numbers of `tensor`, row by row.
pub(crate) fn read(tensor: Tensor<2>) -> Result<Vec<f32>, DeviceError> {
    let data = tensor.try_into_data().map_err(|error| DeviceError(error.to_string()))?;
    data.try_into_vec::<f32>().map_err(|error| DeviceError(format!("{error:?}")))
}
