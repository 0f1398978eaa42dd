//! A gRPC connection over HTTP/2 without TLS. Uses the `h2` crate directly, to control when a request is written.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::HeaderMap;

use super::exchange::{Body, Pending, RawReply, RequestTemplate};
use super::pump::Pump;
use super::stamped::{LastWrite, Stamped};
use crate::record::RequestStatus;

pub struct Grpc {
    requests: RefCell<SendRequest<Bytes>>,
    in_flight: Cell<usize>,
    pub pump: Rc<Pump>,
}

/// Flow control window of a stream, bytes: larger than the reply of any vSwarm function.
const STREAM_WINDOW: u32 = 1 << 20;
/// Flow control window of a connection, bytes: for many concurrent streams.
const CONNECTION_WINDOW: u32 = 16 << 20;

impl Grpc {
    pub async fn open(stream: Stamped, written: LastWrite) -> Result<Rc<Self>, RequestStatus> {
        let handshake = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(stream)
            .await;
        let (requests, connection) = handshake.map_err(|_| RequestStatus::Broken)?;
        let driver = async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
        };
        let pump = Pump::start(driver, written);
        Ok(Rc::new(Self { requests: RefCell::new(requests), in_flight: Cell::new(0), pump }))
    }

    /// Whether the server allows another stream now.
    pub fn has_room(&self) -> bool {
        let mut requests = self.requests.borrow_mut();
        let ready = |requests: &mut SendRequest<Bytes>| requests.poll_ready(&mut Context::from_waker(Waker::noop()));
        self.in_flight.get() < requests.current_max_send_streams() && matches!(ready(&mut requests), Poll::Ready(Ok(())))
    }

    pub fn begin(connection: &Rc<Self>, template: &RequestTemplate, body: Bytes) -> Option<Pending> {
        let mut requests = connection.requests.borrow_mut();
        let (response, mut stream) = requests.send_request(template.request.clone(), false).ok()?;
        // A failure shows in the response.
        let _ = stream.send_data(body, true);
        let guard = StreamInFlight::enter(connection);
        Some(Box::pin(async move {
            let answer = read(response).await;
            drop(guard);
            answer
        }))
    }
}

/// Counts a stream while its reply is awaited.
struct StreamInFlight(Rc<Grpc>);

impl StreamInFlight {
    fn enter(connection: &Rc<Grpc>) -> Self {
        connection.in_flight.set(connection.in_flight.get() + 1);
        Self(Rc::clone(connection))
    }
}

impl Drop for StreamInFlight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get().saturating_sub(1));
    }
}

async fn read(response: ResponseFuture) -> Result<RawReply, RequestStatus> {
    let response = response.await.map_err(|error| broken(&error))?;
    let (parts, mut stream) = response.into_parts();
    if parts.status != http::StatusCode::OK {
        return Ok(RawReply { status: RequestStatus::Http(parts.status.as_u16()), body: Bytes::new() });
    }
    let mut body = Body::default();
    while let Some(chunk) = stream.data().await {
        let chunk = chunk.map_err(|error| broken(&error))?;
        let _ = stream.flow_control().release_capacity(chunk.len());
        body.push(chunk)?;
    }
    let trailers = stream.trailers().await.map_err(|error| broken(&error))?;
    // A reply without a body carries its status in the headers.
    let status = trailers.as_ref().and_then(code).or_else(|| code(&parts.headers)).ok_or(RequestStatus::Malformed)?;
    let status = if status == 0 { RequestStatus::Ok } else { RequestStatus::Grpc(status) };
    Ok(RawReply { status, body: body.finish() })
}

fn code(headers: &HeaderMap) -> Option<u8> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

fn broken(error: &h2::Error) -> RequestStatus {
    tracing::debug!(%error, "request broke");
    // An error raised by the library means that the server violated the protocol.
    if error.is_library() && !error.is_io() && !error.is_go_away() { RequestStatus::Malformed } else { RequestStatus::Broken }
}
