//! One peak.

use std::fmt;
use std::time::Duration;

use super::text::{cut, positive, range, time};
use super::{PatternShape, PatternSyntax, Piece, larger};
use crate::time::Span;
use crate::workload::Rate;

/// One peak of a given length at a given time.
#[derive(Debug, Clone, PartialEq)]
pub struct Spike {
    base: Rate,
    peak: Rate,
    at: Duration,
    length: Duration,
}

impl PatternShape for Spike {
    const FORM: PatternSyntax = PatternSyntax {
        kind: "spike",
        grammar: "spike:BASE..PEAK@TIME/LENGTH",
        example: "spike:10..200@30s/2s",
        meaning: "one peak of that length at that time",
    };

    fn parse(rest: &str) -> Result<Self, String> {
        let (rates, times) = cut(rest, '@')?;
        let (base, peak) = range(rates)?;
        let (at, length) = cut(times, '/')?;
        Ok(Self { base, peak, at: time(at)?, length: positive(length)? })
    }

    fn scaled(&self, scale: impl Fn(Rate) -> Result<Rate, String>) -> Result<Self, String> {
        Ok(Self { base: scale(self.base)?, peak: scale(self.peak)?, ..*self })
    }

    fn peak(&self) -> Rate {
        larger(self.base, self.peak)
    }

    fn piece(&self, at: f64) -> Piece {
        let (from, until) = (self.at.as_secs_f64(), (self.at + self.length).as_secs_f64());
        let end = if at < from { from } else { until };
        let rate = if (from..until).contains(&at) { self.peak.0 } else { self.base.0 };
        Piece::flat(0.0, if at < until { end } else { f64::INFINITY }, rate)
    }
}

impl fmt::Display for Spike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}@{}/{}", self.base, self.peak, Span(self.at), Span(self.length))
    }
}
