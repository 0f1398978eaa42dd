//! Traces of real functions. Owns their formats; opens no files: readers are arguments, with the name to use in errors.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use super::{Demand, MinuteCount};

mod azure2019;
mod azure2021;
mod endpoints;
mod table;

pub use azure2019::{Azure2019, read_azure2019};
pub use azure2021::read_azure2021;
pub use endpoints::{Endpoint, read_endpoints};

/// An error in a trace, with its position.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct TraceError {
    /// The file, as its reader named it.
    pub file: String,
    /// Line in the file, from 1; 0 if the error concerns the whole file.
    pub line: u64,
    /// Name of the column, if the error concerns one.
    pub column: Option<String>,
    /// Description with the value.
    pub problem: String,
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if let Some(column) = &self.column {
            write!(f, ", column {column}")?;
        }
        write!(f, ": {}", self.problem)
    }
}

/// Part of a trace to keep; the rest takes no memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Maximum number of functions, from the start of the file.
    pub functions: usize,
    /// Minutes to leave out at the beginning.
    pub skip_minutes: u32,
    /// Minutes to keep after those.
    pub minutes: u32,
}

impl Default for Keep {
    fn default() -> Self {
        Self { functions: usize::MAX, skip_minutes: 0, minutes: u32::MAX }
    }
}

/// Invocation counts per minute and function, with demands.
#[derive(Debug, Clone, PartialEq)]
pub struct MinuteTrace {
    /// The functions, in the order of the file.
    pub functions: Vec<TraceFunction>,
    /// Minutes that the trace covers.
    pub minutes: u32,
}

impl MinuteTrace {
    /// Invocations in the whole trace.
    #[must_use]
    pub fn invocations(&self) -> u64 {
        self.functions.iter().flat_map(|function| function.counts.iter()).map(|count| u64::from(count.count)).sum()
    }
}

/// One function of a [`MinuteTrace`].
#[derive(Debug, Clone, PartialEq)]
pub struct TraceFunction {
    /// Its identity in the trace.
    pub hash: String,
    /// Minutes with invocations, rising; minutes without are not kept.
    pub counts: Arc<[MinuteCount]>,
    /// Demand of its invocations.
    pub demand: Demand,
}

/// Single invocations with their start and duration.
#[derive(Debug, Clone, PartialEq)]
pub struct RowTrace {
    /// Identities of the functions, in the order in which the file first names them.
    pub functions: Vec<String>,
    /// The invocations, in order of their start.
    pub rows: Arc<[Row]>,
}

/// One invocation of a [`RowTrace`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// Start, microseconds since the beginning of the trace.
    pub start_us: u64,
    /// Index into [`RowTrace::functions`].
    pub function: u32,
    /// Duration, milliseconds.
    pub duration_ms: u32,
}

#[cfg(test)]
mod tests;
