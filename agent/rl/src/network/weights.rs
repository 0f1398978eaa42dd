//! Weights as plain numbers, and the architecture that says what each is. Owns their order and their beginning; must not compute with them.

use half::f16;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

/// What a network looks like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// Numbers that it sees, 1 to [`Architecture::WIDEST`].
    pub inputs: usize,
    /// Width of each hidden layer, at most [`Architecture::DEEPEST`] of them.
    pub hidden: Vec<usize>,
    /// Actions that it values, 1 to 64.
    pub actions: usize,
    /// Whether the value of a state and the advantages of actions are told apart (Wang et al., ICML 2016).
    pub dueling: bool,
    /// Whether each hidden layer is normalised before its rectifier (Ba et al., 2016): it steadies learning without a slow target (Gallici et al., PQN,
    /// ICLR 2025).
    pub layer_norm: bool,
    /// Quantiles of an action's return that are told apart, 1 to 64 (Dabney et al., AAAI 2018); 1 is the mean alone.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub quantiles: usize,
    /// Sizes of the branches, where an action is one choice from each and valued by the sum of their advantages (Tavakoli et al., AAAI 2018; Seyde et al.,
    /// ICLR 2023); the choice from the last changes fastest from action to action. Empty where each action has an advantage of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub branches: Vec<usize>,
}

fn one() -> usize {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives what is to be skipped by reference")]
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

    /// Rows and columns of each tensor: for each hidden layer weights, bias and, where it is normalised, gain and offset; then the head's weights and bias.
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
        shapes.extend([[width, self.head()], [1, self.head()]]);
        shapes
    }

    /// Width of the head: for each quantile the value of the state, where that is told apart, and the advantages.
    #[must_use]
    pub fn head(&self) -> usize {
        self.quantiles * self.head_of_quantile()
    }

    /// Numbers of the head that belong to one quantile.
    pub(crate) fn head_of_quantile(&self) -> usize {
        self.branches().last().map_or(0, |branch| branch.places().end)
    }

    /// The branches in order; one of all actions where none are told.
    pub(crate) fn branches(&self) -> impl Iterator<Item = Branch> {
        let sizes = if self.branches.is_empty() { std::slice::from_ref(&self.actions) } else { &self.branches };
        let mut first = usize::from(self.dueling);
        let mut stride = self.actions;
        sizes.iter().map(move |&size| {
            stride /= size;
            let branch = Branch { first, size, stride };
            first += size;
            branch
        })
    }

    /// How many numbers there are to learn.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.shapes().iter().map(|[rows, columns]| rows * columns).sum()
    }

    /// # Errors
    /// When a size lies outside its range.
    pub fn check(&self) -> Result<(), String> {
        let within = |name: &str, value: usize, most: usize| {
            if (1..=most).contains(&value) { Ok(()) } else { Err(format!("{name} = {value}, must be from 1 to {most}")) }
        };
        within("inputs", self.inputs, Self::WIDEST)?;
        within("actions", self.actions, crate::mask::Mask::MOST)?;
        within("quantiles", self.quantiles, Self::FINEST)?;
        // None of one choice, so that a header which was tampered with cannot name a head without end.
        let product = self.branches.iter().try_fold(1usize, |product, size| product.checked_mul(*size).filter(|_| *size > 1));
        if !self.branches.is_empty() && product != Some(self.actions) {
            let told = &self.branches[..self.branches.len().min(8)];
            return Err(format!("branches = {told:?}, must each be 2 or more, and their product the number of actions, {}", self.actions));
        }
        within("number of hidden layers", self.hidden.len(), Self::DEEPEST)?;
        self.hidden.iter().try_for_each(|size| within("width of a hidden layer", *size, Self::WIDEST))
    }
}

/// One branch of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Branch {
    first: usize,
    size: usize,
    /// Actions in a row that share an advantage.
    pub(crate) stride: usize,
}

impl Branch {
    /// Where its advantages lie in the head of a quantile. Actions in order take each for `stride` of them, and then begin anew.
    pub(crate) fn places(self) -> std::ops::Range<usize> {
        self.first..self.first + self.size
    }
}

/// Weights of a network, and how what it sees is normalised.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    architecture: Architecture,
    values: Vec<f32>,
    shift: Vec<f32>,
    scale: Vec<f32>,
}

impl Weights {
    /// Weights to begin with: uniform within 1 / sqrt(inputs of the layer), as PyTorch begins and so CleanRL; gains of 1 and offsets of 0.
    ///
    /// # Errors
    /// When the architecture is outside its ranges.
    pub fn begin(architecture: Architecture, rng: &mut (impl Rng + ?Sized)) -> Result<Self, String> {
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
        let head = architecture.head();
        uniform(&mut values, width * head + head, width);
        let (shift, scale) = (vec![0.0; architecture.inputs], vec![1.0; architecture.inputs]);
        Self::from_parts(architecture, values, shift, scale)
    }

    /// Weights as they were written down.
    ///
    /// # Errors
    /// When there are more or fewer than the architecture has, or one is not finite.
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

    /// These, each weight rounded to 16 bits, which hold three digits; how inputs are normalised stays as it is.
    #[must_use]
    pub fn rounded(mut self) -> Self {
        let (least, most) = (f16::MIN.to_f32(), f16::MAX.to_f32());
        self.values.iter_mut().for_each(|value| *value = f16::from_f32(value.clamp(least, most)).to_f32());
        self
    }

    /// What the network looks like.
    #[must_use]
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// The weights, tensor by tensor in the order of [`Architecture::shapes`], row by row.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The weights, to be changed.
    #[must_use]
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// Sets what is taken from each input, and what the rest is multiplied with.
    pub(crate) fn normalise(&mut self, shift: &[f32], scale: &[f32]) {
        self.shift.copy_from_slice(shift);
        self.scale.copy_from_slice(scale);
    }

    /// What is taken from each input, and what the rest is multiplied with.
    #[must_use]
    pub fn normalisation(&self) -> (&[f32], &[f32]) {
        (&self.shift, &self.scale)
    }
}
