//! Rates as functions of time. Owns the patterns, their syntax, and the inversion of their integral; must not draw random numbers.
//!
//! A pattern is a file of this folder that implements [`PatternShape`], and a line in `shapes!` below.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Rate;

mod bursty;
mod constant;
mod curve;
mod diurnal;
mod ramp;
mod spike;
mod step;
mod text;

use curve::{Piece, RateCurve};

/// Syntax of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatternSyntax {
    /// Keyword before the colon.
    pub kind: &'static str,
    /// The grammar.
    pub grammar: &'static str,
    /// Example.
    pub example: &'static str,
    /// Its meaning, as a noun phrase.
    pub meaning: &'static str,
}

/// One kind of pattern. Displayed as its values, without the kind.
trait PatternShape: fmt::Display + Sized {
    /// Its syntax.
    const FORM: PatternSyntax;

    /// Parses the text after the colon.
    fn parse(rest: &str) -> Result<Self, String>;

    /// The pattern with `scale` applied to every rate.
    fn scaled(&self, scale: impl Fn(Rate) -> Result<Rate, String>) -> Result<Self, String>;

    /// Maximum rate.
    fn peak(&self) -> Rate;

    /// Segment around `at`, seconds, on which one formula holds; it ends strictly after `at`.
    fn piece(&self, at: f64) -> Piece;

    /// A later instant and a smaller area with the same inverse as `at` and `area`, to skip over periods; `at` is the start of a piece.
    fn skip(&self, at: f64, area: f64) -> (f64, f64) {
        (at, area)
    }
}

/// Declares the shapes of a pattern: one line a shape.
macro_rules! shapes {
    ($($shape:ident => $path:path,)*) => {
        #[derive(Debug, Clone, PartialEq)]
        enum AnyShape {
            $($shape($path),)*
        }

        /// Every form in the order of the declaration.
        const FORMS: &[PatternSyntax] = &[$(<$path>::FORM),*];

        impl AnyShape {
            /// Parses `rest` as the shape `kind`; `None` if there is no such shape.
            fn parse(kind: &str, rest: &str) -> Option<(PatternSyntax, Result<Self, String>)> {
                $(if kind == <$path>::FORM.kind {
                    return Some((<$path>::FORM, <$path>::parse(rest).map(Self::$shape)));
                })*
                None
            }

            fn scaled(&self, scale: impl Fn(Rate) -> Result<Rate, String>) -> Result<Self, String> {
                match self {
                    $(Self::$shape(shape) => shape.scaled(scale).map(Self::$shape),)*
                }
            }

            fn form(&self) -> PatternSyntax {
                match self {
                    $(Self::$shape(_) => <$path>::FORM,)*
                }
            }

            fn peak(&self) -> Rate {
                match self {
                    $(Self::$shape(shape) => shape.peak(),)*
                }
            }

            fn piece(&self, at: f64) -> Piece {
                match self {
                    $(Self::$shape(shape) => shape.piece(at),)*
                }
            }

            fn skip(&self, at: f64, area: f64) -> (f64, f64) {
                match self {
                    $(Self::$shape(shape) => shape.skip(at, area),)*
                }
            }
        }

        impl fmt::Display for AnyShape {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$shape(shape) => shape.fmt(f),)*
                }
            }
        }
    };
}

shapes! {
    Constant => constant::Constant,
    Step => step::StepPattern,
    Ramp => ramp::Ramp,
    Diurnal => diurnal::Diurnal,
    Bursty => bursty::Bursty,
    Spike => spike::Spike,
}

/// A rate that changes over time, starting at zero and never ending.
///
/// Written `kind:values`; [`Pattern::forms`] lists the forms. A bare number is a constant rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(AnyShape);

