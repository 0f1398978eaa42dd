//! Measurement of requests. Owns the single place where the end of a request is recorded.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use qscale_common::runtime::clock;

use super::grpc_status::{self, CANCELLED, UNKNOWN};
use crate::function::ManagedFunction;
use crate::latency::RequestResult;
use crate::replica::Replica;

/// HTTP status recorded for a client that disconnected before the reply (as in nginx).
const CLIENT_CLOSED: u16 = 499;

/// Records duration and ending of a request when dropped.
#[derive(Debug)]
pub struct RequestMeasurement {
    function: Arc<ManagedFunction>,
    replica: Option<Arc<Replica>>,
    start: Instant,
    ending: RequestResult,
    /// Whether the ending is final.
    settled: bool,
}

impl RequestMeasurement {
    /// Starts measuring a request of `function`.
    #[must_use]
    pub fn start(function: Arc<ManagedFunction>, grpc: bool) -> Self {
        let ending = RequestResult { http: CLIENT_CLOSED, grpc: grpc.then_some(CANCELLED) };
        Self { function, replica: None, start: clock::instant(), ending, settled: false }
    }

    /// Attributes the request to `replica`, or to the gateway.
    pub fn goes_to(&mut self, replica: Option<Arc<Replica>>) {
        self.replica = replica;
    }

    /// Sets the ending of a reply by the gateway.
    pub fn replied(&mut self, http: u16, grpc: u8) {
        self.ending = RequestResult { http, grpc: self.ending.grpc.map(|_| grpc) };
        self.settled = true;
    }

    /// Reads the head of the replica's reply.
    pub fn head(&mut self, http: u16, headers: &HeaderMap) {
        self.ending.http = http;
        self.trailers(headers);
    }

    /// Reads headers or trailers that may carry the gRPC status.
    pub fn trailers(&mut self, headers: &HeaderMap) {
        let (Some(grpc), Some(status)) = (&mut self.ending.grpc, headers.get("grpc-status")) else { return };
        *grpc = status.to_str().ok().and_then(|status| status.parse().ok()).filter(|status| *status <= 16).unwrap_or(UNKNOWN);
        self.settled = true;
    }

    /// Ends a complete reply. A gRPC reply without a status counts as UNKNOWN, as for its client.
    pub fn whole(&mut self) {
        if !self.settled
            && let Some(grpc) = &mut self.ending.grpc
        {
            *grpc = UNKNOWN;
        }
        self.settled = true;
    }

    /// Ends a reply that was cut off with this gRPC status, or its equivalent in HTTP.
    pub fn cut_off(&mut self, status: u8) {
        match &mut self.ending.grpc {
            Some(grpc) => *grpc = status,
            None => self.ending.http = grpc_status::http_status(status).as_u16(),
        }
        self.settled = true;
    }
}

impl Drop for RequestMeasurement {
    fn drop(&mut self) {
        // The status of the head says nothing about a client that disconnected later.
        if !self.settled && self.ending.grpc.is_none() {
            self.ending.http = CLIENT_CLOSED;
        }
        let latency = self.replica.as_ref().map_or(&self.function.gateway_latency, |replica| &replica.latency);
        latency.record(self.ending, clock::since(self.start));
    }
}
