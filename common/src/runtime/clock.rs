//! The clock of services. Owns reading the time and the waits that follow it.
//!
//! A simulated system may run faster than real time: with the variable `QSCALE_CLOCK`, such as `10@1764000000000`, [`now`] runs ten times as fast
//! from that instant (milliseconds since 1970), in every process with the same value. Without it the clock is the time of day.
//!
//! This clock drives ticks, ages, expiry of Actions, budgets and retry delays: everything computed from [`now`] or waiting by [`sleep`]
//! and [`interval`]. It does not drive timeouts of servers, the lease, reconnection and acknowledgements, because NATS and the network are not
//! faster; those use [`instant`]. [`of_wall`] and [`to_wall`] convert timestamps of servers.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;

use crate::time::Timestamp;

/// Environment variable with the rate and origin of the clock.
pub const VARIABLE: &str = "QSCALE_CLOCK";

/// Rate of a clock: speed and origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockRate {
    speed: u32,
    origin: Timestamp,
}

impl ClockRate {
    /// Real time.
    pub const REAL: ClockRate = ClockRate { speed: 1, origin: Timestamp(0) };
    /// Maximum speed: a millisecond of real time, the precision of waits, is then a second.
    pub const FASTEST: u32 = 1_000;

    /// `speed` times as fast as real time from `origin` on; real time before.
    ///
    /// # Errors
    /// If `speed` is not 1 to 1000.
    pub fn new(speed: u32, origin: Timestamp) -> Result<Self, String> {
        if (1..=Self::FASTEST).contains(&speed) {
            Ok(Self { speed, origin })
        } else {
            Err(format!("speed = {speed}, must be 1 to {}", Self::FASTEST))
        }
    }

    /// Speed relative to real time.
    #[must_use]
    pub fn speed(self) -> u32 {
        self.speed
    }

    /// Time of this clock at the real time `wall_us`, microseconds since 1970.
    fn at(self, wall_us: u64) -> Timestamp {
        let origin_us = self.origin.0.saturating_mul(1_000);
        match wall_us.checked_sub(origin_us) {
            Some(since) if self.speed > 1 => Timestamp(self.origin.0.saturating_add(since.saturating_mul(u64::from(self.speed)) / 1_000)),
            _ => Timestamp(wall_us / 1_000),
        }
    }

    /// Time of this clock at the real time `wall`.
    #[must_use]
    pub fn of_wall(self, wall: Timestamp) -> Timestamp {
        self.at(wall.0.saturating_mul(1_000))
    }

    /// Real time at which this clock shows `shown`.
    #[must_use]
    pub fn to_wall(self, shown: Timestamp) -> Timestamp {
        match shown.0.checked_sub(self.origin.0) {
            Some(since) => Timestamp(self.origin.0 + since / u64::from(self.speed)),
            None => shown,
        }
    }
}

impl Default for ClockRate {
    fn default() -> Self {
        Self::REAL
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
            parsed.ok_or_else(|| format!("`{text}` is not a rate, must be <speed>@<origin in ms since 1970>, such as 10@1764000000000"))?;
        Self::new(speed, Timestamp(origin))
    }
}

static RATE: OnceLock<ClockRate> = OnceLock::new();

/// Rate of this process's clock.
#[must_use]
pub fn rate() -> ClockRate {
    *RATE.get_or_init(|| from_environment().unwrap_or(ClockRate::REAL))
}

/// Sets the rate of this process's clock. Must be called before the time is read; later calls have no effect.
pub fn set_rate(rate: ClockRate) {
    // A clock that was read keeps its rate: time must not jump.
    let _kept = RATE.set(rate);
}

/// Rate from the environment.
///
/// # Errors
/// If the variable is malformed.
pub fn from_environment() -> Result<ClockRate, String> {
    match std::env::var(VARIABLE) {
        Ok(text) => text.parse().map_err(|error| format!("environment variable {VARIABLE}: {error}")),
        Err(_) => Ok(ClockRate::REAL),
    }
}

/// System time: real time, unless the clock runs faster.
#[must_use]
pub fn now() -> Timestamp {
    rate().at(wall_us())
}

/// Real time, as servers use it.
#[must_use]
pub fn wall() -> Timestamp {
    Timestamp(wall_us() / 1_000)
}

#[expect(clippy::disallowed_methods, reason = "this is the edge where services read the wall clock")]
fn wall_us() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// System time at the real time `wall`.
#[must_use]
pub fn of_wall(wall: Timestamp) -> Timestamp {
    rate().of_wall(wall)
}

/// Real time at the system time `shown`.
#[must_use]
pub fn to_wall(shown: Timestamp) -> Timestamp {
    rate().to_wall(shown)
}

