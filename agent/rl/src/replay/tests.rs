use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;

fn uniform(capacity: usize) -> ReplayBuffer {
    ReplayBuffer::new(1, capacity, Sampling::Uniform)
}

/// Pushes steps 0, 1, 2, ... with rewards 1, 10, 100, ..., the last one ending so, and gives (observation, reward,
/// bootstrap, next) of what results.
#[track_caller]
fn stored(length: usize, steps: u8, end: StepEnd) -> Vec<(f32, f32, f32, f32)> {
    let mut replay = uniform(64);
    let mut pending = NStepBuffer::new(length, 0.5);
    for step in 0..steps {
        let last = step + 1 == steps;
        let (seen, next) = ([f32::from(step)], [f32::from(step) + 1.0]);
        let reward = 10f32.powi(i32::from(step));
        let end = if last { end } else { StepEnd::Continues };
        let step = Transition { observation: &seen, mask: Mask::all(3), action: step, reward, next: &next, next_mask: Mask::all(2), end };
        pending.push(&step, &mut replay);
    }
    (0..replay.len())
        .map(|at| (replay.observations[at].to_f32(), replay.rewards[at], replay.bootstraps[at], replay.nexts[at].to_f32()))
        .collect()
}

#[test]
fn returns_sum_discounted_rewards_of_n_steps() {
    assert_eq!(stored(1, 2, StepEnd::Continues), [(0.0, 1.0, 0.5, 1.0), (1.0, 10.0, 0.5, 2.0)]);
    assert_eq!(stored(3, 4, StepEnd::Continues), [(0.0, 1.0 + 5.0 + 25.0, 0.125, 3.0), (1.0, 10.0 + 50.0 + 250.0, 0.125, 4.0)]);
}

#[test]
fn termination_does_not_bootstrap_while_truncation_does() {
    assert_eq!(stored(3, 2, StepEnd::Terminated), [(0.0, 1.0 + 5.0, 0.0, 2.0), (1.0, 10.0, 0.0, 2.0)]);
    assert_eq!(stored(3, 2, StepEnd::Truncated), [(0.0, 1.0 + 5.0, 0.25, 2.0), (1.0, 10.0, 0.5, 2.0)]);
}

#[test]
fn an_interruption_leaves_no_return_across_the_gap() {
    let mut replay = uniform(8);
    let mut pending = NStepBuffer::new(2, 1.0);
    let step = |pending: &mut NStepBuffer, replay: &mut ReplayBuffer, reward| {
        let (mask, end) = (Mask::all(1), StepEnd::Continues);
        pending.push(&Transition { observation: &[0.0], mask, action: 0, reward, next: &[1.0], next_mask: mask, end }, replay);
    };
    step(&mut pending, &mut replay, 1.0);
    pending.interrupt();
    step(&mut pending, &mut replay, 2.0);
    assert!(replay.is_empty());
    step(&mut pending, &mut replay, 4.0);
    assert_eq!((replay.len(), replay.rewards[0]), (1, 6.0));
}

#[test]
fn a_full_replay_replaces_the_oldest() {
    let mut replay = uniform(3);
    for number in 0..5u8 {
        let transition = NStepTransition {
            observation: &[f32::from(number)],
            mask: Mask::all(5),
            action: number,
            reward: 0.0,
            bootstrap: 1.0,
            next: &[0.0],
            next_mask: Mask::all(1),
        };
        replay.push(&transition);
    }
    assert_eq!((replay.len(), replay.actions.as_slice()), (3, [3, 4, 2].as_slice()));
}

fn filled(sampling: Sampling, count: u8) -> ReplayBuffer {
    let mut replay = ReplayBuffer::new(1, usize::from(count), sampling);
    for action in 0..count {
        replay.push(&NStepTransition {
            observation: &[0.0],
            mask: Mask::all(1),
            action,
            reward: 0.0,
            bootstrap: 1.0,
            next: &[0.0],
            next_mask: Mask::all(1),
        });
    }
    replay
}

fn drawn(replay: &ReplayBuffer, rounds: usize, beta: f32) -> (Vec<usize>, Batch) {
    let mut rng = SmallRng::seed_from_u64(3);
    let (mut counts, mut batch) = (vec![0; replay.len()], Batch::default());
    for _ in 0..rounds {
        replay.sample(50, beta, &mut rng, &mut batch);
        batch.actions.iter().for_each(|action| counts[usize::from(*action)] += 1);
    }
    (counts, batch)
}

