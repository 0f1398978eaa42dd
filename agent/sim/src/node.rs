//! Nodes: the machines that replicas run on. Owns how large they are.

use qscale_common::units::{Mebibytes, Millicores};
use serde::{Deserialize, Serialize};

/// A pool of nodes, all alike.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nodes {
    /// How many there are.
    pub count: u32,
    /// CPU of each, thousandths of a core.
    pub cpu_millicores: Millicores,
    /// Memory of each.
    pub memory_mib: Mebibytes,
    /// CPU limits that a node takes, as a multiple of its CPU, 1 to 100. Above 1, replicas that compute at once may have to share what there is.
    #[serde(default = "one")]
    pub cpu_overcommit: f64,
}

fn one() -> f64 {
    1.0
}
