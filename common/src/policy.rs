//! ScalingPolicy: what is wanted for one function. One type stands behind file, key and custom resource; whatever was read is valid.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::contract::{Version, WireObjective};
use crate::document::{self, DocumentError};
use crate::name::{FunctionId, Name};
use crate::time::{Span, TickLength, millis};
use crate::units::{Allocation, Mebibytes, Millicores, Replicas};

/// What is wanted for one function, and within which limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScalingPolicy {
    /// Version of the policy's form.
    #[serde(default)]
    pub version: Version,
    /// Namespace of the function.
    #[serde(default = "default_namespace")]
    pub namespace: Name,
    /// Name of the policy; messages call the function by it.
    pub name: Name,
    /// What is scaled.
    #[serde(default)]
    pub workload: Workload,
    /// How often is decided, 100 ms to 1 h.
    #[serde(default)]
    pub tick: TickLength,
    /// What the function's users are promised.
    #[serde(default)]
    pub objective: Objective,
    /// Least and most that may be allocated.
    #[serde(default)]
    pub bounds: Bounds,
    /// What an allocation costs.
    #[serde(default)]
    pub prices: Prices,
    /// What the terms of the reward weigh.
    #[serde(default)]
    pub reward: RewardWeights,
    /// The agent that is obeyed.
    #[serde(default = "default_agent")]
    pub agent: Name,
    /// What acts when the agent is silent.
    #[serde(default)]
    pub fallback: Fallback,
    /// Whether decisions are applied.
    #[serde(default)]
    pub mode: Mode,
    /// Nothing is changed while this is set.
    #[serde(default)]
    pub paused: bool,
    /// Only more is allocated while this is set.
    #[serde(default)]
    pub scale_up_only: bool,
    /// How far and how often allocations may change.
    #[serde(default)]
    pub guard: Guardrails,
    /// Where arrivals and latency are measured.
    #[serde(default)]
    pub metrics: Metrics,
}

fn default_namespace() -> Name {
    Name::new(FunctionId::DEFAULT_NAMESPACE).expect("the default namespace is a DNS label")
}

fn default_agent() -> Name {
    Name::new("threshold").expect("the default agent is a DNS label")
}

/// What is scaled.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Workload {
    /// On which platform, and which kind of object there.
    #[serde(default)]
    pub kind: WorkloadKind,
    /// Name of the object; the policy's own name where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
}

/// The kinds of workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkloadKind {
    /// A function of the platform on this machine.
    #[default]
    Local,
}

/// What the function's users are promised.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Objective {
    /// Which percentile of latency is bounded, above 0 and below 100.
    pub percentile: Percentile,
    /// Its bound, at least 1 ms.
    pub latency: LatencyBound,
    /// Share of requests that may fail, 0 to 1.
    pub failure_share: Share,
}

impl Default for Objective {
    /// p95 within 500 ms and one failure in a hundred: loose enough for a function that nobody described.
    fn default() -> Self {
        Self { percentile: Percentile(95.0), latency: LatencyBound(Span::millis(500)), failure_share: Share(0.01) }
    }
}

impl Objective {
    /// The objective in the units of the wire.
    #[must_use]
    pub fn wire(&self) -> WireObjective {
        WireObjective { percentile: self.percentile.0, latency_ms: millis(self.latency.0.0), failure_share: self.failure_share.0 }
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

/// From the least to the most, both included; the least is never above the most.
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
    /// The least.
    min: T,
    /// The most.
    max: T,
}

impl<T: Copy + Ord + fmt::Display> Range<T> {
    /// From `min` to `max`.
    ///
    /// # Errors
    /// When `min` is above `max`.
    pub fn new(min: T, max: T) -> Result<Self, String> {
        if min <= max { Ok(Self { min, max }) } else { Err(format!("min = {min}, must be at most max = {max}")) }
    }

    /// The least.
    #[must_use]
    pub fn min(&self) -> T {
        self.min
    }

    /// The most.
    #[must_use]
    pub fn max(&self) -> T {
        self.max
    }

    /// `value`, or the end of the range that it lies beyond.
    #[must_use]
    pub fn clamp(&self, value: T) -> T {
        value.clamp(self.min, self.max)
    }

    /// Whether `value` lies within.
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

/// Least and most that may be allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Bounds {
    /// Replicas; a least of zero allows the function to be stopped.
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
    /// `wanted` within the bounds.
    #[must_use]
    pub fn clamp(&self, wanted: Allocation) -> Allocation {
        Allocation {
            replicas: self.replicas.clamp(wanted.replicas),
            cpu_millicores: self.cpu_millicores.clamp(wanted.cpu_millicores),
            memory_mib: self.memory_mib.clamp(wanted.memory_mib),
        }
    }

    /// Whether `allocation` lies within the bounds.
    #[must_use]
    pub fn contain(&self, allocation: Allocation) -> bool {
        self.clamp(allocation) == allocation
    }