impl Pattern {
    /// Every form; rates are requests/s, times carry their unit.
    #[must_use]
    pub fn forms() -> &'static [PatternSyntax] {
        FORMS
    }

    /// Every grammar, for help texts.
    #[must_use]
    pub fn grammars() -> String {
        FORMS.iter().map(|form| form.grammar).collect::<Vec<_>>().join(", ")
    }

    /// The same rate throughout.
    #[must_use]
    pub fn constant(rate: Rate) -> Self {
        Self(AnyShape::Constant(constant::Constant(rate)))
    }

    /// Rate at `at` after the start.
    #[must_use]
    pub fn rate_at(&self, at: Duration) -> Rate {
        let at = at.as_secs_f64();
        let piece = self.0.piece(at);
        Rate(piece.curve.rate(at, piece.start).clamp(0.0, Rate::MAX))
    }

    /// The pattern with every rate times `factor`.
    ///
    /// # Errors
    /// If a rate would be negative or above [`Rate::MAX`].
    pub fn scaled(&self, factor: f64) -> Result<Self, String> {
        self.0.scaled(|rate| Rate::new(rate.0 * factor)).map(Self)
    }

    /// Maximum rate.
    #[must_use]
    pub fn peak(&self) -> Rate {
        self.0.peak()
    }

    /// Time, seconds, at which the integral of the rate from `from` reaches `area` requests; `None` if it never does.
    ///
    /// Gaps with mean one, mapped through this, have the pattern's rate at every instant: for exponential gaps that is
    /// the inhomogeneous Poisson process, exactly.
    #[must_use]
    pub fn advance(&self, from: f64, area: f64) -> Option<f64> {
        let (mut at, mut left) = (from, area);
        if self.peak().0 <= 0.0 {
            return None;
        }
        loop {
            let piece = self.0.piece(at);
            let inside = piece.curve.area(at, piece.end, piece.start);
            if left <= inside {
                return Some(piece.curve.invert(at, left, piece.start).clamp(at, piece.end));
            }
            if piece.end.is_infinite() {
                return None;
            }
            left -= inside;
            at = piece.end;
            (at, left) = self.0.skip(at, left);
            if !(at.is_finite() && left.is_finite()) {
                return None;
            }
        }
    }

    /// A segment from `at` with its minimum and maximum rate. If the rate varies, the segment is short enough for them to be close, and
    /// `None` if that would be shorter than the gap between requests, or `at` is not finite.
    pub(super) fn segment(&self, at: f64) -> Option<Segment> {
        if !at.is_finite() {
            return None;
        }
        let Piece { start, end, curve } = self.0.piece(at);
        let (begin, length) = match curve {
            RateCurve::Flat(rate) => return Some(Segment { end, least: rate, most: rate }),
            RateCurve::Line { .. } => (start, end - start),
            RateCurve::Wave { period, .. } => ((at / period).floor() * period, period),
        };
        // A wave turns at multiples of half its period, so that these parts of it rise or fall throughout.
        let part = length / PARTS;
        let from = begin + ((at - begin) / part).floor() * part;
        let end = if from + part > at { from + part } else { from + 2.0 * part };
        let (a, b) = (curve.rate(from, start), curve.rate(end, start));
        let (least, most) = (a.min(b).max(0.0), a.max(b));
        (most * part >= 1.0).then_some(Segment { end, least, most })
    }
}

/// The larger of two rates.
fn larger(a: Rate, b: Rate) -> Rate {
    if a.0 >= b.0 { a } else { b }
}

/// Parts into which a wave's period or a ramp is cut: on one of them the rate changes by a twentieth of its swing at most.
const PARTS: f64 = 64.0;

/// A segment with bounds of the rate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub end: f64,
    pub least: f64,
    pub most: f64,
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0.form().kind, self.0)
    }
}

impl FromStr for Pattern {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let Some((kind, rest)) = text.split_once(':') else {
            return text.parse().map(Self::constant).map_err(|error| format!("{error}; or a pattern such as {}", examples()));
        };
        let Some((form, shape)) = AnyShape::parse(kind.trim(), rest) else {
            return Err(format!("`{kind}` is not a pattern: write one of {}", examples()));
        };
        shape.map(Self).map_err(|problem| format!("`{text}`: {problem}; write {}, for example {}", form.grammar, form.example))
    }
}

fn examples() -> String {
    FORMS.iter().map(|form| form.example).collect::<Vec<_>>().join(", ")
}

impl TryFrom<String> for Pattern {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> String {
        pattern.to_string()
    }
}

#[cfg(test)]
mod tests;
