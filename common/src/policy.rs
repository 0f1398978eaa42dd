//! ScalingPolicy: objective, limits and agent of one function. One type for file, key and custom resource; a parsed value is valid.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::document::{self, DocumentError};
use crate::name::{FunctionId, Name};
use crate::text::number;
use crate::time::{Span, TickLength};
use crate::version::Version;

mod bounds;
mod costs;
mod guardrails;
pub mod import;
mod objective;
mod superseded;
pub mod text;

pub use bounds::{Bounds, Range};
pub use costs::{Direction, Prices, RewardWeights, Weight};
pub use guardrails::{Guardrails, ResizeFactor};
pub use objective::{Budget, LatencyBound, Objective, OperatingPoint, Percentile, Share, TargetShare, ViolationCost};
pub use superseded::superseded;

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
    /// Allocation of the workload after the ScalingPolicy was deleted.
    #[serde(default)]
    pub on_delete: OnDelete,
    /// Limits on the size and frequency of changes.
    #[serde(default)]
    pub guard: Guardrails,
    /// Source of arrivals and latency.
    #[serde(default)]
    pub metrics: MetricsSource,
    /// Whether an actuator wrote this from an object of the platform. It is replaced and deleted with the object.
    #[serde(default, skip_serializing_if = "is_false")]
    pub mirrored: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

fn default_namespace() -> Name {
    Name::new(FunctionId::DEFAULT_NAMESPACE).expect("the default namespace is a DNS label")
}

/// Agent of a ScalingPolicy that names none.
///
/// # Panics
/// Never: the name is a DNS label.
#[must_use]
pub fn default_agent() -> Name {
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
    /// A Deployment of Kubernetes.
    Deployment,
    /// A StatefulSet of Kubernetes.
    StatefulSet,
    /// A Service of Knative.
    KnativeService,
}

/// Identity of a workload.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadId {
    /// Kind of object.
    pub kind: WorkloadKind,
    /// Namespace and name of the object.
    pub name: FunctionId,
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

/// Allocation of a workload after its ScalingPolicy was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnDelete {
    /// The workload keeps its allocation.
    #[default]
    Keep,
    /// The workload gets the allocation from before the first change.
    Restore,
}

/// Source of arrivals and latency.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename = "Metrics", default)]
pub struct MetricsSource {
    /// Name of the collector's source with the function; by default the source of the workload's platform.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Name>,
    /// Endpoint at which every pod of the workload counts its requests; by default the one that the annotations `prometheus.io/scrape`, `port` and `path`
    /// of the pod name. Only Kubernetes has pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<PodEndpoint>,
}

/// Endpoint of a pod with metrics in Prometheus's text format, over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PodEndpoint {
    /// Port, 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Path, which begins with `/`.
    #[serde(default = "default_path")]
    #[schemars(regex(pattern = "^/"))]
    pub path: String,
    /// Histogram of the duration of requests, in seconds, or in milliseconds if its name ends with `_milliseconds` or `_ms`; by default the first
    /// well-known one that the pod shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
}

fn default_path() -> String {
    "/metrics".into()
}

/// Why a text is not a ScalingPolicy.
#[derive(Debug, Error)]
pub enum ScalingPolicyError {
    /// The text could not be parsed.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// Fields that contradict each other.
    #[error("{0}")]
    Contradiction(String),
    /// One of several documents.
    #[error("document {number}, which begins in line {line}: {error}")]
    OfDocument {
        /// Its number, from 1, without empty ones.
        number: usize,
        /// Its first line, from 1.
        line: usize,
        /// The reason.
        error: Box<ScalingPolicyError>,
    },
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
            on_delete: OnDelete::default(),
            guard: Guardrails::default(),
            metrics: MetricsSource::default(),
            mirrored: false,
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
    pub fn from_document(text: &str, format: document::Format) -> Result<Self, ScalingPolicyError> {
        let policy: Self = document::parse(text, format)?;
        policy.check()?;
        Ok(policy)
    }

    /// Parses the ScalingPolicies of a text in order; a YAML text may hold several documents.
    ///
    /// # Errors
    /// As [`ScalingPolicy::from_document`]; of several documents it names the one, with its first line.
    pub fn from_documents(text: &str, format: document::Format) -> Result<Vec<Self>, ScalingPolicyError> {
        let sections = document::sections(text, format);
        if let [only] = sections[..] {
            return Ok(vec![Self::from_document(only.text, format)?]);
        }
        let parsed = sections.iter().zip(1..).map(|(section, number)| {
            let error = |error| ScalingPolicyError::OfDocument { number, line: section.line, error: Box::new(error) };
            Self::from_document(section.text, format).map_err(error)
        });
        parsed.collect()
    }

    /// Converts a parsed document; unknown keys are errors.
    ///
    /// # Errors
    /// Names the field, its value and its range.
    pub fn from_value(value: serde_json::Value) -> Result<Self, ScalingPolicyError> {
        let policy: Self = document::from_value(value)?;
        policy.check()?;
        Ok(policy)
    }

    /// Parses a ScalingPolicy from the key-value bucket; unknown fields of a newer minor version are ignored.
    ///
    /// # Errors
    /// Names the field, its value and its range.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ScalingPolicyError> {
        let policy: Self = document::parse_json_lenient(bytes)?;
        policy.check()?;
        Ok(policy)
    }

    /// Values that are valid but unlikely to be intended, each with the reason.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.objective.failure_share.get() >= 0.5 {
            let share = self.objective.failure_share.get();
            warnings
                .push(format!("objective.failure_share = {share} allows {} % of the requests to fail; 1 % is 0.01", number(share * 100.0)));
        }
        let percentile = self.objective.percentile.get();
        if percentile < 50.0 {
            warnings.push(format!(
                "objective.percentile = {percentile} bounds the fastest {percentile} % of the requests only; 95 is the 95th percentile"
            ));
        }
        if self.tick.duration() > self.max_age() {
            warnings.push(format!(
                "guard.max_age = {} is shorter than tick = {}: measurements are always too old to scale down",
                Span(self.max_age()),
                Span(self.tick.duration())
            ));
        }
        if self.prices.cpu_core_hour.get() == 0.0 && self.prices.memory_gib_hour.get() == 0.0 && self.reward.cost.get() > 0.0 {
            warnings.push("prices are 0, so that no allocation costs anything: reward.cost has no effect".to_owned());
        }
        warnings
    }

    /// Serialises for the key-value bucket.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a policy holds only strings and finite numbers, which JSON can write")
    }

    fn check(&self) -> Result<(), ScalingPolicyError> {
        if self.bounds.cpu_millicores.min().0 == 0 {
            return Err(ScalingPolicyError::Contradiction("bounds.cpu_millicores.min = 0m, must be at least 1m".into()));
        }
        if self.bounds.memory_mib.min().0 == 0 {
            return Err(ScalingPolicyError::Contradiction("bounds.memory_mib.min = 0Mi, must be at least 1Mi".into()));
        }
        if self.bounds.replicas.max().0 == 0 {
            return Err(ScalingPolicyError::Contradiction("bounds.replicas.max = 0, must be at least 1".into()));
        }
        if let Some(PodEndpoint { port, path, .. }) = &self.metrics.endpoint {
            if *port == 0 {
                return Err(ScalingPolicyError::Contradiction("metrics.endpoint.port = 0, must be 1 to 65535".into()));
            }
            if !path.starts_with('/') {
                return Err(ScalingPolicyError::Contradiction(format!("metrics.endpoint.path = `{path}`, must begin with `/`")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
