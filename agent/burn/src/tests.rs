//! The CPU implementation against burn: values, gradients and whole training runs.

use burn::tensor::Tensor;
use qscale_rl::fixtures::{self, STATES, one_hot};
use qscale_rl::learner::{Hyperparameters, Learner};
use qscale_rl::loss::{BatchValues, LossConfig, Munchausen, td_loss};
use qscale_rl::network::{Architecture, CpuNetwork, Scratch};
use qscale_rl::replay::{Batch, NStepBuffer, ReplayBuffer, Sampling, StepEnd, Transition};
use qscale_rl::{Mask, cpu};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::network::read;

fn small() -> Hyperparameters {
    Hyperparameters { hidden: vec![32, 16], ..fixtures::small() }
}

/// Learns an environment whose state is to be named: reward 1 for the right action, 0 for another. Returns the learner and its transitions.
fn identity(device: &Device, parameters: Hyperparameters, seed: u64, steps: usize) -> (Learner, ReplayBuffer) {
    let mut learner = Learner::new(parameters.clone(), STATES, STATES, seed, device).expect("valid");
    let mut replay = ReplayBuffer::new(STATES, parameters.capacity, Sampling::Uniform);
    let mut returns = NStepBuffer::new(parameters.steps, parameters.discount);
    let mut worlds = SmallRng::seed_from_u64(seed);
    let mut state = 0;
    for _ in 0..steps {
        let action = learner.select(&one_hot(state), &[Mask::all(STATES)]).expect("the CPU does not fail")[0].expect("all are allowed");
        let next_state = worlds.random_range(0..STATES);
        let (observation, next, mask) = (one_hot(state), one_hot(next_state), Mask::all(STATES));
        let reward = f32::from(u8::from(action == state));
        let (action, end) = (action as u8, StepEnd::Continues);
        let transition = Transition { observation: &observation, mask, action, reward, next: &next, next_mask: mask, end };
        learner.observe(0, &transition);
        returns.push(&transition, &mut replay);
        learner.update().expect("the CPU does not fail");
        state = next_state;
    }
    (learner, replay)
}

fn batch_of(replay: &ReplayBuffer, seed: u64) -> Batch {
    let mut batch = Batch::default();
    replay.sample(16, 1.0, &mut SmallRng::seed_from_u64(seed), &mut batch);
    batch
}

/// Online and target network of `learner` on burn.
fn on_burn(learner: &Learner) -> [BurnNetwork; 2] {
    let online = learner.network().weights().expect("the CPU does not fail");
    let target = learner.state().expect("the CPU does not fail").target;
    [online, target].map(|weights| BurnNetwork::new(&weights, &Tensors::flex()))
}

/// The gradient of the whole loss by automatic differentiation, with the target inside or outside the graph.
fn automatic(learner: &Learner, batch: &Batch, detached: bool) -> Vec<f32> {
    let [network, target_network] = on_burn(learner);
    let leaves: Vec<Tensor<2>> = network.tensors.iter().map(|tensor| Tensor::from_inner(tensor.clone()).require_grad()).collect();
    let column = |values: &[f32]| network.rows(values.to_vec(), 1);
    let hot = |actions: &mut dyn Iterator<Item = usize>| {
        let rows: Vec<f32> = actions.flat_map(one_hot).collect();
        network.rows(rows, STATES)
    };
    let current = network.forward(&leaves, network.input(&batch.observations));
    let taken = (current * hot(&mut batch.actions.iter().map(|action| usize::from(*action)))).sum_dim(1);
    let next = network.values(&batch.nexts).expect("the CPU does not fail");
    let mut best = next.chunks_exact(STATES).zip(&batch.next_masks).map(|(values, mask)| mask.best(values).expect("one is allowed"));
    let tensors = if detached { &target_network.tensors } else { &leaves };
    let future = (network.forward(tensors, network.input(&batch.nexts)) * hot(&mut best)).sum_dim(1);
    let error = taken - (column(&batch.rewards) + future * column(&batch.bootstraps));
    // Huber loss: half the square up to delta, linear beyond.
    let (size, delta) = (error.clone().abs(), learner.parameters().huber_delta);
    let within = size.clone().clamp_max(delta);
    let loss = (within.clone() * within.clone()).mul_scalar(0.5) + (size - within).mul_scalar(delta);
    let mut gradients = (loss * column(&batch.weights)).mean().backward();
    let gradient =
        |leaf: &Tensor<2>| read(leaf.grad_remove(&mut gradients).expect("every weight has a gradient")).expect("the CPU does not fail");
    leaves.iter().flat_map(gradient).collect()
}

