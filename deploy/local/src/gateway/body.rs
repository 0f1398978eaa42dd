//! Reply bodies. Owns the steps at the end of a reply, complete or cut off.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use thiserror::Error;
use tokio::time::Sleep;

use super::grpc_status;
use super::measure::RequestMeasurement;
use crate::admission::Permit;
use crate::replica::ReadyReplica;
use crate::upstream::UpstreamConnection;

/// Reply body: of the replica, or of the gateway itself.
pub type ReplyBody = Either<Relayed, Full<Bytes>>;

/// Reason why a reply was cut off.
#[derive(Debug, Error)]
pub enum RelayError {
    /// The replica failed.
    #[error("the replica failed: {0}")]
    Replica(#[from] hyper::Error),
    /// The request exceeded its timeout.
    #[error("the request took longer than its timeout")]
    Timeout,
}

/// Reply of a replica. Holds the request's place there until the reply ends or the client disconnects.
#[derive(Debug)]
pub struct Relayed {
    body: Incoming,
    deadline: Pin<Box<Sleep>>,
    measure: RequestMeasurement,
    connection: Option<UpstreamConnection>,
    permit: Option<Permit<Arc<ReadyReplica>>>,
    grpc: bool,
    ended: bool,
}

impl Relayed {
    /// Relays `body` until `deadline`.
    #[must_use]
    pub fn new(
        body: Incoming,
        deadline: Pin<Box<Sleep>>,
        measure: RequestMeasurement,
        connection: UpstreamConnection,
        permit: Permit<Arc<ReadyReplica>>,
        grpc: bool,
    ) -> Self {
        let mut relayed = Self { body, deadline, measure, connection: Some(connection), permit: Some(permit), grpc, ended: false };
        if relayed.body.is_end_stream() {
            relayed.finish();
        }
        relayed
    }

    /// Ends a complete reply: releases the place and the connection.
    fn finish(&mut self) {
        self.ended = true;
        self.measure.whole();
        if let Some(connection) = self.connection.take() {
            connection.finished();
        }
        self.permit = None;
    }

    /// Cuts the reply off. A gRPC client receives the reason in the trailers.
    fn cut_off(&mut self, error: RelayError) -> Option<Result<Frame<Bytes>, RelayError>> {
        let (status, message) = match error {
            RelayError::Timeout => (grpc_status::DEADLINE_EXCEEDED, "the request took longer than its timeout"),
            RelayError::Replica(_) => (grpc_status::UNAVAILABLE, "the replica failed within its reply"),
        };
        self.ended = true;
        self.measure.cut_off(status);
        self.connection = None;
        self.permit = None;
        Some(if self.grpc { Ok(Frame::trailers(grpc_status::trailers(status, message))) } else { Err(error) })
    }
}

impl Body for Relayed {
    type Data = Bytes;
    type Error = RelayError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        let relayed = self.get_mut();
        if relayed.ended {
            return Poll::Ready(None);
        }
        match Pin::new(&mut relayed.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    relayed.measure.trailers(trailers);
                }
                // Trailers end a body; a client of HTTP/1 that does not want them is not asked for more.
                if frame.is_trailers() || relayed.body.is_end_stream() {
                    relayed.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(relayed.cut_off(error.into())),
            Poll::Ready(None) => {
                relayed.finish();
                Poll::Ready(None)
            }
            Poll::Pending => {
                ready!(relayed.deadline.as_mut().poll(context));
                Poll::Ready(relayed.cut_off(RelayError::Timeout))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
