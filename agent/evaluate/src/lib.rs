//! Policies against each other: the same functions, loads and misfortunes for each, measures and statistics. Pure: no I/O, no clock, chance only from seeds.

pub mod results;
pub mod statistics;

pub use results::{Measure, Results};
pub use statistics::{Summary, SummaryOptions, summarise};
