//! Connections to one replica. Owns their reuse, and determines whether the replica may have processed a failed request.

use std::error::Error as StdError;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use qscale_common::platform::Protocol;
use qscale_common::runtime::clock;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::request_body::RequestBody;

/// Most fields of a head; servers of functions allow at most as many.
pub(crate) const MAX_FIELDS: usize = 1_000;
/// Most bytes of a head or of trailers of a reply in HTTP/2, above the limits of clients.
const MAX_HEAD: u32 = 1 << 20;
/// Streams on one HTTP/2 connection before another is opened; servers allow 100 or more (RFC 9113, 6.5.2).
const STREAMS: u32 = 100;
/// HTTP/2 connections kept per replica.
const HTTP2_KEPT: usize = 16;
/// Idle HTTP/1.1 connections kept per replica.
const HTTP1_KEPT: usize = 256;
/// Longest idle time of an HTTP/1.1 connection that is reused. Below the shortest keep-alive of common servers (2 s,
/// gunicorn), so that a request does not hit a connection that is being closed.
const HTTP1_IDLE: Duration = Duration::from_secs(1);
/// Timeout of connecting over loopback, where only a full backlog takes time.
const CONNECT: Duration = Duration::from_secs(5);
/// HTTP/2 window of a stream and of a connection, bytes; large enough not to limit loopback.
const WINDOWS: (u32, u32) = (1 << 20, 16 << 20);

type Http1 = http1::SendRequest<RequestBody>;
type Http2 = http2::SendRequest<RequestBody>;

/// Connections to one replica.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    protocol: Protocol,
    http1: Mutex<Vec<(Http1, Instant)>>,
    http2: Mutex<Vec<Arc<SharedConnection>>>,
}

#[derive(Debug)]
struct SharedConnection {
    sender: Http2,
    streams: AtomicU32,
}

/// A connection in use until the reply is read.
#[derive(Debug)]
pub enum UpstreamConnection {
    /// An exclusive connection, reusable after the reply was read to its end.
    Http1(Http1, Arc<Upstream>),
    /// A stream of a shared connection.
    Http2(#[expect(dead_code, reason = "counts the stream until it is dropped")] Stream),
}

/// A stream of a connection, counted until dropped.
#[derive(Debug)]
pub struct Stream(Arc<SharedConnection>);

/// Reason why there is no reply.
#[derive(Debug, Error)]
pub enum SendError {
    /// No connection could be opened: the replica is unavailable and has not received the request.
    #[error("cannot connect to the replica: {0}")]
    Unreachable(#[source] std::io::Error),
    /// The replica certainly did not process the request, or the request may be repeated.
    #[error("the replica did not accept the request: {0}")]
    NotProcessed(#[source] hyper::Error),
    /// The replica may have processed the request.
    #[error("the replica failed: {0}")]
    Failed(#[source] hyper::Error),
}

impl Upstream {
    /// No connections yet to the replica that serves `protocol` at `address`.
    #[must_use]
    pub fn new(address: SocketAddr, protocol: Protocol) -> Arc<Self> {
        Arc::new(Self { address, protocol, http1: Mutex::default(), http2: Mutex::default() })
    }

    /// Sends a request; `make` builds it, once per connection tried.
    ///
    /// # Errors
    /// The variant determines whether the request may have been processed.
    pub async fn send(
        self: &Arc<Self>,
        make: impl FnMut() -> Request<RequestBody>,
    ) -> Result<(Response<Incoming>, UpstreamConnection), SendError> {
        match self.protocol {
            Protocol::Grpc => self.send_http2(make).await,
            Protocol::Http => self.send_http1(make).await,
        }
    }

    /// Opens the first HTTP/2 connection before the first request.
    pub async fn warm(&self) {
        if self.protocol == Protocol::Grpc
            && let Ok(shared) = self.connect_http2().await
        {
            drop(Stream::on(shared));
        }
    }

    async fn send_http2(
        self: &Arc<Self>,
        mut make: impl FnMut() -> Request<RequestBody>,
    ) -> Result<(Response<Incoming>, UpstreamConnection), SendError> {
        loop {
            let (stream, fresh) = match self.open_stream() {
                Some(stream) => (stream, false),
                None => (Stream::on(self.connect_http2().await?), true),
            };
            let mut sender = stream.0.sender.clone();
            match sender.try_send_request(make()).await {
                Ok(response) => return Ok((response, UpstreamConnection::Http2(stream))),
                Err(error) => {
                    self.forget(&stream.0);
                    retry_or_fail(error, fresh)?;
                }
            }
        }
    }

    async fn send_http1(
        self: &Arc<Self>,
        mut make: impl FnMut() -> Request<RequestBody>,
    ) -> Result<(Response<Incoming>, UpstreamConnection), SendError> {
        loop {
            let (mut sender, fresh) = match self.idle_http1() {
                Some(sender) => (sender, false),
                None => (self.connect_http1().await?, true),
            };
            let request = make();
            let idempotent = is_idempotent(request.method());
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, UpstreamConnection::Http1(sender, Arc::clone(self)))),
                // The replica closed an idle connection while the request was being sent; RFC 9110, 9.2.2 allows
                // repeating an idempotent one.
                Err(error) if !fresh && idempotent && was_closed(error.error()) => {
                    return Err(SendError::NotProcessed(error.into_error()));
                }
                Err(error) => retry_or_fail(error, fresh)?,
            }
        }
    }

