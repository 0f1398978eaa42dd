//! State: the measurements of one function at one tick that a decision needs.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::event::EventType;
use super::{Epoch, Message, StateId, Version, finite, rounded};
use crate::name::{FunctionId, Name};
use crate::policy::{Bounds, Direction, Objective, OperatingPoint, Prices};
use crate::range::check_number;
use crate::time::{Tick, TickLength, Timestamp, millis};
use crate::units::{Allocation, Mebibytes, Millicores, Replicas};

/// Measurements of a function, sufficient to decide without memory. Values that were not measured are absent, never zero.
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
    /// Time at which the collector computed this State.
    pub observed_at_ms: Timestamp,
    /// Agent in the ScalingPolicy; any other agent that answers is a shadow.
    pub agent: Name,
    /// Current allocation; absent until the platform has reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation: Option<Allocation>,
    /// Replica counts; absent until the platform has reported them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<ReplicaCounts>,
    /// Age of the newest sample of each kind.
    pub age: Ages,
    /// Measurements over 1, 12 and 60 ticks.
    pub windows: Windows,
    /// Ticks since the last change of the allocation.
    pub changes: Changes,
    /// Mean time from start to readiness of recently started replicas, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_ms: Option<u64>,
    /// Unallocated capacity of the nodes, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headroom: Option<Headroom>,
    /// Service-level objective.
    pub objective: WireObjective,
    /// Bounds of the allocation.
    pub bounds: Bounds,
    /// Prices of an allocation.
    pub prices: Prices,
}

/// Replica counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct ReplicaCounts {
    /// Requested replicas.
    pub desired: Replicas,
    /// Replicas that accept requests.
    pub ready: Replicas,
    /// Replicas that are starting.
    pub pending: Replicas,
    /// Replicas whose CPU or memory was sampled within the last tick.
    pub reporting: Replicas,
    /// Replicas of those whose CPU was not sampled.
    #[serde(default, skip_serializing_if = "is_none")]
    pub without_cpu: Replicas,
    /// Replicas of those whose memory was not sampled.
    #[serde(default, skip_serializing_if = "is_none")]
    pub without_memory: Replicas,
}

fn is_none(replicas: &Replicas) -> bool {
    replicas.0 == 0
}

impl ReplicaCounts {
    /// Counts of a function of which all `replicas` are ready and reporting.
    #[must_use]
    pub fn all(replicas: Replicas) -> Self {
        Self { desired: replicas, ready: replicas, reporting: replicas, ..Self::default() }
    }
}

/// Age of the newest sample of each kind at `observed_at_ms`, milliseconds; absent if there was none.
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
    /// Replica counts and the current allocation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas_ms: Option<u64>,
}

impl Ages {
    /// Age of the oldest kind of measurement; `None` if one kind was never measured.
    #[must_use]
    pub fn oldest(&self) -> Option<Duration> {
        let all = [self.requests_ms?, self.cpu_ms?, self.memory_ms?, self.replicas_ms?];
        all.into_iter().max().map(Duration::from_millis)
    }
}

/// The three windows of a State.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Windows {
    /// The State's tick.
    pub tick: Window,
    /// The last 12 ticks.
    pub short: Window,
    /// The last 60 ticks.
    pub long: Window,
}

/// Measurements over a window that ends with the State's tick. Values that were not measured are absent.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Window {
    /// Time that the samples cover, milliseconds: less than the window after a start, zero if nothing was measured, and more than the window if a
    /// reading ends a gap that began earlier; rates are then means over the gap.
    pub covered_ms: u64,
    /// Arrival rate, requests/s: at the ingress, or at the replicas where no ingress is measured.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "rounded::option")]
    pub rate_rps: Option<f64>,
    /// Least-squares slope of the arrival rate, requests/s per tick.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "rounded::option")]
    pub rate_slope_rps: Option<f64>,
    /// Coefficient of variation of the arrival rate over the window's ticks.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "rounded::option")]
    pub rate_variation: Option<f64>,
    /// Successful requests, requests/s.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "rounded::option")]
    pub completed_rps: Option<f64>,
    /// Share of the ended requests that failed, timed out or were refused, 0 to 1; absent if none ended.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "rounded::option")]
    pub failed_share: Option<f64>,
    /// Latency of the successful requests; absent if there were none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
    /// Mean number of replicas behind the CPU samples: `cpu_millicores` times this is the use of the function. It differs from the current number of
    /// replicas after a change, and if measurements lag.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "rounded::option")]
    pub replicas: Option<f64>,
    /// Mean number of requests in flight per ready replica.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "rounded::option")]
    pub concurrency: Option<f64>,
    /// Mean number of queued requests.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "rounded::option")]
    pub queued: Option<f64>,
    /// CPU use of one replica, thousandths of a core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millicores: Option<Usage>,
    /// Share of CPU periods with throttling, mean over replicas, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "rounded::option")]
    pub throttled_share: Option<f64>,
    /// Working set of one replica, MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<Usage>,
    /// Replicas that became ready after a start, including cold starts; absent if the source does not count starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts: Option<u32>,
    /// Replicas that were restarted after a crash.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restarts: u32,
    /// Replicas that were OOM-killed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub oom_kills: u32,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// Latency percentiles, milliseconds, interpolated within the buckets of [`crate::scrape::LATENCY_BOUNDS_MS`].
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
    /// The objective's percentile.
    #[serde(serialize_with = "rounded::required")]
    pub objective_ms: f64,
}

/// Use of a resource per replica.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// Mean over the replicas.
    #[serde(serialize_with = "rounded::required")]
    pub mean: f64,
    /// Maximum over the replicas.
    #[serde(serialize_with = "rounded::required")]
    pub max: f64,
}

