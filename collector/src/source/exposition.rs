//! A Prometheus text exposition, read over HTTP/1.1 on a connection that is kept. Owns the request, its limits and its configuration.
//!
//! [`syntax`] reads lines, [`metrics`] is the table of the metrics that are read, [`reader`] sorts samples by replica and function, [`rows`]
//! cleans them into Scrapes.

mod histogram;
mod metrics;
mod reader;
mod rows;
mod status;
pub mod syntax;

pub use metrics::{LabelNames, MetricNames};
pub use reader::Reader;

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use qscale_common::runtime::clock;
use qscale_common::time::Span;
use serde::{Deserialize, Serialize};

use super::{SourceError, ensure_range};
use crate::reading::Reading;

/// Configuration of an endpoint that exposes metrics in Prometheus's text format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExpositionConfig {
    /// Address: http, with host and path.
    pub url: String,
    /// Timeout of one reading, 1 ms to 1 min.
    pub timeout: Span,
    /// Largest body that is read, MiB, 1 to 1024.
    pub max_body_mib: u32,
    /// Containers of a replica that count; none: all except the one that only holds the pod's network.
    pub containers: Vec<String>,
    /// Value of the replica label of requests that ended before they reached a replica.
    pub gateway: String,
    /// Names of the labels.
    pub labels: LabelNames,
    /// Names of the metrics.
    pub metrics: MetricNames,
}

impl Default for ExpositionConfig {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:8701/metrics".into(),
            timeout: Span::seconds(2),
            max_body_mib: 50,
            containers: Vec::new(),
            gateway: "gateway".into(),
            labels: LabelNames::default(),
            metrics: MetricNames::default(),
        }
    }
}

impl ExpositionConfig {
    /// The address.
    ///
    /// # Errors
    /// If it is not an http URL.
    pub fn uri(&self) -> anyhow::Result<Uri> {
        let uri: Uri = self.url.parse().with_context(|| format!("url = `{}`", self.url))?;
        let http = uri.scheme_str() == Some("http") && uri.host().is_some_and(|host| !host.is_empty());
        anyhow::ensure!(http, "url = `{}`, must be like http://127.0.0.1:8701/metrics", self.url);
        Ok(uri)
    }

    pub(super) fn check(&self) -> anyhow::Result<()> {
        self.uri()?;
        ensure_range("timeout", self.timeout, Span::millis(1)..=Span::seconds(60))?;
        anyhow::ensure!((1..=1024).contains(&self.max_body_mib), "max_body_mib = {}, must be 1 to 1024", self.max_body_mib);
        Ok(())
    }
}

/// A source that reads a text exposition.
#[derive(Debug)]
pub struct Exposition {
    client: Client<HttpConnector, Empty<Bytes>>,
    uri: Uri,
    timeout: Duration,
    max_body: usize,
    reader: Reader,
}

impl Exposition {
    pub(super) fn new(config: &ExpositionConfig) -> anyhow::Result<Self> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(config.timeout.0));
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            uri: config.uri()?,
            timeout: config.timeout.0,
            max_body: (config.max_body_mib as usize) << 20,
            reader: Reader::new(config),
        })
    }

    pub(super) async fn read(&self) -> Result<Reading, SourceError> {
        let requested_at = clock::now();
        let body = tokio::time::timeout(self.timeout, self.fetch()).await.map_err(|_| SourceError::Timeout)??;
        Ok(self.reader.read(&body, requested_at))
    }

    async fn fetch(&self) -> Result<Bytes, SourceError> {
        let request = Request::get(self.uri.clone())
            .header(header::ACCEPT, "text/plain;version=0.0.4")
            .header(header::USER_AGENT, concat!("qscale-collector/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
            .map_err(|_| SourceError::Connection)?;
        let response = self.client.request(request).await.map_err(|_| SourceError::Connection)?;
        if response.status() != StatusCode::OK {
            return Err(SourceError::Status);
        }
        let body = Limited::new(response.into_body(), self.max_body).collect().await;
        body.map(|body| body.to_bytes())
            .map_err(|error| if error.is::<LengthLimitError>() { SourceError::TooLarge } else { SourceError::Connection })
    }
}
