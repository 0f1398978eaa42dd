//! ScalingPolicy: objective, limits and agent of one function. One type for file, key and custom resource; a parsed value is valid.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::document::{self, DocumentError};
use crate::name::{FunctionId, Name};
use crate::time::{Span, TickLength};
use crate::units::{Allocation, Mebibytes, Millicores, Replicas};
use crate::version::Version;

/// Objective, limits and agent of one function.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScalingPolicy {
    /// Version of the format.
    #[serde(default)]
    pub version: Version,
    /// Namespace of the function.
    #[serde(default = "default_namespace")]
    pub namespace: Name,
    /// Name of the ScalingPolicy, by which messages refer to the function.
    pub name: Name,
    /// Scaled workload.
    #[serde(default)]
    pub workload: Workload,
    /// Control interval, 100 ms to 1 h.
    #[serde(default)]
    pub tick: TickLength,
    /// Service-level objective.
    #[serde(default)]
    pub objective: Objective,
    /// Bounds of the allocation.
    #[serde(default)]
    pub bounds: Bounds,
    /// Prices of an allocation.
    #[serde(default)]
    pub prices: Prices,
    /// Weights of the terms of the reward.
    #[serde(default)]
    pub reward: RewardWeights,
    /// Agent whose decisions are applied.
    #[serde(default = "default_agent")]
    pub agent: Name,
    /// Rule that takes over from a silent agent.
    #[serde(default)]
    pub fallback: FallbackConfig,
    /// Whether decisions are applied.
    #[serde(default)]
    pub mode: Mode,
    /// Suspends all changes.
    #[serde(default)]
    pub paused: bool,
    /// Forbids decreases.
    #[serde(default)]
    pub scale_up_only: bool,
    /// Limits on the size and frequency of changes.
    #[serde(default)]
    pub guard: Guardrails,
    /// Source of arrivals and latency.
    #[serde(default)]
    pub metrics: Metrics,
}

fn default_namespace() -> Name {
    Name::new(FunctionId::DEFAULT_NAMESPACE).expect("the default namespace is a DNS label")
}

fn default_agent() -> Name {
    Name::new("threshold").expect("the default agent is a DNS label")
}

/// Scaled workload.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Workload {
    /// Platform and kind of object.
    #[serde(default)]
    pub kind: WorkloadKind,
    /// Name of the object; by default the name of the ScalingPolicy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
}

/// Kind of workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkloadKind {
    /// A function of the local platform.
    #[default]
    Local,
}

/// Service-level objective.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Objective {
    /// Bounded percentile of latency, above 0 and below 100.
    pub percentile: Percentile,
    /// Latency bound, at least 1 ms.
    pub latency: LatencyBound,
    /// Allowed share of failed requests, 0 to 1.
    pub failure_share: Share,
}

impl Default for Objective {
    /// p95 within 500 ms and 1 % failures: loose enough for an unknown function.
    fn default() -> Self {
        Self { percentile: Percentile(95.0), latency: LatencyBound(Span::millis(500)), failure_share: Share(0.01) }
    }
}

/// A percentile, above 0 and below 100.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "f64")]
#[schemars(with = "f64")]
pub struct Percentile(f64);

impl Percentile {
    /// The percentile as a number between 0 and 100.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Percentile {
    type Error = String;
    fn try_from(value: f64) -> Result<Self, String> {
        if value > 0.0 && value < 100.0 { Ok(Self(value)) } else { Err(format!("{value}, must be above 0 and below 100")) }
    }
}

/// A share of a whole, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "f64")]
#[schemars(with = "f64")]
pub struct Share(f64);

impl Share {
    /// The share as a number between 0 and 1.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Share {
    type Error = String;
    fn try_from(value: f64) -> Result<Self, String> {
        if (0.0..=1.0).contains(&value) { Ok(Self(value)) } else { Err(format!("{value}, must be from 0 to 1")) }
    }
}

/// A weight, price or factor: a finite number of at least 0.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "f64")]
#[schemars(with = "f64")]
pub struct Weight(f64);

