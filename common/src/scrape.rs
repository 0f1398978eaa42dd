//! Scrape: what one replica's counters and gauges read at an instant. Owns the seam between whatever measures (an endpoint, a simulator)
//! and everything that computes with it; must not know where a reading came from.

use crate::time::Timestamp;
use crate::units::{Allocation, Replicas};

/// Upper bounds of the latency buckets, milliseconds; one more bucket without bound follows. Neighbours differ by at most a factor of 2 (the last pair),
/// mostly 1.5, which keeps an interpolated percentile within some 20 % of the truth.
pub const LATENCY_BOUNDS_MS: [f64; 27] = [
    1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 50.0, 75.0, 100.0, 150.0, 200.0, 300.0, 500.0, 750.0, 1000.0, 1500.0, 2000.0, 3000.0,
    5000.0, 7500.0, 10000.0, 15000.0, 20000.0, 30000.0,
];

/// Number of latency buckets: one for each bound, and one beyond 30 s.
pub const LATENCY_BUCKETS: usize = LATENCY_BOUNDS_MS.len() + 1;

/// Everything that was read of one function at one time.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FunctionScrape {
    /// What the platform says of the function as a whole; absent where it was not read.
    pub platform: Option<PlatformReading>,
    /// What the entry to the function says; absent where it was not read.
    pub ingress: Option<IngressReading>,
    /// One reading a replica.
    pub replicas: Vec<Scrape>,
}

/// One replica's cumulative counters and gauges at an instant.
#[derive(Debug, Clone, PartialEq)]
pub struct Scrape {
    /// Name of the replica, never given to another one.
    pub replica: String,
    /// When it was read.
    pub at: Timestamp,
    /// Requests that the replica answered; absent where it was not read.
    pub requests: Option<RequestCounters>,
    /// Requests in flight; absent where it was not read.
    pub in_flight: Option<f64>,
    /// CPU; absent where it was not read.
    pub cpu: Option<CpuCounters>,
    /// Memory in use that cannot be reclaimed, bytes; absent where it was not read.
    pub working_set_bytes: Option<u64>,
    /// Restarts after a crash since the replica was made.
    pub restarts: u64,
    /// Kills for memory since the replica was made.
    pub oom_kills: u64,
}

/// Requests that were answered, since the counter began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestCounters {
    /// Answered well.
    pub completed: u64,
    /// Answered with an error, or not in time.
    pub failed: u64,
    /// Those answered well, by latency: counts of each bucket of [`LATENCY_BOUNDS_MS`] alone.
    pub latency: [u64; LATENCY_BUCKETS],
}

impl Default for RequestCounters {
    fn default() -> Self {
        Self { completed: 0, failed: 0, latency: [0; LATENCY_BUCKETS] }
    }
}

/// CPU time since the counter began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuCounters {
    /// CPU time used, microseconds.
    pub usage_us: u64,
    /// CFS periods in which the replica could run; zero where it has no quota.
    pub periods: u64,
    /// Those in which it was throttled.
    pub throttled_periods: u64,
}

/// What the entry to a function says: requests are counted here whether or not a replica ever saw them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct IngressReading {
    /// When it was read.
    pub at: Timestamp,
    /// Requests that arrived since the counter began.
    pub arrived: u64,
    /// Requests that failed without reaching a replica (queue full, no replica in time) since the counter began.
    pub failed: u64,
    /// Requests queued.
    pub queued: f64,
}

/// What the platform says of a function as a whole.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlatformReading {
    /// When it was read.
    pub at: Timestamp,
    /// Allocation asked for.
    pub allocation: Allocation,
    /// Replicas that take requests.
    pub ready: Replicas,
    /// Replicas that are starting.
    pub pending: Replicas,
    /// Restarts after a crash since the counter began, over replicas past and present; absent where only the replicas tell.
    pub crashes: Option<u64>,
    /// Kills for memory since the counter began, over replicas past and present; absent where only the replicas tell.
    pub oom_kills: Option<u64>,
    /// Starts that reached readiness, and the time they took together in milliseconds, since the counters began.
    pub startups: Option<(u64, u64)>,
}
