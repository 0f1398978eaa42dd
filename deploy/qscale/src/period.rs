//! `--since` and `--until`: part of a recording, in ages. Owns the arguments; reads nothing.

use anyhow::ensure;
use clap::Args;
use qscale_common::time::{Span, Timestamp};
use qscale_replay::Period;

/// Part of a recording.
#[derive(Debug, Clone, Copy, Args)]
pub struct PeriodArgs {
    /// Age of the beginning, such as 1h or 10m
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    since: Span,
    /// Age of the end; by default now
    #[arg(long, value_name = "DURATION")]
    until: Option<Span>,
}

impl PeriodArgs {
    /// From `since` ago until `until` ago, or now.
    pub fn new(since: Span, until: Option<Span>) -> Self {
        Self { since, until }
    }

    /// The period, as of `now`.
    pub fn resolve(&self, now: Timestamp) -> anyhow::Result<Period> {
        let until = self.until.unwrap_or_default();
        ensure!(until < self.since, "--until ({until} ago) must be more recent than --since ({} ago)", self.since);
        Ok(Period { since: now.minus(self.since.0), until: now.minus(until.0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn period_ends_after_it_begins() {
        let now = Timestamp(10_000_000);
        let period = |since, until| PeriodArgs { since: Span::seconds(since), until: Some(Span::seconds(until)) };
        let expected = Period { since: Timestamp(9_940_000), until: Timestamp(9_990_000) };
        assert_eq!(period(60, 10).resolve(now).expect("in order"), expected);
        let error = period(10, 60).resolve(now).expect_err("reversed").to_string();
        assert!(error.contains("--until (1m ago)") && error.contains("--since (10s ago)"), "{error}");
    }
}
