//! The same rate throughout.

use std::fmt;

use super::{PatternShape, PatternSyntax, Piece};
use crate::workload::Rate;

/// The same rate throughout.
#[derive(Debug, Clone, PartialEq)]
pub struct Constant(pub Rate);

impl PatternShape for Constant {
    const FORM: PatternSyntax =
        PatternSyntax { kind: "constant", grammar: "constant:RATE", example: "constant:50", meaning: "the same rate throughout" };

    fn parse(rest: &str) -> Result<Self, String> {
        rest.parse().map(Self)
    }

    fn scaled(&self, scale: impl Fn(Rate) -> Result<Rate, String>) -> Result<Self, String> {
        scale(self.0).map(Self)
    }

    fn peak(&self) -> Rate {
        self.0
    }

    fn piece(&self, _at: f64) -> Piece {
        Piece::flat(0.0, f64::INFINITY, self.0.0)
    }
}

impl fmt::Display for Constant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
