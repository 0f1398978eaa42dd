//! HTTP/1.1 requests. Owns the exchange and the limit on the body; does not retry.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use thiserror::Error;

/// Largest body that [`get`] reads, bytes.
const MAX_BODY: usize = 16 << 20;

/// A client that keeps its connections. Cheap to clone.
#[derive(Debug, Clone)]
pub struct HttpClient(Client<HttpConnector, Full<Bytes>>);

/// Why there is no complete reply.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ExchangeError {
    /// No connection, or one that broke; with all causes.
    #[error("{0}")]
    Connection(String),
    /// A body beyond the limit.
    #[error("reply of more than {0} bytes")]
    TooLarge(usize),
}

impl HttpClient {
    /// A client that waits at most `connect_timeout` for a connection.
    #[must_use]
    pub fn new(connect_timeout: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(connect_timeout));
        Self(Client::builder(TokioExecutor::new()).build(connector))
    }

    /// Sends `request` and reads the whole reply, of any status and up to `max_body` bytes. Has no timeout of its own.
    ///
    /// # Errors
    /// If the connection fails, or the body is too large.
    pub async fn exchange(&self, request: Request<Full<Bytes>>, max_body: usize) -> Result<Response<Bytes>, ExchangeError> {
        let reply = self.0.request(request).await.map_err(|error| ExchangeError::Connection(error_chain(&error)))?;
        let (head, body) = reply.into_parts();
        let body = Limited::new(body, max_body).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() { ExchangeError::TooLarge(max_body) } else { ExchangeError::Connection(error_chain(&*error)) }
        })?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }
}

/// Gets `path` from `address`, host and port; returns status and body for any status.
///
/// # Errors
/// No complete reply within `timeout`; a body that is too large or not UTF-8.
pub async fn get(address: &str, path: &str, timeout: Duration) -> anyhow::Result<(StatusCode, String)> {
    let exchange = async {
        let uri = Uri::builder().scheme("http").authority(address).path_and_query(path).build()?;
        let reply = HttpClient::new(timeout).exchange(Request::get(uri).body(Full::default())?, MAX_BODY).await?;
        anyhow::Ok((reply.status(), String::from_utf8(reply.into_body().into())?))
    };
    let reply = tokio::time::timeout(timeout, exchange).await.with_context(|| format!("no reply from {address} within {timeout:?}"))?;
    reply.with_context(|| format!("failed to get http://{address}{path}"))
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
