//! A rate that changes linearly, then stays.

use std::fmt;
use std::time::Duration;

use super::text::{cut, positive, range};
use super::{PatternShape, PatternSyntax, Piece, RateCurve, larger};
use crate::time::Span;
use crate::workload::Rate;

/// Straight from one rate to the other, then held.
#[derive(Debug, Clone, PartialEq)]
pub struct Ramp {
    from: Rate,
    to: Rate,
    over: Duration,
}

impl PatternShape for Ramp {
    const FORM: PatternSyntax = PatternSyntax {
        kind: "ramp",
        grammar: "ramp:FROM..TO/TIME",
        example: "ramp:10..100/60s",
        meaning: "straight from one rate to the other, then held",
    };

    fn parse(rest: &str) -> Result<Self, String> {
        let (rates, over) = cut(rest, '/')?;
        let (from, to) = range(rates)?;
        Ok(Self { from, to, over: positive(over)? })
    }

    fn scaled(&self, scale: impl Fn(Rate) -> Result<Rate, String>) -> Result<Self, String> {
        Ok(Self { from: scale(self.from)?, to: scale(self.to)?, ..*self })
    }

    fn peak(&self) -> Rate {
        larger(self.from, self.to)
    }

    fn piece(&self, at: f64) -> Piece {
        let over = self.over.as_secs_f64();
        if at < over {
            Piece { start: 0.0, end: over, curve: RateCurve::Line { from: self.from.0, slope: (self.to.0 - self.from.0) / over } }
        } else {
            Piece::flat(over, f64::INFINITY, self.to.0)
        }
    }
}

impl fmt::Display for Ramp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}/{}", self.from, self.to, Span(self.over))
    }
}
