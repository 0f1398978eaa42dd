//! The network on one core of the CPU: hand-written loops around a matrix product. Owns its forward pass and its gradient.
//!
//! Written by hand for speed: normalisation, rectifier and head are one pass over memory each, where a tensor library
//! makes several, allocates between them and records a graph. `qscale-burn` tests every value and gradient against
//! automatic differentiation.

use gemm::{Parallelism, gemm};

use super::head::Head;
use super::weights::{Architecture, Weights};
use super::{DeviceError, LAYER_NORM_EPSILON, Network};

/// A network in the memory of the CPU.
#[derive(Debug, Clone)]
pub struct CpuNetwork {
    weights: Weights,
    head: Head,
}

/// Intermediate results of a forward pass, kept for the backward pass; its memory is reused by the next one.
#[derive(Debug, Clone, Default)]
pub struct Scratch {
    rows: usize,
    input: Vec<f32>,
    layers: Vec<Layer>,
    head: Vec<f32>,
    /// The quantiles of each action's value, in the order of [`Network::quantiles`].
    pub values: Vec<f32>,
    slope: Vec<f32>,
    slope_below: Vec<f32>,
}

#[derive(Debug, Clone, Default)]
struct Layer {
    /// Outputs of the matrix product; in a normalised layer less their mean and divided by their deviation.
    sums: Vec<f32>,
    /// One over the deviation of each row; empty in a layer that is not normalised.
    inverse: Vec<f32>,
    /// After gain, offset and rectifier.
    out: Vec<f32>,
}

/// Where the tensors of one layer begin in the weights.
#[derive(Debug, Clone, Copy)]
struct LayerLayout {
    inputs: usize,
    outputs: usize,
    weight: usize,
    bias: usize,
    /// The gain, followed by the offset; `None` in the head.
    gain: Option<usize>,
}

impl Network for CpuNetwork {
    fn architecture(&self) -> &Architecture {
        self.weights.architecture()
    }

    fn weights(&self) -> Result<Weights, DeviceError> {
        Ok(self.weights.clone())
    }

    fn quantiles(&self, observations: &[f32]) -> Result<Vec<f32>, DeviceError> {
        let mut scratch = Scratch::default();
        self.forward(observations, &mut scratch);
        Ok(scratch.values)
    }

    fn clone_box(&self) -> Box<dyn Network> {
        Box::new(self.clone())
    }
}

impl CpuNetwork {
    /// A network of `weights`.
    #[must_use]
    pub fn new(weights: &Weights) -> Self {
        Self { weights: weights.clone(), head: Head::new(weights.architecture()) }
    }

    pub(crate) fn parameters(&self) -> &[f32] {
        self.weights.values()
    }

    pub(crate) fn parameters_mut(&mut self) -> &mut [f32] {
        self.weights.values_mut()
    }

    pub(crate) fn normalise(&mut self, shift: &[f32], scale: &[f32]) {
        self.weights.normalise(shift, scale);
    }

    /// The layout of each hidden layer, then of the head.
    fn layouts(&self) -> impl Iterator<Item = LayerLayout> {
        let architecture = self.weights.architecture();
        let sizes = architecture.hidden.iter().map(|size| (*size, architecture.layer_norm)).chain([(self.head.outputs(), false)]);
        let (mut inputs, mut at) = (architecture.inputs, 0);
        sizes.map(move |(outputs, normalised)| {
            let (weight, bias) = (at, at + inputs * outputs);
            at = bias + outputs;
            let gain = normalised.then_some(at);
            at += if normalised { 2 * outputs } else { 0 };
            let layout = LayerLayout { inputs, outputs, weight, bias, gain };
            inputs = outputs;
            layout
        })
    }

    /// Computes the quantiles for each row of `observations` into `scratch`.
    ///
    /// # Panics
    /// When `observations` is not a whole number of rows.
    pub fn forward(&self, observations: &[f32], scratch: &mut Scratch) {
        let (architecture, values) = (self.weights.architecture(), self.weights.values());
        let width = architecture.inputs;
        assert_eq!(observations.len() % width, 0, "{} numbers are not a whole number of rows of {width}", observations.len());
        let rows = observations.len() / width;
        let Scratch { rows: kept, input, layers, head, values: out, .. } = scratch;
        *kept = rows;
        let (shift, scale) = self.weights.normalisation();
        input.clear();
        for row in observations.chunks_exact(width) {
            input.extend(row.iter().zip(shift).zip(scale).map(|((value, shift), scale)| (value - shift) * scale));
        }
        layers.resize_with(architecture.hidden.len(), Layer::default);
        for (index, layout) in self.layouts().enumerate() {
            let (before, rest) = layers.split_at_mut(index);
            let below = before.last().map_or(&*input, |layer| &layer.out);
            let sums = rest.first_mut().map_or(&mut *head, |layer| &mut layer.sums);
            sums.clear();
            (0..rows).for_each(|_| sums.extend_from_slice(&values[layout.bias..layout.bias + layout.outputs]));
            add_product(
                sums,
                below,
                Side::rows(layout.inputs),
                &values[layout.weight..layout.bias],
                Side::rows(layout.outputs),
                layout.outputs,
            );
            if let Some(layer) = rest.first_mut() {
                layer.activate(layout, values);
            }
        }
        self.head.forward(head, out);
    }

