//! Statuses of failed requests.

/// Names of the 17 gRPC statuses in the order of their numbers, and the HTTP statuses to which Google's API guide maps them.
const GRPC: [(&str, u16); 17] = [
    ("OK", 200),
    ("CANCELLED", 499),
    ("UNKNOWN", 500),
    ("INVALID_ARGUMENT", 400),
    ("DEADLINE_EXCEEDED", 504),
    ("NOT_FOUND", 404),
    ("ALREADY_EXISTS", 409),
    ("PERMISSION_DENIED", 403),
    ("RESOURCE_EXHAUSTED", 429),
    ("FAILED_PRECONDITION", 400),
    ("ABORTED", 409),
    ("OUT_OF_RANGE", 400),
    ("UNIMPLEMENTED", 501),
    ("INTERNAL", 500),
    ("UNAVAILABLE", 503),
    ("DATA_LOSS", 500),
    ("UNAUTHENTICATED", 401),
];

/// Whether a request with these statuses failed: not answered, not in time, or refused for lack of capacity. Failures
/// are 408, 429, 499 (the client stopped waiting), everything from 500 on, and unknown statuses; a gRPC status counts
/// as the HTTP status that it maps to. A client error (the other 4xx) and a request without a status did not fail.
///
/// An HTTP status is a number, a class such as `5xx` or `5`, or `OK`. A gRPC status is a number or a name in any spelling:
/// `NOT_FOUND`, `NotFound`.
pub(in super::super) fn is_failure(http: Option<&[u8]>, grpc: Option<&[u8]>) -> bool {
    http.is_some_and(|status| !status.is_empty() && http_failed(status))
        || grpc.is_some_and(|status| !status.is_empty() && grpc_failed(status))
}

fn http_failed(status: &[u8]) -> bool {
    match status {
        [class, b'x' | b'X', b'x' | b'X'] | [class @ b'1'..=b'9'] => !matches!(class, b'0'..=b'4'),
        _ if status.eq_ignore_ascii_case(b"OK") => false,
        _ => number(status).is_none_or(is_failed),
    }
}

fn grpc_failed(status: &[u8]) -> bool {
    let of_number = || GRPC.get(usize::from(number(status)?)).map(|(_, http)| *http);
    let of_name = || GRPC.iter().find(|(name, _)| is_name(status, name)).map(|(_, http)| *http);
    of_number().or_else(of_name).is_none_or(is_failed)
}

fn is_failed(http: u16) -> bool {
    matches!(http, 0 | 408 | 429 | 499 | 500..)
}

/// Whether `text` is the name of a status: with underscores or without, in upper or lower case.
fn is_name(text: &[u8], name: &str) -> bool {
    let letters = |text: &'_ [u8]| text.iter().filter(|byte| **byte != b'_').map(u8::to_ascii_uppercase).collect::<Vec<_>>();
    // The name in Go has one L.
    let text = letters(text);
    text == letters(name.as_bytes()) || (name == "CANCELLED" && text == b"CANCELED")
}

/// A whole number, perhaps written with a fraction of zero.
fn number(text: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(text).ok()?;
    let whole = text.split_once('.').filter(|(_, fraction)| fraction.bytes().all(|digit| digit == b'0')).map_or(text, |(whole, _)| whole);
    whole.parse().ok()
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
        for status in ["200", "204", "302", "400", "401", "404", "422", "4xx", "2xx", "2XX", "4Xx", "2", "4", "200.0", "OK", "ok", ""] {
            check(status, None, false);
        }
        for grpc in ["0", "3", "5", "6", "7", "9", "10", "11", "16", "0.0", "OK", "Ok", "NOT_FOUND", "NotFound", "UNAUTHENTICATED", ""] {
            check("200", Some(grpc), false);
        }
    }

    #[test]
    fn an_unanswered_or_refused_request_is_a_failure() {
        for status in [
            "408", "429", "499", "500", "502", "503", "504", "599", "5xx", "0", "65536", "abc", "9xx", "5XX", "5", "9", "503.0", "200.5",
            "x",
        ] {
            check(status, None, true);
        }
        for grpc in [
            "1",
            "2",
            "4",
            "8",
            "12",
            "13",
            "14",
            "15",
            "17",
            "OK?",
            "UNAVAILABLE",
            "DeadlineExceeded",
            "CANCELLED",
            "Canceled",
            "internal",
        ] {
            check("200", Some(grpc), true);
        }
    }

    #[test]
    fn a_request_without_a_status_did_not_fail() {
        assert!(!is_failure(None, None));
    }
}
