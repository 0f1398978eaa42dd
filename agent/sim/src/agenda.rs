//! What happens next among the replicas of one function. Owns a small tournament of times; must not know what happens then.
//!
//! A tree of minima over as many leaves as there are replicas: setting one time takes a comparison a level, without a branch that is hard to
//! foresee. For the replicas of one function it stays in the first-level cache, where a queue over all functions would not (`reference/performance.md`).

use crate::nanos::Nanos;

/// The next time of each slot, and the earliest of all.
#[derive(Debug, Clone)]
pub struct Agenda {
    /// Node 1 is the root, node `i` has the children `2 i` and `2 i + 1`, leaves begin at half the length.
    tree: Vec<Nanos>,
}

impl Agenda {
    /// No slot.
    #[must_use]
    pub fn new() -> Self {
        Self { tree: vec![Nanos::NEVER; 2] }
    }

    /// Sets the time of `slot`; slots that were never set have [`Nanos::NEVER`].
    #[inline]
    pub fn set(&mut self, slot: usize, time: Nanos) {
        if slot >= self.leaves() {
            self.grow(slot + 1);
        }
        let mut node = self.leaves() + slot;
        self.tree[node] = time;
        while node > 1 {
            // All the way up: whether a node keeps its time is a coin toss, and a wrong guess costs more than the levels above.
            let least = self.tree[node].min(self.tree[node ^ 1]);
            node /= 2;
            self.tree[node] = least;
        }
    }

    /// The earliest time.
    #[inline]
    #[must_use]
    pub fn earliest(&self) -> Nanos {
        self.tree[1]
    }

    /// A slot with the earliest time.
    #[inline]
    #[must_use]
    pub fn first(&self) -> usize {
        let leaves = self.leaves();
        let earliest = self.earliest();
        let mut node = 1;
        while node < leaves {
            node = 2 * node + usize::from(self.tree[2 * node] != earliest);
        }
        node - leaves
    }

    fn leaves(&self) -> usize {
        self.tree.len() / 2
    }

    fn grow(&mut self, slots: usize) {
        let before = self.leaves();
        let leaves = slots.next_power_of_two();
        let mut tree = vec![Nanos::NEVER; 2 * leaves];
        tree[leaves..leaves + before].copy_from_slice(&self.tree[before..]);
        (1..leaves).rev().for_each(|node| tree[node] = tree[2 * node].min(tree[2 * node + 1]));
        self.tree = tree;
    }

    /// Bytes on the heap.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.tree.capacity() * size_of::<Nanos>()
    }
}

impl Default for Agenda {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_first_is_the_least(sets in prop::collection::vec((0usize..70, 0u64..100), 1..300)) {
            let mut agenda = Agenda::new();
            let mut times = [Nanos::NEVER; 70];
            for (slot, time) in sets {
                agenda.set(slot, Nanos(time));
                times[slot] = Nanos(time);
                prop_assert_eq!(agenda.earliest(), times.into_iter().min().expect("some"));
                prop_assert_eq!(times[agenda.first()], agenda.earliest());
            }
        }
    }
}
