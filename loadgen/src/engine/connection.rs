//! A connection of either protocol. Owns the three steps of the pacing thread: begin a request, write it immediately, read its reply.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use tokio::net::TcpStream;

use super::grpc::Grpc;
use super::http1::Http1;
use super::stamped::{LastWrite, Stamped};
use crate::protocol::Codec;
use crate::record::RequestStatus;

/// A reply before validation: protocol status and body.
#[derive(Debug)]
pub struct RawReply {
    pub status: RequestStatus,
    pub body: Bytes,
}

/// A pending reply.
pub type Pending = Pin<Box<dyn Future<Output = Result<RawReply, RequestStatus>>>>;

/// Largest body that is read, bytes; no vSwarm function replies with more.
const LARGEST_BODY: usize = 64 << 20;

/// Fixed part of a function's requests.
#[derive(Debug, Clone)]
pub struct RequestTemplate {
    pub request: http::Request<()>,
}

impl RequestTemplate {
    pub fn new(codec: &Codec, authority: &str) -> anyhow::Result<Self> {
        let builder = http::Request::builder().method(codec.method());
        let builder = if codec.is_grpc() {
            builder
                .version(http::Version::HTTP_2)
                .uri(format!("http://{authority}{}", codec.path()))
                .header(http::header::TE, HeaderValue::from_static("trailers"))
                .header(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
                .header(http::header::USER_AGENT, HeaderValue::from_static("qscale-loadgen"))
        } else {
            builder.uri(codec.path()).header(http::header::HOST, authority)
        };
        let request =
            builder.body(()).with_context(|| format!("cannot form a request from {} {authority}{}", codec.method(), codec.path()))?;
        Ok(Self { request })
    }
}

/// One connection. Cheap to clone.
#[derive(Clone)]
pub enum Connection {
    Grpc(Rc<Grpc>),
    Http1(Rc<Http1>),
}

impl Connection {
    pub async fn open(address: SocketAddr, grpc: bool) -> Result<Self, RequestStatus> {
        let stream = TcpStream::connect(address).await.map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => RequestStatus::Refused,
            _ => RequestStatus::Unreachable,
        })?;
        // Without TCP_NODELAY the kernel may delay small requests.
        stream.set_nodelay(true).map_err(|_| RequestStatus::Unreachable)?;
        let (stream, written) = Stamped::new(stream);
        if grpc { Grpc::open(stream, written).await.map(Self::Grpc) } else { Http1::open(stream, written).await.map(Self::Http1) }
    }

    /// Passes a request to the connection; `None` if it has no room or is closing. The request was then not sent.
    pub fn begin(&self, template: &RequestTemplate, body: Bytes) -> Option<Pending> {
        match self {
            Connection::Grpc(connection) => Grpc::begin(connection, template, body),
            Connection::Http1(connection) => Http1::begin(connection, template, body),
        }
    }

    /// Writes started requests to the socket and returns the time of the write; `None` if the socket is full.
    pub fn push(&self) -> Option<Instant> {
        match self {
            Connection::Grpc(connection) => connection.pump.push(),
            Connection::Http1(connection) => connection.pump.push(),
        }
    }

    pub fn has_room(&self) -> bool {
        match self {
            Connection::Grpc(connection) => connection.has_room(),
            Connection::Http1(connection) => connection.has_room(),
        }
    }

    pub fn is_closed(&self) -> bool {
        match self {
            Connection::Grpc(connection) => connection.pump.is_done(),
            Connection::Http1(connection) => connection.pump.is_done(),
        }
    }

    /// After a reply: waits until an HTTP/1.1 connection can take another request.
    pub async fn release(&self) {
        if let Connection::Http1(connection) = self {
            connection.released().await;
        }
    }
}

/// Polls a connection's future from two sides: from its task, when the socket is ready, and from the pacing thread, to write immediately instead of
/// after the tasks that already wait.
pub struct Pump {
    driver: RefCell<Pin<Box<dyn Future<Output = ()>>>>,
    waker: RefCell<Waker>,
    done: Cell<bool>,
    written: LastWrite,
}

impl Pump {
    /// Starts polling `driver`, which writes to the socket observed by `written`.
    pub fn start(driver: impl Future<Output = ()> + 'static, written: LastWrite) -> Rc<Self> {
        let driver: Pin<Box<dyn Future<Output = ()>>> = Box::pin(driver);
        let (driver, waker) = (RefCell::new(driver), RefCell::new(Waker::noop().clone()));
        let pump = Rc::new(Self { driver, waker, done: Cell::new(false), written });
        let driven = Rc::clone(&pump);
        tokio::task::spawn_local(std::future::poll_fn(move |context| driven.poll(context)));
        pump
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        self.waker.borrow_mut().clone_from(context.waker());
        self.drive(context)
    }

    /// Polls on behalf of the task, with the task's waker. Returns the time of the write, if any.
    pub fn push(&self) -> Option<Instant> {
        self.written.take();
        let waker = self.waker.borrow().clone();
        if self.drive(&mut Context::from_waker(&waker)).is_ready() {
            waker.wake();
        }
        self.written.take()
    }

    fn drive(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.done.get() {
            return Poll::Ready(());
        }
        let Ok(mut driver) = self.driver.try_borrow_mut() else { return Poll::Pending };
        let polled = driver.as_mut().poll(context);
        self.done.set(polled.is_ready());
        polled
    }

    pub fn is_done(&self) -> bool {
        self.done.get()
    }
}

/// A body being received. Most arrive in one piece, which is not copied.
#[derive(Default)]
pub struct Body {
    first: Bytes,
    rest: BytesMut,
}

impl Body {
    pub fn push(&mut self, chunk: Bytes) -> Result<(), RequestStatus> {
        if self.first.is_empty() && self.rest.is_empty() {
            self.first = chunk;
            return Ok(());
        }
        if self.rest.is_empty() {
            self.rest.extend_from_slice(&self.first);
        }
        self.rest.extend_from_slice(&chunk);
        if self.rest.len() > LARGEST_BODY { Err(RequestStatus::Malformed) } else { Ok(()) }
    }

    pub fn finish(self) -> Bytes {
        if self.rest.is_empty() { self.first } else { self.rest.freeze() }
    }
}
