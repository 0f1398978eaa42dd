//! The next event among the replicas of one function. Owns a tournament tree of times; must not know the events.
//!
//! A tree of minima with a leaf for each replica: setting a time takes one comparison a level, without a branch that is
//! hard to predict, and the root is the earliest. For the replicas of one function it stays in the first-level cache,
//! unlike a queue over all functions.

use std::hint::select_unpredictable;

use crate::nanos::Nanos;

/// Next time of each slot, and the earliest of all.
#[derive(Debug, Clone)]
pub struct EventQueue {
    /// Node 1 is the root, node `i` has the children `2 i` and `2 i + 1`, leaves begin at half the length. Each holds a
    /// time and a slot, so among equal times the lesser slot comes first.
    tree: Vec<u128>,
}

/// `time` in the upper half, `slot` in the lower.
#[inline]
fn entry(time: Nanos, slot: usize) -> u128 {
    (u128::from(time.0) << 64) | slot as u128
}

impl EventQueue {
    /// No slot.
    #[must_use]
    pub fn new() -> Self {
        Self { tree: vec![entry(Nanos::NEVER, 0); 2] }
    }

    /// Sets the time of `slot`; initially [`Nanos::NEVER`].
    #[inline]
    pub fn set(&mut self, slot: usize, time: Nanos) {
        if slot >= self.leaves() {
            self.grow(slot + 1);
        }
        let (node, least) = (self.leaves() + slot, entry(time, slot));
        self.tree[node] = least;
        // With a constant number of levels the compiler unrolls the loop and keeps the selection free of branches.
        match self.leaves().trailing_zeros() {
            0 => {}
            1 => self.climb::<1>(node, least),
            2 => self.climb::<2>(node, least),
            3 => self.climb::<3>(node, least),
            4 => self.climb::<4>(node, least),
            5 => self.climb::<5>(node, least),
            6 => self.climb::<6>(node, least),
            7 => self.climb::<7>(node, least),
            8 => self.climb::<8>(node, least),
            _ => self.climb::<64>(node, least),
        }
    }

    /// Carries `least` up from `node` by `levels` or to the root, without an early exit: whether a node keeps its time
    /// is unpredictable, and a mispredicted branch costs more than the levels above.
    #[inline]
    fn climb<const LEVELS: u32>(&mut self, node: usize, least: u128) {
        let (mut node, mut least) = (node, least);
        for _ in 0..LEVELS {
            if LEVELS == 64 && node == 1 {
                return;
            }
            let other = self.tree[node ^ 1];
            least = select_unpredictable(other < least, other, least);
            node /= 2;
            self.tree[node] = least;
        }
    }

    /// Clears all times.
    pub fn clear(&mut self) {
        let leaves = self.leaves();
        (0..leaves).for_each(|slot| self.tree[leaves + slot] = entry(Nanos::NEVER, slot));
        (1..leaves).rev().for_each(|node| self.tree[node] = self.tree[2 * node].min(self.tree[2 * node + 1]));
    }

    /// The earliest time.
    #[inline]
    #[must_use]
    pub fn earliest(&self) -> Nanos {
        Nanos((self.tree[1] >> 64) as u64)
    }

    /// The first slot with the earliest time.
    #[inline]
    #[must_use]
    pub fn first(&self) -> usize {
        self.tree[1] as u64 as usize
    }

    fn leaves(&self) -> usize {
        self.tree.len() / 2
    }

    fn grow(&mut self, slots: usize) {
        let before = self.leaves();
        let leaves = slots.next_power_of_two();
        let mut tree = vec![0; 2 * leaves];
        (before..leaves).for_each(|slot| tree[leaves + slot] = entry(Nanos::NEVER, slot));
        tree[leaves..leaves + before].copy_from_slice(&self.tree[before..]);
        (1..leaves).rev().for_each(|node| tree[node] = tree[2 * node].min(tree[2 * node + 1]));
        self.tree = tree;
    }

    /// Bytes on the heap.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.tree.capacity() * size_of::<u128>()
    }
}

impl Default for EventQueue {
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
            let mut event_queue = EventQueue::new();
            let mut times = [Nanos::NEVER; 70];
            for (slot, time) in sets {
                event_queue.set(slot, Nanos(time));
                times[slot] = Nanos(time);
                prop_assert_eq!(event_queue.earliest(), times.into_iter().min().expect("some"));
                prop_assert_eq!(event_queue.first(), times.iter().position(|time| *time == event_queue.earliest()).expect("some"));
            }
        }
    }
}
