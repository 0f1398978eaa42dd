//! Statuses of gRPC: those that the gateway sends, their equivalents in HTTP, and trailers.

use http::{HeaderMap, HeaderValue, StatusCode};

/// gRPC: the client disconnected.
pub const CANCELLED: u8 = 1;
/// gRPC: no status is known.
pub const UNKNOWN: u8 = 2;
/// gRPC: the request exceeded its timeout.
pub const DEADLINE_EXCEEDED: u8 = 4;
/// gRPC: the queue is full.
pub const RESOURCE_EXHAUSTED: u8 = 8;
/// gRPC: there is no such function; the mapping of HTTP 404.
pub const UNIMPLEMENTED: u8 = 12;
/// gRPC: the request is malformed; the mapping of HTTP 400.
pub const INTERNAL: u8 = 13;
/// gRPC: the replica failed.
pub const UNAVAILABLE: u8 = 14;

/// HTTP status equivalent to a gRPC status.
#[must_use]
pub fn http_status(grpc: u8) -> StatusCode {
    match grpc {
        UNIMPLEMENTED => StatusCode::NOT_FOUND,
        DEADLINE_EXCEEDED => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// gRPC trailers. Characters of the message other than printable ASCII are percent-encoded.
#[must_use]
pub fn trailers(status: u8, message: &str) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(4);
    trailers.insert("grpc-status", HeaderValue::from(u16::from(status)));
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    if let Ok(value) = HeaderValue::from_str(&encoded) {
        trailers.insert("grpc-message", value);
    }
    trailers
}
