//! Client of a platform's HTTP API; the server is in [`api`]. Owns paths, timeouts and
//! errors; must not decide or retry.

pub mod api;
pub mod events;
pub mod operations;
pub mod token;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::files::{MAX_DOCUMENT, read_text};
use super::http::HttpClient;
use crate::load::LoadSummary;
use crate::name::FunctionId;
use crate::platform::{
    AllocationReply, AllocationRequest, ApiError, EventPage, FunctionSpec, FunctionStatus, LeaseReset, LeaseResetReply, LogLine,
    PlatformStatus,
};
use crate::policy::Bounds;

/// Default timeout of a request. Setting an allocation may take seconds while the kernel reclaims memory.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout for deleting a function, whose replicas finish their requests first.
const DELETE_TIMEOUT: Duration = Duration::from_secs(3_600);
/// Maximum size of a reply, bytes: the status of 100,000 replicas.
const REPLY_BYTES: usize = 64 << 20;

/// A client of one platform. Cheap to clone; connections are pooled.
#[derive(Debug, Clone)]
pub struct PlatformClient {
    authority: Authority,
    timeout: Duration,
    client: HttpClient,
    token_file: Option<PathBuf>,
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
    /// The token of the API cannot be read.
    #[error("failed to read the token of the platform's API: {}: {reason}; is it running, and does it belong to this user?", .path.display())]
    Token {
        /// File that holds the token.
        path: PathBuf,
        /// Cause.
        reason: String,
    },
    /// The platform does not accept the token of the request, or there was none.
    #[error("the platform refused access: {}", .0.error)]
    Unauthorized(ApiError),
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
    #[error("unexpected reply from the platform at {address}: {reason}")]
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
        Self::with_timeout(address, TIMEOUT)
    }

    /// As [`PlatformClient::new`], with a `timeout` of each request other than 10 s. Deleting a function may take an hour regardless.
    ///
    /// # Errors
    /// As [`PlatformClient::new`].
    pub fn with_timeout(address: &str, timeout: Duration) -> Result<Self, PlatformError> {
        let authority = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
        let authority: Authority = authority.parse().map_err(|_| PlatformError::Address(address.to_owned()))?;
        if authority.port_u16().is_none() {
            return Err(PlatformError::Address(address.to_owned()));
        }
        Ok(Self { authority, timeout, client: HttpClient::new(timeout), token_file: None })
    }

    /// Presents the token in `file`, which is read for each request, because a platform issues a new one at each start.
    /// Without this the file is the one that a platform of the same user and machine has noted.
    #[must_use]
    pub fn with_token_file(self, file: PathBuf) -> Self {
        Self { token_file: Some(file), ..self }
    }

    /// Address of the platform's API, host and port.
    #[must_use]
    pub fn address(&self) -> &str {
        self.authority.as_str()
    }

    /// Whether the platform is ready.
    pub async fn is_ready(&self) -> bool {
        self.ask::<()>(Method::GET, "/readyz", None, self.timeout).await.is_ok()
    }

    /// Allocations that the platform can apply to a function.
    ///
    /// # Errors
    /// [`PlatformError::NotFound`] if the platform does not report them; another one if it cannot be reached.
    pub async fn bounds(&self) -> Result<Bounds, PlatformError> {
        self.get_json("/v1/bounds").await
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
        self.parse(&self.ask(Method::POST, "/v1/functions", Some(spec), self.timeout).await?)
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
        self.parse(&self.ask(Method::PUT, &path(id, "/allocation"), Some(request), self.timeout).await?)
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
        self.ask::<()>(Method::POST, "/v1/load", None, self.timeout).await.map(drop)
    }

    /// Load summary of a simulated platform.
    ///
    /// # Errors
    /// As [`PlatformClient::begin_load`].
    pub async fn load_summary(&self) -> Result<LoadSummary, PlatformError> {
        self.get_json("/v1/load").await
    }

    /// State of the platform as a whole.
    ///
    /// # Errors
    /// If the platform cannot be reached.
    pub async fn status(&self) -> Result<PlatformStatus, PlatformError> {
        self.get_json("/v1/platform").await
    }

    /// Replaces the highest fencing token.
    ///
    /// # Errors
    /// If the token is above [`crate::platform::MAX_LEASE`], or the platform cannot be reached.
    pub async fn reset_lease(&self, highest: u64) -> Result<LeaseResetReply, PlatformError> {
        let reset = LeaseReset { highest };
        self.parse(&self.ask(Method::PUT, "/v1/platform/lease", Some(&reset), self.timeout).await?)
    }

    /// The platform's metrics in the Prometheus text format.
    ///
    /// # Errors
    /// When the platform cannot be reached, or the text is not UTF-8.
    pub async fn metrics(&self) -> Result<String, PlatformError> {
        let body = self.ask::<()>(Method::GET, "/metrics", None, self.timeout).await?;
        String::from_utf8(body.into()).map_err(|error| self.unexpected(error))
    }

    async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, PlatformError> {
        self.parse(&self.ask::<()>(Method::GET, path, None, self.timeout).await?)
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
        let mut request = request.map_err(|error| self.unexpected(error))?;
        // Health and metrics need no token.
        if request.uri().path().starts_with("/v1/")
            && let Some(authorization) = self.authorization()?
        {
            request.headers_mut().insert(AUTHORIZATION, authorization);
        }
        let exchange = async {
            let reply = self.client.exchange(request, REPLY_BYTES).await.map_err(|error| self.unreachable(error.to_string()))?;
            let (status, body) = (reply.status(), reply.into_body());
            self.check_status(status, body)
        };
        tokio::time::timeout(limit, exchange).await.unwrap_or_else(|_| Err(self.unreachable(format!("no reply within {limit:?}"))))
    }

    /// The header with the token; `None` where no token is known.
    fn authorization(&self) -> Result<Option<HeaderValue>, PlatformError> {
        let registered = || token::registered(self.authority.host(), self.authority.port_u16()?);
        let Some(path) = self.token_file.clone().or_else(registered) else { return Ok(None) };
        let failed = |reason: String| PlatformError::Token { path: path.clone(), reason };
        let text = read_text(&path, MAX_DOCUMENT).map_err(|error| failed(error.root_cause().to_string()))?;
        let mut value = HeaderValue::try_from(format!("Bearer {}", text.trim())).map_err(|error| failed(error.to_string()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    fn check_status(&self, status: StatusCode, body: Bytes) -> Result<Bytes, PlatformError> {
        if status.is_success() {
            return Ok(body);
        }
        let error: ApiError = match serde_json::from_slice(&body) {
            Ok(error) => error,
            Err(_) => return Err(self.unexpected(format_args!("status {status}"))),
        };
        Err(match status {
            StatusCode::UNAUTHORIZED => PlatformError::Unauthorized(error),
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