/// Ticks since the allocation changed, so that a penalty on flapping is a function of the State.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Changes {
    /// Ticks since the number of replicas changed; absent if no change was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub horizontal_ticks: Option<u32>,
    /// Ticks since CPU or memory of the replicas changed; absent if no change was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vertical_ticks: Option<u32>,
    /// Direction of the last change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Direction>,
}

/// Unallocated capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Headroom {
    /// Unallocated CPU.
    pub cpu_millicores: Millicores,
    /// Unallocated memory.
    pub memory_mib: Mebibytes,
}

/// Service-level objective in the units of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WireObjective {
    /// Bounded percentile of latency, above 0 and below 100.
    pub percentile: f64,
    /// Latency bound, milliseconds.
    pub latency_ms: u64,
    /// Allowed share of failed requests, 0 to 1.
    pub failure_share: f64,
    /// Operating point that a learned agent holds; absent if the ScalingPolicy states none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point: Option<OperatingPoint>,
}

impl Objective {
    /// The objective in the units of the wire.
    #[must_use]
    pub fn wire(&self) -> WireObjective {
        WireObjective {
            percentile: self.percentile.get(),
            latency_ms: millis(self.latency.get()),
            failure_share: self.failure_share.get(),
            point: self.point,
        }
    }
}

impl State {
    /// The tick length.
    ///
    /// # Errors
    /// If it is outside 100 ms to 1 h, which [`Message::check`] refuses.
    pub fn tick_length(&self) -> Result<TickLength, String> {
        TickLength::new(Duration::from_millis(self.tick_length_ms))
    }

    /// Cores used by the whole function in `window`, one of this State's; by the current number of replicas if the window has none.
    #[must_use]
    pub fn cores_used(&self, window: &Window) -> Option<f64> {
        let there_are = || {
            let replicas =
                self.replicas.map(|counts| counts.reporting.max(counts.ready)).or(self.allocation.map(|given| given.replicas))?;
            Some(f64::from(replicas.0.max(1)))
        };
        Some(window.cpu_millicores?.mean / 1000.0 * window.replicas.or_else(there_are)?)
    }

    /// Identity of this State.
    #[must_use]
    pub fn state_id(&self) -> StateId {
        StateId { epoch: self.epoch, tick: self.tick }
    }
}

impl State {
    /// Checks that the State lies within the range of RFC 3339.
    fn check_times(&self) -> Result<(), String> {
        let (at, begin) = (self.observed_at_ms, Timestamp(self.tick.0.saturating_mul(self.tick_length_ms)));
        for (field, value, time) in [("observed_at_ms", at.0, at), ("tick", self.tick.0, begin)] {
            if time > Timestamp::LAST {
                return Err(format!("{field} = {value}, must be before the year 10000"));
            }
        }
        Ok(())
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
        self.check_times()?;
        if let Some(allocation) = &self.allocation {
            allocation.check("allocation.").map_err(|error| error.to_string())?;
        }
        if let Some(ReplicaCounts { desired, ready, pending, reporting, without_cpu, without_memory }) = self.replicas {
            let counts = [("desired", desired), ("ready", ready), ("pending", pending), ("reporting", reporting)];
            for (field, count) in counts.into_iter().chain([("without_cpu", without_cpu), ("without_memory", without_memory)]) {
                check_number(&format!("replicas.{field}"), count.0, 0, Replicas::MAX.0).map_err(|error| error.to_string())?;
            }
        }
        for (name, window) in [("tick", &self.windows.tick), ("short", &self.windows.short), ("long", &self.windows.long)] {
            window.check().map_err(|error| format!("windows.{name}.{error}"))?;
        }
        Ok(())
    }
}

impl Window {
    fn check(&self) -> Result<(), String> {
        // A new field fails to compile here until it is checked, or listed with those that need no check.
        let Self {
            rate_rps,
            rate_slope_rps,
            rate_variation,
            completed_rps,
            failed_share,
            latency,
            replicas,
            concurrency,
            queued,
            cpu_millicores,
            throttled_share,
            memory_mib,
            covered_ms: _,
            starts: _,
            restarts: _,
            oom_kills: _,
        } = self;
        let amounts = [
            ("rate_rps", rate_rps),
            ("rate_variation", rate_variation),
            ("completed_rps", completed_rps),
            ("replicas", replicas),
            ("concurrency", concurrency),
            ("queued", queued),
        ];
        let shares = [("failed_share", failed_share), ("throttled_share", throttled_share)];
        for (field, value) in amounts.into_iter().chain(shares) {
            value.map_or(Ok(()), |value| finite(field, value, 0.0))?;
        }
        rate_slope_rps.map_or(Ok(()), |slope| finite("rate_slope_rps", slope, f64::MIN))?;
        if let Some((field, share)) =
            shares.into_iter().find_map(|(field, share)| share.filter(|share| *share > 1.0).map(|share| (field, share)))
        {
            return Err(format!("{field} = {share}, must be at most 1"));
        }
        for (field, usage) in [("cpu_millicores", cpu_millicores), ("memory_mib", memory_mib)] {
            if let Some(Usage { mean, max }) = usage {
                finite(field, *mean, 0.0)?;
                finite(field, *max, 0.0)?;
            }
        }
        if let Some(Latency { p50_ms, p95_ms, p99_ms, objective_ms }) = latency {
            for (field, value) in [("p50_ms", p50_ms), ("p95_ms", p95_ms), ("p99_ms", p99_ms), ("objective_ms", objective_ms)] {
                finite(field, *value, 0.0).map_err(|error| format!("latency.{error}"))?;
            }
        }
        Ok(())
    }
}
