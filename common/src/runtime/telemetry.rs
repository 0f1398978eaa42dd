//! Structured logs on standard error, and label values of metrics.

use std::fmt;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

/// Configuration of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TelemetryConfig {
    /// Filter, such as `info` or `info,qscale_actuator=debug`.
    pub log: String,
    /// Format of a line.
    pub log_format: LogFormat,
}

/// Format of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        // The NATS client logs every connection attempt; the bus logs the change once.
        Self { log: "info,async_nats=warn".into(), log_format: LogFormat::Text }
    }
}

/// Label value of a metric from an enum: the name of the variant, as `strum` gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Label<T>(pub T);

impl<T: Copy + fmt::Debug + Into<&'static str>> EncodeLabelValue for Label<T> {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        self.0.into().encode(encoder)
    }
}

/// Standard error, where a line that cannot be written (full disk, closed pipe) is lost and nothing else.
#[derive(Debug)]
struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _lost = io::stderr().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a line for people to standard error; one that cannot be written is lost.
pub fn say(text: impl fmt::Display) {
    let _lost = writeln!(io::stderr(), "{text}");
}

/// Starts logging for `service`; a second call changes nothing.
///
/// # Errors
/// If the filter is malformed.
pub fn init(service: &str, config: &TelemetryConfig) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log).map_err(|error| {
        anyhow::anyhow!("telemetry.log = `{}` is not a filter such as info or info,qscale_actuator=debug: {error}", config.log)
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Log).log_internal_errors(false).with_target(false);
    // An existing logger belongs to an embedding program and stays.
    let _already_set = match config.log_format {
        LogFormat::Text => builder.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).compact().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    tracing::debug!(service, "logging");
    Ok(())
}

/// Limits how often a repeated message is logged.
#[derive(Debug, Clone)]
pub struct RateLimit {
    interval: Duration,
    last: Option<Instant>,
    suppressed: u64,
}

impl RateLimit {
    /// At most one message per `interval`.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self { interval, last: None, suppressed: 0 }
    }

    /// Whether an occurrence at `now` is logged: the number of occurrences suppressed since the last one that was, or
    /// `None` to suppress this one.
    pub fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < self.interval) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}
