//! A trivial environment for tests of learners: states that are to be named. Owns its hyperparameters and observations.

use crate::Hyperparameters;
use crate::explore::EpsilonSchedule;
use crate::replay::Sampling;

/// Number of states, and of actions.
pub const STATES: usize = 4;

/// Hyperparameters that learn the environment within a few hundred updates.
#[must_use]
pub fn small() -> Hyperparameters {
    Hyperparameters {
        hidden: vec![32],
        discount: 0.5,
        steps: 1,
        batch: 32,
        learning_rate: 3e-3,
        target_rate: 0.05,
        capacity: 2000,
        warm_up: 64,
        sampling: Sampling::Uniform,
        exploration: EpsilonSchedule { from: 1.0, to: 0.1, over: 500 },
        ..Hyperparameters::plain()
    }
}

/// Observation of `state`.
#[must_use]
pub fn one_hot(state: usize) -> Vec<f32> {
    (0..STATES).map(|other| f32::from(u8::from(other == state))).collect()
}
