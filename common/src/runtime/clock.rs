//! The clock of services. The one place from which they take the time, and where waits that belong to it begin.
//!
//! A simulated system may live faster than real time: the variable `QSCALE_CLOCK`, such as `10@1764000000000`, has [`now`] run ten times as fast
//! from that instant (milliseconds since 1970) on, in every process that is given the same. Without it nothing differs from the time of day.
//!
//! What follows this clock: ticks, ages, expiry of Actions, budgets, pauses between attempts, all that is computed from [`now`] or waits by [`sleep`]
//! and [`interval`]. What does not: time limits towards servers, the lease, reconnecting and acknowledgements, as NATS and the network are no faster
//! for it. Those measure by [`instant`]. Instants that a server wrote are brought over by [`of_wall`] and [`to_wall`].

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;

use crate::time::Timestamp;

/// The environment variable that says how fast the clock runs, and since when.
pub const VARIABLE: &str = "QSCALE_CLOCK";

/// How fast a clock runs, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockRate {
    speed: u32,
    origin: Timestamp,
}

impl ClockRate {
    /// The time of day.
    pub const REAL: ClockRate = ClockRate { speed: 1, origin: Timestamp(0) };
    /// Highest speed: a millisecond of real time, as exactly as services wait, is a second then.
    pub const FASTEST: u32 = 1_000;

    /// `speed` times as fast as real time from `origin` on, before which it is the time of day.
    ///
    /// # Errors
    /// When `speed` is not 1 to 1000.
    pub fn new(speed: u32, origin: Timestamp) -> Result<Self, String> {
        if (1..=Self::FASTEST).contains(&speed) {
            Ok(Self { speed, origin })
        } else {
            Err(format!("speed = {speed}, must be 1 to {}", Self::FASTEST))
        }
    }

    /// How many times as fast as real time.
    #[must_use]
    pub fn speed(self) -> u32 {
        self.speed
    }

    /// What this clock shows when the time of day is `wall_us`, microseconds since 1970.
    fn at(self, wall_us: u64) -> Timestamp {
        let origin_us = self.origin.0.saturating_mul(1_000);
        match wall_us.checked_sub(origin_us) {
            Some(since) if self.speed > 1 => Timestamp(self.origin.0.saturating_add(since.saturating_mul(u64::from(self.speed)) / 1_000)),
            _ => Timestamp(wall_us / 1_000),
        }
    }

    /// What this clock shows when the time of day is `wall`.
    #[must_use]
    pub fn of_wall(self, wall: Timestamp) -> Timestamp {
        self.at(wall.0.saturating_mul(1_000))
    }

    /// The time of day at which this clock shows `shown`.
    #[must_use]
    pub fn to_wall(self, shown: Timestamp) -> Timestamp {
        match shown.0.checked_sub(self.origin.0) {
            Some(since) => Timestamp(self.origin.0 + since / u64::from(self.speed)),
            None => shown,
        }
    }
}

impl fmt::Display for ClockRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.speed, self.origin.0)
    }
}

impl FromStr for ClockRate {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('@').and_then(|(speed, origin)| Some((speed.parse().ok()?, origin.parse().ok()?)));
        let (speed, origin) =
            parsed.ok_or_else(|| format!("`{text}` is not how fast a clock runs since when, such as 10@1764000000000"))?;
        Self::new(speed, Timestamp(origin))
    }
}

static PACE: OnceLock<ClockRate> = OnceLock::new();

/// How fast the clock of this process runs.
#[must_use]
pub fn pace() -> ClockRate {
    *PACE.get_or_init(|| from_environment().unwrap_or(ClockRate::REAL))
}

/// Has the clock of this process run at `pace`. To be called before anything asks for the time; later it changes nothing.
pub fn follow(pace: ClockRate) {
    // A clock that runs already keeps its pace: time must not jump.
    let _kept = PACE.set(pace);
}

