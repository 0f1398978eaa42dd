//! What became of a request. Owns the record that every output is made of, and the words for what can go wrong.

use std::fmt;

use qscale_common::workload::Arrival;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RequestStatus {
    /// Answered with success; whether the answer is right, [`RequestRecord::valid`] says.
    Ok,
    /// Answered with a gRPC status other than OK.
    Grpc(u8),
    /// Answered with an HTTP status that is not a success.
    Http(u16),
    /// Not answered within the timeout.
    Timeout,
    /// The connection was refused.
    Refused,
    /// No connection could be made for another reason.
    Unreachable,
    /// The connection or the stream broke before the answer was complete.
    Broken,
    /// The answer was not what the protocol prescribes.
    Malformed,
    /// Still in flight when the run ended.
    Censored,
    /// Not sent, as too many were in flight.
    NotSent,
}

/// The words of gRPC's status codes, by number.
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

/// Which connection a request went over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionUse {
    /// None: it was not sent.
    Nothing,
    /// One made for it.
    New,
    /// One that was there.
    Reused,
}

impl ConnectionUse {
    /// The word in the output.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            ConnectionUse::Nothing => "",
            ConnectionUse::New => "new",
            ConnectionUse::Reused => "reused",
        }
    }
}

/// One request, complete. Instants are nanoseconds since the start of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestRecord {
    /// Number of the request in the order in which they were due, from 0.
    pub sequence: u64,
    /// Index of the function.
    pub function: u32,
    /// Duration that was asked for, milliseconds.
    pub duration_ms: u32,
    /// Memory that was asked for, MiB.
    pub memory_mib: u32,
    /// When it was due.
    pub intended_ns: u64,
    /// When it was written to its connection, or, over a new one, when the connection was begun.
    pub sent_ns: Option<u64>,
    /// When its new connection stood.
    pub connected_ns: Option<u64>,
    /// When its answer was complete.
    pub replied_ns: Option<u64>,
    /// How it ended.
    pub status: RequestStatus,
    /// Which connection it went over.
    pub over: ConnectionUse,
    /// Whether the answer is right; `None` where there was no answer with success.
    pub valid: Option<bool>,
    /// How long the function says it ran, microseconds; 0 where it does not say.
    pub reported_us: u32,
    /// How much memory the function says it used, KiB; 0 where it does not say.
    pub reported_kib: u32,
}

impl RequestRecord {
    /// The record of `arrival`, due `intended_ns` after the start and not sent yet.
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

    /// Whether it was answered well: with success, and rightly.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.status == RequestStatus::Ok && self.valid == Some(true)
    }

    /// The latency of a request that was answered well, from when it was due to its answer; failures have none.
    #[must_use]
    pub fn latency_ns(&self) -> Option<u64> {
        self.replied_ns.filter(|_| self.succeeded()).map(|replied| replied.saturating_sub(self.intended_ns))
    }

    /// How late it was sent.
    #[must_use]
    pub fn lag_ns(&self) -> Option<u64> {
        self.sent_ns.map(|sent| sent.saturating_sub(self.intended_ns))
    }

    /// The kind of failure; `None` for a success, and for one that was cut off, of which nothing is known.
    #[must_use]
    pub fn failure(&self) -> Option<FailureKind> {
        match (self.status, self.valid) {
            (RequestStatus::Ok, Some(true)) | (RequestStatus::Censored, _) => None,
            (RequestStatus::Ok, _) => Some(FailureKind::InvalidReply),
            (status, _) => Some(FailureKind::Status(status)),
        }
    }
}

/// Why a request counts as failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailureKind {
    /// Its status.
    Status(RequestStatus),
    /// An answer with success that is not right.
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
    fn latency_counts_from_when_the_request_was_due() {
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
    fn what_was_cut_off_is_neither_success_nor_failure() {
        let record = record(RequestStatus::Censored, None);
        assert_eq!((record.latency_ns(), record.failure()), (None, None));
    }
}
