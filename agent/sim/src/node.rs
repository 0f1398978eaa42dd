//! Nodes: the machines that replicas run on. Owns their size, allocated room and placement; must not know the replicas' work.

use qscale_common::contract::Headroom;
use qscale_common::range::{OutOfRange, check_number};
use qscale_common::units::{Allocation, Mebibytes, Millicores};
use serde::{Deserialize, Serialize};

mod contention;

pub use contention::{Claim, Contention};

/// A pool of equal nodes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nodes {
    /// Number of nodes, 1 to 100,000.
    pub count: u32,
    /// CPU of each, thousandths of a core.
    pub cpu_millicores: Millicores,
    /// Memory of each.
    pub memory_mib: Mebibytes,
    /// Sum of CPU limits that a node accepts, as a multiple of its CPU, 1 to 100. Above 1, replicas may have to share CPU.
    #[serde(default = "one")]
    pub cpu_overcommit: f64,
}

fn one() -> f64 {
    1.0
}

impl Nodes {
    /// Checks the ranges.
    ///
    /// # Errors
    /// Names the first field that is out of range; `prefix` precedes it.
    pub fn check(&self, prefix: &str) -> Result<(), OutOfRange> {
        // Several times the nodes of the largest clusters; each takes memory.
        check_number(&format!("{prefix}count"), self.count, 1, 100_000)?;
        check_number(&format!("{prefix}cpu_overcommit"), self.cpu_overcommit, 1.0, 100.0)
    }

    /// Sum of CPU limits that one node accepts.
    #[must_use]
    pub fn room(&self) -> Millicores {
        self.cpu_millicores.scaled(self.cpu_overcommit.clamp(1.0, 100.0))
    }
}

/// Upper limits of one replica: the room that it takes on its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaLimits {
    /// CPU limit.
    pub cpu: Millicores,
    /// Memory limit.
    pub memory: Mebibytes,
}

impl From<Allocation> for ReplicaLimits {
    fn from(allocation: Allocation) -> Self {
        Self { cpu: allocation.cpu_millicores, memory: allocation.memory_mib }
    }
}

/// Nodes with their allocated room.
#[derive(Debug, Clone)]
pub struct Pool {
    cpu: u64,
    memory: u64,
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    /// Sum of CPU limits on it.
    cpu: u64,
    memory: u64,
    there: bool,
}

impl Pool {
    /// Empty nodes.
    #[must_use]
    pub fn new(nodes: Nodes) -> Self {
        Self {
            cpu: u64::from(nodes.room().0),
            memory: u64::from(nodes.memory_mib.0),
            nodes: vec![Node { cpu: 0, memory: 0, there: true }; nodes.count as usize],
        }
    }

    /// Makes every node available and empty.
    pub fn clear(&mut self) {
        self.nodes.fill(Node { cpu: 0, memory: 0, there: true });
    }

    /// Allocates `limits` on the node with the least allocated share of CPU and memory, the first among equals; `None` if no node has room.
    /// Kubernetes' `LeastAllocated` for equal nodes.
    pub fn place(&mut self, limits: ReplicaLimits) -> Option<u32> {
        let (cpu, memory) = (u64::from(limits.cpu.0), u64::from(limits.memory.0));
        let fits = |node: &Node| node.there && node.cpu + cpu <= self.cpu && node.memory + memory <= self.memory;
        let taken = |node: &Node| u128::from(node.cpu) * u128::from(self.memory) + u128::from(node.memory) * u128::from(self.cpu);
        let (index, node) = self.nodes.iter_mut().enumerate().filter(|(_, node)| fits(node)).min_by_key(|(_, node)| taken(node))?;
        node.cpu += cpu;
        node.memory += memory;
        u32::try_from(index).ok()
    }

    /// Frees `limits` on `node`.
    pub fn free(&mut self, node: u32, limits: ReplicaLimits) {
        if let Some(node) = self.nodes.get_mut(node as usize) {
            node.cpu -= u64::from(limits.cpu.0);
            node.memory -= u64::from(limits.memory.0);
        }
    }

    /// Changes an allocation on `node` from `from` to `to`; returns whether there is room.
    pub fn resize(&mut self, node: u32, from: ReplicaLimits, to: ReplicaLimits) -> bool {
        let Some(node) = self.nodes.get_mut(node as usize) else { return false };
        let cpu = node.cpu - u64::from(from.cpu.0) + u64::from(to.cpu.0);
        let memory = node.memory - u64::from(from.memory.0) + u64::from(to.memory.0);
        let grows = (to.cpu > from.cpu && cpu > self.cpu) || (to.memory > from.memory && memory > self.memory);
        if !grows {
            (node.cpu, node.memory) = (cpu, memory);
        }
        !grows
    }

    /// Node `node` fails.
    pub fn lose(&mut self, node: u32) {
        self.nodes.get_mut(node as usize).into_iter().for_each(|node| node.there = false);
    }

    /// Node `node` returns.
    pub fn give_back(&mut self, node: u32) {
        self.nodes.get_mut(node as usize).into_iter().for_each(|node| node.there = true);
    }

    /// Room of available nodes next to `desired`, computed as by the collector: from the requested allocation, not from running replicas.
    #[must_use]
    pub fn headroom(&self, desired: Allocation) -> Headroom {
        let there = self.nodes.iter().filter(|node| node.there).count() as u64;
        let replicas = u64::from(desired.replicas.0);
        let left = |each: u64, limit: u32| u32::try_from((there * each).saturating_sub(replicas * u64::from(limit))).unwrap_or(u32::MAX);
        Headroom {
            cpu_millicores: Millicores(left(self.cpu, desired.cpu_millicores.0)),
            memory_mib: Mebibytes(left(self.memory, desired.memory_mib.0)),
        }
    }

    /// Size in bytes, with heap.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.nodes.capacity() * size_of::<Node>()
    }
}
