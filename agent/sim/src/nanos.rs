//! Virtual time. Owns the unit of every instant and every amount of work in a world.

use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::time::Duration;

/// Nanoseconds: an instant since the world began, a span, or CPU time. Whole, so that two ways of adding up give the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Nanos(pub u64);

impl Nanos {
    /// The beginning, or nothing.
    pub const ZERO: Nanos = Nanos(0);
    /// An instant that never comes.
    pub const NEVER: Nanos = Nanos(u64::MAX);
    /// The longest single span that is drawn or waited for: 10 days. Sums of such spans stay far below [`Nanos::NEVER`].
    pub const LONGEST: Nanos = Nanos(864_000_000_000_000);

    /// `ms` milliseconds.
    #[must_use]
    pub const fn millis(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000_000))
    }

    /// `seconds` seconds, rounded to a nanosecond and kept within [`Nanos::LONGEST`]; what is negative or no number is nothing.
    #[must_use]
    pub fn from_seconds(seconds: f64) -> Self {
        Self::from_f64(seconds * 1e9)
    }

    /// Seconds, as a fraction.
    #[must_use]
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// The time from `earlier` to this instant; nothing if `earlier` lies after it.
    #[must_use]
    pub fn since(self, earlier: Nanos) -> Nanos {
        Self(self.0.saturating_sub(earlier.0))
    }

    /// A span of so many nanoseconds, kept within [`Nanos::LONGEST`].
    #[inline]
    pub(crate) fn from_f64(nanos: f64) -> Self {
        // By way of a signed number, which the processor converts to in one step.
        Self(((nanos + 0.5) as i64).clamp(0, Self::LONGEST.0 as i64) as u64)
    }
}

impl From<Duration> for Nanos {
    #[inline]
    fn from(duration: Duration) -> Self {
        let nanos = duration.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(duration.subsec_nanos()));
        // An instant may lie beyond the longest span, but never comes so late that adding one to it wraps.
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
