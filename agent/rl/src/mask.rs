//! Masks: which actions can be taken. Owns their bits and the choice of the best among them; must not value anything.

use serde::{Deserialize, Serialize};

/// Which choices can be taken, a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mask(pub u64);

impl Mask {
    /// Most choices that a mask can tell apart.
    pub const MOST: usize = 64;

    /// The first `count` choices, all of which can be taken.
    #[must_use]
    pub fn all(count: usize) -> Self {
        Self(if count >= Self::MOST { u64::MAX } else { (1 << count) - 1 })
    }

    /// Whether choice number `index` can be taken.
    #[must_use]
    pub fn allows(self, index: usize) -> bool {
        index < Self::MOST && self.0 >> index & 1 == 1
    }

    /// How many can be taken.
    #[must_use]
    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Those that can be taken, in order.
    pub fn allowed(self) -> impl Iterator<Item = usize> {
        (0..Self::MOST).filter(move |index| self.allows(*index))
    }

    /// The most valuable of those that can be taken, the first of equals; `None` where none can be. A value that is not a number is never chosen
    /// before one that is.
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
