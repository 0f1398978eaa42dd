//! Histories from a Prometheus server, by its HTTP API. Owns requests, their division into bounded parts, and the reading of replies; the queries are those of [`crate::queries`].

mod answer;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use http::StatusCode;
use qscale_common::name::{FunctionId, Name};
use qscale_common::runtime::http::{ExchangeError, HttpClient};
use qscale_common::runtime::prometheus::{PrometheusApi, ReplyError, shown};
use qscale_common::time::{Span, Timestamp};
use strum::VariantArray as _;
use thiserror::Error;

use self::answer::{RangeSeries, series};
use crate::history::{HistoryMetric, WorkloadHistory};
use crate::queries::{PRESETS, QueryParameters, QuerySet};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time for a reply; the server's own limit is two minutes by default.
const REPLY_TIMEOUT: Duration = Duration::from_secs(150);
/// Largest reply, bytes.
const MAX_REPLY: usize = 64 << 20;
/// Steps of one request; a server refuses more than 11,000.
const MAX_STEPS: u64 = 2_000;
/// Fewest steps of a request before a reply that is too large is an error.
const MIN_STEPS: u64 = 10;

/// A Prometheus server.
#[derive(Debug, Clone)]
pub struct PrometheusServer {
    http: HttpClient,
    api: PrometheusApi,
    token: Option<String>,
}

/// Why a query has no result.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QueryError {
    /// No complete reply.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// No reply in time.
    #[error("no reply within {}", Span(*.0))]
    Timeout(Duration),
    /// The server refused the query.
    #[error("status {status}: {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The server's message.
        message: String,
    },
    /// The reply is not one of a Prometheus server.
    #[error("the reply is not that of a Prometheus server: {0}")]
    Reply(String),
}

/// Period and grid of histories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryGrid {
    /// Begin of the first step.
    pub begin: Timestamp,
    /// Length of a step, whole seconds.
    pub step: Duration,
    /// Number of steps.
    pub steps: usize,
}

/// A metric that some workloads lack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingMetric {
    /// The metric.
    pub metric: HistoryMetric,
    /// The query that had no result; `None` if the preset has none, or the source is not a server.
    pub query: Option<String>,
    /// Workloads without it; empty for all.
    pub workloads: Vec<FunctionId>,
}

/// Histories with the faults of their source.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CollectedHistories {
    /// The histories, by workload.
    pub histories: Vec<WorkloadHistory>,
    /// Metrics without measurements.
    pub missing: Vec<MissingMetric>,
    /// Other faults, in sentences.
    pub remarks: Vec<String>,
}

impl PrometheusServer {
    /// The server at `url`, `http://host:port` or `https://host:port` with an optional path. `token` is sent as bearer token.
    ///
    /// # Errors
    /// Another scheme, or no host.
    pub fn new(url: &str, token: Option<String>) -> anyhow::Result<Self> {
        Ok(Self { http: HttpClient::new(CONNECT_TIMEOUT), api: PrometheusApi::new(url)?, token })
    }

    /// The name of the first preset whose arrivals the server has at `at`; `None` if it has none of them.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn find_preset(&self, parameters: &QueryParameters<'_>, grid: &HistoryGrid) -> Result<Option<&'static str>, QueryError> {
        for preset in PRESETS {
            let set = QuerySet::preset(preset.name).map_err(|error| QueryError::Reply(format!("{error:#}")))?;
            let Some(query) = set.query(HistoryMetric::ArrivalsRps, parameters) else { continue };
            // A few points over the whole period find a source that is not measured at every time.
            let points = 20.min(grid.steps.max(1) as u32);
            let step = grid.step * (grid.steps as u32 / points).max(1);
            let found = self.range(&query, grid.begin.plus(step), step, u64::from(points)).await?;
            if found.iter().any(|series| series.points.iter().any(|(_, value)| *value > 0.0)) {
                return Ok(Some(preset.name));
            }
        }
        Ok(None)
    }

    /// Reads the histories of all workloads; `progress` is called with each metric.
    ///
    /// # Errors
    /// When the server does not answer, refuses a query, or has no arrivals.
    pub async fn histories(
        &self,
        queries: &QuerySet,
        parameters: &QueryParameters<'_>,
        grid: &HistoryGrid,
        mut progress: impl FnMut(HistoryMetric),
    ) -> anyhow::Result<CollectedHistories> {
        let mut workloads: BTreeMap<FunctionId, WorkloadHistory> = BTreeMap::new();
        let mut found = CollectedHistories::default();
        let mut asked = BTreeMap::new();
        for metric in HistoryMetric::VARIANTS.iter().copied() {
            let Some(query) = queries.query(metric, parameters) else { continue };
            progress(metric);
            let read = self.metric(&query, grid, metric, &mut workloads, &mut found.remarks).await;
            read.with_context(|| format!("{metric}: failed to query {self}: {query}"))?;
            ensure!(
                metric != HistoryMetric::ArrivalsRps || !workloads.is_empty(),
                "{metric} is missing, so that {}: no result of {query}; pass another --preset, or queries of your own with --queries; a step shorter than \
                 two scrape intervals has no rate, so that a longer --step may help",
                metric.consequence()
            );
            asked.insert(metric, query);
        }
        found.histories = workloads.into_values().collect();
        found.missing = missing(&found.histories, &asked);
        Ok(found)
    }

    /// Reads one metric into the workloads; arrivals determine which workloads there are.
    async fn metric(
        &self,
        query: &str,
        grid: &HistoryGrid,
        metric: HistoryMetric,
        workloads: &mut BTreeMap<FunctionId, WorkloadHistory>,
        remarks: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        let (mut next, mut most) = (0, MAX_STEPS);
        while next < grid.steps as u64 {
            let steps = most.min(grid.steps as u64 - next);
            // A rate at an instant covers the step before it.
            let first = grid.begin.plus(grid.step * (next as u32 + 1));
            match self.range(query, first, grid.step, steps).await {
                Ok(found) => {
                    for one in found {
                        place(one, grid, metric, workloads, remarks)?;
                    }
                    next += steps;
                }
                Err(error) if steps > MIN_STEPS && is_too_large(&error) => most = (steps / 2).max(MIN_STEPS),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The result of `query` at `steps` instants from `first` on.
    async fn range(&self, query: &str, first: Timestamp, step: Duration, steps: u64) -> Result<Vec<RangeSeries>, QueryError> {
        let seconds = |at: Timestamp| format!("{}.{:03}", at.0 / 1000, at.0 % 1000);
        let last = Timestamp(first.0 + step.as_millis() as u64 * steps.saturating_sub(1));
        let form = [("query", query), ("start", &seconds(first)), ("end", &seconds(last)), ("step", &step.as_secs_f64().to_string())];
        let request = self.api.request("query_range", &form, self.token.as_deref());
        let request = request.map_err(|error| QueryError::Reply(error.to_string()))?;
        let exchange = tokio::time::timeout(REPLY_TIMEOUT, self.http.exchange(request, MAX_REPLY));
        let reply = exchange.await.map_err(|_| QueryError::Timeout(REPLY_TIMEOUT))??;
        series(reply.status(), reply.body()).map_err(|error| match error {
            ReplyError::Refused(message) => QueryError::Refused { status: reply.status().as_u16(), message },
            // A proxy or another server answers in its own words.
            ReplyError::Foreign(_) if reply.status() != StatusCode::OK => {
                QueryError::Refused { status: reply.status().as_u16(), message: shown(&String::from_utf8_lossy(reply.body())) }
            }
            ReplyError::Foreign(reason) => QueryError::Reply(reason),
        })
    }
}

impl fmt::Display for PrometheusServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.api.fmt(f)
    }
}

