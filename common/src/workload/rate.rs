//! A rate of requests. Owns its range and syntax.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Requests/s: a finite number from 0 to [`Rate::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Rate(pub(super) f64);

impl Rate {
    /// Ten million requests/s, well above the capacity of a machine.
    pub const MAX: f64 = 1e7;

    /// `per_second` requests/s.
    ///
    /// # Errors
    /// If it is not finite, negative, or above [`Rate::MAX`].
    pub fn new(per_second: f64) -> Result<Self, String> {
        if (0.0..=Self::MAX).contains(&per_second) {
            // The sum of zeros is positive; divided by a negative zero, time would run backwards.
            Ok(Self(per_second + 0.0))
        } else {
            Err(format!("rate = {per_second}, must be 0 to {} requests a second", Self::MAX))
        }
    }

    /// Requests/s.
    #[must_use]
    pub fn per_second(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Rate {
    type Error = String;
    fn try_from(per_second: f64) -> Result<Self, String> {
        Self::new(per_second)
    }
}

impl From<Rate> for f64 {
    fn from(rate: Rate) -> f64 {
        rate.0
    }
}

impl FromStr for Rate {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let number =
            text.trim().parse::<f64>().map_err(|_| format!("`{text}` is not a rate: write requests a second, such as 50 or 0.5"))?;
        Self::new(number)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
