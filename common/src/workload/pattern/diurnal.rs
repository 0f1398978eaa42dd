//! A cosine wave.

use std::fmt;
use std::time::Duration;

use super::text::{cut, positive, range};
use super::{PatternShape, PatternSyntax, Piece, RateCurve, larger};
use crate::time::Span;
use crate::workload::Rate;

/// A wave that starts at its lowest.
#[derive(Debug, Clone, PartialEq)]
pub struct Diurnal {
    low: Rate,
    high: Rate,
    period: Duration,
}

impl PatternShape for Diurnal {
    const FORM: PatternSyntax = PatternSyntax {
        kind: "diurnal",
        grammar: "diurnal:LOW..HIGH/PERIOD",
        example: "diurnal:5..50/1h",
        meaning: "a wave that starts at its lowest",
    };

    fn parse(rest: &str) -> Result<Self, String> {
        let (rates, period) = cut(rest, '/')?;
        let (low, high) = range(rates)?;
        if low > high {
            return Err(format!("the low rate {low} is above the high rate {high}"));
        }
        Ok(Self { low, high, period: positive(period)? })
    }

    fn scaled(&self, scale: impl Fn(Rate) -> Result<Rate, String>) -> Result<Self, String> {
        Ok(Self { low: scale(self.low)?, high: scale(self.high)?, ..*self })
    }

    fn peak(&self) -> Rate {
        larger(self.low, self.high)
    }

    fn piece(&self, _at: f64) -> Piece {
        let curve = RateCurve::Wave { low: self.low.0, high: self.high.0, period: self.period.as_secs_f64() };
        Piece { start: 0.0, end: f64::INFINITY, curve }
    }
}

impl fmt::Display for Diurnal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}/{}", self.low, self.high, Span(self.period))
    }
}
