//! What a request is counted as. Owns the one place where its end is recorded, whichever way it ends.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use qscale_common::runtime::clock;

use super::reply::{CANCELLED, UNKNOWN};
use crate::function::Function;
use crate::latency::Ending;
use crate::replica::Replica;

/// HTTP status recorded for a request whose client left before there was a reply (as nginx does).
const CLIENT_LEFT: u16 = 499;

/// Records a request's duration and ending when it is dropped.
#[derive(Debug)]
pub struct Measure {
    function: Arc<Function>,
    replica: Option<Arc<Replica>>,
    start: Instant,
    ending: Ending,
    /// Whether the gRPC status is known, or will not be any more.
    settled: bool,
}

impl Measure {
    /// A request of `function` that arrives now.
    #[must_use]
    pub fn start(function: Arc<Function>, grpc: bool) -> Self {
        let ending = Ending { http: CLIENT_LEFT, grpc: grpc.then_some(CANCELLED) };
        Self { function, replica: None, start: clock::instant(), ending, settled: false }
    }

    /// The request goes to `replica`, or to none.
    pub fn goes_to(&mut self, replica: Option<Arc<Replica>>) {
        self.replica = replica;
    }

    /// The gateway replies itself.
    pub fn replied(&mut self, http: u16, grpc: u8) {
        self.ending = Ending { http, grpc: self.ending.grpc.map(|_| grpc) };
        self.settled = true;
    }

    /// The head of the replica's reply is there.
    pub fn head(&mut self, http: u16, headers: &HeaderMap) {
        self.ending.http = http;
        self.trailers(headers);
    }

    /// Headers or trailers that may carry the gRPC status.
    pub fn trailers(&mut self, headers: &HeaderMap) {
        let (Some(grpc), Some(status)) = (&mut self.ending.grpc, headers.get("grpc-status")) else { return };
        *grpc = status.to_str().ok().and_then(|status| status.parse().ok()).filter(|status| *status <= 16).unwrap_or(UNKNOWN);
        self.settled = true;
    }

    /// The reply came to its end. One of gRPC without a status is of status UNKNOWN, as for its client.
    pub fn whole(&mut self) {
        if !self.settled
            && let Some(grpc) = &mut self.ending.grpc
        {
            *grpc = UNKNOWN;
        }
        self.settled = true;
    }

    /// The reply was cut off with this gRPC status; for HTTP the duration alone tells.
    pub fn cut_off(&mut self, status: u8) {
        match &mut self.ending.grpc {
            Some(grpc) => *grpc = status,
            None => self.ending.http = super::reply::http_status(status).as_u16(),
        }
        self.settled = true;
    }
}

impl Drop for Measure {
    fn drop(&mut self) {
        // A client that leaves within a reply of HTTP leaves a status that says nothing of it.
        if !self.settled && self.ending.grpc.is_none() {
            self.ending.http = CLIENT_LEFT;
        }
        let latency = self.replica.as_ref().map_or(&self.function.gateway_latency, |replica| &replica.latency);
        latency.record(self.ending, clock::since(self.start));
    }
}