impl Weight {
    /// The weight as a number.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Weight {
    type Error = String;
    fn try_from(value: f64) -> Result<Self, String> {
        if value.is_finite() && value >= 0.0 { Ok(Self(value)) } else { Err(format!("{value}, must be a finite number of at least 0")) }
    }
}

/// A bound on latency, 1 ms to 1 h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Span")]
#[schemars(with = "Span")]
pub struct LatencyBound(Span);

impl LatencyBound {
    /// The bound as a duration.
    #[must_use]
    pub fn get(self) -> std::time::Duration {
        self.0.0
    }
}

impl TryFrom<Span> for LatencyBound {
    type Error = String;
    fn try_from(span: Span) -> Result<Self, String> {
        if (Span::millis(1)..=Span::seconds(3600)).contains(&span) { Ok(Self(span)) } else { Err(format!("{span}, must be 1ms to 1h")) }
    }
}

/// An inclusive range; the minimum never exceeds the maximum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "RawRange<T>")]
#[schemars(with = "RawRange<T>", rename = "RangeOf{T}")]
#[serde(bound(deserialize = "T: Deserialize<'de> + Copy + Ord + fmt::Display"))]
pub struct Range<T> {
    min: T,
    max: T,
}

#[derive(Deserialize, JsonSchema)]
#[serde(expecting = "a range with `min` and `max`")]
#[schemars(rename = "RangeOf{T}")]
#[schemars(description = "From the least to the most, both included.")]
struct RawRange<T> {
    /// Minimum.
    min: T,
    /// Maximum.
    max: T,
}

impl<T: Copy + Ord + fmt::Display> Range<T> {
    /// From `min` to `max`.
    ///
    /// # Errors
    /// If `min` is above `max`.
    pub fn new(min: T, max: T) -> Result<Self, String> {
        if min <= max { Ok(Self { min, max }) } else { Err(format!("min = {min}, must be at most max = {max}")) }
    }

    /// Minimum.
    #[must_use]
    pub fn min(&self) -> T {
        self.min
    }

    /// Maximum.
    #[must_use]
    pub fn max(&self) -> T {
        self.max
    }

    /// `value`, clamped to the range.
    #[must_use]
    pub fn clamp(&self, value: T) -> T {
        value.clamp(self.min, self.max)
    }

    /// Whether `value` is within the range.
    #[must_use]
    pub fn contains(&self, value: T) -> bool {
        self.min <= value && value <= self.max
    }
}

impl<T: Copy + Ord + fmt::Display> TryFrom<RawRange<T>> for Range<T> {
    type Error = String;
    fn try_from(raw: RawRange<T>) -> Result<Self, String> {
        Self::new(raw.min, raw.max)
    }
}

/// Bounds of the allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Bounds {
    /// Replicas; a minimum of 0 allows scaling to zero.
    pub replicas: Range<Replicas>,
    /// CPU of one replica, thousandths of a core.
    pub cpu_millicores: Range<Millicores>,
    /// Memory of one replica, MiB.
    pub memory_mib: Range<Mebibytes>,
}

impl Default for Bounds {
    /// 1 to 10 replicas of 100m to one core and 64 MiB to 1 GiB.
    fn default() -> Self {
        Self {
            replicas: Range { min: Replicas(1), max: Replicas(10) },
            cpu_millicores: Range { min: Millicores(100), max: Millicores(1000) },
            memory_mib: Range { min: Mebibytes(64), max: Mebibytes(1024) },
        }
    }
}

impl Bounds {
    /// `wanted`, clamped to the bounds.
    #[must_use]
    pub fn clamp(&self, wanted: Allocation) -> Allocation {
        Allocation {
            replicas: self.replicas.clamp(wanted.replicas),
            cpu_millicores: self.cpu_millicores.clamp(wanted.cpu_millicores),
            memory_mib: self.memory_mib.clamp(wanted.memory_mib),
        }
    }

    /// Whether `allocation` is within the bounds.
    #[must_use]
    pub fn contain(&self, allocation: Allocation) -> bool {
        self.clamp(allocation) == allocation
    }

