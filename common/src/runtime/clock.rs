//! The wall clock of services. The one place from which they take the time of day.

use crate::time::Timestamp;

/// The time of day.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the edge where services read the wall clock")]
pub fn now() -> Timestamp {
    Timestamp::from_system_time(std::time::SystemTime::now())
}

/// An instant of the monotonic clock, for measuring durations.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the edge where services read the monotonic clock")]
pub fn instant() -> std::time::Instant {
    std::time::Instant::now()
}
