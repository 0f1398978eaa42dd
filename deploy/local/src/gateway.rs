//! The gateway: HTTP/1.1 and HTTP/2 without TLS on one port, to the replicas of functions. Owns what a request goes through from arrival to
//! the last byte of its reply; must not start or stop replicas, it only says that a function is wanted.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderName};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::Either;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use qscale_common::platform::Protocol;
use qscale_common::runtime::clock;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::body::{Relayed, Replay, ReplyBody, RequestBody};
use self::measure::Measure;
use self::reply::{Refusal, refuse};
use crate::admission::{Admitted, Permit};
use crate::function::Function;
use crate::host::Host;
use crate::platform::Functions;
use crate::replica::Target;
use crate::upstream::{Connection, SendError};

pub mod body;
pub mod measure;
pub mod reply;
pub mod route;

/// Attempts for one request, each at a replica that turned out not to have taken it.
const ATTEMPTS: usize = 5;
/// Concurrent streams on one connection of a client. A load generator may send everything over one.
const CLIENT_STREAMS: u32 = 20_000;
/// Streams that a client may cancel at once before its connection is closed as abusive; over loopback that is a load generator's timeout.
const CLIENT_RESETS: usize = 20_000;
/// HTTP/2 windows of a stream and of a connection, bytes.
const WINDOWS: (u32, u32) = (1 << 20, 16 << 20);
/// How often it is told that there is no room for more clients.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// Headers that concern one connection only (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 5] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Where requests of a listener go.
#[derive(Debug, Clone)]
pub enum Destination {
    /// To the function that the request names.
    Named(Functions),
    /// To this function.
    One(Arc<Function>),
}

/// Serves `listener` until `stop`; then finishes what is under way, unless the host is in a hurry.
pub async fn serve(listener: TcpListener, destination: Destination, stop: CancellationToken, host: Arc<Host>) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(CLIENT_STREAMS)
        .max_pending_accept_reset_streams(CLIENT_RESETS)
        .max_local_error_reset_streams(CLIENT_RESETS)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1);
    let (builder, graceful) = (Arc::new(builder), GracefulShutdown::new());
    let mut warned: Option<std::time::Instant> = None;
    loop {
        if host.client_connections.available_permits() == 0 && warned.is_none_or(|at| clock::since(at) > WARN_EVERY) {
            warn!("clients hold as many connections as there may be: others wait until one of them ends");
            warned = Some(clock::instant());
        }
        let (stream, room) = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = accept(&listener, &host.client_connections) => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "the gateway cannot accept a connection");
                    // Mostly too many open files: those that end make room.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let watcher = graceful.watcher();
        let serving = serve_connection(stream, Arc::clone(&builder), destination.clone(), watcher);
        tokio::spawn(async move {
            serving.await;
            drop(room);
        });
    }
    drop(listener);
    tokio::select! {
        () = graceful.shutdown() => {}
        () = host.hurry.cancelled() => {}
    }
}

/// The next connection, once there is room for one; until then the kernel keeps it.
async fn accept(listener: &TcpListener, connections: &Arc<Semaphore>) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let room = Arc::clone(connections).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, room))
}

