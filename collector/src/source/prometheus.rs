//! A Prometheus server that measures requests of workloads, such as those of a mesh or an ingress. Owns the query, its limits and its configuration; must
//! not aggregate: windows need counters of single series.
//!
//! The query is evaluated once for each reading (`/api/v1/query`). An instant vector has the time of its evaluation, whatever the age of its samples, so the
//! query is a range selector (`metric[90s]`), whose samples have their own times. The newest sample of each series counts.
//!
//! [`reader`] sorts series: those of a proxy beside a replica are measurements of that replica. A proxy that many replicas share counts as a replica of each
//! workload behind it that has no CPU and memory: the number and latency of its requests are those of the workload, and its counters are reset for themselves.
//! Requests that it refuses count as failed. The pods of such a workload must not be read for requests, too: each request would count twice.

mod answer;
mod reader;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use qscale_common::document::{self, Format};
use qscale_common::range::{check_number, check_span};
use qscale_common::runtime::clock;
use qscale_common::runtime::files::{MAX_DOCUMENT, read_text};
use qscale_common::runtime::http::HttpClient;
use qscale_common::runtime::prometheus::PrometheusApi;
use qscale_common::time::Span;
use serde::{Deserialize, Serialize};

pub use self::reader::PrometheusReader;
use super::{ObservedWorkloads, SourceError};
use crate::reading::Reading;

/// Bundled queries by name.
pub const PRESETS: [(&str, &str); 4] = [
    ("istio", include_str!("../../presets/istio.toml")),
    ("linkerd", include_str!("../../presets/linkerd.toml")),
    ("knative", include_str!("../../presets/knative.toml")),
    ("nginx", include_str!("../../presets/nginx.toml")),
];
/// Largest number of series of an answer.
const MAX_SERIES: usize = 200_000;
/// Largest query, bytes.
const MAX_QUERY: usize = 16_384;
/// Largest number of namespaces that a query lists; beyond it, all are read.
const MAX_NAMESPACES: usize = 200;

/// Configuration of a Prometheus server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PrometheusConfig {
    /// Address of the server: http, with host and optional path.
    pub url: String,
    /// File with the bearer token of the server; absent: none is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// Timeout of one reading, 1 ms to 1 min.
    pub timeout: Span,
    /// Largest answer, MiB, 1 to 1024.
    pub max_body_mib: u32,
    /// `$window` of the query: age up to which the newest sample of a series counts, 1 s to 1 h. At least the scrape interval of the server.
    pub window: Span,
    /// Name of a bundled query: `istio`, `linkerd`, `knative` or `nginx`.
    pub preset: String,
    /// A query of one's own, in place of the bundled one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<RequestQuery>,
}

/// A query for the histogram of the duration of requests, and the meaning of its labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestQuery {
    /// A range selector of the series `_bucket` and `_count` of a histogram. `$window` and `$namespaces`, a regular expression, are replaced.
    pub query: String,
    /// Unit of the bounds.
    #[serde(default)]
    pub unit: DurationUnit,
    /// Label with the namespace.
    pub namespace: String,
    /// Label with the workload; empty: another source knows the workload of the replica.
    #[serde(default)]
    pub function: String,
    /// Label with the pod, or with the proxy if it is shared.
    pub replica: String,
    /// Whether `replica` is a proxy in front of all replicas.
    #[serde(default)]
    pub shared: bool,
    /// Label with the HTTP status; empty: none.
    #[serde(default)]
    pub http_status: String,
    /// Label with the gRPC status; empty: none.
    #[serde(default)]
    pub grpc_status: String,
}

/// Unit of the bounds of a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DurationUnit {
    /// Seconds.
    #[default]
    Seconds,
    /// Milliseconds.
    Milliseconds,
}

impl Default for PrometheusConfig {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:9090".into(),
            token_file: None,
            timeout: Span::seconds(2),
            max_body_mib: 50,
            window: Span::seconds(90),
            preset: "istio".into(),
            requests: None,
        }
    }
}

impl PrometheusConfig {
    /// The query that is used.
    ///
    /// # Errors
    /// An unknown preset.
    pub fn query(&self) -> anyhow::Result<RequestQuery> {
        if let Some(query) = &self.requests {
            return Ok(query.clone());
        }
        let preset = PRESETS.iter().find(|(name, _)| *name == self.preset);
        let (name, text) =
            preset.with_context(|| format!("preset = `{}`, must be one of {}", self.preset, PRESETS.map(|(name, _)| name).join(", ")))?;
        document::parse(text, Format::Toml).with_context(|| format!("preset {name}"))
    }

    fn api(&self) -> anyhow::Result<PrometheusApi> {
        PrometheusApi::new(&self.url).context("url")
    }

    pub(super) fn check(&self) -> anyhow::Result<()> {
        self.api()?;
        check_span("timeout", self.timeout, Span::millis(1), Span::seconds(60))?;
        check_span("window", self.window, Span::seconds(1), Span::seconds(3600))?;
        check_number("max_body_mib", self.max_body_mib, 1, 1024)?;
        self.query()?.check()
    }
}

