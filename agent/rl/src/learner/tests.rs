//! Behaviour of the learner in trivial environments.

use super::*;
use crate::device::cpu;
use crate::fixtures::{STATES, one_hot, small};
use crate::loss::Munchausen;
use crate::replay::StepEnd;

/// Learns an environment whose state is to be named: reward 1 for the right action, 0 for another. The next state is
/// random. Returns the share of states whose best action is right, and the learner.
fn identity(parameters: Hyperparameters, seed: u64, steps: usize) -> (f64, Learner) {
    let mut learner = Learner::new(parameters, STATES, STATES, seed, &cpu()).expect("valid");
    let mut worlds = SmallRng::seed_from_u64(seed);
    let mut state = 0;
    for _ in 0..steps {
        let action = learner.select(&one_hot(state), &[Mask::all(STATES)]).expect("the CPU does not fail")[0].expect("all are allowed");
        let next = rand::RngExt::random_range(&mut worlds, 0..STATES);
        let reward = f32::from(u8::from(action == state));
        let (mask, action) = (Mask::all(STATES), action as u8);
        let (observation, after) = (one_hot(state), one_hot(next));
        let end = StepEnd::Continues;
        learner.observe(0, &Transition { observation: &observation, mask, action, reward, next: &after, next_mask: mask, end });
        learner.update().expect("the CPU does not fail");
        state = next;
    }
    let values = learner.network().values(&(0..STATES).flat_map(one_hot).collect::<Vec<_>>()).expect("the CPU does not fail");
    let right = values.chunks_exact(STATES).enumerate().filter(|(state, values)| Mask::all(STATES).best(values) == Some(*state)).count();
    (right as f64 / STATES as f64, learner)
}

#[test]
fn solves_a_trivial_environment_with_every_option() {
    let prioritised = Sampling::Prioritised { alpha: 0.6, beta: 0.4, beta_over: 1000 };
    for (name, parameters) in [
        ("default", small()),
        ("priorities", Hyperparameters { sampling: prioritised, ..small() }),
        ("plain", Hyperparameters { dueling: false, layer_norm: false, ..small() }),
        ("normalised", Hyperparameters { normalise: true, ..small() }),
        ("three steps", Hyperparameters { steps: 3, ..small() }),
        ("quantiles", Hyperparameters { quantiles: 8, huber_delta: 0.1, ..small() }),
        ("branches", Hyperparameters { branches: vec![2, 2], ..small() }),
        ("munchausen", Hyperparameters { munchausen: Some(Munchausen::default()), ..small() }),
        ("rollouts", Hyperparameters { rollouts: Some(RolloutConfig { length: 64, lambda: 0.65, epochs: 4 }), ..small() }),
    ] {
        let (right, learner) = identity(parameters, 1, 1200);
        assert_eq!(right, 1.0, "{name}");
        // The optimal return is 1 / (1 - 0.5); a tenth of the actions were random while learning.
        let values = learner.network().values(&one_hot(2)).expect("the CPU does not fail");
        assert!((1.4..2.4).contains(&values[2]), "{name}: {values:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let weights = |seed| identity(small(), seed, 300).1.network().weights().expect("the CPU does not fail");
    let once = weights(7);
    let bits = |weights: &Weights| weights.values().iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&once), bits(&weights(7)));
    assert_ne!(bits(&once), bits(&weights(8)));
}

#[test]
fn termination_ends_the_return_and_truncation_bootstraps() {
    let value = |end| {
        let mut learner = Learner::new(Hyperparameters { hidden: vec![8], target_rate: 0.2, ..small() }, 1, 1, 3, &cpu()).expect("valid");
        for _ in 0..600 {
            let mask = Mask::all(1);
            learner.observe(0, &Transition { observation: &[1.0], mask, action: 0, reward: 1.0, next: &[1.0], next_mask: mask, end });
            learner.update().expect("the CPU does not fail");
        }
        learner.network().values(&[1.0]).expect("the CPU does not fail")[0]
    };
    let (terminated, truncated) = (value(StepEnd::Terminated), value(StepEnd::Truncated));
    assert!((terminated - 1.0).abs() < 0.05, "{terminated}");
    assert!((truncated - 2.0).abs() < 0.1, "{truncated}");
}

