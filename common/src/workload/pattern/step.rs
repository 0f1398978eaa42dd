//! A rate that jumps at given times.

use std::fmt;
use std::time::Duration;

use super::text::{cut, time};
use super::{PatternShape, PatternSyntax, Piece, larger};
use crate::time::Span;
use crate::workload::Rate;

/// Each rate from its time on. Times rise strictly; before the first the rate is zero, after the last it stays.
#[derive(Debug, Clone, PartialEq)]
pub struct StepPattern(Vec<(Rate, Duration)>);

impl PatternShape for StepPattern {
    const FORM: PatternSyntax = PatternSyntax {
        kind: "step",
        grammar: "step:RATE@TIME,RATE@TIME,...",
        example: "step:10@0s,80@20s,10@40s",
        meaning: "each rate from its time on",
    };

    fn parse(rest: &str) -> Result<Self, String> {
        let mut steps: Vec<(Rate, Duration)> = Vec::new();
        for step in rest.split(',') {
            let (rate, at) = cut(step, '@')?;
            let at = time(at)?;
            if steps.last().is_some_and(|last| last.1 >= at) {
                return Err(format!("the step at {} does not come after the one before it", Span(at)));
            }
            steps.push((rate.parse()?, at));
        }
        Ok(Self(steps))
    }

    fn scaled(&self, scale: impl Fn(Rate) -> Result<Rate, String>) -> Result<Self, String> {
        Ok(Self(self.0.iter().map(|(rate, at)| Ok((scale(*rate)?, *at))).collect::<Result<_, String>>()?))
    }

    fn peak(&self) -> Rate {
        self.0.iter().map(|step| step.0).fold(Rate(0.0), larger)
    }

    fn piece(&self, at: f64) -> Piece {
        let current = self.0.iter().rev().find(|step| step.1.as_secs_f64() <= at);
        let next = self.0.iter().find(|step| step.1.as_secs_f64() > at);
        let start = current.map_or(0.0, |step| step.1.as_secs_f64());
        let end = next.map_or(f64::INFINITY, |step| step.1.as_secs_f64());
        Piece::flat(start, end, current.map_or(0.0, |step| step.0.0))
    }
}

impl fmt::Display for StepPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (rate, at)) in self.0.iter().enumerate() {
            write!(f, "{}{rate}@{}", if index == 0 { "" } else { "," }, Span(*at))?;
        }
        Ok(())
    }
}
