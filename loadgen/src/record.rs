//! What became of a request. Owns the record that every output is made of, and the words for what can go wrong.

use std::fmt;

use qscale_common::workload::Arrival;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// Answered with success; whether the answer is right, [`Record::valid`] says.
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

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Status::Ok => f.write_str("ok"),
            Status::Grpc(code) => match GRPC.get(usize::from(*code)) {
                Some(word) => f.write_str(word),
                None => write!(f, "grpc_{code}"),
            },
            Status::Http(code) => write!(f, "http_{code}"),
            Status::Timeout => f.write_str("timeout"),
            Status::Refused => f.write_str("refused"),
            Status::Unreachable => f.write_str("unreachable"),
            Status::Broken => f.write_str("broken"),
            Status::Malformed => f.write_str("malformed"),
            Status::Censored => f.write_str("censored"),
            Status::NotSent => f.write_str("not_sent"),
        }
    }
}

/// Which connection a request went over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// None: it was not sent.
    Nothing,
    /// One made for it.
    New,
    /// One that was there.
    Reused,
}

impl Over {
    /// The word in the output.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Over::Nothing => "",
            Over::New => "new",
            Over::Reused => "reused",
        }
    }
}

/// One request, complete. Instants are nanoseconds since the start of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
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
    pub status: Status,
    /// Which connection it went over.
    pub over: Over,
    /// Whether the answer is right; `None` where there was no answer with success.
    pub valid: Option<bool>,
    /// How long the function says it ran, microseconds; 0 where it does not say.
    pub reported_us: u32,
    /// How much memory the function says it used, KiB; 0 where it does not say.
    pub reported_kib: u32,
}

impl Record {
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
            status: Status::NotSent,
            over: Over::Nothing,
            valid: None,
            reported_us: 0,
            reported_kib: 0,
        }
    }

    /// Whether it was answered well: with success, and rightly.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.status == Status::Ok && self.valid == Some(true)
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
    pub fn failure(&self) -> Option<Failure> {
        match (self.status, self.valid) {
            (Status::Ok, Some(true)) | (Status::Censored, _) => None,
            (Status::Ok, _) => Some(Failure::InvalidReply),
            (status, _) => Some(Failure::Status(status)),
        }
    }
}

/// Why a request counts as failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    /// Its status.
    Status(Status),
    /// An answer with success that is not right.
    InvalidReply,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Status(status) => status.fmt(f),
            Failure::InvalidReply => f.write_str("invalid_reply"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn record(status: Status, valid: Option<bool>) -> Record {
        let arrival = Arrival { at: Duration::ZERO, function: 0, duration_ms: 0, memory_mib: 0 };
        Record { status, valid, sent_ns: Some(30), replied_ns: Some(100), ..Record::due(0, &arrival, 10) }
    }

    #[test]
    fn latency_counts_from_when_the_request_was_due() {
        assert_eq!(record(Status::Ok, Some(true)).latency_ns(), Some(90));
        assert_eq!(record(Status::Ok, Some(true)).lag_ns(), Some(20));
    }

    #[test]
    fn failures_have_a_kind_and_no_latency() {
        for (status, valid, kind) in [
            (Status::Ok, Some(false), "invalid_reply"),
            (Status::Grpc(14), None, "unavailable"),
            (Status::Grpc(99), None, "grpc_99"),
            (Status::Http(503), None, "http_503"),
            (Status::Timeout, None, "timeout"),
            (Status::NotSent, None, "not_sent"),
        ] {
            let record = record(status, valid);
            assert_eq!(record.latency_ns(), None, "{kind}");
            assert_eq!(record.failure().expect("a failure").to_string(), kind);
        }
    }

    #[test]
    fn what_was_cut_off_is_neither_success_nor_failure() {
        let record = record(Status::Censored, None);
        assert_eq!((record.latency_ns(), record.failure()), (None, None));
    }
}
