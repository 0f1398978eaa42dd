//! Summary of a load: what the load generator and the simulated platform write and `qscale up` reads. Owns the fields;
//! must not compute them.
//!
//! Times carry their unit in the name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Upper bound of the first latency bucket of a Load message, microseconds.
pub const FIRST_BUCKET_US: u64 = 100;
/// Ratio of the upper bounds of two neighbouring latency buckets.
pub const BUCKET_RATIO: f64 = 1.25;

/// Summary of a load on some functions. The last seven fields before the results describe the run of the load
/// generator; a simulated load leaves out those that do not apply.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct LoadSummary {
    /// Version of this form.
    pub version: u32,
    /// Name of the run.
    pub run: String,
    /// Whether the generator failed to offer the planned load, so that the run says nothing about the functions.
    pub void: bool,
    /// Why it is void.
    pub void_reasons: Vec<String>,
    /// Whether it was ended before its time.
    pub stopped_early: bool,
    /// Start, microseconds since 1970.
    pub started_unix_us: u64,
    /// Length of the sending phase, seconds.
    pub sending_s: f64,
    /// Address of the target.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// Protocol.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    /// Seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Scheduling class of the pacing threads.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub scheduling: String,
    /// Time from when a request was due to when it was sent; absent where nothing was sent.
    pub send_lag_us: Option<SendLag>,
    /// All requests together.
    pub total: FunctionLoad,
    /// Each function.
    pub functions: Vec<FunctionLoad>,
}

impl LoadSummary {
    /// Version that this code writes.
    pub const VERSION: u32 = 1;

    /// Load of the function called `namespace/name`.
    #[must_use]
    pub fn function(&self, id: &str) -> Option<&FunctionLoad> {
        self.functions.iter().find(|load| load.function == id)
    }
}

/// Error of a load generator that did not send its load, written in place of the summary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadFailure {
    /// The error with its causes.
    pub error: String,
}

/// Percentiles of the send lag, microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SendLag {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// Maximum.
    pub max: f64,
}

/// Counts, rates and latencies of one function or of all.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct FunctionLoad {
    /// `namespace/name` of the function, or `total`.
    pub function: String,
    /// Requests that were due.
    pub due: u64,
    /// Requests that were sent.
    pub sent: u64,
    /// Successful requests.
    pub succeeded: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests still in flight at the end.
    pub censored: u64,
    /// Requests due, requests/s.
    pub offered_rps: f64,
    /// Successful requests, requests/s.
    pub achieved_rps: f64,
    /// Failures by kind.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failures: BTreeMap<String, u64>,
    /// Latency of the successful requests; absent where there are none.
    pub latency_ms: Option<LatencySummary>,
}

/// Latency from when a request was due to its reply, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LatencySummary {
    /// Mean; absent where only percentiles are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<f64>,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// Maximum; absent where only percentiles are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
}