/// What the environment says of the clock.
///
/// # Errors
/// When the variable is there and not understood.
pub fn from_environment() -> Result<ClockRate, String> {
    match std::env::var(VARIABLE) {
        Ok(text) => text.parse().map_err(|error| format!("environment variable {VARIABLE}: {error}")),
        Err(_) => Ok(ClockRate::REAL),
    }
}

/// The time in which the system lives: the time of day, unless it lives faster.
#[must_use]
pub fn now() -> Timestamp {
    pace().at(wall_us())
}

/// The time of day, whatever the system lives in: what servers write.
#[must_use]
pub fn wall() -> Timestamp {
    Timestamp(wall_us() / 1_000)
}

#[expect(clippy::disallowed_methods, reason = "this is the edge where services read the wall clock")]
fn wall_us() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// The system's time at the instant that a server called `wall`.
#[must_use]
pub fn of_wall(wall: Timestamp) -> Timestamp {
    pace().of_wall(wall)
}

/// What a server calls the instant at which the system's time is `shown`.
#[must_use]
pub fn to_wall(shown: Timestamp) -> Timestamp {
    pace().to_wall(shown)
}

/// An instant of the monotonic clock, for measuring durations in real time.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the edge where services read the monotonic clock")]
pub fn instant() -> std::time::Instant {
    std::time::Instant::now()
}

/// The real time in which the system lives through `span`.
#[must_use]
pub fn real(span: Duration) -> Duration {
    span / pace().speed
}

/// Waits until the system has lived through `span`.
pub fn sleep(span: Duration) -> tokio::time::Sleep {
    tokio::time::sleep(real(span))
}

/// Ticks whenever the system has lived through another `period`, the first time at once; not more often than once a millisecond of real time.
///
/// # Panics
/// When called outside a tokio runtime.
#[must_use]
pub fn interval(period: Duration) -> tokio::time::Interval {
    tokio::time::interval(real(period).max(Duration::from_millis(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: Timestamp = Timestamp(1_764_000_000_000);

    #[test]
    fn real_time_is_the_time_of_day() {
        assert_eq!(ClockRate::REAL.of_wall(ORIGIN), ORIGIN);
        assert_eq!(ClockRate::REAL.to_wall(ORIGIN), ORIGIN);
        assert_eq!(ClockRate::new(1, ORIGIN).expect("real").at(ORIGIN.0 * 1_000 + 1_999), Timestamp(ORIGIN.0 + 1));
    }

    #[test]
    fn a_faster_clock_runs_from_its_origin_on() {
        let pace = ClockRate::new(10, ORIGIN).expect("valid");
        assert_eq!(pace.of_wall(ORIGIN), ORIGIN);
        assert_eq!(pace.of_wall(Timestamp(ORIGIN.0 + 5)), Timestamp(ORIGIN.0 + 50));
        assert_eq!(pace.at(ORIGIN.0 * 1_000 + 100), Timestamp(ORIGIN.0 + 1), "finer than the milliseconds of the wall");
        assert_eq!(pace.of_wall(Timestamp(ORIGIN.0 - 5)), Timestamp(ORIGIN.0 - 5));
    }

    #[test]
    fn what_it_shows_leads_back_to_the_time_of_day() {
        let pace = ClockRate::new(7, ORIGIN).expect("valid");
        for after in [0, 1, 1_000, 123_456] {
            let wall = Timestamp(ORIGIN.0 + after);
            assert_eq!(pace.to_wall(pace.of_wall(wall)), wall);
        }
    }

    #[test]
    fn a_pace_is_read_as_it_is_written() {
        let pace = ClockRate::new(25, ORIGIN).expect("valid");
        assert_eq!(pace.to_string().parse(), Ok(pace));
        for wrong in ["", "10", "ten@1", "0@1", "1001@1", "10@-1"] {
            assert!(wrong.parse::<ClockRate>().is_err(), "{wrong}");
        }
    }
}
