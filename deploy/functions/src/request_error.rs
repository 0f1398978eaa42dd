//! Errors of requests. Owns the mapping to gRPC codes and HTTP statuses.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use thiserror::Error;

/// Reason why a request is refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RequestError {
    /// A value is out of range; the text contains field, value and range.
    #[error("{0}")]
    Invalid(String),
    /// The queue is full.
    #[error("the queue is full: all workers are busy and {waiting} requests wait")]
    Busy {
        /// Number of waiting requests.
        waiting: usize,
    },
    /// The operating system refused the requested memory.
    #[error("cannot allocate {mebibytes} MiB: {reason}")]
    NoMemory {
        /// Requested memory, MiB.
        mebibytes: u32,
        /// Error of the operating system.
        reason: String,
    },
    /// The worker ended without a result.
    #[error("the worker ended without a result")]
    WorkerLost,
}

impl RequestError {
    /// Error for `value` of `field`, whose range is `range`. A long value is truncated.
    #[must_use]
    pub fn invalid(field: &str, value: &str, range: &str) -> Self {
        const LONGEST_QUOTE: usize = 100;
        let quoted: String = value.chars().take(LONGEST_QUOTE).collect();
        let cut = if quoted.len() < value.len() { "…" } else { "" };
        Self::Invalid(format!("{field} = `{quoted}{cut}`, must be {range}"))
    }
}

impl From<RequestError> for tonic::Status {
    fn from(request_error: RequestError) -> Self {
        let text = request_error.to_string();
        match request_error {
            RequestError::Invalid(_) => Self::invalid_argument(text),
            RequestError::Busy { .. } | RequestError::NoMemory { .. } => Self::resource_exhausted(text),
            RequestError::WorkerLost => Self::internal(text),
        }
    }
}

impl IntoResponse for RequestError {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::Busy { .. } | Self::NoMemory { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::WorkerLost => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, format!("{self}\n")).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_is_truncated_at_a_character_boundary() {
        let RequestError::Invalid(text) = RequestError::invalid("name", &"é".repeat(5000), "a number") else { panic!("an invalid value") };
        assert!(text.len() < 300, "{text}");
        assert!(text.contains('…') && text.ends_with("must be a number"), "{text}");
    }
}
