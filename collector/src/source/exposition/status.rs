//! Statuses of failed requests.

/// HTTP statuses of the 17 gRPC statuses, as Google's API guide maps them.
const HTTP_OF_GRPC: [u16; 17] = [200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401];

/// Whether a request with these statuses failed: not answered, not in time, or refused for lack of capacity. Failures
/// are 408, 429, 499 (the client stopped waiting), everything from 500 on, and unknown statuses; a gRPC status counts
/// as the HTTP status that it maps to. A client error (the other 4xx) and a request without a status did not fail.
pub(super) fn is_failure(http: Option<&[u8]>, grpc: Option<&[u8]>) -> bool {
    http.is_some_and(|status| !status.is_empty() && http_failed(status))
        || grpc.is_some_and(|status| !status.is_empty() && grpc_failed(status))
}

fn http_failed(status: &[u8]) -> bool {
    match status {
        [b'0'..=b'4', b'x', b'x'] => false,
        _ => number(status).is_none_or(|status| matches!(status, 0 | 408 | 429 | 499 | 500..)),
    }
}

fn grpc_failed(status: &[u8]) -> bool {
    number(status).and_then(|status| HTTP_OF_GRPC.get(usize::from(status))).is_none_or(|http| matches!(http, 408 | 429 | 499 | 500..))
}

fn number(text: &[u8]) -> Option<u16> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(http: &str, grpc: Option<&str>, expected: bool) {
        assert_eq!(is_failure(Some(http.as_bytes()), grpc.map(str::as_bytes)), expected, "{http} {grpc:?}");
    }

    #[test]
    fn a_client_error_is_not_a_failure() {
        for status in ["200", "204", "302", "400", "401", "404", "422", "4xx", "2xx", ""] {
            check(status, None, false);
        }
        for grpc in ["0", "3", "5", "6", "7", "9", "10", "11", "16", ""] {
            check("200", Some(grpc), false);
        }
    }

    #[test]
    fn an_unanswered_or_refused_request_is_a_failure() {
        for status in ["408", "429", "499", "500", "502", "503", "504", "599", "5xx", "0", "65536", "abc", "9xx"] {
            check(status, None, true);
        }
        for grpc in ["1", "2", "4", "8", "12", "13", "14", "15", "17", "OK?"] {
            check("200", Some(grpc), true);
        }
    }

    #[test]
    fn a_request_without_a_status_did_not_fail() {
        assert!(!is_failure(None, None));
    }
}