fn batch_of(learner: &mut Learner) -> Batch {
    let mut rng = SmallRng::seed_from_u64(11);
    let mut batch = Batch::default();
    learner.replay.sample(16, 1.0, &mut rng, &mut batch);
    batch
}

#[test]
fn waits_for_the_warm_up_before_the_first_update() {
    let mut learner = Learner::new(small(), 1, 2, 1, &cpu()).expect("valid");
    let before = learner.network().weights().expect("the CPU does not fail");
    for _ in 0..63 {
        let (mask, end) = (Mask::all(2), StepEnd::Continues);
        learner.observe(0, &Transition { observation: &[0.5], mask, action: 1, reward: 1.0, next: &[0.5], next_mask: mask, end });
        assert_eq!(learner.update().expect("the CPU does not fail"), None);
    }
    assert_eq!(learner.network().weights().expect("the CPU does not fail"), before);
}

#[test]
fn a_resumed_learner_continues_with_the_same_actions_and_updates() {
    let (_, mut learner) = identity(small(), 5, 200);
    let weights = learner.network().weights().expect("the CPU does not fail");
    let state = learner.state().expect("the CPU does not fail");
    let mut resumed = Learner::resume(small(), &weights, Some(&state), 5, &cpu()).expect("they belong together");
    assert_eq!((resumed.actions_taken(), resumed.updates()), (learner.actions_taken(), learner.updates()));
    let seen: Vec<f32> = (0..50).flat_map(|step| one_hot(step % STATES)).collect();
    let masks = vec![Mask::all(STATES); 50];
    assert_eq!(learner.select(&seen, &masks), resumed.select(&seen, &masks));
    let batch = batch_of(&mut learner);
    let first = learner.learn(&batch).expect("the CPU does not fail");
    assert_eq!(resumed.learn(&batch).expect("the CPU does not fail"), first);
    assert_eq!(resumed.state(), learner.state());
}

#[test]
fn hyperparameters_out_of_range_are_rejected_with_key_and_value() {
    let munchausen = Some(Munchausen { temperature: 0.0, ..Munchausen::default() });
    let both = Hyperparameters { munchausen: Some(Munchausen::default()), rollouts: Some(RolloutConfig::default()), ..small() };
    for (parameters, names) in [
        (Hyperparameters { discount: 1.0, ..small() }, ["discount = 1", "below 1"]),
        (Hyperparameters { batch: 0, ..small() }, ["batch = 0", "1 to 65536"]),
        (Hyperparameters { learning_rate: f32::NAN, ..small() }, ["learning_rate = NaN", "at most 1"]),
        (Hyperparameters { huber_delta: -1.0, ..small() }, ["huber_delta = -1", "at most 1000000"]),
        (Hyperparameters { munchausen, ..small() }, ["munchausen.temperature = 0", "at most 1000000"]),
        (both, ["munchausen", "rollouts"]),
        (Hyperparameters { branches: vec![3], ..small() }, ["branches = [3]", "2"]),
        (Hyperparameters { hidden: vec![4096], ..small() }, ["hidden", "4096"]),
    ] {
        let error = Learner::new(parameters, 4, 2, 1, &cpu()).err().expect("out of range");
        let LearnerError::Invalid(message) = error else { panic!("{error}") };
        assert!(names.iter().all(|name| message.contains(name)), "{message}");
    }
}

#[test]
fn the_former_name_of_huber_delta_is_still_read() {
    let read: Hyperparameters = serde_json::from_str(r#"{"corner": 3.5}"#).expect("an alias");
    assert_eq!(read.huber_delta, 3.5);
}