#[test]
fn samples_follow_priorities_and_weights_correct_the_bias() {
    let mut replay = filled(Sampling::Prioritised { alpha: 1.0, beta: 1.0, beta_over: 1 }, 4);
    let errors = [0.0, 1.0, -2.0, 5.0].map(|error: f32| error.signum() * (error.abs() - LEAST_PRIORITY).max(0.0));
    replay.update_priorities(&[0, 1, 2, 3], &errors);
    let (counts, batch) = drawn(&replay, 1000, 1.0);
    for (index, share) in [0.0, 1.0 / 8.0, 2.0 / 8.0, 5.0 / 8.0].into_iter().enumerate() {
        assert!((counts[index] as f64 / 50_000.0 - share).abs() < 0.01, "{counts:?}");
    }
    // Each weight is in inverse proportion to the priority, the largest being 1.
    let weight = |action: u8| batch.actions.iter().position(|other| *other == action).map(|at| batch.weights[at]);
    let (one, two) = (weight(1).expect("drawn"), weight(2).expect("drawn"));
    assert!((one / two - 2.0).abs() < 1e-3 && batch.weights.iter().all(|weight| *weight <= 1.0), "{one} {two}");
}

#[test]
fn uniform_sampling_has_weights_of_one() {
    let (counts, batch) = drawn(&filled(Sampling::Uniform, 5), 1000, 0.4);
    assert!(counts.iter().all(|count| (9_300..10_700).contains(count)), "{counts:?}");
    assert!(batch.weights.iter().all(|weight| *weight == 1.0));
}

#[test]
fn errors_that_are_not_finite_keep_the_sums_finite() {
    let mut replay = filled(Sampling::Prioritised { alpha: 0.6, beta: 0.4, beta_over: 1 }, 3);
    replay.update_priorities(&[0, 1], &[f32::NAN, f32::INFINITY]);
    let (counts, batch) = drawn(&replay, 10, 0.4);
    assert_eq!(counts.iter().sum::<usize>(), 500);
    assert!(batch.weights.iter().all(|weight| weight.is_finite()));
}

#[test]
fn lambda_returns_blend_rewards_with_value_estimates() {
    let mut rollout = RolloutBuffer::default();
    // The next observation is the number of the step; its best allowed action has ten times that value.
    let step = |rollout: &mut RolloutBuffer, environment, number: f32, reward, end| {
        let (observation, next) = (&[number - 1.0], &[number]);
        rollout.push(environment, &Transition { observation, mask: Mask(0b11), action: 1, reward, next, next_mask: Mask(0b01), end });
    };
    step(&mut rollout, 0, 1.0, 1.0, StepEnd::Continues);
    step(&mut rollout, 0, 2.0, 2.0, StepEnd::Truncated);
    step(&mut rollout, 0, 3.0, 3.0, StepEnd::Terminated);
    step(&mut rollout, 1, 4.0, 4.0, StepEnd::Continues);
    assert!(rollout.is_full(2) && !rollout.is_full(3));
    rollout.interrupt(1);
    step(&mut rollout, 1, 5.0, 5.0, StepEnd::Continues);
    let values: Vec<f32> = rollout.nexts().iter().flat_map(|seen| [10.0 * seen, 1000.0]).collect();
    let batch = rollout.take(&values, 2, 0.5, 0.8);
    let truncated = 2.0 + 0.5 * 20.0;
    assert_eq!(batch.rewards, [1.0 + 0.5 * (0.8 * truncated + 0.2 * 10.0), truncated, 3.0, 4.0 + 0.5 * 40.0, 5.0 + 0.5 * 50.0]);
    assert_eq!((batch.observations.as_slice(), batch.bootstraps.as_slice()), ([0.0, 1.0, 2.0, 3.0, 4.0].as_slice(), [0.0; 5].as_slice()));
    assert_eq!(batch.rows(&[2, 0]).rewards, [3.0, batch.rewards[0]]);
    assert!(!rollout.is_full(1), "the buffer is empty");
}
