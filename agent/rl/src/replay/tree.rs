//! A sum tree: samples in proportion to priorities in logarithmic time.

/// A binary tree whose leaves hold priorities and whose inner nodes hold the sums of their children.
#[derive(Debug, Clone)]
pub struct SumTree {
    /// The root is at index 1; the leaves are the second half.
    nodes: Vec<f64>,
    leaves: usize,
}

impl SumTree {
    /// `count` leaves of priority 0.
    pub fn new(count: usize) -> Self {
        let leaves = count.max(2).next_power_of_two();
        Self { nodes: vec![0.0; 2 * leaves], leaves }
    }

    /// Sum of all priorities.
    pub fn total(&self) -> f64 {
        self.nodes[1]
    }

    /// Priority of leaf `index`.
    pub fn get(&self, index: usize) -> f64 {
        self.nodes[self.leaves + index]
    }

    /// Sets the priority of leaf `index`. Sums are recomputed, so that rounding errors do not add up.
    pub fn set(&mut self, index: usize, priority: f64) {
        let mut node = self.leaves + index;
        self.nodes[node] = priority;
        while node > 1 {
            node /= 2;
            self.nodes[node] = self.nodes[2 * node] + self.nodes[2 * node + 1];
        }
    }

    /// The leaf whose part of the cumulative sum contains `point`.
    pub fn find(&self, mut point: f64) -> usize {
        let mut node = 1;
        while node < self.leaves {
            let left = self.nodes[2 * node];
            // Rounding must not lead to a leaf of priority 0.
            if point < left || self.nodes[2 * node + 1] <= 0.0 {
                node *= 2;
            } else {
                point -= left;
                node = 2 * node + 1;
            }
        }
        node - self.leaves
    }
}
