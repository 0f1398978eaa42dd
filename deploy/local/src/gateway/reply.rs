//! Replies of the gateway itself. Owns the form of a refusal in HTTP and in gRPC.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{Either, Full};

use super::body::ReplyBody;
use super::grpc_status::{DEADLINE_EXCEEDED, INTERNAL, RESOURCE_EXHAUSTED, UNAVAILABLE, UNIMPLEMENTED, http_status, trailers};

/// Reason why the gateway replies instead of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatewayRefusal {
    /// The request is malformed or incomplete.
    BadRequest,
    /// The head has too many fields.
    TooManyFields,
    /// The gateway does not have the method or the transfer coding of the request.
    NotImplemented,
    /// No such function.
    NotFound,
    /// The queue is full.
    QueueFull,
    /// The request exceeded its timeout before a replica replied.
    Timeout,
    /// The replica failed and may have processed the request.
    ReplicaFailed,
    /// The function is being removed, or the platform stops.
    Stopping,
}

impl GatewayRefusal {
    /// Its HTTP status and gRPC status.
    #[must_use]
    pub fn status(self) -> (StatusCode, u8) {
        let grpc = match self {
            Self::BadRequest => INTERNAL,
            Self::NotFound | Self::NotImplemented => UNIMPLEMENTED,
            Self::QueueFull | Self::TooManyFields => RESOURCE_EXHAUSTED,
            Self::Timeout => DEADLINE_EXCEEDED,
            Self::ReplicaFailed | Self::Stopping => UNAVAILABLE,
        };
        let http = match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            Self::ReplicaFailed => StatusCode::BAD_GATEWAY,
            _ => http_status(grpc),
        };
        (http, grpc)
    }

    fn reason(self) -> &'static str {
        match self {
            Self::BadRequest => "bad-request",
            Self::TooManyFields => "too-many-fields",
            Self::NotImplemented => "not-implemented",
            Self::NotFound => "not-found",
            Self::QueueFull => "queue-full",
            Self::Timeout => "timeout",
            Self::ReplicaFailed => "replica-failed",
            Self::Stopping => "stopping",
        }
    }
}

/// Reply for a refusal; for gRPC with trailers only.
#[must_use]
pub fn refuse(refusal: GatewayRefusal, grpc: bool, message: &str) -> Response<ReplyBody> {
    let (status, code) = refusal.status();
    let mut response = if grpc {
        let mut response = Response::new(Either::Right(Full::default()));
        *response.headers_mut() = trailers(code, message);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        response
    } else {
        let mut response = Response::new(Either::Right(Full::new(Bytes::from(format!("{message}\n")))));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response
    };
    response.headers_mut().insert("x-qscale-refusal", HeaderValue::from_static(refusal.reason()));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_refusal_is_trailers_only_with_status_200() {
        let response = refuse(GatewayRefusal::QueueFull, true, "100 % of 5 wait\n");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], "8");
        assert_eq!(response.headers()["grpc-message"], "100 %25 of 5 wait%0A");
        assert_eq!(response.headers()["content-type"], "application/grpc");
    }

    #[test]
    fn an_http_refusal_has_its_status() {
        let statuses = [
            GatewayRefusal::BadRequest,
            GatewayRefusal::TooManyFields,
            GatewayRefusal::NotImplemented,
            GatewayRefusal::NotFound,
            GatewayRefusal::QueueFull,
            GatewayRefusal::Timeout,
            GatewayRefusal::ReplicaFailed,
            GatewayRefusal::Stopping,
        ]
        .map(|refusal| refuse(refusal, false, "").status().as_u16());
        assert_eq!(statuses, [400, 431, 501, 404, 503, 504, 502, 503]);
    }
}