/// The gradient as an update computes it, on burn and on the CPU.
fn computed(learner: &Learner, batch: &Batch) -> [Vec<f32>; 2] {
    let [online, target] = on_burn(learner);
    let (next, next_by_target) = (online.values(&batch.nexts).expect("computed"), target.values(&batch.nexts).expect("computed"));
    let pass = online.pass(&batch.observations);
    let current = pass.values().expect("computed");
    let config = LossConfig { actions: STATES, quantiles: 1, huber_delta: learner.parameters().huber_delta, munchausen: None };
    let values = BatchValues { current: &current, next: &next, next_by_target: &next_by_target, current_by_target: &[] };
    let slope = td_loss(batch, values, config).gradient;
    let on_burn =
        online.backward(pass, slope.clone()).into_iter().flat_map(|gradient| read(gradient.expect("each has one")).expect("computed"));
    let network = CpuNetwork::new(&online.weights().expect("computed"));
    let (mut scratch, mut on_cpu) = (Scratch::default(), Vec::new());
    network.forward(&batch.observations, &mut scratch);
    network.backward(&mut scratch, &slope, &mut on_cpu);
    [on_burn.collect(), on_cpu]
}

fn largest_difference(some: &[f32], others: &[f32]) -> f32 {
    assert_eq!(some.len(), others.len());
    some.iter().zip(others).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn no_gradient_flows_through_the_target() {
    for (dueling, layer_norm) in [(true, true), (false, true), (true, false), (false, false)] {
        let parameters = Hyperparameters { target_rate: 1.0, dueling, layer_norm, ..small() };
        let (mut learner, replay) = identity(&cpu(), parameters, 2, 100);
        for seed in 0..4 {
            let batch = batch_of(&replay, seed);
            let (detached, through) = (automatic(&learner, &batch, true), automatic(&learner, &batch, false));
            for computed in computed(&learner, &batch) {
                assert!(largest_difference(&computed, &detached) < 1e-5, "{}", largest_difference(&computed, &detached));
                // Target and online network are equal here, so that the two differ by the gradient through the target alone.
                assert!(largest_difference(&computed, &through) > 1e-3, "{}", largest_difference(&computed, &through));
            }
            learner.update().expect("the CPU does not fail");
        }
    }
}

#[test]
fn the_cpu_learns_what_burn_learns() {
    let prioritised = Sampling::Prioritised { alpha: 0.6, beta: 0.4, beta_over: 1000 };
    let usual = Hyperparameters { normalise: true, ..small() };
    // After 136 updates rounding has not made the two diverge. With priorities the tolerance is larger: an error that
    // differs in its last digit may lead to another sample.
    for (parameters, most) in [
        (Hyperparameters { sampling: prioritised, ..usual.clone() }, 1e-3),
        (usual.clone(), 1e-5),
        (Hyperparameters { quantiles: 4, branches: vec![2, 2], ..usual.clone() }, 1e-5),
        (Hyperparameters { munchausen: Some(Munchausen::default()), ..usual }, 1e-5),
    ] {
        let learned = |device: &Device| identity(device, parameters.clone(), 4, 200).0;
        let (on_cpu, on_burn) = (learned(&cpu()), learned(&flex()));
        let weights = |learner: &Learner| learner.network().weights().expect("the CPU does not fail");
        let difference = largest_difference(weights(&on_cpu).values(), weights(&on_burn).values());
        assert!(difference < most, "{difference} {parameters:?}");
        let moments = |learner: &Learner| learner.state().expect("the CPU does not fail").moments;
        let (cpu_moments, burn_moments) = (moments(&on_cpu), moments(&on_burn));
        assert_eq!(cpu_moments.steps, burn_moments.steps);
        assert!(largest_difference(&cpu_moments.first, &burn_moments.first) < 1e-3);
    }
}

#[test]
fn values_of_every_head_equal_those_of_the_cpu() {
    for (quantiles, branches) in [(1, vec![]), (3, vec![]), (1, vec![3, 2]), (2, vec![2, 3])] {
        for (dueling, layer_norm) in [(true, true), (false, true), (true, false), (false, false)] {
            let branches = branches.clone();
            let architecture = Architecture { inputs: 3, hidden: vec![4, 5], actions: 6, dueling, layer_norm, quantiles, branches };
            let begun = Weights::initialise(architecture, &mut SmallRng::seed_from_u64(1)).expect("valid");
            let (architecture, values) = (begun.architecture().clone(), begun.values().to_vec());
            let weights = Weights::from_parts(architecture, values, vec![0.1, 0.2, 0.3], vec![1.0, 2.0, 0.5]).expect("valid");
            let (on_cpu, on_burn) = (cpu().network(&weights), flex().network(&weights));
            assert_eq!(on_burn.weights(), Ok(weights));
            let rows: Vec<f32> = (0..30).map(|number| 3.0 * (number as f32 * 0.37).sin()).collect();
            for rows in [&rows[..], &rows[..3], &[]] {
                let [a, b] = [&on_cpu, &on_burn].map(|network| network.values(rows).expect("the CPU does not fail"));
                assert!(largest_difference(&a, &b) < 1e-5, "{a:?} {b:?}");
            }
        }
    }
}