    /// Replaces `gradient` by the gradient of every weight, for the forward pass in `scratch` whose values have the gradient `slope`.
    pub fn backward(&self, scratch: &mut Scratch, slope: &[f32], gradient: &mut Vec<f32>) {
        let values = self.weights.values();
        gradient.clear();
        gradient.resize(values.len(), 0.0);
        let Scratch { rows, input, layers, slope: above, slope_below, .. } = scratch;
        self.head.backward(slope, above);
        let layouts: Vec<LayerLayout> = self.layouts().collect();
        for (index, layout) in layouts.iter().enumerate().rev() {
            if let Some(layer) = layers.get_mut(index) {
                layer.activate_backward(*layout, values, above, gradient);
            }
            let below = if index == 0 { &*input } else { &layers[index - 1].out };
            let (weight, bias) = gradient[layout.weight..layout.bias + layout.outputs].split_at_mut(layout.bias - layout.weight);
            for row in above.chunks_exact(layout.outputs) {
                bias.iter_mut().zip(row).for_each(|(sum, slope)| *sum += slope);
            }
            add_product(weight, below, Side::columns(layout.inputs), above, Side::rows(layout.outputs), layout.outputs);
            if index > 0 {
                slope_below.clear();
                slope_below.resize(*rows * layout.inputs, 0.0);
                let weights = &values[layout.weight..layout.bias];
                add_product(slope_below, above, Side::rows(layout.outputs), weights, Side::columns(layout.outputs), layout.inputs);
                std::mem::swap(above, slope_below);
            }
        }
    }
}

impl Layer {
    /// Normalises the sums, in a normalised layer, and rectifies them.
    fn activate(&mut self, layout: LayerLayout, values: &[f32]) {
        let width = layout.outputs;
        self.out.clear();
        self.inverse.clear();
        let Some(gain) = layout.gain else {
            self.out.extend(self.sums.iter().map(|sum| sum.max(0.0)));
            return;
        };
        let (gains, offsets) = values[gain..gain + 2 * width].split_at(width);
        self.out.resize(self.sums.len(), 0.0);
        for (row, out) in self.sums.chunks_exact_mut(width).zip(self.out.chunks_exact_mut(width)) {
            let mean = sum(row.iter().copied()) / width as f32;
            row.iter_mut().for_each(|value| *value -= mean);
            let variance = sum(row.iter().map(|value| value * value)) / width as f32;
            let inverse = 1.0 / (variance + LAYER_NORM_EPSILON as f32).sqrt();
            self.inverse.push(inverse);
            for (((value, out), gain), offset) in row.iter_mut().zip(out).zip(gains).zip(offsets) {
                *value *= inverse;
                *out = (*value * gain + offset).max(0.0);
            }
        }
    }

    /// Turns the gradient `slope` of the layer's output into that of the sums, and adds the gradients of gain and offset to `gradient`.
    fn activate_backward(&mut self, layout: LayerLayout, values: &[f32], slope: &mut [f32], gradient: &mut [f32]) {
        let width = layout.outputs;
        slope.iter_mut().zip(&self.out).for_each(|(slope, out)| *slope = if *out > 0.0 { *slope } else { 0.0 });
        let Some(gain) = layout.gain else { return };
        let gains = &values[gain..gain + width];
        let (by_gain, by_offset) = gradient[gain..gain + 2 * width].split_at_mut(width);
        for ((row, normal), inverse) in slope.chunks_exact_mut(width).zip(self.sums.chunks_exact(width)).zip(&self.inverse) {
            for ((((slope, normal), gain), by_gain), by_offset) in
                row.iter_mut().zip(normal).zip(gains).zip(&mut *by_gain).zip(&mut *by_offset)
            {
                *by_gain += *slope * normal;
                *by_offset += *slope;
                *slope *= gain;
            }
            let mean = sum(row.iter().copied()) / width as f32;
            let along = sum(row.iter().zip(normal).map(|(slope, normal)| slope * normal)) / width as f32;
            row.iter_mut().zip(normal).for_each(|(slope, normal)| *slope = inverse * (*slope - mean - normal * along));
        }
    }
}

/// The sum in eight lanes, which the compiler adds in parallel.
fn sum(values: impl Iterator<Item = f32>) -> f32 {
    let mut lanes = [0f32; 8];
    for (index, value) in values.enumerate() {
        lanes[index % 8] += value;
    }
    lanes.iter().sum()
}

/// Memory layout of one factor of a matrix product.
#[derive(Debug, Clone, Copy)]
struct Side {
    column_stride: isize,
    row_stride: isize,
    width: usize,
    transposed: bool,
}

impl Side {
    /// Row-major, rows of `width` numbers.
    fn rows(width: usize) -> Self {
        Self { column_stride: 1, row_stride: width as isize, width, transposed: false }
    }

    /// Row-major, rows of `width` numbers, transposed.
    fn columns(width: usize) -> Self {
        Self { column_stride: width as isize, row_stride: 1, width, transposed: true }
    }

    fn shape(self, length: usize) -> [usize; 2] {
        let rows = length / self.width;
        if self.transposed { [self.width, rows] } else { [rows, self.width] }
    }
}

/// Adds the product of `left` and `right` to `sum`, whose rows have `width` numbers.
fn add_product(sum: &mut [f32], left: &[f32], left_side: Side, right: &[f32], right_side: Side, width: usize) {
    let ([rows, inner], [other, columns]) = (left_side.shape(left.len()), right_side.shape(right.len()));
    assert!(left.len() == rows * inner && right.len() == other * columns, "both sides are whole rows");
    assert!(inner == other && columns == width && sum.len() == rows * columns, "the sides fit each other and the sum");
    if sum.is_empty() || inner == 0 {
        return;
    }
    // SAFETY: the assertions above keep every index within its slice, as strides are those of whole rows; the sum
    // overlaps neither factor, being borrowed mutably.
    unsafe {
        gemm(
            rows,
            columns,
            inner,
            sum.as_mut_ptr(),
            1,
            width as isize,
            true,
            left.as_ptr(),
            left_side.column_stride,
            left_side.row_stride,
            right.as_ptr(),
            right_side.column_stride,
            right_side.row_stride,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
