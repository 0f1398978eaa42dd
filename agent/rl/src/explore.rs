//! Exploration: how often a choice is left to chance. Owns the schedule; chance itself is passed in.

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::mask::Mask;

/// Epsilon that falls in a straight line (Mnih et al., Nature 2015).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Share of choices left to chance at the beginning, 0 to 1.
    pub from: f32,
    /// Share at the end, 0 to 1.
    pub to: f32,
    /// Choices over which it falls.
    pub over: u64,
}

impl Schedule {
    /// The share of choices left to chance after `step` choices.
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

/// One of the choices that `mask` allows, all alike; `None` where it allows none.
pub fn any(mask: Mask, rng: &mut (impl Rng + ?Sized)) -> Option<usize> {
    let count = mask.count();
    if count == 0 {
        return None;
    }
    mask.allowed().nth(rng.random_range(0..count))
}

/// The best of `values` that `mask` allows, or one left to chance once in 1 / `epsilon` times.
pub fn choose(values: &[f32], mask: Mask, epsilon: f32, rng: &mut (impl Rng + ?Sized)) -> Option<usize> {
    if rng.random::<f32>() < epsilon { any(mask, rng) } else { mask.best(values) }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn epsilon_falls_to_its_end_and_stays() {
        let schedule = Schedule { from: 1.0, to: 0.5, over: 10 };
        assert_eq!([0, 5, 10, 1000].map(|step| schedule.epsilon(step)), [1.0, 0.75, 0.5, 0.5]);
    }

    #[test]
    fn masked_choices_are_never_made() {
        let mut rng = SmallRng::seed_from_u64(1);
        let mask = Mask(0b1010);
        let mut seen = [0; 4];
        for epsilon in [0.0, 0.5, 1.0] {
            for _ in 0..300 {
                seen[choose(&[9.0, 1.0, 9.0, 2.0], mask, epsilon, &mut rng).expect("two are allowed")] += 1;
            }
        }
        assert!(seen[0] == 0 && seen[2] == 0 && seen[1] > 100 && seen[3] > 500, "{seen:?}");
        assert_eq!(choose(&[1.0], Mask(0), 0.5, &mut rng), None);
    }
}
