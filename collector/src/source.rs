//! An endpoint that is read over HTTP/1.1, on a connection that is kept. Owns the request and its limits; must not know what is read.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use qscale_common::runtime::clock;

use crate::config::SourceConfig;
use crate::reading::{Reader, Reading};

/// Why a source could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// No connection, or one that broke.
    Connection,
    /// No whole answer in time.
    Timeout,
    /// A status other than 200.
    Status,
    /// A body beyond the limit.
    TooLarge,
    /// The reading before this one is still under way.
    Busy,
}

impl Failure {
    /// A word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Timeout => "timeout",
            Self::Status => "status",
            Self::TooLarge => "too_large",
            Self::Busy => "busy",
        }
    }
}

/// A source.
#[derive(Debug)]
pub struct Source {
    client: Client<HttpConnector, Empty<Bytes>>,
    uri: Uri,
    timeout: Duration,
    max_body: usize,
    reader: Reader,
}

impl Source {
    /// The source that `config` describes. Connects when it is read.
    ///
    /// # Errors
    /// When the address is no http URL.
    pub fn new(config: &SourceConfig) -> anyhow::Result<Self> {
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

    /// Reads the source once.
    ///
    /// # Errors
    /// When no whole answer comes within the limits of time and size.
    pub async fn read(&self) -> Result<Reading, Failure> {
        let asked_at = clock::now();
        let body = tokio::time::timeout(self.timeout, self.fetch()).await.map_err(|_| Failure::Timeout)??;
        Ok(self.reader.read(&body, asked_at))
    }

    async fn fetch(&self) -> Result<Bytes, Failure> {
        let request = Request::get(self.uri.clone())
            .header(header::ACCEPT, "text/plain;version=0.0.4")
            .header(header::USER_AGENT, concat!("qscale-collector/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
            .map_err(|_| Failure::Connection)?;
        let response = self.client.request(request).await.map_err(|_| Failure::Connection)?;
        if response.status() != StatusCode::OK {
            return Err(Failure::Status);
        }
        let body = Limited::new(response.into_body(), self.max_body).collect().await;
        body.map(|body| body.to_bytes())
            .map_err(|error| if error.is::<LengthLimitError>() { Failure::TooLarge } else { Failure::Connection })
    }
}
