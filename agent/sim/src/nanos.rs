//! Virtual time. Owns the unit of instants and amounts of work.

use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::time::Duration;

/// Nanoseconds: an instant since the start, a span, or CPU time. An integer, so that sums do not depend on their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Nanos(pub u64);

impl Nanos {
    /// The start, or an empty span.
    pub const ZERO: Nanos = Nanos(0);
    /// An instant that never comes.
    pub const NEVER: Nanos = Nanos(u64::MAX);
    /// Longest single span: 10 days. Sums of such spans stay far below [`Nanos::NEVER`].
    pub const LONGEST: Nanos = Nanos(864_000_000_000_000);

    /// `ms` milliseconds.
    #[must_use]
    pub const fn millis(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000_000))
    }

    /// `seconds` seconds, rounded to a nanosecond, at most [`Nanos::LONGEST`]; zero if negative or NaN.
    #[must_use]
    pub fn from_seconds(seconds: f64) -> Self {
        Self::from_f64(seconds * 1e9)
    }

    /// Seconds.
    #[must_use]
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// Time since `earlier`; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Nanos) -> Nanos {
        Self(self.0.saturating_sub(earlier.0))
    }

    /// A span of `nanos` nanoseconds, at most [`Nanos::LONGEST`].
    #[inline]
    pub(crate) fn from_f64(nanos: f64) -> Self {
        // The processor converts to a signed number in one instruction.
        Self(((nanos + 0.5) as i64).clamp(0, Self::LONGEST.0 as i64) as u64)
    }
}

impl From<Duration> for Nanos {
    #[inline]
    fn from(duration: Duration) -> Self {
        let nanos = duration.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(duration.subsec_nanos()));
        // An instant may be beyond the longest span, but adding a span must not overflow.
        Self(nanos.min(u64::MAX / 4))
    }
}

impl From<Nanos> for Duration {
    fn from(nanos: Nanos) -> Self {
        Duration::from_nanos(nanos.0)
    }
}

impl Add for Nanos {
    type Output = Nanos;
    fn add(self, other: Nanos) -> Nanos {
        Nanos(self.0 + other.0)
    }
}

impl AddAssign for Nanos {
    fn add_assign(&mut self, other: Nanos) {
        self.0 += other.0;
    }
}

impl Sub for Nanos {
    type Output = Nanos;
    fn sub(self, other: Nanos) -> Nanos {
        Nanos(self.0 - other.0)
    }
}

impl SubAssign for Nanos {
    fn sub_assign(&mut self, other: Nanos) {
        self.0 -= other.0;
    }
}