/// Whether fewer steps may have a result.
fn is_too_large(error: &QueryError) -> bool {
    match error {
        QueryError::Exchange(ExchangeError::TooLarge(_)) | QueryError::Timeout(_) => true,
        // "exceeded maximum resolution", "query processing would load too many samples", and timeouts of the query.
        QueryError::Refused { status, message } => {
            [400, 413, 422, 503].contains(status)
                && ["exceeded", "too many", "timed out", "too large"].iter().any(|part| message.contains(part))
        }
        QueryError::Exchange(ExchangeError::Connection(_)) | QueryError::Reply(_) => false,
    }
}

/// Writes a series into its workload.
fn place(
    series: RangeSeries,
    grid: &HistoryGrid,
    metric: HistoryMetric,
    workloads: &mut BTreeMap<FunctionId, WorkloadHistory>,
    remarks: &mut Vec<String>,
) -> anyhow::Result<()> {
    let name = series.labels.get("workload").filter(|name| !name.is_empty());
    let Some(name) = name else {
        note(remarks, format!("{metric}: results without the label `workload` are left out"));
        return Ok(());
    };
    let namespace = series.labels.get("namespace").filter(|name| !name.is_empty()).map_or(FunctionId::DEFAULT_NAMESPACE, String::as_str);
    let (Ok(namespace), Ok(label)) = (Name::new(namespace), Name::new(name.as_str())) else {
        note(remarks, format!("{metric}: {}/{} is left out: it is not a name of Kubernetes", shown(namespace), shown(name)));
        return Ok(());
    };
    let workload = FunctionId::new(namespace, label);
    if metric == HistoryMetric::ArrivalsRps && !workloads.contains_key(&workload) {
        let most = WorkloadHistory::MAX_ALL_STEPS / grid.steps.max(1);
        ensure!(
            workloads.len() < most.max(1),
            "there are more than {most} workloads with {} steps each; restrict them with --namespace, or pass a longer --step",
            grid.steps
        );
        workloads.insert(workload.clone(), WorkloadHistory::empty(workload.clone(), grid.begin, grid.step, grid.steps));
    }
    let Some(history) = workloads.get_mut(&workload) else { return Ok(()) };
    let step = grid.step.as_millis() as f64;
    for (seconds, value) in series.points {
        let number = ((seconds * 1000.0 - grid.begin.0 as f64) / step).round() - 1.0;
        if number >= 0.0
            && let Some(step) = history.steps.get_mut(number as usize)
        {
            step.set(metric, value);
        }
    }
    Ok(())
}

/// Adds a remark once; a server with many results of one fault is named once for each of the first ten.
fn note(remarks: &mut Vec<String>, remark: String) {
    if remarks.len() < 10 && !remarks.contains(&remark) {
        remarks.push(remark);
    }
}

/// Metrics that some or all of `histories` lack, with the queries that were `asked`.
#[must_use]
pub fn missing(histories: &[WorkloadHistory], asked: &BTreeMap<HistoryMetric, String>) -> Vec<MissingMetric> {
    let mut found = Vec::new();
    for metric in HistoryMetric::VARIANTS.iter().copied() {
        let without: Vec<FunctionId> =
            histories.iter().filter(|history| history.values(metric).next().is_none()).map(|history| history.workload.clone()).collect();
        if without.is_empty() {
            continue;
        }
        let workloads = if without.len() == histories.len() { Vec::new() } else { without };
        found.push(MissingMetric { metric, query: asked.get(&metric).cloned(), workloads });
    }
    found
}

#[cfg(test)]
mod tests;
