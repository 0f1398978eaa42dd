//! Scrape: counters and gauges of one replica at an instant. Owns the interface between sources of measurements (an endpoint, a simulator)
//! and their consumers; must not know where a reading came from.

use crate::time::Timestamp;
use crate::units::{Allocation, Replicas};

/// Upper bounds of the latency buckets, milliseconds; one more bucket without bound follows. Neighbours differ by at
/// most a factor of 2 (the last pair), mostly 1.5, which keeps an interpolated percentile within some 20 % of the
/// truth.
pub const LATENCY_BOUNDS_MS: [f64; 27] = [
    1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 50.0, 75.0, 100.0, 150.0, 200.0, 300.0, 500.0, 750.0, 1000.0, 1500.0, 2000.0, 3000.0,
    5000.0, 7500.0, 10000.0, 15000.0, 20000.0, 30000.0,
];

/// Number of latency buckets: one for each bound, and one beyond 30 s.
pub const LATENCY_BUCKETS: usize = LATENCY_BOUNDS_MS.len() + 1;

/// All readings of one function at one time.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FunctionScrape {
    /// Reading of the platform about the whole function; absent if it was not read.
    pub platform: Option<PlatformReading>,
    /// Reading of the ingress; absent if it was not read.
    pub ingress: Option<IngressReading>,
    /// Readings of the replicas.
    pub replicas: Vec<Scrape>,
    /// Cores of the largest node that a replica may run on; absent if unknown.
    pub node_cores: Option<f64>,
}

/// One replica's cumulative counters and gauges at an instant.
#[derive(Debug, Clone, PartialEq)]
pub struct Scrape {
    /// Name of the replica, never reused.
    pub replica: String,
    /// Time of the reading.
    pub at: Timestamp,
    /// Start of its process; absent if unknown.
    pub started: Option<Timestamp>,
    /// Completed requests; absent if not read.
    pub requests: Option<RequestCounters>,
    /// Requests in flight; absent if not read.
    pub in_flight: Option<f64>,
    /// CPU; absent if not read.
    pub cpu: Option<CpuCounters>,
    /// Working set, bytes; absent if not read.
    pub working_set_bytes: Option<u64>,
    /// Restarts after a crash since the replica was created.
    pub restarts: u64,
    /// Kills for memory since the replica was created.
    pub oom_kills: u64,
}

impl Scrape {
    /// A Scrape of `replica` at `at` in which nothing was read.
    #[must_use]
    pub fn new(replica: impl Into<String>, at: Timestamp) -> Self {
        Self {
            replica: replica.into(),
            at,
            started: None,
            requests: None,
            in_flight: None,
            cpu: None,
            working_set_bytes: None,
            restarts: 0,
            oom_kills: 0,
        }
    }
}

/// Completed requests since the start of the counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestCounters {
    /// Answered well.
    pub completed: u64,
    /// Failed, or timed out.
    pub failed: u64,
    /// Requests answered well, by latency: non-cumulative counts of the buckets of [`LATENCY_BOUNDS_MS`].
    pub latency: [u64; LATENCY_BUCKETS],
}

impl Default for RequestCounters {
    fn default() -> Self {
        Self { completed: 0, failed: 0, latency: [0; LATENCY_BUCKETS] }
    }
}

/// CPU time since the start of the counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuCounters {
    /// CPU time used, microseconds.
    pub usage_us: u64,
    /// CFS periods; absent if not read.
    pub periods: Option<CpuPeriods>,
    /// Fingerprint of the containers whose counters were added up; with others counting starts again.
    pub of: u64,
}

/// CFS periods since the start of the counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuPeriods {
    /// Those in which the replica was runnable; 0 without a quota.
    pub runnable: u64,
    /// Those with throttling.
    pub throttled: u64,
}

/// Reading of the ingress of a function, which also counts requests that never reached a replica.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct IngressReading {
    /// Time of the reading.
    pub at: Timestamp,
    /// Arrived requests since the start of the counter.
    pub arrived: u64,
    /// Requests that failed before reaching a replica (queue full, no replica in time) since the start of the counter.
    pub failed: u64,
    /// Requests queued.
    pub queued: f64,
    /// Fingerprint of the gateways whose counters were added up; with others counting starts again.
    pub of: u64,
}

/// Reading of the platform about a whole function.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlatformReading {
    /// Time of the reading.
    pub at: Timestamp,
    /// Desired allocation; absent if a part of it was not read.
    pub allocation: Option<Allocation>,
    /// Numbers of replicas; absent if one of them was not read.
    pub replicas: Option<PlatformReplicas>,
    /// Restarts after a crash since the start of the counter, over all replicas ever; absent if only replicas count them.
    pub crashes: Option<u64>,
    /// Kills for memory since the start of the counter, over all replicas ever; absent if only replicas count them.
    pub oom_kills: Option<u64>,
    /// Starts that reached readiness and their total time, milliseconds, since the start of the counters.
    pub startups: Option<(u64, u64)>,
}

impl PlatformReading {
    /// A reading at `at` in which nothing was read.
    #[must_use]
    pub fn new(at: Timestamp) -> Self {
        Self { at, allocation: None, replicas: None, crashes: None, oom_kills: None, startups: None }
    }
}

/// Numbers of replicas of a function, as its platform counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PlatformReplicas {
    /// Requested replicas.
    pub desired: Replicas,
    /// Replicas that accept requests.
    pub ready: Replicas,
    /// Replicas that are starting.
    pub pending: Replicas,
}
