//! Ranges of configured values. Owns the error for a value outside its range; must not know what a value means.

use std::fmt::Display;

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::time::Span;

/// A field whose value is outside its range.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("{field} = {value}, must be {range}")]
pub struct OutOfRange {
    /// The field, with dots between the levels.
    pub field: String,
    /// The value, truncated.
    pub value: String,
    /// Allowed range.
    pub range: String,
}

impl OutOfRange {
    /// `field` has `value`, which is not within `range`.
    #[must_use]
    pub fn new(field: &str, value: impl fmt::Display, range: impl fmt::Display) -> Self {
        Self { field: field.to_owned(), value: value.to_string().chars().take(200).collect(), range: range.to_string() }
    }
}

/// Checks that `field` has a `value` of `min` to `max`.
///
/// # Errors
/// If it is below or above.
pub fn check_number<N: PartialOrd + Display + Copy>(field: &str, value: N, min: N, max: N) -> Result<(), OutOfRange> {
    if (min..=max).contains(&value) { Ok(()) } else { Err(OutOfRange::new(field, value, format_args!("{min} to {max}"))) }
}

/// Checks that `field` has a `value` of `min` to `max`.
///
/// # Errors
/// If it is below or above.
pub fn check_span(field: &str, value: Span, min: Span, max: Span) -> Result<(), OutOfRange> {
    if (min..=max).contains(&value) { Ok(()) } else { Err(OutOfRange::new(field, value, format_args!("{min} to {max}"))) }
}
