//! A connection of either protocol. Owns the three steps of the pacing thread: begin a request, write it immediately, read its reply.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use tokio::net::TcpStream;

use super::exchange::{Pending, RequestTemplate};
use super::grpc::Grpc;
use super::http1::Http1;
use super::stamped::Stamped;
use crate::record::RequestStatus;

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
