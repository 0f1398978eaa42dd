//! One burst in every period.

use std::fmt;
use std::time::Duration;

use super::text::{cut, positive, range};
use super::{PatternShape, PatternSyntax, Piece, larger};
use crate::hash::{GOLDEN_RATIO, splitmix64};
use crate::time::Span;
use crate::workload::Rate;

/// One burst in every period, at a place that differs from period to period.
#[derive(Debug, Clone, PartialEq)]
pub struct Bursty {
    base: Rate,
    burst: Rate,
    period: Duration,
    length: Duration,
}

impl PatternShape for Bursty {
    const FORM: PatternSyntax = PatternSyntax {
        kind: "bursty",
        grammar: "bursty:BASE..BURST/PERIOD/LENGTH",
        example: "bursty:5..100/30s/3s",
        meaning: "one burst in each period, its place unforeseeable but repeatable",
    };

    fn parse(rest: &str) -> Result<Self, String> {
        let (rates, times) = cut(rest, '/')?;
        let (base, burst) = range(rates)?;
        let (period, length) = cut(times, '/')?;
        let (period, length) = (positive(period)?, positive(length)?);
        if length > period {
            return Err(format!("a burst of {} does not fit into a period of {}", Span(length), Span(period)));
        }
        Ok(Self { base, burst, period, length })
    }

    fn scaled(&self, scale: impl Fn(Rate) -> Result<Rate, String>) -> Result<Self, String> {
        Ok(Self { base: scale(self.base)?, burst: scale(self.burst)?, ..*self })
    }

    fn peak(&self) -> Rate {
        larger(self.base, self.burst)
    }

    fn piece(&self, at: f64) -> Piece {
        let (period, length) = (self.period.as_secs_f64(), self.length.as_secs_f64());
        let number = (at / period).floor();
        let start = number * period + place_of_burst(number as u64) * (period - length);
        let edges = [start, start + length, (number + 1.0) * period, (number + 2.0) * period];
        let end = edges.into_iter().find(|edge| *edge > at).unwrap_or(f64::INFINITY);
        let rate = if (start..start + length).contains(&at) { self.burst.0 } else { self.base.0 };
        Piece::flat(at, end, rate)
    }

    /// Whole periods have equal areas, so any number of them is one step.
    fn skip(&self, at: f64, area: f64) -> (f64, f64) {
        let (period, length) = (self.period.as_secs_f64(), self.length.as_secs_f64());
        if (at / period).round() * period != at {
            return (at, area);
        }
        let in_a_period = self.base.0 * (period - length) + self.burst.0 * length;
        let whole = (area / in_a_period).floor();
        (at + whole * period, (area - whole * in_a_period).max(0.0))
    }
}

impl fmt::Display for Bursty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}/{}/{}", self.base, self.burst, Span(self.period), Span(self.length))
    }
}

/// Position of the burst in its period, 0 to 1: a hash of the period's number, which needs no memory.
fn place_of_burst(period: u64) -> f64 {
    (splitmix64(period.wrapping_mul(GOLDEN_RATIO)) >> 11) as f64 / (1u64 << 53) as f64
}
