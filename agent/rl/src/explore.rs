//! ε-greedy exploration. Owns the schedule; randomness is an argument.

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::mask::Mask;

/// Epsilon, the probability of a random action, falling linearly (Mnih et al., Nature 2015).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpsilonSchedule {
    /// Epsilon at the first action, 0 to 1.
    pub from: f32,
    /// Epsilon from then on, 0 to 1.
    pub to: f32,
    /// Actions over which it falls.
    pub over: u64,
}

impl EpsilonSchedule {
    /// Epsilon after `step` actions.
    #[must_use]
    pub fn epsilon(&self, step: u64) -> f32 {
        let done = if self.over == 0 { 1.0 } else { (step as f64 / self.over as f64).min(1.0) };
        self.from + (self.to - self.from) * done as f32
    }

    /// # Errors
    /// When a share lies outside 0 to 1.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (name, share) in [("from", self.from), ("to", self.to)] {
            if !(0.0..=1.0).contains(&share) {
                return Err(format!("exploration.{name} = {share}, must be from 0 to 1"));
            }
        }
        Ok(())
    }
}

/// A uniformly random action that `mask` allows; `None` if it allows none.
pub fn random_action(mask: Mask, rng: &mut (impl Rng + ?Sized)) -> Option<usize> {
    let count = mask.count();
    if count == 0 {
        return None;
    }
    mask.allowed().nth(rng.random_range(0..count))
}

/// The best of `values` that `mask` allows, or with probability `epsilon` a random action.
pub fn epsilon_greedy(values: &[f32], mask: Mask, epsilon: f32, rng: &mut (impl Rng + ?Sized)) -> Option<usize> {
    if rng.random::<f32>() < epsilon { random_action(mask, rng) } else { mask.best(values) }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn epsilon_falls_to_its_end_and_stays() {
        let schedule = EpsilonSchedule { from: 1.0, to: 0.5, over: 10 };
        assert_eq!([0, 5, 10, 1000].map(|step| schedule.epsilon(step)), [1.0, 0.75, 0.5, 0.5]);
    }

    #[test]
    fn masked_actions_are_never_taken() {
        let mut rng = SmallRng::seed_from_u64(1);
        let mask = Mask(0b1010);
        let mut seen = [0; 4];
        for epsilon in [0.0, 0.5, 1.0] {
            for _ in 0..300 {
                seen[epsilon_greedy(&[9.0, 1.0, 9.0, 2.0], mask, epsilon, &mut rng).expect("two are allowed")] += 1;
            }
        }
        assert!(seen[0] == 0 && seen[2] == 0 && seen[1] > 100 && seen[3] > 500, "{seen:?}");
        assert_eq!(epsilon_greedy(&[1.0], Mask(0), 0.5, &mut rng), None);
    }
}
