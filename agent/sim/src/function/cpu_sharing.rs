//! Sharing of a node's CPU among replicas. Owns the moments of a new division; the division itself is in [`crate::node`].

use super::Function;
use crate::nanos::Nanos;

impl Function {
    /// Updates the claim of the replica of `slot` on its node's CPU.
    #[cold]
    pub(super) fn contend(&mut self, slot: usize, now: Nanos) {
        let Some(replica) = &self.slots[slot] else { return };
        let (node, claim) = (replica.node, replica.claim());
        if self.contention.as_mut().is_some_and(|contention| contention.claim(slot, claim)) {
            self.divide(node, now);
        }
    }

    /// Removes the claim of the replica of `slot`, which left `node`.
    pub(super) fn leave(&mut self, slot: usize, node: Option<u32>, now: Nanos) {
        if self.contention.as_mut().is_some_and(|contention| contention.leave(slot)) {
            self.divide(node, now);
        }
    }

    fn divide(&mut self, node: Option<u32>, now: Nanos) {
        let Some(mut contention) = self.contention.take() else { return };
        let there = |slot: &usize| self.slots[*slot].as_ref().is_some_and(|replica| replica.node == node);
        contention.divide((0..self.slots.len()).filter(there));
        for &(slot, speed) in contention.changed() {
            let slot = slot as usize;
            if let Some(replica) = &mut self.slots[slot] {
                replica.set_speed(speed, now);
            }
            self.schedule(slot);
        }
        self.contention = Some(contention);
    }
}
