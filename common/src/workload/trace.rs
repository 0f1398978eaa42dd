//! Traces of real functions. Owns their formats; opens no files: readers are arguments, with the name to use in errors.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use super::{Demand, MinuteCount};
use crate::text::counted;

mod azure2019;
mod azure2021;
mod endpoints;
mod invitro;
mod table;

pub use azure2019::{Azure2019, read_azure2019};
pub use azure2021::read_azure2021;
pub use endpoints::{Endpoint, read_endpoints};
pub use invitro::GeneratedInputs;

/// Maximum number of invocations of a trace of single ones: sixteen times those of the published one.
const MAX_ROWS: usize = 1 << 25;
/// Maximum number of minutes with invocations of all functions together: as many as the cells of a published day.
const MAX_COUNTS: usize = 1 << 26;

/// Maximum number of invocations of one function in a minute, scaled by the rate: a million a second. All of a minute are drawn before the first is due.
const MAX_PER_MINUTE: u32 = 60_000_000;

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

/// A trace of either kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Trace {
    /// Counts by minute: Azure Functions 2019 and InVitro.
    Minutes(MinuteTrace),
    /// Single invocations: Azure Functions 2021, and the inputs that InVitro generates.
    Rows(RowTrace),
}

impl Trace {
    /// Number of functions.
    #[must_use]
    pub fn functions(&self) -> usize {
        match self {
            Trace::Minutes(trace) => trace.functions.len(),
            Trace::Rows(trace) => trace.functions.len(),
        }
    }

    /// Length, minutes.
    #[must_use]
    pub fn minutes(&self) -> u32 {
        match self {
            Trace::Minutes(trace) => trace.minutes,
            Trace::Rows(trace) => trace.rows.last().map_or(0, |row| row.minute() + 1),
        }
    }

    /// Number of invocations from minute `from` to before minute `to`.
    #[must_use]
    pub fn invocations(&self, from: u32, to: u32) -> u64 {
        let within = |minute: u32| (from..to).contains(&minute);
        match self {
            Trace::Minutes(trace) => {
                let counts = trace.functions.iter().flat_map(|function| function.counts.iter());
                counts.filter(|count| within(count.bin)).map(|count| u64::from(count.count)).sum()
            }
            Trace::Rows(trace) => trace.rows.iter().filter(|row| within(row.minute())).count() as u64,
        }
    }

    /// First and last minute with invocations; `None` if there are none.
    #[must_use]
    pub fn active_minutes(&self) -> Option<(u32, u32)> {
        match self {
            Trace::Minutes(trace) => {
                let counts =
                    || trace.functions.iter().filter_map(|function| Some((function.counts.first()?.bin, function.counts.last()?.bin)));
                Some((counts().map(|(first, _)| first).min()?, counts().map(|(_, last)| last).max()?))
            }
            Trace::Rows(trace) => Some((trace.rows.first()?.minute(), trace.rows.last()?.minute())),
        }
    }

    /// Checks that no function has more than 60,000,000 invocations in a minute if every one of the trace becomes `rate` requests.
    ///
    /// # Errors
    /// Names the rate and the largest possible one.
    pub fn check_rate(&self, rate: f64) -> Result<(), String> {
        let Trace::Minutes(trace) = self else { return Ok(()) };
        let counts = trace.functions.iter().flat_map(|function| function.counts.iter());
        let most = counts.map(|count| count.count).max().unwrap_or(0);
        if f64::from(most) * rate <= f64::from(MAX_PER_MINUTE) {
            return Ok(());
        }
        let largest = f64::from(MAX_PER_MINUTE) / f64::from(most);
        Err(format!("rate scale = {rate}, must be at most {largest}: a function has {most} invocations in a minute of the trace"))
    }

    /// The trace of function `number` alone; `None` if there is no such function.
    #[must_use]
    pub fn of_function(&self, number: usize) -> Option<Trace> {
        Some(match self {
            Trace::Minutes(trace) => {
                Trace::Minutes(MinuteTrace { functions: vec![trace.functions.get(number)?.clone()], minutes: trace.minutes })
            }
            Trace::Rows(trace) => {
                let rows = trace.rows.iter().filter(|row| row.function as usize == number);
                let rows = rows.map(|row| TracedInvocation { function: 0, ..*row }).collect();
                Trace::Rows(RowTrace { functions: vec![trace.functions.get(number)?.clone()], rows })
            }
        })
    }
}

/// Functions and rows of a trace that were left out. Displayed as a list, empty if there are none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Omissions {
    /// Functions without durations.
    pub without_durations: u64,
    /// Functions without memory, where there is a memory file.
    pub without_memory: u64,
    /// Functions without the number of invocations of a minute.
    pub without_counts: u64,
    /// Functions with invocations, durations or memory that cannot be: negative ones, fractions of invocations, or percentiles that fall.
    pub invalid: u64,
    /// Invocations without an end or a duration.
    pub invocations: u64,
    /// Invocations with a negative duration.
    pub invalid_invocations: u64,
    /// Where the first invalid function or invocation is.
    pub first_invalid: Option<TraceError>,
    /// Rows of a function or app that has an earlier one.
    pub repeated_rows: u64,
    /// Minutes without a column between others; they count as minutes without invocations.
    pub missing_minutes: u64,
}

impl Omissions {
    /// Counts a function that cannot be.
    fn add_invalid(&mut self, error: TraceError) {
        self.invalid += 1;
        self.first_invalid.get_or_insert(error);
    }

    /// Counts an invocation that cannot be.
    fn add_invalid_invocation(&mut self, error: TraceError) {
        self.invalid_invocations += 1;
        self.first_invalid.get_or_insert(error);
    }
}

impl fmt::Display for Omissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        let mut add = |count: u64, noun: &str, rest: &str| {
            if count > 0 {
                parts.push(format!("{}{rest}", counted(count, noun)));
            }
        };
        add(self.without_durations, "function", " without durations");
        add(self.without_memory, "function", " without memory");
        add(self.without_counts, "function", " without the invocations of a minute");
        let first = self.first_invalid.as_ref().map(|error| format!(" ({error})")).unwrap_or_default();
        add(self.invalid, "function", &format!(" with invalid durations, memory or invocations{first}"));
        add(self.invocations, "invocation", " without an end or a duration");
        add(self.invalid_invocations, "invocation", &format!(" with an invalid duration{first}"));
        add(self.repeated_rows, "repeated row", "");
        add(self.missing_minutes, "minute", " without a column");
        f.write_str(&parts.join(", "))
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
    pub rows: Arc<[TracedInvocation]>,
}

/// One invocation of a [`RowTrace`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TracedInvocation {
    /// Start, microseconds since the beginning of the trace.
    pub start_us: u64,
    /// Index into [`RowTrace::functions`].
    pub function: u32,
    /// Duration, milliseconds.
    pub duration_ms: u32,
}

impl TracedInvocation {
    /// Minute of its start.
    #[must_use]
    pub fn minute(&self) -> u32 {
        u32::try_from(self.start_us / MINUTE_US).unwrap_or(u32::MAX - 1)
    }
}

/// Microseconds in a minute.
const MINUTE_US: u64 = 60_000_000;
/// Longest trace, minutes: a year. A longer one has a time in another unit than the others, and would take as long to play.
const MAX_MINUTES: u32 = 366 * 24 * 60;
/// The same, microseconds.
const MAX_SPAN_US: u64 = MAX_MINUTES as u64 * MINUTE_US;

#[cfg(test)]
mod tests;
