//! The network as loops of our own around a matrix product, on one core of the CPU. Owns its forward pass and its gradient by hand.
//!
//! It earns its place by speed: normalisation, rectifier and head are one pass over memory each where a library of tensors makes several and allocates
//! between them, and nothing is recorded. Tests hold every value and every gradient against burn's.

use gemm::{Parallelism, gemm};

use super::weights::Branch;
use super::{Architecture, EPSILON, Weights};

/// A network in the memory of the CPU.
#[derive(Debug, Clone)]
pub(crate) struct Loops {
    weights: Weights,
}

/// What a pass computes on its way, kept for the way back and for the next pass.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scratch {
    rows: usize,
    input: Vec<f32>,
    layers: Vec<Layer>,
    head: Vec<f32>,
    /// The value of each action, quantile by quantile and row by row.
    pub(crate) values: Vec<f32>,
    slope: Vec<f32>,
    slope_below: Vec<f32>,
}

#[derive(Debug, Clone, Default)]
struct Layer {
    /// Sums of the layer; where it is normalised, less their mean and over their deviation.
    sums: Vec<f32>,
    /// One over the deviation of each row; empty where the layer is not normalised.
    inverse: Vec<f32>,
    /// After gain, offset and rectifier.
    out: Vec<f32>,
}

/// Where the tensors of one layer begin.
#[derive(Debug, Clone, Copy)]
struct Place {
    inputs: usize,
    outputs: usize,
    weight: usize,
    bias: usize,
    /// Gain; the offset follows. The head has none.
    gain: Option<usize>,
}

impl Loops {
    pub(crate) fn new(weights: &Weights) -> Self {
        Self { weights: weights.clone() }
    }

    pub(crate) fn weights(&self) -> &Weights {
        &self.weights
    }

    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        self.weights.values_mut()
    }

    pub(crate) fn normalise(&mut self, shift: &[f32], scale: &[f32]) {
        self.weights.normalise(shift, scale);
    }

    fn architecture(&self) -> &Architecture {
        self.weights.architecture()
    }

    /// Each hidden layer, then the head.
    fn places(&self) -> impl Iterator<Item = Place> {
        let architecture = self.architecture();
        let sizes = architecture.hidden.iter().map(|size| (*size, architecture.layer_norm)).chain([(architecture.head(), false)]);
        let (mut inputs, mut at) = (architecture.inputs, 0);
        sizes.map(move |(outputs, normalised)| {
            let (weight, bias) = (at, at + inputs * outputs);
            at = bias + outputs;
            let gain = normalised.then_some(at);
            at += if normalised { 2 * outputs } else { 0 };
            let place = Place { inputs, outputs, weight, bias, gain };
            inputs = outputs;
            place
        })
    }

    /// Computes the values of `observations`, row by row, into `scratch`.
    pub(crate) fn forward(&self, observations: &[f32], scratch: &mut Scratch) {
        let (architecture, values) = (self.architecture(), self.weights.values());
        let width = architecture.inputs;
        assert_eq!(observations.len() % width, 0, "{} numbers are no rows of {width}", observations.len());
        let rows = observations.len() / width;
        let Scratch { rows: kept, input, layers, head, values: out, .. } = scratch;
        *kept = rows;
        let (shift, scale) = self.weights.normalisation();
        input.clear();
        for row in observations.chunks_exact(width) {
            input.extend(row.iter().zip(shift).zip(scale).map(|((value, shift), scale)| (value - shift) * scale));
        }
        layers.resize_with(architecture.hidden.len(), Layer::default);
        for (index, place) in self.places().enumerate() {
            let (before, rest) = layers.split_at_mut(index);
            let below = before.last().map_or(&*input, |layer| &layer.out);
            let sums = rest.first_mut().map_or(&mut *head, |layer| &mut layer.sums);
            sums.clear();
            (0..rows).for_each(|_| sums.extend_from_slice(&values[place.bias..place.bias + place.outputs]));
            add_product(sums, below, Side::rows(place.inputs), &values[place.weight..place.bias], Side::rows(place.outputs), place.outputs);
            if let Some(layer) = rest.first_mut() {
                layer.finish(place, values);
            }
        }
        combine(architecture, head, out);
    }

    /// Adds up the gradient of every weight into `gradient`, for the pass in `scratch` whose values have the gradient `slope`.
    pub(crate) fn backward(&self, scratch: &mut Scratch, slope: &[f32], gradient: &mut Vec<f32>) {
        let (architecture, values) = (self.architecture(), self.weights.values());
        gradient.clear();
        gradient.resize(values.len(), 0.0);
        let Scratch { rows, input, layers, slope: above, slope_below, .. } = scratch;
        separate(architecture, slope, above);
        let places: Vec<Place> = self.places().collect();
        for (index, place) in places.iter().enumerate().rev() {
            if let Some(layer) = layers.get_mut(index) {
                layer.unfinish(*place, values, above, gradient);
            }
            let below = if index == 0 { &*input } else { &layers[index - 1].out };
            let (weight, bias) = gradient[place.weight..place.bias + place.outputs].split_at_mut(place.bias - place.weight);
            for row in above.chunks_exact(place.outputs) {
                bias.iter_mut().zip(row).for_each(|(sum, slope)| *sum += slope);
            }
            add_product(weight, below, Side::columns(place.inputs), above, Side::rows(place.outputs), place.outputs);
            if index > 0 {
                slope_below.clear();
                slope_below.resize(*rows * place.inputs, 0.0);
                let weights = &values[place.weight..place.bias];
                add_product(slope_below, above, Side::rows(place.outputs), weights, Side::columns(place.outputs), place.inputs);
                std::mem::swap(above, slope_below);
            }
        }
    }
}