    /// Largest allowed allocation.
    #[must_use]
    pub fn largest(&self) -> Allocation {
        Allocation { replicas: self.replicas.max, cpu_millicores: self.cpu_millicores.max, memory_mib: self.memory_mib.max }
    }
}

/// Prices of an allocation. The defaults are list prices of serverless containers of a large cloud, in USD.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Prices {
    /// Price of a core-hour.
    pub cpu_core_hour: Weight,
    /// Price of a GiB-hour.
    pub memory_gib_hour: Weight,
    /// Currency, an ISO 4217 code.
    pub currency: String,
}

impl Default for Prices {
    fn default() -> Self {
        Self { cpu_core_hour: Weight(0.04048), memory_gib_hour: Weight(0.004445), currency: "USD".into() }
    }
}

impl Prices {
    /// Price of `allocation` per hour.
    #[must_use]
    pub fn per_hour(&self, allocation: Allocation) -> f64 {
        allocation.total_cores() * self.cpu_core_hour.0 + allocation.total_gibibytes() * self.memory_gib_hour.0
    }
}

/// Weights of the terms of the reward.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RewardWeights {
    /// Weight of a violation of the objective.
    pub violation: Weight,
    /// Weight of cost.
    pub cost: Weight,
    /// Weight of a resize that restarts replicas.
    pub resize: Weight,
    /// Weight of a reversal of direction.
    pub reversal: Weight,
    /// Weight of a crash or a kill for memory.
    pub kill: Weight,
    /// Maximum ticks between two opposite changes that count as a reversal, at least 1.
    pub reversal_ticks: std::num::NonZeroU32,
}

impl Default for RewardWeights {
    fn default() -> Self {
        const A_MINUTE_OF_TICKS: std::num::NonZeroU32 = std::num::NonZeroU32::new(12).expect("twelve is not zero");
        Self {
            violation: Weight(1.0),
            cost: Weight(0.3),
            resize: Weight(0.05),
            reversal: Weight(0.2),
            kill: Weight(1.0),
            reversal_ticks: A_MINUTE_OF_TICKS,
        }
    }
}

/// Rule that takes over from a silent agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FallbackConfig {
    /// The rule.
    pub rule: FallbackRule,
    /// Ticks without an Action of the agent after which the rule takes over, at least 1.
    pub after_ticks: std::num::NonZeroU32,
}

impl Default for FallbackConfig {
    fn default() -> Self {
        const MISSED_ANSWERS: std::num::NonZeroU32 = std::num::NonZeroU32::new(3).expect("three is not zero");
        Self { rule: FallbackRule::Threshold, after_ticks: MISSED_ANSWERS }
    }
}

/// Rules that the actuator computes itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FallbackRule {
    /// The threshold rule, horizontal only.
    #[default]
    Threshold,
    /// Keep the current allocation.
    Hold,
}

/// Whether decisions are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Records States, Rewards and decisions; the guard does not evaluate decisions.
    Observe,
    /// The guard evaluates decisions and publishes what would have been applied.
    #[default]
    Recommend,
    /// Decisions are applied.
    Active,
}

/// Limits on the size and frequency of changes, for any agent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Guardrails {
    /// Maximum replicas added in one step, at least 1.
    pub replicas_up: std::num::NonZeroU32,
    /// Maximum replicas removed in one step, at least 1.
    pub replicas_down: std::num::NonZeroU32,
    /// Maximum factor by which CPU or memory of a replica may grow or shrink in one step, at least 1.
    pub resize_factor: ResizeFactor,
    /// Maximum changes per hour in any direction, at least 1.
    pub changes_per_hour: std::num::NonZeroU32,
    /// Maximum reversals of direction per hour.
    pub reversals_per_hour: u32,
    /// Maximum age of measurements for scaling down; by default three ticks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Span>,
    /// Minimum ratio of memory to the largest working set, at least 1.
    pub working_set_margin: ResizeFactor,
}

