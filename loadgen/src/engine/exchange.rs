//! A request and its reply, in either protocol.

use std::pin::Pin;

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use http::HeaderValue;

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
