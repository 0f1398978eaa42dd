//! Records of requests. Owns the record from which all outputs are made, and the names of statuses and failures.

use std::fmt;

use qscale_common::workload::Arrival;

/// Ending of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RequestStatus {
    /// Reply with a success status; its content is judged by [`RequestRecord::valid`].
    Ok,
    /// Reply with a gRPC status other than OK.
    Grpc(u8),
    /// Reply with an HTTP status other than success.
    Http(u16),
    /// No reply within the timeout.
    Timeout,
    /// The connection was refused.
    Refused,
    /// Connecting failed for another reason.
    Unreachable,
    /// The connection or stream broke before the reply was complete.
    Broken,
    /// The reply violates the protocol.
    Malformed,
    /// Still in flight when the run ended.
    Censored,
    /// Not sent, because too many requests were in flight.
    NotSent,
}

/// Names of gRPC's status codes, by number.
const GRPC: [&str; 17] = [
    "ok",
    "cancelled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
];

impl fmt::Display for RequestStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestStatus::Ok => f.write_str("ok"),
            RequestStatus::Grpc(code) => match GRPC.get(usize::from(*code)) {
                Some(word) => f.write_str(word),
                None => write!(f, "grpc_{code}"),
            },
            RequestStatus::Http(code) => write!(f, "http_{code}"),
            RequestStatus::Timeout => f.write_str("timeout"),
            RequestStatus::Refused => f.write_str("refused"),
            RequestStatus::Unreachable => f.write_str("unreachable"),
            RequestStatus::Broken => f.write_str("broken"),
            RequestStatus::Malformed => f.write_str("malformed"),
            RequestStatus::Censored => f.write_str("censored"),
            RequestStatus::NotSent => f.write_str("not_sent"),
        }
    }
}

/// Connection used by a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionUse {
    /// None: the request was not sent.
    Nothing,
    /// A connection opened for it.
    New,
    /// An existing connection.
    Reused,
}

impl ConnectionUse {
    /// Name in outputs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            ConnectionUse::Nothing => "",
            ConnectionUse::New => "new",
            ConnectionUse::Reused => "reused",
        }
    }
}

/// A completed request. Times are nanoseconds since the start of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestRecord {
    /// Sequence number in order of intended send times, from 0.
    pub sequence: u64,
    /// Index of the function.
    pub function: u32,
    /// Requested duration, milliseconds.
    pub duration_ms: u32,
    /// Requested memory, MiB.
    pub memory_mib: u32,
    /// Intended send time.
    pub intended_ns: u64,
    /// Send time: of the write to the connection or, for a new connection, before connecting.
    pub sent_ns: Option<u64>,
    /// Time at which its new connection was established.
    pub connected_ns: Option<u64>,
    /// Time at which its reply was complete.
    pub replied_ns: Option<u64>,
    /// Ending.
    pub status: RequestStatus,
    /// Connection used.
    pub over: ConnectionUse,
    /// Whether the reply is valid; `None` without a success status.
    pub valid: Option<bool>,
    /// Duration reported by the function, microseconds; 0 if not reported.
    pub reported_us: u32,
    /// Memory reported by the function, KiB; 0 if not reported.
    pub reported_kib: u32,
}

impl RequestRecord {
    /// Record of `arrival` before it is sent.
    #[must_use]
    pub fn due(sequence: u64, arrival: &Arrival, intended_ns: u64) -> Self {
        Self {
            sequence,
            function: arrival.function,
            duration_ms: arrival.duration_ms,
            memory_mib: arrival.memory_mib,
            intended_ns,
            sent_ns: None,
            connected_ns: None,
            replied_ns: None,
            status: RequestStatus::NotSent,
            over: ConnectionUse::Nothing,
            valid: None,
            reported_us: 0,
            reported_kib: 0,
        }
    }

    /// Whether it succeeded: a success status and a valid reply.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.status == RequestStatus::Ok && self.valid == Some(true)
    }

    /// Latency of a successful request, from its intended send time to its reply; `None` for failures.
    #[must_use]
    pub fn latency_ns(&self) -> Option<u64> {
        self.replied_ns.filter(|_| self.succeeded()).map(|replied| replied.saturating_sub(self.intended_ns))
    }

    /// Send lag: delay of the send after the intended time.
    #[must_use]
    pub fn lag_ns(&self) -> Option<u64> {
        self.sent_ns.map(|sent| sent.saturating_sub(self.intended_ns))
    }

    /// Kind of failure; `None` for successful and censored requests.
    #[must_use]
    pub fn failure(&self) -> Option<FailureKind> {
        match (self.status, self.valid) {
            (RequestStatus::Ok, Some(true)) | (RequestStatus::Censored, _) => None,
            (RequestStatus::Ok, _) => Some(FailureKind::InvalidReply),
            (status, _) => Some(FailureKind::Status(status)),
        }
    }
}

/// Kind of failure of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailureKind {
    /// Status other than success.
    Status(RequestStatus),
    /// Success status with an invalid reply.
    InvalidReply,
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FailureKind::Status(status) => status.fmt(f),
            FailureKind::InvalidReply => f.write_str("invalid_reply"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn record(status: RequestStatus, valid: Option<bool>) -> RequestRecord {
        let arrival = Arrival { at: Duration::ZERO, function: 0, duration_ms: 0, memory_mib: 0 };
        RequestRecord { status, valid, sent_ns: Some(30), replied_ns: Some(100), ..RequestRecord::due(0, &arrival, 10) }
    }

    #[test]
    fn latency_counts_from_the_intended_send_time() {
        assert_eq!(record(RequestStatus::Ok, Some(true)).latency_ns(), Some(90));
        assert_eq!(record(RequestStatus::Ok, Some(true)).lag_ns(), Some(20));
    }

    #[test]
    fn failures_have_a_kind_and_no_latency() {
        for (status, valid, kind) in [
            (RequestStatus::Ok, Some(false), "invalid_reply"),
            (RequestStatus::Grpc(14), None, "unavailable"),
            (RequestStatus::Grpc(99), None, "grpc_99"),
            (RequestStatus::Http(503), None, "http_503"),
            (RequestStatus::Timeout, None, "timeout"),
            (RequestStatus::NotSent, None, "not_sent"),
        ] {
            let record = record(status, valid);
            assert_eq!(record.latency_ns(), None, "{kind}");
            assert_eq!(record.failure().expect("a failure").to_string(), kind);
        }
    }

    #[test]
    fn a_censored_request_is_neither_success_nor_failure() {
        let record = record(RequestStatus::Censored, None);
        assert_eq!((record.latency_ns(), record.failure()), (None, None));
    }
}
