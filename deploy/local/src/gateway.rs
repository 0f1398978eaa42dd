//! The gateway: HTTP/1.1 and HTTP/2 without TLS on one port, relayed to replicas. Owns a request from its arrival to the last byte of the reply;
//! must not start or stop replicas, except that it wakes a function that has none.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::header;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::Either;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use qscale_common::runtime::clock;
use qscale_common::runtime::http::{HEAD_TIMEOUT, begins_request};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::body::{Relayed, ReplyBody};
use self::measure::RequestMeasurement;
use self::reply::{GatewayRefusal, refuse};
use crate::admission::{Admitted, Permit};
use crate::function::{Functions, ManagedFunction};
use crate::host::Host;
use crate::replica::ReadyReplica;
use crate::request_body::ReplayableBody;
use crate::upstream::{MAX_FIELDS, SendError, UpstreamConnection};

pub mod body;
mod grpc_status;
pub mod head;
pub mod measure;
pub mod reply;
pub mod route;

/// Attempts per request. Another attempt is made only if the replica certainly did not process the request.
const ATTEMPTS: usize = 5;
/// Concurrent streams on one connection of a client. A load generator may send everything over one.
const CLIENT_STREAMS: u32 = 20_000;
/// Streams that a client may cancel at once before its connection is closed as abusive. High, because a load generator cancels many at its timeout.
const CLIENT_RESETS: usize = 20_000;
/// Most bytes of a head or of trailers from a client in HTTP/2. HPACK turns a byte of the connection into a field, which takes a hundred in memory.
const MAX_CLIENT_HEAD: u32 = 64 << 10;
/// HTTP/2 windows of a stream and of a connection, bytes.
const WINDOWS: (u32, u32) = (1 << 20, 16 << 20);
/// Interval of the warning that no client connections are left.
const WARN_INTERVAL: Duration = Duration::from_secs(60);
/// Receiver of the requests on a listener.
#[derive(Debug, Clone)]
pub enum ListenerTarget {
    /// The function that the request names.
    Named(Functions),
    /// This function.
    One(Arc<ManagedFunction>),
}

/// Serves `listener` until `stop`, then finishes the requests in flight unless the host aborts.
pub async fn serve(listener: TcpListener, destination: ListenerTarget, stop: CancellationToken, host: Arc<Host>) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_headers(MAX_FIELDS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(HEAD_TIMEOUT))
        .keep_alive_timeout(HEAD_TIMEOUT)
        .max_header_list_size(MAX_CLIENT_HEAD)
        .max_concurrent_streams(CLIENT_STREAMS)
        .max_pending_accept_reset_streams(CLIENT_RESETS)
        .max_local_error_reset_streams(CLIENT_RESETS)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1);
    let (builder, graceful) = (Arc::new(builder), GracefulShutdown::new());
    let mut warned: Option<std::time::Instant> = None;
    loop {
        if host.client_connections.available_permits() == 0 && warned.is_none_or(|at| clock::since(at) > WARN_INTERVAL) {
            warn!("no client connections left; new clients wait until another disconnects");
            warned = Some(clock::instant());
        }
        let (stream, room) = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = accept(&listener, &host.client_connections) => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "failed to accept a connection; retrying in 50 ms");
                    // Usually too many open files; connections that end make room.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let watcher = graceful.watcher();
        let serving = serve_connection(stream, Arc::clone(&builder), destination.clone(), watcher, stop.clone());
        tokio::spawn(async move {
            serving.await;
            drop(room);
        });
    }
    drop(listener);
    tokio::select! {
        () = graceful.shutdown() => {}
        () = host.abort.cancelled() => {}
    }
}

/// Accepts a connection once there is room for one; until then the kernel queues it.
async fn accept(listener: &TcpListener, connections: &Arc<Semaphore>) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let room = Arc::clone(connections).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, room))
}

