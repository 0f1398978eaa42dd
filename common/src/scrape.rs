//! Scrape: counters and gauges of one replica at an instant. Owns the interface between sources of measurements (an endpoint, a simulator)
//! and their consumers; must not know where a reading came from.

use std::ops::Deref;

use crate::time::Timestamp;
use crate::units::{Allocation, Replicas};

/// Upper bounds of the latency buckets, milliseconds; one more bucket without bound follows. Neighbours differ by at
/// most a factor of 2 (the last pair), mostly 1.5, which keeps an interpolated percentile within some 20 % of the
/// truth.
pub const LATENCY_BOUNDS_MS: [f64; 27] = [
    1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 50.0, 75.0, 100.0, 150.0, 200.0, 300.0, 500.0, 750.0, 1000.0, 1500.0, 2000.0, 3000.0,
    5000.0, 7500.0, 10000.0, 15000.0, 20000.0, 30000.0,
];

/// Difference between the times that two exporters show as the start of one container, milliseconds: whole or not, of its cgroup or of its process.
pub const START_DIFFERENCE_MS: u64 = 2_000;

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
    /// Start of its oldest process; absent if unknown.
    pub started: Option<Timestamp>,
    /// Start of its newest process; absent if unknown, or if it has one.
    pub last_started: Option<Timestamp>,
    /// Completed requests; absent if not read.
    pub requests: Option<RequestCounters>,
    /// Requests in flight; absent if not read.
    pub in_flight: Option<f64>,
    /// CPU; absent if not read.
    pub cpu: Option<Parts<CpuCounters>>,
    /// Working set, bytes; absent if not read.
    pub working_set_bytes: Option<u64>,
    /// Restarts after a crash since the replica was created, by container; absent if not read.
    pub restarts: Option<Parts<Count>>,
    /// OOM kills since the replica was created, by container; absent if not read.
    pub oom_kills: Option<Parts<Count>>,
}

impl Scrape {
    /// A Scrape of `replica` at `at` in which nothing was read.
    #[must_use]
    pub fn new(replica: impl Into<String>, at: Timestamp) -> Self {
        Self {
            replica: replica.into(),
            at,
            started: None,
            last_started: None,
            requests: None,
            in_flight: None,
            cpu: None,
            working_set_bytes: None,
            restarts: None,
            oom_kills: None,
        }
    }
}

/// Counters that belong together, such as those of the containers of a replica: one, or several in the order of their
/// fingerprints. Each resets independently, so increases are summed, never the counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parts<T> {
    /// One counter.
    One(T),
    /// Any number of counters.
    Many(Box<[T]>),
}

impl<T> Deref for Parts<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::One(part) => std::slice::from_ref(part),
            Self::Many(parts) => parts,
        }
    }
}

impl<T> FromIterator<T> for Parts<T> {
    fn from_iter<I: IntoIterator<Item = T>>(parts: I) -> Self {
        let mut parts: Vec<T> = parts.into_iter().collect();
        match (parts.pop(), parts.is_empty()) {
            (Some(part), true) => Self::One(part),
            (last, _) => {
                parts.extend(last);
                Self::Many(parts.into())
            }
        }
    }
}

impl<T> Parts<T> {
    /// Memory that it takes in addition to its own size, bytes.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        match self {
            Self::One(_) => 0,
            Self::Many(parts) => size_of_val::<[T]>(parts),
        }
    }
}

impl From<CpuCounters> for Parts<CpuCounters> {
    fn from(counters: CpuCounters) -> Self {
        Self::One(counters)
    }
}

impl Parts<CpuCounters> {
    /// CPU time used by all of them, microseconds, up to the largest number.
    #[must_use]
    pub fn usage_us(&self) -> u64 {
        self.iter().fold(0, |sum, part| sum.saturating_add(part.usage_us))
    }
}

impl From<u64> for Parts<Count> {
    fn from(value: u64) -> Self {
        Self::One(Count { of: 0, value })
    }
}

impl Parts<Count> {
    /// Sum of the counters, up to the largest number.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.iter().fold(0, |sum, count| sum.saturating_add(count.value))
    }
}

/// A counter of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Fingerprint of the container or gateway that counts.
    pub of: u64,
    /// Events since the start of the counter.
    pub value: u64,
}

/// Ended requests since the start of the counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestCounters {
    /// Successful.
    pub completed: u64,
    /// Failed, or timed out.
    pub failed: u64,
    /// Successful requests, by latency: non-cumulative counts of the buckets of [`LATENCY_BOUNDS_MS`]; absent if not read.
    pub latency: Option<[u64; LATENCY_BUCKETS]>,
}

impl RequestCounters {
    /// Successful and failed ones, up to the largest number.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.completed.saturating_add(self.failed)
    }
}

impl Default for RequestCounters {
    fn default() -> Self {
        Self { completed: 0, failed: 0, latency: Some([0; LATENCY_BUCKETS]) }
    }
}

/// CPU time of a container since the start of the counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuCounters {
    /// CPU time used, microseconds.
    pub usage_us: u64,
    /// CFS periods; absent if not read.
    pub periods: Option<CpuPeriods>,
    /// Fingerprint of the container's name. If another set of containers is read, counting starts again.
    pub of: u64,
    /// Start of the container, with which the counter began; absent if unknown.
    pub started: Option<Timestamp>,
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
#[derive(Debug, Clone, PartialEq)]
pub struct IngressReading {
    /// Time of the reading.
    pub at: Timestamp,
    /// Arrived requests since the start of the counter, by gateway. If another set of gateways is read, counting starts again.
    pub arrived: Parts<Count>,
    /// Requests that failed before reaching a replica (queue full, no replica in time) since the start of the counter, by
    /// gateway. A gateway that counted none has no counter.
    pub failed: Parts<Count>,
    /// Requests queued; NaN if not read.
    pub queued: f64,
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
    /// OOM kills since the start of the counter, over all replicas ever; absent if only replicas count them.
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
