//! A text exposition, read over HTTP/1.1 on a connection that is kept. Owns the request, its limits and its configuration.
//!
//! [`syntax`] reads lines, [`crate::metric`] is the table of the metrics that are read, [`reader`] sorts samples
//! by replica and function.

mod labels;
mod reader;
mod status;
pub mod syntax;

pub use crate::metric::MetricNames;
pub use labels::LabelNames;
pub use reader::ExpositionReader;
#[cfg(feature = "kubernetes")]
pub(super) use reader::RequestMetrics;
pub(super) use status::is_failure;

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use qscale_common::range::{check_number, check_span};
use qscale_common::runtime::clock;
use qscale_common::runtime::http::HttpClient;
use qscale_common::time::Span;
use serde::{Deserialize, Serialize};

use super::SourceError;
use crate::reading::Reading;
use syntax::{ExpositionFormat, ExpositionText};

/// Preferred format of an answer. Some servers refuse requests that accept nothing else.
pub(super) const ACCEPTED: &str = "text/plain;version=0.0.4,*/*;q=0.1";

/// Configuration of an endpoint that exposes metrics in Prometheus's text format or in OpenMetrics.
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
    /// If it is not an http or https URL.
    pub fn uri(&self) -> anyhow::Result<Uri> {
        let uri: Uri = self.url.parse().with_context(|| format!("url = `{}`", self.url))?;
        let http = matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty());
        anyhow::ensure!(http, "url = `{}`, must be like http://127.0.0.1:8701/metrics", self.url);
        Ok(uri)
    }

    pub(super) fn check(&self) -> anyhow::Result<()> {
        self.uri()?;
        check_span("timeout", self.timeout, Span::millis(1), Span::seconds(60))?;
        check_number("max_body_mib", self.max_body_mib, 1, 1024)?;
        Ok(())
    }
}

/// A source that reads a text exposition.
#[derive(Debug)]
pub struct Exposition {
    client: HttpClient,
    uri: Uri,
    timeout: Duration,
    max_body: usize,
    reader: ExpositionReader,
}

impl Exposition {
    pub(super) fn new(config: &ExpositionConfig) -> anyhow::Result<Self> {
        Ok(Self {
            client: HttpClient::new(config.timeout.0),
            uri: config.uri()?,
            timeout: config.timeout.0,
            max_body: (config.max_body_mib as usize) << 20,
            reader: ExpositionReader::new(config),
        })
    }

    pub(super) async fn read(&self) -> Result<Reading, SourceError> {
        let requested_at = clock::now();
        let fetched = fetch(&self.client, self.uri.clone(), self.max_body);
        let response = tokio::time::timeout(self.timeout, fetched).await.map_err(|_| SourceError::Timeout)??;
        Ok(self.reader.read(text(&response)?, requested_at))
    }
}

/// Sends a request and reads the whole answer, up to `max_body` bytes. Has no timeout of its own.
pub(super) async fn fetch(client: &HttpClient, uri: Uri, max_body: usize) -> Result<Response<Bytes>, SourceError> {
    let request = Request::get(uri)
        .header(header::ACCEPT, ACCEPTED)
        .header(header::USER_AGENT, concat!("qscale-collector/", env!("CARGO_PKG_VERSION")))
        .body(Full::default())
        .map_err(|error| SourceError::Connection(error.to_string()))?;
    let response = client.exchange(request, max_body).await?;
    check(response.status(), response.headers())?;
    Ok(response)
}

/// The complete text of an answer.
pub(super) fn text(response: &Response<Bytes>) -> Result<ExpositionText<'_>, SourceError> {
    let header = |name: HeaderName| response.headers().get(name);
    // A body of unknown length ends where the connection does, which may be too early.
    let complete = header(header::CONTENT_LENGTH).is_some() || header(header::TRANSFER_ENCODING).is_some();
    let format = ExpositionFormat::of(header(header::CONTENT_TYPE).map_or(b"", HeaderValue::as_bytes));
    let text = ExpositionText { body: response.body(), format, complete };
    if text.is_truncated() { Err(SourceError::Truncated) } else { Ok(text) }
}

/// Checks that an answer with this status and these headers is a text that can be read.
pub(super) fn check(status: StatusCode, headers: &HeaderMap) -> Result<(), SourceError> {
    let text = |name: HeaderName| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_owned());
    match status {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(SourceError::Unauthorized(status.as_u16())),
        _ => {
            return Err(match text(header::LOCATION).filter(|_| status.is_redirection()) {
                Some(location) => SourceError::Redirected { status: status.as_u16(), location },
                None => SourceError::Status(status.as_u16()),
            });
        }
    }
    if let Some(coding) = text(header::CONTENT_ENCODING).filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity")) {
        return Err(SourceError::Encoded(coding));
    }
    match text(header::CONTENT_TYPE).filter(|media_type| media_type.to_ascii_lowercase().contains("protobuf")) {
        Some(media_type) => Err(SourceError::Binary(media_type)),
        None => Ok(()),
    }
}
