//! Client of a platform's HTTP API; the server is in [`api`]. Owns paths, timeouts and
//! errors; must not decide or retry.

pub mod api;
pub mod events;
pub mod operations;

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::load::LoadSummary;
use crate::name::FunctionId;
use crate::platform::{AllocationReply, AllocationRequest, ApiError, EventPage, FunctionSpec, FunctionStatus, LogLine};

/// Timeout of a request. Setting an allocation may take seconds while the kernel reclaims memory.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout for deleting a function, whose replicas finish their requests first.
const DELETE_TIMEOUT: Duration = Duration::from_secs(3_600);
/// Maximum size of a reply, bytes: the status of 100,000 replicas.
const REPLY_BYTES: usize = 64 << 20;

/// A client of one platform. Cheap to clone; connections are pooled.
#[derive(Debug, Clone)]
pub struct PlatformClient {
    authority: Authority,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// Error of a platform request.
#[derive(Debug, Error)]
pub enum PlatformError {
    /// The address of the platform is invalid.
    #[error("platform = `{0}`, must be host and port, such as 127.0.0.1:8701")]
    Address(String),
    /// No reply, or not in time: unknown whether the request was carried out.
    #[error("the platform at {address} does not answer: {reason}")]
    Unreachable {
        /// Address.
        address: String,
        /// Cause.
        reason: String,
    },
    /// The function does not exist.
    #[error("{}", .0.error)]
    NotFound(ApiError),
    /// The lease of the request is older than one that the platform has seen.
    #[error("{}", .0.error)]
    StaleLease(ApiError),
    /// The platform refused the request.
    #[error("{}", .error.error)]
    Refused {
        /// HTTP status.
        status: u16,
        /// Error of the platform.
        error: ApiError,
    },
    /// The reply is malformed.
    #[error("the platform at {address} answered what is not understood: {reason}")]
    Unexpected {
        /// Address.
        address: String,
        /// Description of the error.
        reason: String,
    },
}

impl PlatformClient {
    /// A client of the platform at `address`, host and port, with or without `http://`. Does not connect yet.
    ///
    /// # Errors
    /// If `address` is not a host and port.
    pub fn new(address: &str) -> Result<Self, PlatformError> {
        let authority = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
        let authority: Authority = authority.parse().map_err(|_| PlatformError::Address(address.to_owned()))?;
        if authority.port_u16().is_none() {
            return Err(PlatformError::Address(address.to_owned()));
        }
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(TIMEOUT));
        Ok(Self { authority, client: Client::builder(TokioExecutor::new()).build(connector) })
    }

    /// Address of the platform's API, host and port.
    #[must_use]
    pub fn address(&self) -> &str {
        self.authority.as_str()
    }

    /// Whether the platform is ready.
    pub async fn is_ready(&self) -> bool {
        self.ask::<()>(Method::GET, "/readyz", None, TIMEOUT).await.is_ok()
    }

    /// All functions, by namespace and name.
    ///
    /// # Errors
    /// If the platform cannot be reached.
    pub async fn list(&self) -> Result<Vec<FunctionStatus>, PlatformError> {
        self.get_json("/v1/functions").await
    }

    /// One function.
    ///
    /// # Errors
    /// [`PlatformError::NotFound`] if there is none.
    pub async fn get(&self, id: &FunctionId) -> Result<FunctionStatus, PlatformError> {
        self.get_json(&path(id, "")).await
    }

    /// Adds a function, or replaces the file of an existing one.
    ///
    /// # Errors
    /// [`PlatformError::Refused`] names the field, its value and its range.
    pub async fn add(&self, spec: &FunctionSpec) -> Result<FunctionStatus, PlatformError> {
        self.parse(&self.ask(Method::POST, "/v1/functions", Some(spec), TIMEOUT).await?)
    }

    /// Deletes a function; returns when its replicas are gone.
    ///
    /// # Errors
    /// [`PlatformError::NotFound`] if there is none.
    pub async fn delete(&self, id: &FunctionId) -> Result<(), PlatformError> {
        self.ask::<()>(Method::DELETE, &path(id, ""), None, DELETE_TIMEOUT).await.map(drop)
    }

    /// Sets the desired allocation of a function.
    ///
    /// # Errors
    /// [`PlatformError::StaleLease`] if another writer has a newer lease, [`PlatformError::Refused`] if a value is outside its range.
    pub async fn set_allocation(&self, id: &FunctionId, request: &AllocationRequest) -> Result<AllocationReply, PlatformError> {
        self.parse(&self.ask(Method::PUT, &path(id, "/allocation"), Some(request), TIMEOUT).await?)
    }

    /// The events after number `after`, at most 1,000; pass the last number of [`EventPage::events`] to the next request.
    ///
    /// # Errors
    /// If the platform cannot be reached.
    pub async fn events(&self, after: u64) -> Result<EventPage, PlatformError> {
        self.get_json(&format!("/v1/events?after={after}")).await
    }

