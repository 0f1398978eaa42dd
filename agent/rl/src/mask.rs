//! Action masks: the set of actions that can be taken. Owns the selection of the best among them; must not value actions.

use serde::{Deserialize, Serialize};

/// The actions that can be taken, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mask(pub u64);

impl Mask {
    /// Largest number of actions.
    pub const CAPACITY: usize = 64;

    /// A mask that allows the first `count` actions.
    #[must_use]
    pub fn all(count: usize) -> Self {
        Self(if count >= Self::CAPACITY { u64::MAX } else { (1 << count) - 1 })
    }

    /// Whether action `index` can be taken.
    #[must_use]
    pub fn allows(self, index: usize) -> bool {
        index < Self::CAPACITY && self.0 >> index & 1 == 1
    }

    /// Number of allowed actions.
    #[must_use]
    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Indices of the allowed actions, in order.
    pub fn allowed(self) -> impl Iterator<Item = usize> {
        (0..Self::CAPACITY).filter(move |index| self.allows(*index))
    }

    /// The allowed action with the highest value, the first of equals; `None` if none is allowed. NaN is lower than every number.
    #[must_use]
    pub fn best(self, values: &[f32]) -> Option<usize> {
        let mut best: Option<(usize, f32)> = None;
        for (index, value) in values.iter().enumerate().filter(|(index, _)| self.allows(*index)) {
            let value = if value.is_nan() { f32::NEG_INFINITY } else { *value };
            if best.is_none_or(|(_, most)| value > most) {
                best = Some((index, value));
            }
        }
        best.map(|(index, _)| index)
    }
}
