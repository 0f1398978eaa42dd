//! Which statuses are failures.

/// HTTP statuses of the 17 gRPC statuses, as Google's API guide maps them.
const HTTP_OF_GRPC: [u16; 17] = [200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401];

/// Whether a request that ended with these statuses failed: it was not answered, not in time, or turned away for want of capacity. A gRPC status is
/// judged as the HTTP status that it maps to: 408, 429, 499 (the client gave up waiting) and everything from 500 on. A request that its client got wrong
/// (the other 4xx, such as a path that is not there) was answered well, and so was one without any status. A status that is not known is a failure.
#[must_use]
pub fn failed(http: Option<&[u8]>, grpc: Option<&[u8]>) -> bool {
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
        assert_eq!(failed(Some(http.as_bytes()), grpc.map(str::as_bytes)), expected, "{http} {grpc:?}");
    }

    #[test]
    fn what_the_client_got_wrong_is_no_failure() {
        for status in ["200", "204", "302", "400", "401", "404", "422", "4xx", "2xx", ""] {
            check(status, None, false);
        }
        for grpc in ["0", "3", "5", "6", "7", "9", "10", "11", "16", ""] {
            check("200", Some(grpc), false);
        }
    }

    #[test]
    fn what_was_not_answered_or_refused_for_want_of_capacity_is_a_failure() {
        for status in ["408", "429", "499", "500", "502", "503", "504", "599", "5xx", "0", "65536", "abc", "9xx"] {
            check(status, None, true);
        }
        for grpc in ["1", "2", "4", "8", "12", "13", "14", "15", "17", "OK?"] {
            check("200", Some(grpc), true);
        }
    }

    #[test]
    fn without_a_status_a_request_was_answered() {
        assert!(!failed(None, None));
    }
}