impl Layer {
    /// Normalises where that is asked for, and rectifies.
    fn finish(&mut self, place: Place, values: &[f32]) {
        let width = place.outputs;
        self.out.clear();
        self.inverse.clear();
        let Some(gain) = place.gain else {
            self.out.extend(self.sums.iter().map(|sum| sum.max(0.0)));
            return;
        };
        let (gains, offsets) = values[gain..gain + 2 * width].split_at(width);
        self.out.resize(self.sums.len(), 0.0);
        for (row, out) in self.sums.chunks_exact_mut(width).zip(self.out.chunks_exact_mut(width)) {
            let mean = sum(row.iter().copied()) / width as f32;
            row.iter_mut().for_each(|value| *value -= mean);
            let variance = sum(row.iter().map(|value| value * value)) / width as f32;
            let inverse = 1.0 / (variance + EPSILON as f32).sqrt();
            self.inverse.push(inverse);
            for (((value, out), gain), offset) in row.iter_mut().zip(out).zip(gains).zip(offsets) {
                *value *= inverse;
                *out = (*value * gain + offset).max(0.0);
            }
        }
    }

    /// Turns the gradient of what came out into that of the sums, and adds those of gain and offset.
    fn unfinish(&mut self, place: Place, values: &[f32], slope: &mut [f32], gradient: &mut [f32]) {
        let width = place.outputs;
        slope.iter_mut().zip(&self.out).for_each(|(slope, out)| *slope = if *out > 0.0 { *slope } else { 0.0 });
        let Some(gain) = place.gain else { return };
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

/// The sum in eight lanes, so that they are added side by side.
fn sum(values: impl Iterator<Item = f32>) -> f32 {
    let mut lanes = [0f32; 8];
    for (index, value) in values.enumerate() {
        lanes[index % 8] += value;
    }
    lanes.iter().sum()
}

/// The values of actions from what the head says: Q = V + A - mean(A) (Wang et al., ICML 2016), where there are branches with the sum of theirs.
fn combine(architecture: &Architecture, head: &[f32], values: &mut Vec<f32>) {
    values.clear();
    for row in head.chunks_exact(architecture.head_of_quantile()) {
        let mut base = 0.0;
        if architecture.dueling {
            base = row[0];
            for places in architecture.branches().map(Branch::places) {
                base -= row[places.clone()].iter().sum::<f32>() / places.len() as f32;
            }
        }
        let begin = values.len();
        values.resize(begin + architecture.actions, base);
        for branch in architecture.branches() {
            let advantages = row[branch.places()].iter().cycle();
            let runs = values[begin..].chunks_exact_mut(branch.stride);
            runs.zip(advantages).for_each(|(run, advantage)| run.iter_mut().for_each(|value| *value += advantage));
        }
    }
}

/// The gradient of what the head says from that of the values.
fn separate(architecture: &Architecture, slope: &[f32], head: &mut Vec<f32>) {
    head.clear();
    for row in slope.chunks_exact(architecture.actions) {
        let begin = head.len();
        head.resize(begin + architecture.head_of_quantile(), 0.0);
        let head = &mut head[begin..];
        let sum: f32 = row.iter().sum();
        if architecture.dueling {
            head[0] = sum;
        }
        for branch in architecture.branches() {
            let advantages = &mut head[branch.places()];
            let runs = row.chunks_exact(branch.stride).enumerate();
            runs.for_each(|(number, run)| advantages[number % advantages.len()] += run.iter().sum::<f32>());
            if architecture.dueling {
                let mean = sum / advantages.len() as f32;
                advantages.iter_mut().for_each(|slope| *slope -= mean);
            }
        }
    }
}

/// How one side of a product lies in memory.
#[derive(Debug, Clone, Copy)]
struct Side {
    column_stride: isize,
    row_stride: isize,
    width: usize,
    turned: bool,
}

impl Side {
    /// Row by row, each of `width` numbers.
    fn rows(width: usize) -> Self {
        Self { column_stride: 1, row_stride: width as isize, width, turned: false }
    }

    /// Row by row of `width` numbers in memory, and taken with rows for columns.
    fn columns(width: usize) -> Self {
        Self { column_stride: width as isize, row_stride: 1, width, turned: true }
    }

    fn shape(self, length: usize) -> [usize; 2] {
        let rows = length / self.width;
        if self.turned { [self.width, rows] } else { [rows, self.width] }
    }
}

/// Adds the product of `left` and `right` to `sum`, which has rows of `width`.
fn add_product(sum: &mut [f32], left: &[f32], left_side: Side, right: &[f32], right_side: Side, width: usize) {
    let ([rows, inner], [other, columns]) = (left_side.shape(left.len()), right_side.shape(right.len()));
    assert!(left.len() == rows * inner && right.len() == other * columns, "both sides are whole rows");
    assert!(inner == other && columns == width && sum.len() == rows * columns, "the sides fit each other and the sum");
    if sum.is_empty() || inner == 0 {
        return;
    }
    // SAFETY: the assertions above hold every index within its slice: strides are those of whole rows, row by row, and the sum overlaps neither side, being
    // borrowed for change.
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
