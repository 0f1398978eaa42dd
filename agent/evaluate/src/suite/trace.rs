//! Simulation of the functions of a trace. Owns the assumptions that a trace lacks: replicas, starts and objectives.

use qscale_common::policy::{Bounds, Percentile, Share};
use qscale_common::time::Span;
use qscale_common::units::Allocation;
use qscale_common::workload::{Iat, Scale};
use qscale_sim::Gateway;
use qscale_sim::profile::Startup;
use serde::{Deserialize, Serialize};

/// Assumptions about the functions of a trace, equal for all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceEntry {
    /// Shares of its minutes for training, validation and test, in this order, percent.
    #[serde(default = "default_split")]
    pub split: [u32; 3],
    /// Number of functions used, the first of the file; 0 for all.
    #[serde(default)]
    pub functions: usize,
    /// Distribution of invocations within their minute.
    #[serde(default)]
    pub iat: Iat,
    /// Factors of speed and density.
    #[serde(default)]
    pub scale: Scale,
    /// Share of a duration that is CPU time; in the rest the invocation waits for other services.
    pub cpu_share: Share,
    /// Memory usage of a replica of a function without memory data, MiB.
    #[serde(default = "default_memory")]
    pub memory_mib: u32,
    /// Demand of a start.
    pub startup: Startup,
    /// Invocations that one replica serves at once.
    #[serde(default = "one")]
    pub workers: u32,
    /// Gateway limits of each function.
    pub gateway: Gateway,
    /// Bounded percentile of latency.
    pub percentile: Percentile,
    /// Latency bound of each function, above its 99th percentile of duration.
    pub slack: Span,
    /// Share of invocations that may fail.
    pub failure_share: Share,
    /// Bounds of each function's allocation.
    pub bounds: Bounds,
    /// Initial allocation of each function.
    pub start: Allocation,
}

fn default_split() -> [u32; 3] {
    [60, 20, 20]
}

fn default_memory() -> u32 {
    128
}

fn one() -> u32 {
    1
}
