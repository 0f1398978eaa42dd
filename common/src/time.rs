//! Instants, ticks and durations in text. Owns the representation of time; must not read a clock: `now` is always an argument.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01T00:00:00Z without leap seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The end of the year 9999, the last instant of RFC 3339.
    pub const LAST: Timestamp = Timestamp(253_402_300_799_999);

    /// Time from `earlier` to this instant; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This instant plus `after`, saturating.
    #[must_use]
    pub fn plus(self, after: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(millis(after)))
    }

    /// This instant minus `before`, at least 1970.
    #[must_use]
    pub fn minus(self, before: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(millis(before)))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds, as CloudEvents' `time` requires.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = std::time::UNIX_EPOCH + Duration::from_millis(self.0.min(Self::LAST.0));
        humantime::format_rfc3339_millis(time).fmt(f)
    }
}

/// `duration` in whole milliseconds, saturating.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Number of a control interval: `floor(unix time / tick length)`, equal in every service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Tick(pub u64);

impl Tick {
    /// Tick that contains `now`.
    #[must_use]
    pub fn at(now: Timestamp, length: TickLength) -> Tick {
        Tick(now.0 / length.millis())
    }

    /// Start of this tick.
    #[must_use]
    pub fn start(self, length: TickLength) -> Timestamp {
        Timestamp(self.0.saturating_mul(length.millis()))
    }

    /// The next tick.
    #[must_use]
    pub fn next(self) -> Tick {
        Tick(self.0.saturating_add(1))
    }
}

impl fmt::Display for Tick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Length of a tick, 100 ms to 1 h. Written as a duration (`"5s"`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Span", into = "Span")]
#[schemars(with = "Span")]
pub struct TickLength(Duration);

impl TickLength {
    /// Minimum: a scrape has to finish within its tick.
    pub const MIN: Duration = Duration::from_millis(100);
    /// Maximum: above it the windows of a State would span days.
    pub const MAX: Duration = Duration::from_secs(3600);

    /// A tick of `length`.
    ///
    /// # Errors
    /// If `length` is outside 100 ms to 1 h.
    pub fn new(length: Duration) -> Result<Self, String> {
        if (Self::MIN..=Self::MAX).contains(&length) {
            Ok(Self(length))
        } else {
            Err(format!("tick length = {}, must be 100ms to 1h", Span(length)))
        }
    }

    /// The length as a duration.
    #[must_use]
    pub fn duration(self) -> Duration {
        self.0
    }

    /// The length in milliseconds, never zero.
    #[must_use]
    pub fn millis(self) -> u64 {
        millis(self.0)
    }
}

impl Default for TickLength {
    /// 5 s.
    fn default() -> Self {
        Self(Duration::from_secs(5))
    }
}

impl TryFrom<Span> for TickLength {
    type Error = String;
    fn try_from(span: Span) -> Result<Self, String> {
        Self::new(span.0)
    }
}

impl From<TickLength> for Span {
    fn from(length: TickLength) -> Span {
        Span(length.0)
    }
}

impl std::str::FromStr for TickLength {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::new(text.parse::<Span>()?.0)
    }
}

/// A duration in human-readable form: `"5s"`, `"1m 30s"`, `"100ms"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(into = "String")]
pub struct Span(pub Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SpanVisitor;
        impl serde::de::Visitor<'_> for SpanVisitor {
            type Value = Span;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration with its unit, such as 5s, 100ms or 1m 30s")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Span, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(SpanVisitor)
    }
}

impl Span {
    /// A span of `seconds` seconds.
    #[must_use]
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// A span of `millis` milliseconds.
    #[must_use]
    pub const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }
}

impl std::str::FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text)
            .map(Span)
            .map_err(|error| format!("`{text}` is not a duration such as 5s, 100ms or 1m 30s: {error}"))
    }
}

impl From<Span> for String {
    fn from(span: Span) -> String {
        span.to_string()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl JsonSchema for Span {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A duration with its unit, such as 5s, 100ms or 1m 30s.",
            "examples": ["5s", "100ms", "1m 30s"]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tick_is_the_floor_of_time_over_length() {
        let length = TickLength::new(Duration::from_secs(5)).expect("within the range");
        assert_eq!(Tick::at(Timestamp(14_999), length), Tick(2));
        assert_eq!(Tick::at(Timestamp(15_000), length), Tick(3));
        assert_eq!(Tick(3).start(length), Timestamp(15_000));
    }

    #[test]
    fn tick_length_outside_its_range_is_refused_with_the_value() {
        let error = serde_json::from_str::<TickLength>("\"50ms\"").expect_err("too short");
        assert!(error.to_string().contains("50ms"), "{error}");
        assert!(serde_json::from_str::<TickLength>("\"5 parsecs\"").is_err());
        let error = serde_json::from_str::<Span>("250").expect_err("no unit");
        assert!(error.to_string().contains("`250`, expected a duration with its unit"), "{error}");
    }

    #[test]
    fn timestamps_print_as_rfc3339() {
        assert_eq!(Timestamp(1_000).to_string(), "1970-01-01T00:00:01.000Z");
        assert_eq!(Timestamp(u64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn time_never_runs_negative() {
        assert_eq!(Timestamp(5).since(Timestamp(9)), Duration::ZERO);
        assert_eq!(Timestamp(5).minus(Duration::from_secs(1)), Timestamp(0));
    }
}
