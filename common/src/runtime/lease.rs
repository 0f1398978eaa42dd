//! Leader election over a bucket of the bus. Owns the lease entry, its renewal and its fencing token; must not know what a leader does.
//!
//! Every group of processes of which one may act at a time has its own key in the bucket. [`Election`] decides and does no I/O;
//! [`campaign`] runs it against the bucket.

mod campaign;
mod election;

pub use campaign::{LeaseHandle, campaign};
pub use election::{Election, LeaderStatus, Lease, LeaseEntry, Reply, Step};

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Span;

/// Configuration of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeaseConfig {
    /// Time after which a leader that stopped renewing is replaced, 600 ms to 10 min.
    pub ttl: Span,
}

impl LeaseConfig {
    /// Allowed range of `ttl`.
    pub const TTL_RANGE: (Duration, Duration) = (Duration::from_millis(600), Duration::from_secs(600));
}

impl Default for LeaseConfig {
    /// Six seconds: failover takes little more than one default tick.
    fn default() -> Self {
        Self { ttl: Span::seconds(6) }
    }
}