    /// The last `lines` lines of output of a function's replicas.
    ///
    /// # Errors
    /// [`PlatformError::NotFound`] if there is no such function.
    pub async fn logs(&self, id: &FunctionId, lines: usize) -> Result<Vec<LogLine>, PlatformError> {
        self.get_json(&path(id, &format!("/logs?lines={lines}"))).await
    }

    /// Starts the waiting load of a simulated platform.
    ///
    /// # Errors
    /// If the platform cannot be reached, or is not simulated.
    pub async fn begin_load(&self) -> Result<(), PlatformError> {
        self.ask::<()>(Method::POST, "/v1/load", None, TIMEOUT).await.map(drop)
    }

    /// Load summary of a simulated platform.
    ///
    /// # Errors
    /// As [`PlatformClient::begin_load`].
    pub async fn load_summary(&self) -> Result<LoadSummary, PlatformError> {
        self.get_json("/v1/load").await
    }

    /// The platform's metrics in the Prometheus text format.
    ///
    /// # Errors
    /// When the platform cannot be reached, or the text is not UTF-8.
    pub async fn metrics(&self) -> Result<String, PlatformError> {
        let body = self.ask::<()>(Method::GET, "/metrics", None, TIMEOUT).await?;
        String::from_utf8(body.into()).map_err(|error| self.unexpected(error))
    }

    async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, PlatformError> {
        self.parse(&self.ask::<()>(Method::GET, path, None, TIMEOUT).await?)
    }

    fn parse<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, PlatformError> {
        serde_json::from_slice(body).map_err(|error| self.unexpected(error))
    }

    /// Sends a request and reads the whole reply; any status but success is an error.
    async fn ask<B: Serialize>(&self, method: Method, path: &str, body: Option<&B>, limit: Duration) -> Result<Bytes, PlatformError> {
        let body = body.map(serde_json::to_vec).transpose().map_err(|error| self.unexpected(error))?.unwrap_or_default();
        let path: PathAndQuery = path.parse().map_err(|error| self.unexpected(error))?;
        let mut uri = http::uri::Parts::default();
        (uri.scheme, uri.authority, uri.path_and_query) = (Some(Scheme::HTTP), Some(self.authority.clone()), Some(path));
        let uri = Uri::from_parts(uri).map_err(|error| self.unexpected(error))?;
        let request = Request::builder().method(method).uri(uri).header(CONTENT_TYPE, "application/json").body(Full::from(body));
        let request = request.map_err(|error| self.unexpected(error))?;
        let exchange = async {
            let reply = self.client.request(request).await.map_err(|error| self.unreachable(error_chain(&error)))?;
            let status = reply.status();
            let body = Limited::new(reply.into_body(), REPLY_BYTES).collect().await.map_err(|error| self.unreachable(error.to_string()))?;
            self.judge(status, body.to_bytes())
        };
        tokio::time::timeout(limit, exchange)
            .await
            .unwrap_or_else(|_| Err(self.unreachable(format!("no reply within {} s", limit.as_secs()))))
    }

    fn judge(&self, status: StatusCode, body: Bytes) -> Result<Bytes, PlatformError> {
        if status.is_success() {
            return Ok(body);
        }
        let error: ApiError = match serde_json::from_slice(&body) {
            Ok(error) => error,
            Err(_) => return Err(self.unexpected(format_args!("status {status}"))),
        };
        Err(match status {
            StatusCode::NOT_FOUND => PlatformError::NotFound(error),
            StatusCode::CONFLICT => PlatformError::StaleLease(error),
            _ => PlatformError::Refused { status: status.as_u16(), error },
        })
    }

    fn unreachable(&self, reason: String) -> PlatformError {
        PlatformError::Unreachable { address: self.authority.to_string(), reason }
    }

    fn unexpected(&self, reason: impl std::fmt::Display) -> PlatformError {
        PlatformError::Unexpected { address: self.authority.to_string(), reason: reason.to_string() }
    }
}

fn path(id: &FunctionId, rest: &str) -> String {
    format!("/v1/functions/{}/{}{rest}", id.namespace, id.name)
}

/// An error with its causes: the outermost one alone reads "client error (Connect)".
fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_host_and_port() {
        assert_eq!(PlatformClient::new("http://127.0.0.1:8701/").expect("valid").address(), "127.0.0.1:8701");
        assert!(PlatformClient::new("localhost:1").is_ok());
        for bad in ["", "127.0.0.1", "ftp://x:1/y", "a b:1"] {
            assert!(PlatformClient::new(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_platform_that_is_not_there_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        drop(listener);
        let error = PlatformClient::new(&address).expect("valid").list().await.expect_err("nobody listens");
        assert!(error.to_string().contains(&address) && error.to_string().contains("refused"), "{error}");
    }
}