    fn open_stream(&self) -> Option<Stream> {
        let mut connections = lock(&self.http2);
        connections.retain(|shared| !shared.sender.is_closed());
        let free = connections.iter().find(|shared| shared.streams.load(Ordering::Relaxed) < STREAMS);
        let full = connections.len() >= HTTP2_KEPT;
        let least = || connections.iter().min_by_key(|shared| shared.streams.load(Ordering::Relaxed)).filter(|_| full);
        free.or_else(least).cloned().map(Stream::on)
    }

    fn idle_http1(&self) -> Option<Http1> {
        let mut idle = lock(&self.http1);
        while let Some((sender, since)) = idle.pop() {
            // The most recently returned connection comes first: if it is too old, all are.
            if clock::since(since) > HTTP1_IDLE {
                idle.clear();
                return None;
            }
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    async fn connect(&self) -> Result<TokioIo<TcpStream>, SendError> {
        let connecting = timeout(CONNECT, TcpStream::connect(self.address)).await;
        let stream = connecting.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())).map_err(SendError::Unreachable)?;
        // Without TCP_NODELAY small frames wait for acknowledgements; a failure only costs latency.
        drop(stream.set_nodelay(true));
        Ok(TokioIo::new(stream))
    }

    async fn connect_http1(&self) -> Result<Http1, SendError> {
        let io = self.connect().await?;
        let (sender, connection) = http1::Builder::new().max_headers(MAX_FIELDS).handshake(io).await.map_err(SendError::NotProcessed)?;
        // The task ends when the sender is dropped; an error reaches the caller that awaits the reply.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    async fn connect_http2(&self) -> Result<Arc<SharedConnection>, SendError> {
        let io = self.connect().await?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).initial_stream_window_size(WINDOWS.0).initial_connection_window_size(WINDOWS.1);
        builder.max_concurrent_reset_streams(1_000).max_header_list_size(MAX_HEAD);
        let (sender, connection) = builder.handshake(io).await.map_err(SendError::NotProcessed)?;
        tokio::spawn(async move { drop(connection.await) });
        let shared = Arc::new(SharedConnection { sender, streams: AtomicU32::new(0) });
        let mut connections = lock(&self.http2);
        if connections.len() < HTTP2_KEPT {
            connections.push(Arc::clone(&shared));
        }
        Ok(shared)
    }

    fn forget(&self, shared: &Arc<SharedConnection>) {
        if shared.sender.is_closed() {
            lock(&self.http2).retain(|other| !Arc::ptr_eq(other, shared));
        }
    }
}

/// Ok if the request was not sent on a reused connection and can be retried; otherwise the error for the caller.
fn retry_or_fail(mut error: TrySendError<Request<RequestBody>>, fresh: bool) -> Result<(), SendError> {
    let unsent = error.take_message().is_some();
    let error = error.into_error();
    match (unsent, fresh) {
        (true, false) => Ok(()),
        (true, true) => Err(SendError::NotProcessed(error)),
        (false, _) if was_refused(&error) => Err(SendError::NotProcessed(error)),
        (false, _) => Err(SendError::Failed(error)),
    }
}

/// Whether the server ended the connection before it replied: closed it, or reset it because data was still unread.
fn was_closed(error: &hyper::Error) -> bool {
    let of_socket = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    let is_reset = of_socket.is_some_and(|error| matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe));
    is_reset || error.is_incomplete_message()
}

/// Whether the server declared the stream unprocessed: refused, or above the last stream of its GOAWAY (RFC 9113, 8.7).
fn was_refused(error: &hyper::Error) -> bool {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.reason() == Some(h2::Reason::REFUSED_STREAM) || (error.is_go_away() && error.is_remote());
        }
        source = error.source();
    }
    false
}

fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE)
}

impl Stream {
    fn on(shared: Arc<SharedConnection>) -> Self {
        shared.streams.fetch_add(1, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl UpstreamConnection {
    /// Returns the connection for reuse after the reply was read to its end.
    pub fn finished(self) {
        if let Self::Http1(sender, upstream) = self
            && !sender.is_closed()
        {
            let mut idle = lock(&upstream.http1);
            if idle.len() < HTTP1_KEPT {
                idle.push((sender, clock::instant()));
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
