//! State: what a decision needs to know about one function at one tick.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::event::EventType;
use super::{Epoch, Message, StateId, Version, finite, rounded};
use crate::name::{FunctionId, Name};
use crate::policy::{Bounds, Prices};
use crate::time::{Tick, TickLength, Timestamp};
use crate::units::{Allocation, Mebibytes, Millicores, Replicas};

/// What was seen of a function, complete enough to decide on without memory. A measurement that was not taken is absent, never zero.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct State {
    /// Version of this message.
    pub version: Version,
    /// Namespace of the function.
    pub namespace: Name,
    /// Name of the function's ScalingPolicy.
    pub function: Name,
    /// Epoch of the collector.
    pub epoch: Epoch,
    /// Tick that this State closes: `floor(observed_at_ms / tick_length_ms)`.
    pub tick: Tick,
    /// Length of a tick in milliseconds, 100 to 3,600,000.
    pub tick_length_ms: u64,
    /// When the collector computed this State.
    pub observed_at_ms: Timestamp,
    /// The agent that the policy obeys; any other agent that answers is a shadow.
    pub agent: Name,
    /// Allocation in force; absent while the platform has not told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation: Option<Allocation>,
    /// Counts of replicas; absent while the platform has not told them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<ReplicaCounts>,
    /// How old the newest sample of each kind is.
    pub age: Ages,
    /// What was measured over 1, 12 and 60 ticks.
    pub windows: Windows,
    /// When the allocation last changed.
    pub changes: Changes,
    /// Mean time from start to ready of the replicas started lately, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_ms: Option<u64>,
    /// What the nodes have left for more replicas, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headroom: Option<Headroom>,
    /// What the function's users are promised.
    pub objective: WireObjective,
    /// Least and most that may be allocated.
    pub bounds: Bounds,
    /// What an allocation costs.
    pub prices: Prices,
}

/// Counts of replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReplicaCounts {
    /// Replicas asked for.
    pub desired: Replicas,
    /// Replicas that take requests.
    pub ready: Replicas,
    /// Replicas that are starting.
    pub pending: Replicas,
    /// Replicas whose CPU or memory was sampled within the last tick.
    pub reporting: Replicas,
}

/// Age of the newest sample of each kind at `observed_at_ms`, milliseconds; absent where none was ever taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Ages {
    /// Arrivals, completions and latencies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_ms: Option<u64>,
    /// CPU time and throttling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<u64>,
    /// Memory in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_ms: Option<u64>,
    /// Replica counts and the allocation in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas_ms: Option<u64>,
}

impl Ages {
    /// Age of the oldest kind of measurement; `None` where one kind was never measured.
    #[must_use]
    pub fn oldest(&self) -> Option<Duration> {
        let all = [self.requests_ms?, self.cpu_ms?, self.memory_ms?, self.replicas_ms?];
        all.into_iter().max().map(Duration::from_millis)
    }
}

/// The three spans that a State looks back over.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Windows {
    /// The tick that the State closes.
    pub tick: Window,
    /// The last 12 ticks.
    pub short: Window,
    /// The last 60 ticks.
    pub long: Window,
}

/// What was measured over a span that ends with the State's tick. Whatever could not be measured is absent.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Window {
    /// Time that the samples cover, milliseconds: less than the span after a start, zero where nothing was measured, and more than the span where a
    /// reading ends a gap that began before it; rates are then means over the gap.
    pub covered_ms: u64,
    /// Requests that arrived, a second.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "rounded::option")]
    pub rate_rps: Option<f64>,
    /// Slope of the arrival rate by least squares over the span's ticks, requests a second a tick.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "rounded::option")]
    pub rate_slope_rps: Option<f64>,
    /// Coefficient of variation of the arrival rate over the span's ticks.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "rounded::option")]
    pub rate_variation: Option<f64>,
    /// Requests answered well, a second.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "rounded::option")]
    pub completed_rps: Option<f64>,
    /// Share of the answered requests that failed, timed out or were refused, 0 to 1; absent where none was answered.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "rounded::option")]
    pub failed_share: Option<f64>,
    /// Latency of the requests answered well; absent where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
    /// Replicas that were read, mean over the time that the samples of their CPU cover: what one replica uses, so many use. It differs from the replicas there
    /// are now where these changed since, as where measurements come late.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "rounded::option")]
    pub replicas: Option<f64>,
    /// Mean number of requests in flight at one ready replica.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "rounded::option")]
    pub concurrency: Option<f64>,
    /// Mean number of requests queued before the replicas.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "rounded::option")]
    pub queued: Option<f64>,
    /// CPU used by one replica, thousandths of a core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millicores: Option<Usage>,
    /// Share of CPU periods in which a replica was throttled, mean over replicas, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "rounded::option")]
    pub throttled_share: Option<f64>,
    /// Working set of one replica, MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<Usage>,
    /// Replicas that became ready after a start, cold starts among them; absent where the source does not count starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts: Option<u32>,
    /// Replicas that were restarted after a crash.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restarts: u32,
    /// Replicas that were killed for memory.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub oom_kills: u32,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// Percentiles of latency, milliseconds, interpolated within the buckets of [`crate::scrape::LATENCY_BOUNDS_MS`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Latency {
    /// Median.
    #[serde(serialize_with = "rounded::required")]
    pub p50_ms: f64,
    /// 95th percentile.
    #[serde(serialize_with = "rounded::required")]
    pub p95_ms: f64,
    /// 99th percentile.
    #[serde(serialize_with = "rounded::required")]
    pub p99_ms: f64,
    /// The percentile that the objective names.
    #[serde(serialize_with = "rounded::required")]
    pub objective_ms: f64,
}