async fn serve_connection(
    stream: TcpStream,
    builder: Arc<auto::Builder<TokioExecutor>>,
    destination: ListenerTarget,
    watcher: hyper_util::server::graceful::Watcher,
    stop: CancellationToken,
) {
    // Without TCP_NODELAY small frames wait for acknowledgements; a failure only costs latency.
    drop(stream.set_nodelay(true));
    if !begins_request(&stream, &stop).await {
        return;
    }
    let service = service_fn(move |request| {
        let function = match &destination {
            ListenerTarget::Named(functions) => route::key(request.uri(), request.headers()).and_then(|key| functions.get(&key)),
            ListenerTarget::One(function) => Some(Arc::clone(function)),
        };
        async move { Ok::<_, Infallible>(handle(function, request).await) }
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    // Clients break connections all the time; the affected requests are counted individually.
    drop(watcher.watch(connection.into_owned()).await);
}

async fn handle(function: Option<Arc<ManagedFunction>>, request: Request<Incoming>) -> Response<ReplyBody> {
    let grpc = head::is_grpc(request.headers());
    if let Err((refusal, reason)) = head::check_request(request.method(), request.uri(), request.version(), request.headers()) {
        // A reply with status 200 would open a tunnel.
        let mut response = refuse(refusal, grpc && request.method() != Method::CONNECT, &reason);
        if request.version() <= Version::HTTP_11 {
            // Readers may disagree on where the request ends.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        return response;
    }
    let Some(function) = function else {
        let asked = route::named(request.uri(), request.headers());
        let message = format!("no function is named by {asked}: use <function>.<namespace> as authority or the header x-qscale-function");
        return refuse(GatewayRefusal::NotFound, grpc, &message);
    };
    function.count_arrival();
    let mut measure = RequestMeasurement::start(Arc::clone(&function), grpc);
    match relay(&function, request, &mut measure).await {
        Ok(ReplicaReply { response, deadline, connection, permit }) => {
            let (mut head, body) = response.into_parts();
            measure.head(head.status.as_u16(), &head.headers);
            head.version = Version::HTTP_11;
            head.extensions = http::Extensions::new();
            Response::from_parts(head, Either::Left(Relayed::new(body, deadline, measure, connection, permit, grpc)))
        }
        Err((refusal, message)) => {
            let (http, status) = refusal.status();
            measure.replied(if grpc { StatusCode::OK.as_u16() } else { http.as_u16() }, status);
            refuse(refusal, grpc, &message)
        }
    }
}

/// Head of a replica's reply, with the resources that its body needs.
struct ReplicaReply {
    response: Response<Incoming>,
    deadline: Pin<Box<Sleep>>,
    connection: UpstreamConnection,
    permit: Permit<Arc<ReadyReplica>>,
}

type Refused = (GatewayRefusal, String);

async fn relay(
    function: &Arc<ManagedFunction>,
    request: Request<Incoming>,
    measure: &mut RequestMeasurement,
) -> Result<ReplicaReply, Refused> {
    let spec = function.spec();
    let mut deadline = Box::pin(sleep(spec.timeout.0));
    let timed_out = |stage: &str| (GatewayRefusal::Timeout, format!("no reply within {} ({stage})", spec.timeout));
    let (parts, body) = request.into_parts();
    let (replay, head_bytes) = (ReplayableBody::new(body), head::memory_bytes(&parts.uri, &parts.headers));
    let mut failure = String::new();
    for _ in 0..ATTEMPTS {
        measure.goes_to(None);
        let permit = tokio::select! {
            biased;
            permit = place(function, head_bytes) => permit?,
            () = &mut deadline => return Err(timed_out("no replica had room")),
        };
        measure.goes_to(Some(Arc::clone(&permit.replica)));
        let sent = tokio::select! {
            biased;
            sent = permit.upstream.send(|| head::outgoing(&parts, permit.protocol, replay.body())) => sent,
            () = &mut deadline => return Err(timed_out("the replica did not reply")),
        };
        match sent {
            Ok((mut response, connection)) => {
                let checked = head::check_reply(response.status(), response.headers_mut());
                checked.map_err(|reason| (GatewayRefusal::ReplicaFailed, reason))?;
                return Ok(ReplicaReply { response, deadline, connection, permit });
            }
            Err(_) if replay.is_broken() => return Err((GatewayRefusal::BadRequest, "the request body is incomplete or malformed".into())),
            Err(error @ SendError::Unreachable(_)) => {
                function.admission.close(permit.place());
                permit.replica.suspect();
                failure = error.to_string();
            }
            Err(error @ SendError::NotProcessed(_)) if replay.is_whole() => failure = error.to_string(),
            Err(error) => return Err((GatewayRefusal::ReplicaFailed, error.to_string())),
        }
    }
    measure.goes_to(None);
    Err((GatewayRefusal::ReplicaFailed, failure))
}

/// Takes a place at a replica for a request with a head of `head_bytes`, waiting in the queue if necessary.
async fn place(function: &Arc<ManagedFunction>, head_bytes: usize) -> Result<Permit<Arc<ReadyReplica>>, Refused> {
    let stopping = || (GatewayRefusal::Stopping, format!("{} is being stopped", function.id));
    match function.admission.admit(head_bytes) {
        Admitted::Now(permit) => Ok(permit),
        Admitted::Full => {
            Err((GatewayRefusal::QueueFull, format!("the queue of {} is full: {} requests wait", function.id, function.admission.queued())))
        }
        Admitted::Shut => Err(stopping()),
        Admitted::Queued(mut waiting) => {
            function.wake();
            waiting.granted().await.ok_or_else(stopping)
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_connection_waits_until_there_is_room() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let _clients = [TcpStream::connect(address).await.expect("connected"), TcpStream::connect(address).await.expect("connected")];
        let connections = Arc::new(Semaphore::new(1));
        let first = accept(&listener, &connections).await.expect("accepted");
        assert!(accept(&listener, &connections).now_or_never().is_none());
        drop(first);
        drop(accept(&listener, &connections).await.expect("accepted"));
    }
}