/// Instant of the monotonic clock, for durations in real time.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the edge where services read the monotonic clock")]
pub fn instant() -> std::time::Instant {
    std::time::Instant::now()
}

/// Real time since `began`.
#[must_use]
pub fn since(began: std::time::Instant) -> Duration {
    instant().saturating_duration_since(began)
}

/// Least difference between the time of day and the monotonic clock that counts as a step; below it, the clock was only adjusted.
const STEP: Duration = Duration::from_secs(1);
/// Time within which both clocks are read. A process that was stopped in between reads them again.
const READ_WITHIN: Duration = Duration::from_millis(100);

/// Detects steps of the time of day, which the monotonic clock does not make. A suspension of the machine counts as one, a stop of the process does not.
#[derive(Debug, Clone, Copy)]
pub struct StepDetector {
    wall: Timestamp,
    instant: std::time::Instant,
}

impl StepDetector {
    /// A detector of steps from now on.
    #[must_use]
    pub fn start() -> Self {
        loop {
            let read = Self { instant: instant(), wall: wall() };
            if since(read.instant) <= READ_WITHIN {
                return read;
            }
        }
    }

    /// Whether the time of day was set forward or back by more than a second since the start or the last call.
    pub fn stepped(&mut self) -> bool {
        let before = std::mem::replace(self, Self::start());
        self.differs_from(before)
    }

    fn differs_from(self, before: Self) -> bool {
        let expected = before.wall.plus(self.instant.saturating_duration_since(before.instant));
        expected.since(self.wall).max(self.wall.since(expected)) > STEP
    }
}

/// System time that follows the monotonic clock from its start on, and so makes no steps.
#[derive(Debug, Clone, Copy)]
pub struct SteadyClock {
    began: Timestamp,
    instant: std::time::Instant,
}

impl SteadyClock {
    /// A clock that shows `began` now.
    #[must_use]
    pub fn start(began: Timestamp) -> Self {
        Self { began, instant: instant() }
    }

    /// The time it shows.
    #[must_use]
    pub fn now(self) -> Timestamp {
        self.began.plus(since(self.instant).saturating_mul(rate().speed))
    }
}

/// Real time of `span` in system time.
#[must_use]
pub fn real(span: Duration) -> Duration {
    span / rate().speed
}

/// Waits for `span` in system time.
pub fn sleep(span: Duration) -> tokio::time::Sleep {
    tokio::time::sleep(real(span))
}

/// Ticks every `period` of system time, starting immediately; at most once per millisecond of real time.
///
/// # Panics
/// If called outside a tokio runtime.
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
        let rate = ClockRate::new(10, ORIGIN).expect("valid");
        assert_eq!(rate.of_wall(ORIGIN), ORIGIN);
        assert_eq!(rate.of_wall(Timestamp(ORIGIN.0 + 5)), Timestamp(ORIGIN.0 + 50));
        assert_eq!(rate.at(ORIGIN.0 * 1_000 + 100), Timestamp(ORIGIN.0 + 1), "finer than the milliseconds of the wall");
        assert_eq!(rate.of_wall(Timestamp(ORIGIN.0 - 5)), Timestamp(ORIGIN.0 - 5));
    }

    #[test]
    fn of_wall_and_to_wall_are_inverse() {
        let rate = ClockRate::new(7, ORIGIN).expect("valid");
        for after in [0, 1, 1_000, 123_456] {
            let wall = Timestamp(ORIGIN.0 + after);
            assert_eq!(rate.to_wall(rate.of_wall(wall)), wall);
        }
    }

    #[test]
    fn a_step_is_what_the_monotonic_clock_does_not_show() {
        let instant = instant();
        let read = |wall_ms: u64, after_ms: u64| StepDetector {
            wall: Timestamp(ORIGIN.0 + wall_ms),
            instant: instant + Duration::from_millis(after_ms),
        };
        let before = read(0, 0);
        for (wall_ms, after_ms) in [(0, 0), (60_000, 60_000), (60_900, 60_000), (59_100, 60_000)] {
            assert!(!read(wall_ms, after_ms).differs_from(before), "{wall_ms} ms within {after_ms} ms");
        }
        for (wall_ms, after_ms) in [(3_600_000, 0), (0, 3_600_000), (3_660_000, 60_000)] {
            assert!(read(wall_ms, after_ms).differs_from(before), "{wall_ms} ms within {after_ms} ms");
        }
        assert!(!StepDetector::start().stepped());
    }

    #[test]
    fn a_rate_round_trips_through_text() {
        let rate = ClockRate::new(25, ORIGIN).expect("valid");
        assert_eq!(rate.to_string().parse(), Ok(rate));
        for wrong in ["", "10", "ten@1", "0@1", "1001@1", "10@-1"] {
            assert!(wrong.parse::<ClockRate>().is_err(), "{wrong}");
        }
    }
}