impl Default for Guardrails {
    /// Wide enough for a sound agent, tight enough to contain a faulty one for minutes.
    fn default() -> Self {
        let four = std::num::NonZeroU32::new(4).expect("four is not zero");
        Self {
            replicas_up: four,
            replicas_down: four,
            resize_factor: ResizeFactor(2.0),
            changes_per_hour: std::num::NonZeroU32::new(240).expect("240 is not zero"),
            reversals_per_hour: 60,
            max_age: None,
            working_set_margin: ResizeFactor(1.1),
        }
    }
}

/// A factor of at least 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "f64")]
#[schemars(with = "f64")]
pub struct ResizeFactor(f64);

impl ResizeFactor {
    /// The factor as a number of at least 1.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for ResizeFactor {
    type Error = String;
    fn try_from(value: f64) -> Result<Self, String> {
        if value.is_finite() && value >= 1.0 { Ok(Self(value)) } else { Err(format!("{value}, must be a finite number of at least 1")) }
    }
}

/// Source of arrivals and latency.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Metrics {
    /// Name of the collector's source with the function; by default the source of the workload's platform.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Name>,
}

/// Why a text is not a ScalingPolicy.
#[derive(Debug, Error)]
pub enum PolicyError {
    /// The text could not be parsed.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// Fields that contradict each other.
    #[error("{0}")]
    Contradiction(String),
}

impl ScalingPolicy {
    /// A ScalingPolicy for `function` with defaults.
    #[must_use]
    pub fn new(function: FunctionId) -> Self {
        Self {
            version: Version::CURRENT,
            namespace: function.namespace,
            name: function.name,
            workload: Workload::default(),
            tick: TickLength::default(),
            objective: Objective::default(),
            bounds: Bounds::default(),
            prices: Prices::default(),
            reward: RewardWeights::default(),
            agent: default_agent(),
            fallback: FallbackConfig::default(),
            mode: Mode::default(),
            paused: false,
            scale_up_only: false,
            guard: Guardrails::default(),
            metrics: Metrics::default(),
        }
    }

    /// Function of the ScalingPolicy.
    #[must_use]
    pub fn function(&self) -> FunctionId {
        FunctionId::new(self.namespace.clone(), self.name.clone())
    }

    /// Name of the workload in the namespace.
    #[must_use]
    pub fn workload_name(&self) -> &Name {
        self.workload.name.as_ref().unwrap_or(&self.name)
    }

    /// Maximum age of measurements for scaling down.
    #[must_use]
    pub fn max_age(&self) -> std::time::Duration {
        self.guard.max_age.map_or(self.tick.duration() * 3, |span| span.0)
    }

    /// Parses a ScalingPolicy from a file; unknown keys are errors.
    ///
    /// # Errors
    /// Names the field, its value and its range.
    pub fn from_document(text: &str, format: document::Format) -> Result<Self, PolicyError> {
        let policy: Self = document::parse(text, format)?;
        policy.check()?;
        Ok(policy)
    }

    /// Converts a parsed document; unknown keys are errors.
    ///
    /// # Errors
    /// Names the field, its value and its range.
    pub fn from_value(value: serde_json::Value) -> Result<Self, PolicyError> {
        let policy: Self = document::from_value(value)?;
        policy.check()?;
        Ok(policy)
    }

    /// Parses a ScalingPolicy from the key-value bucket; unknown fields of a newer minor version are ignored.
    ///
    /// # Errors
    /// Names the field, its value and its range.
    pub fn from_json(bytes: &[u8]) -> Result<Self, PolicyError> {
        let policy: Self = document::parse_json_lenient(bytes)?;
        policy.check()?;
        Ok(policy)
    }

    /// Serialises for the key-value bucket.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a policy holds only strings and finite numbers, which JSON can write")
    }

    fn check(&self) -> Result<(), PolicyError> {
        if self.bounds.cpu_millicores.min.0 == 0 {
            return Err(PolicyError::Contradiction("bounds.cpu_millicores.min = 0m, must be at least 1m".into()));
        }
        if self.bounds.memory_mib.min.0 == 0 {
            return Err(PolicyError::Contradiction("bounds.memory_mib.min = 0Mi, must be at least 1Mi".into()));
        }
        if self.bounds.replicas.max.0 == 0 {
            return Err(PolicyError::Contradiction("bounds.replicas.max = 0, must be at least 1".into()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