impl RequestQuery {
    fn check(&self) -> anyhow::Result<()> {
        let bytes = self.query.len();
        ensure!((1..=MAX_QUERY).contains(&bytes), "requests.query has {bytes} bytes, must have 1 to {MAX_QUERY}");
        ensure!(
            self.query.trim_end().ends_with(']'),
            "requests.query = `{}`, must be a range selector such as metric[$window]: only its samples have times of their own",
            self.query
        );
        for (key, label) in [("namespace", &self.namespace), ("replica", &self.replica)] {
            ensure!(!label.is_empty(), "requests.{key} is empty, must name a label");
        }
        ensure!(!self.shared || !self.function.is_empty(), "requests.function is empty, must name a label where the proxy is shared");
        Ok(())
    }

    /// The query for the namespaces of `observed` workloads.
    fn text(&self, window: Span, observed: &ObservedWorkloads) -> String {
        let mut namespaces: Vec<_> = observed.keys().filter_map(|workload| Some(workload.split_once('/')?.0)).collect();
        namespaces.sort_unstable();
        namespaces.dedup();
        // Names are DNS labels, which have no characters of regular expressions.
        let namespaces = if namespaces.len() > MAX_NAMESPACES { ".+".to_owned() } else { namespaces.join("|") };
        self.query.replace("$window", &format!("{}s", window.0.as_secs().max(1))).replace("$namespaces", &namespaces)
    }
}

/// A source that queries a Prometheus server.
#[derive(Debug)]
pub struct Prometheus {
    client: HttpClient,
    api: PrometheusApi,
    config: PrometheusConfig,
    query: RequestQuery,
    reader: PrometheusReader,
}

impl Prometheus {
    pub(super) fn new(config: &PrometheusConfig) -> anyhow::Result<Self> {
        let query = config.query()?;
        Ok(Self {
            client: HttpClient::new(config.timeout.0),
            api: config.api()?,
            config: config.clone(),
            reader: PrometheusReader::new(query.clone()),
            query,
        })
    }

    pub(super) async fn read(&self, observed: &ObservedWorkloads) -> Result<Reading, SourceError> {
        let requested_at = clock::now();
        let request = self.request(observed)?;
        let exchange = self.client.exchange(request, (self.config.max_body_mib as usize) << 20);
        let reply = tokio::time::timeout(self.config.timeout.0, exchange).await.map_err(|_| SourceError::Timeout)??;
        match reply.status() {
            StatusCode::OK => self.reader.read(reply.body(), requested_at),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Err(SourceError::TokenRefused(status.as_u16())),
            status => Err(match answer::message(status, reply.body()) {
                Some(message) => SourceError::Query { status: status.as_u16(), message },
                None => SourceError::Status(status.as_u16()),
            }),
        }
    }

    fn request(&self, observed: &ObservedWorkloads) -> Result<Request<Full<Bytes>>, SourceError> {
        let PrometheusConfig { window, timeout, .. } = self.config;
        let (query, timeout, limit) =
            (self.query.text(window, observed), format!("{}ms", timeout.0.as_millis()), (MAX_SERIES + 1).to_string());
        let form = [("query", query.as_str()), ("timeout", timeout.as_str()), ("limit", limit.as_str())];
        let token = match &self.config.token_file {
            Some(path) => {
                // Read each time: a token may be replaced while the collector runs.
                let read = read_text(path, MAX_DOCUMENT);
                let failed = |error: anyhow::Error| SourceError::Token { path: path.display().to_string(), error: format!("{error:#}") };
                Some(read.map_err(failed)?.trim().to_owned())
            }
            None => None,
        };
        let request = self.api.request("query", &form, token.as_deref());
        // Nothing else in it can be wrong.
        request.map_err(|error| {
            let path = self.config.token_file.as_deref().unwrap_or(Path::new("")).display().to_string();
            SourceError::Token { path, error: error.to_string() }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_valid_and_no_placeholder_is_left() {
        for (name, _) in PRESETS {
            let config = PrometheusConfig { preset: name.to_owned(), ..PrometheusConfig::default() };
            config.check().expect(name);
            let observed =
                ["shop/a", "shop/b", "bank/a"].map(|workload| (workload.to_owned(), qscale_common::policy::MetricsSource::default()));
            let text = config.query().expect(name).text(config.window, &observed.into());
            assert!(text.contains("=~\"bank|shop\"") && text.ends_with("[90s]") && !text.contains('$'), "{text}");
        }
    }

    #[test]
    fn a_wrong_configuration_is_named_with_its_remedy() {
        let refused = |change: fn(&mut PrometheusConfig)| {
            let mut config = PrometheusConfig::default();
            change(&mut config);
            format!("{:#}", config.check().expect_err("refused"))
        };
        assert_eq!(refused(|config| config.preset = "traefik".into()), "preset = `traefik`, must be one of istio, linkerd, knative, nginx");
        assert!(refused(|config| config.url = "ftp://x".into()).contains("must be like http://"));
        assert!(refused(|config| config.window = Span::millis(1)).contains("window = 1ms"));
        let own = |change: fn(&mut RequestQuery)| {
            let mut query = PrometheusConfig::default().query().expect("bundled");
            change(&mut query);
            let config = PrometheusConfig { requests: Some(query), ..PrometheusConfig::default() };
            format!("{:#}", config.check().expect_err("refused"))
        };
        assert!(own(|query| query.query = "rate(x[1m])".into()).contains("must be a range selector"));
        assert!(own(|query| query.replica = String::new()).contains("requests.replica is empty"));
        assert!(own(|query| (query.shared, query.function) = (true, String::new())).contains("requests.function is empty"));
    }
}
