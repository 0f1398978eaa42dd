//! Sources of measurements. Owns the choice of a source by configuration and the ways in which reading one fails; must not know what is done
//! with a reading.
//!
//! A new source is a module here, with its configuration and a `read` that brings its samples to [`crate::rows`], and a variant of [`SourceConfig`] and
//! [`Source`].

pub mod exposition;
pub mod kubernetes;
pub mod prometheus;

use std::collections::HashMap;

use qscale_common::document;
use qscale_common::policy::MetricsSource;
use qscale_common::runtime::http::ExchangeError;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use strum::IntoStaticStr;
use thiserror::Error;

use crate::reading::Reading;
use exposition::{Exposition, ExpositionConfig};
use kubernetes::KubernetesConfig;
use prometheus::{Prometheus, PrometheusConfig};

/// Configuration of a source, by `kind`. Without `kind` it is a text exposition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", tag = "kind", rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "there are a few, read once")]
pub enum SourceConfig {
    /// An endpoint that exposes metrics in Prometheus's text format or in OpenMetrics.
    Exposition(ExpositionConfig),
    /// A Kubernetes cluster: workloads, pods, and their CPU and memory. Only programs that are built with the feature `kubernetes` read it.
    Kubernetes(KubernetesConfig),
    /// A Prometheus server that measures requests.
    Prometheus(PrometheusConfig),
}

impl Serialize for SourceConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for SourceConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let tagged = document::with_default_tag(deserializer, "kind", "exposition")?;
        Self::deserialize(tagged).map_err(serde::de::Error::custom)
    }
}

impl Default for SourceConfig {
    fn default() -> Self {
        Self::Exposition(ExpositionConfig::default())
    }
}

impl SourceConfig {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// Names the key, its value and its range.
    pub fn check(&self) -> anyhow::Result<()> {
        match self {
            Self::Exposition(config) => config.check(),
            Self::Kubernetes(config) => config.check(),
            Self::Prometheus(config) => config.check(),
        }
    }
}

/// Workloads that are observed, written `namespace/name`, and where their requests are measured. A source may measure others, too.
pub type ObservedWorkloads = HashMap<String, MetricsSource>;

/// Reasons why a source could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Error, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum SourceError {
    /// No connection, or one that broke; with the causes.
    #[error("connection failed: {0}")]
    Connection(String),
    /// No complete answer in time.
    #[error("timeout")]
    Timeout,
    /// An answer with a status other than success.
    #[error("HTTP status {0}, must be 200")]
    Status(u16),
    /// An answer that refers to another address.
    #[error("HTTP status {status}, redirected to {location}; set `url` to an address that answers with status 200")]
    Redirected {
        /// The status.
        status: u16,
        /// The other address.
        location: String,
    },
    /// An answer that requires credentials.
    #[error(
        "HTTP status {0}: the endpoint requires authorisation, which the collector does not send; let it read without, or through a proxy that adds it"
    )]
    Unauthorized(u16),
    /// A compressed answer.
    #[error("content-encoding {0}, must be identity; `url` must be served without compression")]
    Encoded(String),
    /// An answer in a binary format.
    #[error(
        "content-type {0}, must be text/plain or application/openmetrics-text; `url` must show Prometheus's text format or OpenMetrics"
    )]
    Binary(String),
    /// An answer whose end is missing.
    #[error("answer is truncated: OpenMetrics must end with `# EOF`, and the last line with a newline")]
    Truncated,
    /// An answer beyond the size limit.
    #[error("answer too large")]
    TooLarge,
    /// An answer of which most lines are not samples.
    #[error(
        "most lines are not samples ({samples} samples, {malformed} malformed); `url` must show Prometheus's text format or OpenMetrics"
    )]
    Unreadable {
        /// Malformed lines of metrics that are read.
        malformed: u64,
        /// Samples.
        samples: u64,
    },
    /// A pod without a histogram of the duration of its requests.
    #[error(
        "the pod exposes no known histogram of request durations (many expose none before their first request); set `metrics.endpoint.duration` in the ScalingPolicy"
    )]
    NoRequests,
    /// A query that the server refused.
    #[error("query refused with HTTP status {status}: {message}")]
    Query {
        /// The status.
        status: u16,
        /// The server's message.
        message: String,
    },
    /// An answer that is not a result of the query.
    #[error("answer is not that of a Prometheus server to a range selector: {0}")]
    NotPrometheus(String),
    /// Missing or wrong credentials.
    #[error("HTTP status {0}: the server requires another token; set `token_file` to a file with one that it accepts")]
    TokenRefused(u16),
    /// A token that cannot be read.
    #[error("token_file = {path}: {error}")]
    Token {
        /// Path of the file.
        path: String,
        /// The cause.
        error: String,
    },
    /// The previous reading is still under way.
    #[error("previous reading still under way")]
    Busy,
    /// The clock was set during the reading, so its times are wrong.
    #[error("the clock was set during the reading")]
    ClockSet,
}

impl From<ExchangeError> for SourceError {
    fn from(error: ExchangeError) -> Self {
        match error {
            ExchangeError::Connection(cause) => Self::Connection(cause),
            ExchangeError::TooLarge(_) => Self::TooLarge,
        }
    }
}

/// A source.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there are a few, each on a task of its own")]
pub enum Source {
    /// An endpoint that exposes metrics in Prometheus's text format or in OpenMetrics.
    Exposition(Exposition),
    /// A Kubernetes cluster.
    #[cfg(feature = "kubernetes")]
    Kubernetes(Box<kubernetes::Cluster>),
    /// A Prometheus server that measures requests.
    Prometheus(Box<Prometheus>),
}

impl Source {
    /// Opens the source that `config` describes. Connects when it is read.
    ///
    /// # Errors
    /// If an address is malformed.
    pub fn open(config: &SourceConfig) -> anyhow::Result<Self> {
        match config {
            SourceConfig::Exposition(config) => Exposition::new(config).map(Self::Exposition),
            SourceConfig::Prometheus(config) => Prometheus::new(config).map(|source| Self::Prometheus(Box::new(source))),
            #[cfg(feature = "kubernetes")]
            SourceConfig::Kubernetes(config) => Ok(Self::Kubernetes(Box::new(kubernetes::Cluster::new(config)))),
            #[cfg(not(feature = "kubernetes"))]
            SourceConfig::Kubernetes(_) => {
                anyhow::bail!("kind = kubernetes is not part of this program; build it with `--features qscale-collector/kubernetes`")
            }
        }
    }

    /// Reads the source once: Scrapes of replicas and functions, each with the time at which it was taken, at least of the `observed` workloads.
    ///
    /// # Errors
    /// If no complete answer comes within the source's limits of time and size.
    pub async fn read(&mut self, observed: &ObservedWorkloads) -> Result<Reading, SourceError> {
        match self {
            Self::Exposition(source) => source.read().await,
            Self::Prometheus(source) => source.read(observed).await,
            #[cfg(feature = "kubernetes")]
            Self::Kubernetes(source) => source.read(observed).await,
        }
    }
}
