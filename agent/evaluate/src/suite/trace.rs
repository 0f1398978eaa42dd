//! How the functions of a trace are played. Owns what a trace does not tell: what a replica is, how it starts, and what is promised.

use qscale_common::policy::{Bounds, Percentile, Share};
use qscale_common::time::Span;
use qscale_common::units::Allocation;
use qscale_common::workload::{Iat, Scale};
use qscale_sim::Gateway;
use qscale_sim::profile::Startup;
use serde::{Deserialize, Serialize};

/// How the functions of a trace are played; the same for each of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceEntry {
    /// Shares of its minutes for training, validation and test, in percent; they come in this order.
    #[serde(default = "default_split")]
    pub split: [u32; 3],
    /// At most so many functions, the first of the file; 0 keeps all of them.
    #[serde(default)]
    pub functions: usize,
    /// Where in its minute each invocation falls.
    #[serde(default)]
    pub iat: Iat,
    /// How much faster and denser it is played than it was recorded.
    #[serde(default)]
    pub scale: Scale,
    /// Share of a duration that is computed; during the rest the invocation waits for others.
    pub cpu_share: Share,
    /// Memory in use by a replica of a function whose memory the trace does not tell, MiB.
    #[serde(default = "default_memory")]
    pub memory_mib: u32,
    /// What a replica needs to become ready.
    pub startup: Startup,
    /// Invocations that one replica works on at once.
    #[serde(default = "one")]
    pub workers: u32,
    /// The gateway before each function.
    pub gateway: Gateway,
    /// Which percentile of latency is bounded.
    pub percentile: Percentile,
    /// The bound of each function: the longest of its durations but one in a hundred, and so much.
    pub slack: Span,
    /// Share of invocations that may fail.
    pub failure_share: Share,
    /// Least and most that may be allocated to each function.
    pub bounds: Bounds,
    /// What each has when a run begins.
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
