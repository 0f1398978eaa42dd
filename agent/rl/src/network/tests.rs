use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;

fn architecture() -> Architecture {
    Architecture { inputs: 3, hidden: vec![4, 5], actions: 2, dueling: true, layer_norm: true, quantiles: 1, branches: Vec::new() }
}

fn weights(architecture: Architecture) -> Weights {
    Weights::initialise(architecture, &mut SmallRng::seed_from_u64(1)).expect("valid")
}

#[test]
fn returns_the_weights_that_it_was_made_of() {
    let weights = weights(architecture());
    assert_eq!(CpuNetwork::new(&weights).weights(), Ok(weights));
}

/// The values by the formulas, in 64 bits.
fn by_hand(weights: &Weights, input: &[f32]) -> Vec<f32> {
    let architecture = weights.architecture();
    let mut rest = weights.values();
    let mut take = |count: usize| {
        let (taken, others) = rest.split_at(count);
        rest = others;
        taken
    };
    let (shift, scale) = weights.normalisation();
    let mut x: Vec<f64> = (0..input.len()).map(|i| f64::from((input[i] - shift[i]) * scale[i])).collect();
    let linear = |x: &[f64], weight: &[f32], bias: &[f32]| -> Vec<f64> {
        let width = bias.len();
        (0..width)
            .map(|column| f64::from(bias[column]) + (0..x.len()).map(|row| x[row] * f64::from(weight[row * width + column])).sum::<f64>())
            .collect()
    };
    for &size in &architecture.hidden {
        x = linear(&x, take(x.len() * size), take(size));
        if architecture.layer_norm {
            let (gain, offset) = (take(size), take(size));
            let mean = x.iter().sum::<f64>() / size as f64;
            let variance = x.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / size as f64;
            x = x
                .iter()
                .zip(gain.iter().zip(offset))
                .map(|(v, (g, o))| (v - mean) / (variance + LAYER_NORM_EPSILON).sqrt() * f64::from(*g) + f64::from(*o))
                .collect();
        }
        x.iter_mut().for_each(|value| *value = value.max(0.0));
    }
    let branches = if architecture.branches.is_empty() { vec![architecture.actions] } else { architecture.branches.clone() };
    let of_quantile = branches.iter().sum::<usize>() + usize::from(architecture.dueling);
    let out = linear(&x, take(x.len() * of_quantile * architecture.quantiles), take(of_quantile * architecture.quantiles));
    let mut means = vec![0.0; architecture.actions];
    for quantile in out.chunks_exact(of_quantile) {
        let (base, mut advantages) = if architecture.dueling { (quantile[0], &quantile[1..]) } else { (0.0, quantile) };
        let mut values = vec![base];
        for size in &branches {
            let (these, rest) = advantages.split_at(*size);
            advantages = rest;
            let mean = if architecture.dueling { these.iter().sum::<f64>() / *size as f64 } else { 0.0 };
            values = values.iter().flat_map(|value| these.iter().map(move |advantage| value + advantage - mean)).collect();
        }
        means.iter_mut().zip(values).for_each(|(mean, value)| *mean += value / architecture.quantiles as f64);
    }
    means.into_iter().map(|value| value as f32).collect()
}

/// Every kind of head, with six actions.
fn heads() -> impl Iterator<Item = Architecture> {
    let kinds = [(1, vec![]), (3, vec![]), (1, vec![3, 2]), (2, vec![2, 3])];
    kinds.into_iter().flat_map(|(quantiles, branches)| {
        [true, false].map(|dueling| Architecture { actions: 6, dueling, quantiles, branches: branches.clone(), ..architecture() })
    })
}

#[test]
fn values_follow_the_formulas() {
    for (head, layer_norm) in heads().flat_map(|head| [(head.clone(), true), (head, false)]) {
        let begun = weights(Architecture { layer_norm, ..head });
        let weights = Weights::from_parts(begun.architecture().clone(), begun.values().to_vec(), vec![0.1, 0.2, 0.3], vec![1.0, 2.0, 0.5]);
        let weights = weights.expect("as many as there were");
        for input in [[0.0, 0.0, 0.0], [1.0, -1.0, 0.5], [30.0, 2.0, -7.0]] {
            let network = CpuNetwork::new(&weights);
            let values = network.values(&input).expect("the CPU does not fail");
            let expected = by_hand(&weights, &input);
            let close = values.iter().zip(&expected).all(|(found, expected)| (found - expected).abs() < 1e-4);
            assert!(close, "{values:?} {expected:?}");
        }
    }
}

#[test]
fn a_row_has_the_same_values_alone_and_in_a_batch() {
    let network = CpuNetwork::new(&weights(Architecture { hidden: vec![64, 64], ..architecture() }));
    let rows: Vec<f32> = (0..300).map(|number| (number as f32 * 0.37).sin()).collect();
    let together = network.values(&rows).expect("the CPU does not fail");
    for (row, values) in rows.chunks_exact(3).zip(together.chunks_exact(2)) {
        let alone = network.values(row).expect("the CPU does not fail");
        assert!(alone.iter().zip(values).all(|(a, b)| (a - b).abs() < 1e-5), "{alone:?} {values:?}");
    }
    assert_eq!(network.values(&[]), Ok(Vec::new()));
}

#[test]
fn the_matrix_of_a_head_is_its_forward_pass_and_its_transpose_the_backward_pass() {
    for architecture in heads() {
        let head = Head::new(&architecture);
        let (matrix, height) = (head.matrix(), head.outputs_of_quantile());
        let outputs: Vec<f32> = (0..height).map(|number| (number as f32 * 0.7).cos()).collect();
        let slopes: Vec<f32> = (0..6).map(|number| (number as f32 * 1.3).sin()).collect();
        let (mut values, mut gradient) = (Vec::new(), Vec::new());
        head.forward(&outputs, &mut values);
        head.backward(&slopes, &mut gradient);
        let value = |action: usize| (0..height).map(|output| outputs[output] * matrix[output * 6 + action]).sum::<f32>();
        let slope = |output: usize| (0..6).map(|action| slopes[action] * matrix[output * 6 + action]).sum::<f32>();
        assert!((0..6).all(|action| (values[action] - value(action)).abs() < 1e-5), "{architecture:?}");
        assert!((0..height).all(|output| (gradient[output] - slope(output)).abs() < 1e-5), "{architecture:?}");
    }
}

#[test]
fn sizes_out_of_range_are_rejected_with_name_and_value() {
    for (architecture, names) in [
        (Architecture { actions: 65, ..architecture() }, ["actions = 65", "1 to 64"]),
        (Architecture { inputs: 0, ..architecture() }, ["inputs = 0", "1 to 1024"]),
        (Architecture { quantiles: 0, ..architecture() }, ["quantiles = 0", "1 to 64"]),
        (Architecture { branches: vec![3, 2], ..architecture() }, ["branches = [3, 2]", "2"]),
        (Architecture { branches: [vec![1; 100], vec![2]].concat(), ..architecture() }, ["branches = [1, 1, 1", "2"]),
        (Architecture { hidden: vec![], ..architecture() }, ["hidden layers = 0", "1 to 8"]),
    ] {
        let message = architecture.check().expect_err("out of range");
        assert!(names.iter().all(|name| message.contains(name)), "{message}");
    }
}