/// Use of a resource by one replica.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// Mean over the replicas.
    #[serde(serialize_with = "rounded::required")]
    pub mean: f64,
    /// The replica that uses most.
    #[serde(serialize_with = "rounded::required")]
    pub max: f64,
}

/// Ticks since the allocation changed, so that a penalty on flapping depends on nothing hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Changes {
    /// Ticks since the number of replicas changed; absent where that was not seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub horizontal_ticks: Option<u32>,
    /// Ticks since CPU or memory of the replicas changed; absent where that was not seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vertical_ticks: Option<u32>,
    /// Which way the last change went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Direction>,
}

/// Which way an allocation changed, by what it costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// More was allocated.
    Up,
    /// Less was allocated.
    Down,
}

/// What is left to allocate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Headroom {
    /// CPU that is not allocated.
    pub cpu_millicores: Millicores,
    /// Memory that is not allocated.
    pub memory_mib: Mebibytes,
}

/// What users are promised, in the units of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WireObjective {
    /// Which percentile of latency is bounded, above 0 and below 100.
    pub percentile: f64,
    /// Its bound, milliseconds.
    pub latency_ms: u64,
    /// Share of requests that may fail, 0 to 1.
    pub failure_share: f64,
}

impl State {
    /// The tick length.
    ///
    /// # Errors
    /// When it is outside 100 ms to 1 h, which [`Message::check`] refuses.
    pub fn tick_length(&self) -> Result<TickLength, String> {
        TickLength::new(Duration::from_millis(self.tick_length_ms))
    }

    /// Cores that the whole function used within `window`, one of this State's; where it does not tell how many replicas were read, by those that there are.
    #[must_use]
    pub fn cores_used(&self, window: &Window) -> Option<f64> {
        let there_are = || {
            let replicas =
                self.replicas.map(|counts| counts.reporting.max(counts.ready)).or(self.allocation.map(|given| given.replicas))?;
            Some(f64::from(replicas.0.max(1)))
        };
        Some(window.cpu_millicores?.mean / 1000.0 * window.replicas.or_else(there_are)?)
    }

    /// Which State this is.
    #[must_use]
    pub fn state_id(&self) -> StateId {
        StateId { epoch: self.epoch, tick: self.tick }
    }
}

impl Message for State {
    const TYPE: EventType = EventType::State;

    fn function(&self) -> FunctionId {
        FunctionId::new(self.namespace.clone(), self.function.clone())
    }

    fn unique_id(&self) -> String {
        format!("state.{}.{}.{}.{}", self.namespace, self.function, self.epoch.0, self.tick)
    }

    fn check(&self) -> Result<(), String> {
        self.tick_length()?;
        let WireObjective { percentile, failure_share, .. } = self.objective;
        if !(percentile > 0.0 && percentile < 100.0) {
            return Err(format!("objective.percentile = {percentile}, must be above 0 and below 100"));
        }
        if !(0.0..=1.0).contains(&failure_share) {
            return Err(format!("objective.failure_share = {failure_share}, must be from 0 to 1"));
        }
        for (name, window) in [("tick", &self.windows.tick), ("short", &self.windows.short), ("long", &self.windows.long)] {
            window.check().map_err(|error| format!("windows.{name}.{error}"))?;
        }
        Ok(())
    }
}

impl Window {
    fn check(&self) -> Result<(), String> {
        let rates = [
            ("rate_rps", self.rate_rps),
            ("completed_rps", self.completed_rps),
            ("replicas", self.replicas),
            ("concurrency", self.concurrency),
            ("queued", self.queued),
        ];
        let shares = [("failed_share", self.failed_share), ("throttled_share", self.throttled_share)];
        for (field, value) in rates.into_iter().chain(shares) {
            value.map_or(Ok(()), |value| finite(field, value, 0.0))?;
        }
        for (field, value) in shares {
            if value.is_some_and(|value| value > 1.0) {
                return Err(format!("{field} = {}, must be at most 1", value.unwrap_or_default()));
            }
        }
        for (field, usage) in [("cpu_millicores", self.cpu_millicores), ("memory_mib", self.memory_mib)] {
            if let Some(Usage { mean, max }) = usage {
                finite(field, mean, 0.0)?;
                finite(field, max, 0.0)?;
            }
        }
        Ok(())
    }
}