async fn serve_connection(
    stream: TcpStream,
    builder: Arc<auto::Builder<TokioExecutor>>,
    destination: Destination,
    watcher: hyper_util::server::graceful::Watcher,
) {
    // Without it small frames would wait for acknowledgements; where it fails they do.
    drop(stream.set_nodelay(true));
    let service = service_fn(move |request| {
        let function = match &destination {
            Destination::Named(functions) => route::key(request.uri(), request.headers()).and_then(|key| functions.get(&key)),
            Destination::One(function) => Some(Arc::clone(function)),
        };
        async move { Ok::<_, Infallible>(handle(function, request).await) }
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    // Clients break off connections all the time; what that does to a request is counted there.
    drop(watcher.watch(connection.into_owned()).await);
}

async fn handle(function: Option<Arc<Function>>, request: Request<Incoming>) -> Response<ReplyBody> {
    let grpc = request.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if request.headers().get_all(header::HOST).iter().nth(1).is_some() {
        return refuse(Refusal::BadRequest, grpc, "more than one Host header");
    }
    let Some(function) = function else {
        let asked = route::authority(request.uri(), request.headers()).unwrap_or_default();
        let message = format!("no function is named by `{asked}`: use <function>.<namespace> as authority or the header x-qscale-function");
        return refuse(Refusal::NotFound, grpc, &message);
    };
    function.count_arrival();
    let mut measure = Measure::start(Arc::clone(&function), grpc);
    match relay(&function, request, &mut measure).await {
        Ok(Reply { response, deadline, connection, permit }) => {
            let (mut head, body) = response.into_parts();
            measure.head(head.status.as_u16(), &head.headers);
            strip_hop_by_hop(&mut head.headers);
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

/// The head of a replica's reply, and what has to be held while its body is read.
struct Reply {
    response: Response<Incoming>,
    deadline: Pin<Box<Sleep>>,
    connection: Connection,
    permit: Permit<Arc<Target>>,
}

type Refused = (Refusal, String);

async fn relay(function: &Arc<Function>, request: Request<Incoming>, measure: &mut Measure) -> Result<Reply, Refused> {
    let spec = function.spec();
    let mut deadline = Box::pin(sleep(spec.timeout.0));
    let timed_out = |stage: &str| (Refusal::Timeout, format!("no reply within {} ({stage})", spec.timeout));
    let (parts, body) = request.into_parts();
    let replay = Replay::new(body);
    let mut failure = String::new();
    for _ in 0..ATTEMPTS {
        measure.goes_to(None);
        let permit = tokio::select! {
            biased;
            permit = place(function) => permit?,
            () = &mut deadline => return Err(timed_out("no replica was free")),
        };
        measure.goes_to(Some(Arc::clone(&permit.replica)));
        let sent = tokio::select! {
            biased;
            sent = permit.upstream.send(|| outgoing(&parts, permit.protocol, replay.body())) => sent,
            () = &mut deadline => return Err(timed_out("the replica did not reply")),
        };
        match sent {
            Ok((response, connection)) => return Ok(Reply { response, deadline, connection, permit }),
            Err(_) if replay.is_broken() => return Err((Refusal::BadRequest, "the body of the request is broken off or malformed".into())),
            Err(error @ SendError::Unreachable(_)) => {
                function.admission.close(permit.place());
                permit.replica.suspect();
                failure = error.to_string();
            }
            Err(error @ SendError::NotProcessed(_)) if replay.is_whole() => failure = error.to_string(),
            Err(error) => return Err((Refusal::ReplicaFailed, error.to_string())),
        }
    }
    measure.goes_to(None);
    Err((Refusal::ReplicaFailed, failure))
}

/// A place at a replica, now or when it is this request's turn.
async fn place(function: &Arc<Function>) -> Result<Permit<Arc<Target>>, Refused> {
    let stopping = || (Refusal::Stopping, format!("{} is being stopped", function.id));
    match function.admission.admit() {
        Admitted::Now(permit) => Ok(permit),
        Admitted::Full => {
            Err((Refusal::QueueFull, format!("the queue of {} is full: {} requests wait", function.id, function.spec().queue)))
        }
        Admitted::Shut => Err(stopping()),
        Admitted::Queued(mut waiting) => {
            function.wake();
            waiting.granted().await.ok_or_else(stopping)
        }
    }
}

/// The request as the replica gets it: in its protocol, with the client's authority, without what concerned the client's connection.
fn outgoing(parts: &Parts, protocol: Protocol, body: RequestBody) -> Request<RequestBody> {
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.headers_mut() = parts.headers.clone();
    let headers = request.headers_mut();
    strip_hop_by_hop(headers);
    let authority = route::authority(&parts.uri, &parts.headers);
    let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    match protocol {
        Protocol::Http => {
            // An authority in the request line stands above the header (RFC 9112, 3.2.2).
            if let Some(host) = authority.and_then(|authority| HeaderValue::from_str(authority).ok()) {
                headers.insert(header::HOST, host);
            }
            *request.uri_mut() = Uri::from(path);
        }
        Protocol::Grpc => {
            let authority = authority.and_then(|authority| authority.parse::<Authority>().ok());
            headers.remove(header::HOST);
            let mut uri = http::uri::Parts::default();
            uri.scheme = Some(Scheme::HTTP);
            uri.authority = Some(authority.unwrap_or_else(|| Authority::from_static("localhost")));
            uri.path_and_query = Some(path);
            // A path such as `*` goes with no authority; it becomes the root then.
            *request.uri_mut() = Uri::from_parts(uri).unwrap_or_else(|_| Uri::from_static("http://localhost/"));
            *request.version_mut() = Version::HTTP_2;
        }
    }
    request
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let listed: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in listed {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    // gRPC needs `te: trailers`, the one value that HTTP/2 allows.
    if headers.get(header::TE).is_some_and(|te| te != "trailers") {
        headers.remove(header::TE);
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
