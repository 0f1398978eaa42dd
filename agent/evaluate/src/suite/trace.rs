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
    /// The same as a share of that percentile, 0 to 100; the longer one counts.
    #[serde(default)]
    pub slack_share: f64,
    /// Share of invocations that may fail.
    pub failure_share: Share,
    /// Bounds of each function's allocation.
    pub bounds: Bounds,
    /// A function may have this multiple of the replicas that were busy at once in the training part, 0 to 1,000, if that is more than `bounds` allow.
    #[serde(default)]
    pub peak_factor: f64,
    /// Share of intervals; a function that violates its objective in more of them even with its largest allocation throughout is left out.
    #[serde(default = "all")]
    pub most_violated: Share,
    /// Whether the functions of each class are measured as a cell of their own.
    #[serde(default)]
    pub by_class: bool,
    /// Initial allocation of each function.
    pub start: Allocation,
}

fn default_split() -> [u32; 3] {
    [60, 20, 20]
}

fn default_memory() -> u32 {
    128
}

fn all() -> Share {
    Share::try_from(1.0).expect("1 is a share")
}

fn one() -> u32 {
    1
}
