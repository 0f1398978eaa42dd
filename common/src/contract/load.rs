//! Load: requests that a generator offered to a function, and their replies.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::event::EventType;
use super::{Message, Version, finite, rounded};
use crate::name::{FunctionId, Name};
use crate::time::Timestamp;

/// Requests of the last interval, as seen by the client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Load {
    /// Version of this message.
    pub version: Version,
    /// Namespace of the function.
    pub namespace: Name,
    /// Name of the function's ScalingPolicy.
    pub function: Name,
    /// Run of the load generator.
    pub run: String,
    /// End of the interval.
    pub at_ms: Timestamp,
    /// Length of the interval, milliseconds.
    pub interval_ms: u64,
    /// Requests due, requests/s.
    #[serde(serialize_with = "rounded::required")]
    pub offered_rps: f64,
    /// Successful requests, requests/s.
    #[serde(serialize_with = "rounded::required")]
    pub achieved_rps: f64,
    /// Requests in flight at the end of the interval.
    pub in_flight: u64,
    /// Requests that failed during the interval.
    pub failures: Failures,
    /// Latencies of the successful requests, from the intended send time; buckets in rising order, empty ones left out.
    #[serde(default)]
    pub latency: Vec<LatencyBucket>,
    /// 99th percentile of the time from intended to actual send, microseconds; absent where nothing was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_lag_p99_us: Option<u64>,
}

/// Counts of failed requests, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Failures {
    /// No reply in time.
    pub timeout: u64,
    /// No connection, or the connection broke.
    pub connection: u64,
    /// A reply that reports an error.
    pub status: u64,
    /// A reply that reports success and is wrong.
    pub invalid: u64,
    /// Not sent: too many were in flight.
    pub not_sent: u64,
}

impl Failures {
    /// Total.
    #[must_use]
    pub fn total(&self) -> u64 {
        [self.timeout, self.connection, self.status, self.invalid, self.not_sent].into_iter().fold(0, u64::saturating_add)
    }
}

/// One bucket of a latency histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LatencyBucket {
    /// Upper bound of the bucket, microseconds; the lower bound is the one before it.
    pub le_us: u64,
    /// Requests in this bucket only.
    pub count: u64,
}

impl Load {
    /// Maximum length of `run`, bytes.
    pub const MAX_RUN: usize = 128;
    /// Largest count of requests.
    pub const MAX_COUNT: u64 = 1 << 53;
}

impl Message for Load {
    const TYPE: EventType = EventType::Load;

    fn function(&self) -> FunctionId {
        FunctionId::new(self.namespace.clone(), self.function.clone())
    }

    fn unique_id(&self) -> String {
        format!("load.{}.{}.{}.{}", self.namespace, self.function, self.run, self.at_ms.0)
    }

    fn check(&self) -> Result<(), String> {
        finite("offered_rps", self.offered_rps, 0.0)?;
        finite("achieved_rps", self.achieved_rps, 0.0)?;
        if self.run.len() > Self::MAX_RUN {
            return Err(format!("run has {} bytes, at most {} are allowed", self.run.len(), Self::MAX_RUN));
        }
        if self.interval_ms == 0 {
            return Err("interval_ms = 0, must be at least 1".into());
        }
        let Failures { timeout, connection, status, invalid, not_sent } = self.failures;
        let failures = [("timeout", timeout), ("connection", connection), ("status", status), ("invalid", invalid), ("not_sent", not_sent)];
        let buckets = self.latency.iter().map(|bucket| ("latency.count", bucket.count));
        let counts = failures.into_iter().chain(buckets).chain([("in_flight", self.in_flight)]);
        if let Some((field, count)) = counts.into_iter().find(|(_, count)| *count > Self::MAX_COUNT) {
            return Err(format!("{field} = {count}, must be at most {}", Self::MAX_COUNT));
        }
        if let Some(pair) = self.latency.windows(2).find(|pair| pair[0].le_us >= pair[1].le_us) {
            return Err(format!("latency: le_us = {} follows {}, buckets must rise", pair[1].le_us, pair[0].le_us));
        }
        Ok(())
    }
}
