//! HTTP requests and servers. Owns the exchange with its limit on the body, the limits of time of clients that send
//! slowly, and that of the connections of a server; does not retry.

mod tls;

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use bytes::Bytes;
use http::uri::Scheme;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Largest body that [`get`] reads, bytes.
const MAX_BODY: usize = 16 << 20;

/// Connections of a server at once. A new one replaces the oldest, so that connections that nobody uses lock no health check out.
const MAX_CONNECTIONS: usize = 256;
/// Longest time for a client to send the head of a request.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// First bytes of a connection with HTTP/2 (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Interval at which the beginning of a preface is read again.
const PEEK_INTERVAL: Duration = Duration::from_millis(10);

/// A client that keeps its connections. Cheap to clone.
#[derive(Debug, Clone)]
pub struct HttpClient {
    plain: Client<HttpConnector, Full<Bytes>>,
    /// For URLs with `https`, made with the first one, or why it cannot be made.
    tls: Arc<OnceLock<Result<TlsClient, String>>>,
    connector: HttpConnector,
}

type TlsClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

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
        let plain = Client::builder(TokioExecutor::new()).build(connector.clone());
        Self { plain, tls: Arc::default(), connector }
    }

    /// The client for URLs with `https`.
    fn tls(&self) -> Result<&TlsClient, ExchangeError> {
        let made = self.tls.get_or_init(|| Ok(Client::builder(TokioExecutor::new()).build(tls::connector(self.connector.clone())?)));
        made.as_ref().map_err(|error| ExchangeError::Connection(error.clone()))
    }

    /// Sends `request` and reads the whole reply, of any status and up to `max_body` bytes. Has no timeout of its own.
    ///
    /// # Errors
    /// If the connection fails, or the body is too large.
    pub async fn exchange(&self, request: Request<Full<Bytes>>, max_body: usize) -> Result<Response<Bytes>, ExchangeError> {
        let secure = request.uri().scheme() == Some(&Scheme::HTTPS);
        let reply = if secure { self.tls()?.request(request).await } else { self.plain.request(request).await };
        let reply = reply.map_err(|error| ExchangeError::Connection(tls::explain(error_chain(&error))))?;
        let (head, body) = reply.into_parts();
        let body = Limited::new(body, max_body).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() { ExchangeError::TooLarge(max_body) } else { ExchangeError::Connection(error_chain(&*error)) }
        })?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }
}

/// Serves `router` until `stop`, then finishes the requests in flight. A connection is closed that does not send the
/// head of a request, or does not answer the pings of HTTP/2, for 30 s. Of 256 connections a new one
/// replaces the oldest.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(Some(HEAD_TIMEOUT)).keep_alive_timeout(HEAD_TIMEOUT);
    let graceful = GracefulShutdown::new();
    let mut open: VecDeque<CancellationToken> = VecDeque::new();
    loop {
        let stream = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection; retrying in 50 ms");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        open.retain(|connection| !connection.is_cancelled());
        if open.len() == MAX_CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.cancel();
        }
        let connection = CancellationToken::new();
        open.push_back(connection.clone());
        let (builder, router, watcher, stop) = (builder.clone(), router.clone(), graceful.watcher(), stop.clone());
        let serving = async move {
            if begins_request(&stream, &stop).await {
                // Without TCP_NODELAY small replies wait for acknowledgements; a failure only costs latency.
                drop(stream.set_nodelay(true));
                let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
                // Clients break connections all the time.
                drop(watcher.watch(connection.into_owned()).await);
            }
        };
        tokio::spawn(async move {
            let _ended = connection.clone().drop_guard();
            connection.run_until_cancelled(serving).await
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

/// Waits until a client has sent enough to distinguish HTTP/1.1 from HTTP/2, so that the limits of either apply; false
/// if it has not within 30 s, or before `stop`.
pub async fn begins_request(stream: &TcpStream, stop: &CancellationToken) -> bool {
    let begins = async {
        let mut start = [0; PREFACE.len()];
        loop {
            match stream.peek(&mut start).await {
                Ok(0) | Err(_) => return false,
                // The bytes stay in the socket, which remains readable.
                Ok(read) if read < start.len() && PREFACE.starts_with(&start[..read]) => tokio::time::sleep(PEEK_INTERVAL).await,
                Ok(_) => return true,
            }
        }
    };
    tokio::select! {
        begins = begins => begins,
        () = stop.cancelled() => false,
        () = tokio::time::sleep(HEAD_TIMEOUT) => false,
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

#[cfg(test)]
mod tests {
    use axum::routing::get as route;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn unused_connections_do_not_lock_others_out_and_the_oldest_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, Router::new().route("/", route(async || "ok")), stop.clone()));
        let mut unused = Vec::new();
        for _ in 0..=MAX_CONNECTIONS {
            unused.push(TcpStream::connect(address).await.expect("connected"));
        }
        let timeout = Duration::from_secs(20);
        assert_eq!(get(&address.to_string(), "/", timeout).await.expect("a reply").1, "ok");
        let end = tokio::time::timeout(timeout, unused[0].read(&mut [0])).await.expect("closed in time");
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
        let newest = unused.last_mut().expect("connected");
        assert!(tokio::time::timeout(Duration::from_millis(100), newest.read(&mut [0])).await.is_err(), "the newest stays open");
        stop.cancel();
    }

    #[tokio::test]
    async fn a_server_behind_tls_is_read_if_its_authority_is_trusted() {
        let (address, certificate) = tls::tests::server().await;
        let client = HttpClient::new(Duration::from_secs(20));
        let request = || Request::get(format!("https://localhost:{}/", address.port())).body(Full::default()).expect("valid");
        match client.exchange(request(), MAX_BODY).await.expect_err("an unknown authority") {
            ExchangeError::Connection(reason) => assert!(reason.contains("SSL_CERT_FILE"), "{reason}"),
            other @ ExchangeError::TooLarge(_) => panic!("{other}"),
        }
        let trusting = Client::builder(TokioExecutor::new()).build(tls::tests::trusting(certificate, client.connector.clone()));
        let client = HttpClient { tls: Arc::new(OnceLock::from(Ok(trusting))), ..client };
        assert_eq!(client.exchange(request(), MAX_BODY).await.expect("a reply").body(), "ok");
    }
}
