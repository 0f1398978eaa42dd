//! Weights as plain numbers, and the architecture that gives them their order. Owns initialisation; must not compute values.
//!
//! Imports [`super::head`] and is imported by it: the head determines the size of the last layer, and follows from the
//! architecture.

use half::f16;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use super::head::Head;

/// Shape of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// Numbers of an observation, 1 to [`Architecture::WIDEST`].
    pub inputs: usize,
    /// Units of each hidden layer, at most [`Architecture::DEEPEST`] layers.
    pub hidden: Vec<usize>,
    /// Number of actions, 1 to 64.
    pub actions: usize,
    /// Whether the head separates the value of a state from the advantages of actions (Wang et al., ICML 2016).
    pub dueling: bool,
    /// Whether each hidden layer is normalised before its rectifier (Ba et al., 2016), which stabilises learning
    /// without a slow target network (Gallici et al., PQN, ICLR 2025).
    pub layer_norm: bool,
    /// Quantiles of each action's return, 1 to 64 (Dabney et al., AAAI 2018); 1 is the mean.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub quantiles: usize,
    /// Sizes of the branches, if an action is a combination of one element of each branch, valued by the sum of their
    /// advantages (Tavakoli et al., AAAI 2018; Seyde et al., ICLR 2023). The element of the last branch changes fastest
    /// with the index of the action. Empty if each action has its own advantage.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub branches: Vec<usize>,
}

fn one() -> usize {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes the value by reference")]
fn is_one(quantiles: &usize) -> bool {
    *quantiles == 1
}

impl Architecture {
    /// Widest layer.
    pub const WIDEST: usize = 1024;
    /// Most hidden layers.
    pub const DEEPEST: usize = 8;
    /// Most quantiles.
    pub const FINEST: usize = 64;

    /// Rows and columns of each tensor: weights and bias of each hidden layer, followed by gain and offset if it is
    /// normalised; then weights and bias of the head.
    #[must_use]
    pub fn shapes(&self) -> Vec<[usize; 2]> {
        let mut shapes = Vec::new();
        let mut width = self.inputs;
        for &size in &self.hidden {
            shapes.extend([[width, size], [1, size]]);
            if self.layer_norm {
                shapes.extend([[1, size], [1, size]]);
            }
            width = size;
        }
        let outputs = Head::new(self).outputs();
        shapes.extend([[width, outputs], [1, outputs]]);
        shapes
    }

    /// Number of trainable parameters.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.shapes().iter().map(|[rows, columns]| rows * columns).sum()
    }

    /// # Errors
    /// When a size is out of range.
    pub fn check(&self) -> Result<(), String> {
        let within = |name: &str, value: usize, most: usize| {
            if (1..=most).contains(&value) { Ok(()) } else { Err(format!("{name} = {value}, must be from 1 to {most}")) }
        };
        within("inputs", self.inputs, Self::WIDEST)?;
        within("actions", self.actions, crate::mask::Mask::CAPACITY)?;
        within("quantiles", self.quantiles, Self::FINEST)?;
        // No branch of one element, so that a manipulated header cannot describe an unbounded head.
        let product = self.branches.iter().try_fold(1usize, |product, size| product.checked_mul(*size).filter(|_| *size > 1));
        if !self.branches.is_empty() && product != Some(self.actions) {
            let shown = &self.branches[..self.branches.len().min(8)];
            return Err(format!(
                "branches = {shown:?}, each must be at least 2 and their product must be the number of actions, {}",
                self.actions
            ));
        }
        within("number of hidden layers", self.hidden.len(), Self::DEEPEST)?;
        self.hidden.iter().try_for_each(|size| within("width of a hidden layer", *size, Self::WIDEST))
    }
}

/// Weights of a network and the normalisation of its observations.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    architecture: Architecture,
    values: Vec<f32>,
    shift: Vec<f32>,
    scale: Vec<f32>,
}

impl Weights {
    /// Initial weights: uniform within 1 / sqrt(inputs of the layer), as in PyTorch and CleanRL; gains of 1 and offsets of 0.
    ///
    /// # Errors
    /// When the architecture is out of range.
    pub fn initialise(architecture: Architecture, rng: &mut (impl Rng + ?Sized)) -> Result<Self, String> {
        architecture.check()?;
        let mut values = Vec::with_capacity(architecture.parameters());
        let mut uniform = |values: &mut Vec<f32>, count: usize, inputs: usize| {
            let bound = 1.0 / (inputs as f32).sqrt();
            values.extend((0..count).map(|_| rng.random_range(-bound..bound)));
        };
        let mut width = architecture.inputs;
        for &size in &architecture.hidden {
            uniform(&mut values, width * size + size, width);
            if architecture.layer_norm {
                values.extend(std::iter::repeat_n(1.0, size).chain(std::iter::repeat_n(0.0, size)));
            }
            width = size;
        }
        let head = Head::new(&architecture).outputs();
        uniform(&mut values, width * head + head, width);
        let (shift, scale) = (vec![0.0; architecture.inputs], vec![1.0; architecture.inputs]);
        Self::from_parts(architecture, values, shift, scale)
    }

    /// Weights from stored numbers, in the order of [`Architecture::shapes`].
    ///
    /// # Errors
    /// When their number does not match the architecture, or one is not finite.
    pub fn from_parts(architecture: Architecture, values: Vec<f32>, shift: Vec<f32>, scale: Vec<f32>) -> Result<Self, String> {
        architecture.check()?;
        let counts = [
            ("weights", values.len(), architecture.parameters()),
            ("shifts", shift.len(), architecture.inputs),
            ("scales", scale.len(), architecture.inputs),
        ];
        for (what, found, expected) in counts {
            if found != expected {
                return Err(format!("{found} {what}, the architecture has {expected}"));
            }
        }
        let all = values.iter().chain(&shift).chain(&scale);
        match all.into_iter().position(|value| !value.is_finite()) {
            Some(at) => Err(format!("weight {at} is not a finite number")),
            None => Ok(Self { architecture, values, shift, scale }),
        }
    }

    /// A copy with each weight rounded to 16 bits, about three digits. The normalisation keeps its precision.
    #[must_use]
    pub fn rounded(mut self) -> Self {
        let (least, most) = (f16::MIN.to_f32(), f16::MAX.to_f32());
        self.values.iter_mut().for_each(|value| *value = f16::from_f32(value.clamp(least, most)).to_f32());
        self
    }

    /// Shape of the network.
    #[must_use]
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// All weights, tensor by tensor in the order of [`Architecture::shapes`], row by row.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// All weights, mutable.
    #[must_use]
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// Sets the normalisation: `shift` is subtracted from each input, the rest is multiplied by `scale`.
    pub(crate) fn normalise(&mut self, shift: &[f32], scale: &[f32]) {
        self.shift.copy_from_slice(shift);
        self.scale.copy_from_slice(scale);
    }

    /// Shift and scale of each input.
    #[must_use]
    pub fn normalisation(&self) -> (&[f32], &[f32]) {
        (&self.shift, &self.scale)
    }
}