    /// The largest allocation that is allowed.
    #[must_use]
    pub fn largest(&self) -> Allocation {
        Allocation { replicas: self.replicas.max, cpu_millicores: self.cpu_millicores.max, memory_mib: self.memory_mib.max }
    }
}

/// What an allocation costs. The defaults are a large cloud's list prices of serverless containers, in USD.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Prices {
    /// Price of one core for an hour.
    pub cpu_core_hour: Weight,
    /// Price of one GiB for an hour.
    pub memory_gib_hour: Weight,
    /// In which currency, an ISO 4217 code.
    pub currency: String,
}

impl Default for Prices {
    fn default() -> Self {
        Self { cpu_core_hour: Weight(0.04048), memory_gib_hour: Weight(0.004445), currency: "USD".into() }
    }
}

impl Prices {
    /// Price of `allocation` for an hour.
    #[must_use]
    pub fn per_hour(&self, allocation: Allocation) -> f64 {
        allocation.total_cores() * self.cpu_core_hour.0 + allocation.total_gibibytes() * self.memory_gib_hour.0
    }
}

/// What the terms of the reward weigh.
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
    /// Within how many ticks a change of direction is a reversal, at least 1.
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

/// What acts when the agent is silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Fallback {
    /// The rule.
    pub rule: FallbackRule,
    /// After how many ticks without an Action of the agent, at least 1.
    pub after_ticks: std::num::NonZeroU32,
}

impl Default for Fallback {
    fn default() -> Self {
        const MISSED_ANSWERS: std::num::NonZeroU32 = std::num::NonZeroU32::new(3).expect("three is not zero");
        Self { rule: FallbackRule::Threshold, after_ticks: MISSED_ANSWERS }
    }
}

/// The rules that the actuator computes by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FallbackRule {
    /// The study's threshold rule, horizontally.
    #[default]
    Threshold,
    /// Keep what is in force.
    Hold,
}

/// Whether decisions are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// States and rewards are recorded; decisions are recorded and not judged by the guard.
    Observe,
    /// Decisions are judged by the guard and published as what would have been done.
    #[default]
    Recommend,
    /// Decisions are applied.
    Active,
}

/// How far and how often allocations may change, whatever an agent wants.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Guardrails {
    /// Most replicas added in one step, at least 1.
    pub replicas_up: std::num::NonZeroU32,
    /// Most replicas removed in one step, at least 1.
    pub replicas_down: std::num::NonZeroU32,
    /// Largest factor by which CPU or memory of a replica may grow or shrink in one step, at least 1.
    pub resize_factor: ResizeFactor,
    /// Most changes an hour, any direction, at least 1.
    pub changes_per_hour: std::num::NonZeroU32,
    /// Most reversals of direction an hour.
    pub reversals_per_hour: u32,
    /// How old a measurement may be before scaling down is refused; absent: three ticks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Span>,
    /// Memory is kept at least this many times the largest working set seen, at least 1.
    pub working_set_margin: ResizeFactor,
}

impl Default for Guardrails {
    /// Wide enough not to hinder a sane agent, tight enough that a mad one does no harm within minutes.
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

/// Where arrivals and latency are measured.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Metrics {
    /// Name of the collector's source that knows the function; absent: the source of the workload's platform.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Name>,
}

/// Why a text is no ScalingPolicy.
#[derive(Debug, Error)]
pub enum PolicyError {
    /// The text could not be read as a policy.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// Fields that contradict each other.
    #[error("{0}")]
    Contradiction(String),
}

impl ScalingPolicy {
    /// A policy for `function` with every default.
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
            fallback: Fallback::default(),
            mode: Mode::default(),
            paused: false,
            scale_up_only: false,
            guard: Guardrails::default(),
            metrics: Metrics::default(),
        }
    }

    /// The function that the policy is for.
    #[must_use]
    pub fn function(&self) -> FunctionId {
        FunctionId::new(self.namespace.clone(), self.name.clone())
    }

    /// The workload's name within the namespace.
    #[must_use]
    pub fn workload_name(&self) -> &Name {
        self.workload.name.as_ref().unwrap_or(&self.name)
    }

    /// How old a measurement may be before scaling down is refused.
    #[must_use]
    pub fn max_age(&self) -> std::time::Duration {
        self.guard.max_age.map_or(self.tick.duration() * 3, |span| span.0)
    }

    /// Reads a policy that a person wrote; a key that the policy does not have is an error.
    ///
    /// # Errors
    /// Names the field, its value and its range.
    pub fn from_document(text: &str, format: document::Format) -> Result<Self, PolicyError> {
        let policy: Self = document::parse(text, format)?;
        policy.check()?;
        Ok(policy)
    }

    /// Reads a policy that was already taken apart; unknown keys are errors.
    ///
    /// # Errors
    /// Names the field, its value and its range.
    pub fn from_value(value: serde_json::Value) -> Result<Self, PolicyError> {
        let policy: Self = document::from_value(value)?;
        policy.check()?;
        Ok(policy)
    }

    /// Reads a policy as the key-value bucket holds it; fields of a newer minor version are ignored.
    ///
    /// # Errors
    /// Names the field, its value and its range.
    pub fn from_json(bytes: &[u8]) -> Result<Self, PolicyError> {
        let policy: Self = document::parse_json_lenient(bytes)?;
        policy.check()?;
        Ok(policy)
    }

    /// The policy as the key-value bucket holds it.
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
