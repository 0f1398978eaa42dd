//! Division of a node's CPU that is overcommitted. Owns the division; must not know the work.

/// Claim of a replica on its node's CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Claim {
    /// Cores that want to compute.
    pub cores: u32,
    /// Its weight: the CPU limit, thousandths of a core.
    pub weight: u32,
}

/// Weighted fair sharing, as the kernel's scheduler divides CPU among groups: in proportion to weight, with unused
/// shares given to the others.
#[derive(Debug, Clone)]
pub struct Contention {
    /// Cores of one node.
    cores: f64,
    /// Claim of the replica of each slot.
    claims: Vec<Claim>,
    /// Share of a core for each core of the replica of each slot.
    speeds: Vec<f64>,
    /// Slots of the node that is being divided.
    among: Vec<u32>,
    /// Slots whose share changed in the last division, with the share.
    changed: Vec<(u32, f64)>,
}

impl Contention {
    /// Nodes of `cores` each, without claims.
    #[must_use]
    pub fn new(cores: f64) -> Self {
        Self { cores, claims: Vec::new(), speeds: Vec::new(), among: Vec::new(), changed: Vec::new() }
    }

    /// Clears all claims.
    pub fn clear(&mut self) {
        self.claims.fill(Claim::default());
        self.speeds.fill(1.0);
    }

    /// Sets the claim of the replica of `slot`; returns whether it changed.
    pub fn claim(&mut self, slot: usize, claim: Claim) -> bool {
        if slot >= self.claims.len() {
            self.claims.resize(slot + 1, Claim::default());
            self.speeds.resize(slot + 1, 1.0);
        }
        std::mem::replace(&mut self.claims[slot], claim) != claim
    }

    /// Removes the claim of `slot`; returns whether there was one. The next replica there starts with whole cores.
    pub fn leave(&mut self, slot: usize) -> bool {
        let asked = self.claim(slot, Claim::default());
        self.speeds[slot] = 1.0;
        asked
    }

    /// Divides a node among the replicas of `slots`; [`Contention::changed`] lists the changes.
    pub fn divide(&mut self, slots: impl Iterator<Item = usize>) {
        let Self { cores, claims, speeds, among, changed } = self;
        among.clear();
        changed.clear();
        let mut set = |slot: usize, speed: f64| {
            if std::mem::replace(&mut speeds[slot], speed) != speed {
                changed.push((slot as u32, speed));
            }
        };
        let mut wanted = 0.0;
        for slot in slots.filter(|slot| *slot < claims.len()) {
            if claims[slot].cores == 0 {
                continue;
            }
            wanted += f64::from(claims[slot].cores);
            among.push(slot as u32);
        }
        let mut left = *cores;
        let mut weight: f64 = among.iter().map(|slot| weight_of(claims[*slot as usize])).sum();
        // A replica that claims no more than its part gets its claim, which leaves more for the others; repeat until none is left.
        while wanted > left {
            let part = left / weight;
            let content = |slot: &u32| f64::from(claims[*slot as usize].cores) <= part * weight_of(claims[*slot as usize]);
            if !among.iter().any(content) {
                for slot in among.iter().map(|slot| *slot as usize) {
                    set(slot, part * weight_of(claims[slot]) / f64::from(claims[slot].cores));
                }
                return;
            }
            for slot in among.extract_if(.., |slot| content(slot)).map(|slot| slot as usize) {
                set(slot, 1.0);
                wanted -= f64::from(claims[slot].cores);
                left -= f64::from(claims[slot].cores);
                weight -= weight_of(claims[slot]);
            }
        }
        for slot in among.drain(..) {
            set(slot as usize, 1.0);
        }
    }

    /// Slots whose share changed in the last division, with the share of a core.
    #[must_use]
    pub fn changed(&self) -> &[(u32, f64)] {
        &self.changed
    }

    /// Bytes on the heap.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.claims.capacity() * size_of::<Claim>() + self.speeds.capacity() * size_of::<f64>() + self.among.capacity() * size_of::<u32>()
    }
}

/// Weight of a claim; at least that of the kernel's least quota.
fn weight_of(claim: Claim) -> f64 {
    f64::from(claim.weight.max(10))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn divided(cores: f64, claims: &[(u32, u32)]) -> Vec<f64> {
        let mut contention = Contention::new(cores);
        for (slot, &(cores, weight)) in claims.iter().enumerate() {
            contention.claim(slot, Claim { cores, weight });
        }
        contention.divide(0..claims.len());
        contention.speeds
    }

    #[test]
    fn sufficient_cpu_is_not_divided() {
        assert_eq!(divided(3.0, &[(1, 100), (2, 5000)]), [1.0, 1.0]);
        assert_eq!(divided(3.0, &[(0, 100), (3, 10)]), [1.0, 1.0]);
    }

    #[test]
    fn scarce_cpu_is_divided_by_weight_with_redistribution() {
        assert_eq!(divided(1.0, &[(1, 100), (1, 300)]), [0.25, 0.75]);
        assert_eq!(divided(3.0, &[(1, 100), (2, 100), (2, 200)]), [0.75, 0.375, 0.75]);
        // The first wants one core of the two and a half that its weight would give it.
        assert_eq!(divided(3.0, &[(1, 500), (4, 50), (4, 50)]), [1.0, 0.25, 0.25]);
    }

    proptest! {
        #[test]
        fn all_cpu_is_divided_by_weight(
            cores in 1u32..20,
            claims in prop::collection::vec((0u32..5, 10u32..2000), 1..20),
        ) {
            let speeds = divided(f64::from(cores), &claims);
            let wanted: u32 = claims.iter().map(|claim| claim.0).sum();
            let given: f64 = claims.iter().zip(&speeds).map(|(claim, speed)| f64::from(claim.0) * speed).sum();
            prop_assert!((given - f64::from(wanted.min(cores))).abs() < 1e-9);
            let level = |slot: usize| speeds[slot] * f64::from(claims[slot].0) / f64::from(claims[slot].1);
            for held_back in (0..claims.len()).filter(|slot| claims[*slot].0 > 0 && speeds[*slot] < 1.0) {
                for other in (0..claims.len()).filter(|slot| claims[*slot].0 > 0) {
                    prop_assert!(level(other) <= level(held_back) + 1e-9);
                }
            }
        }
    }
}
