//! HTTP GET of a service's health and metrics endpoints. Owns the timeout and the limit on the body; does not retry.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// Largest body that is read, bytes.
const MAX_BODY: usize = 16 << 20;

/// Gets `path` from `address`, host and port; returns status and body for any status.
///
/// # Errors
/// No complete reply within `timeout`; a body that is too large or not UTF-8.
pub async fn get(address: &str, path: &str, timeout: Duration) -> anyhow::Result<(StatusCode, String)> {
    let exchange = async {
        let uri = Uri::builder().scheme("http").authority(address).path_and_query(path).build()?;
        let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let reply = client.request(Request::get(uri).body(Full::default())?).await?;
        let status = reply.status();
        let body = Limited::new(reply.into_body(), MAX_BODY).collect().await.map_err(|error| anyhow::anyhow!(error))?;
        anyhow::Ok((status, String::from_utf8(body.to_bytes().into())?))
    };
    let reply = tokio::time::timeout(timeout, exchange).await.with_context(|| format!("no reply from {address} within {timeout:?}"))?;
    reply.with_context(|| format!("failed to get http://{address}{path}"))
}
