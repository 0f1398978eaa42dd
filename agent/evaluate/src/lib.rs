//! Policies against each other: the same functions, loads and misfortunes for each, measures and statistics. Pure: no I/O, no clock, chance only from seeds.

pub mod arena;
pub mod evaluation;
pub mod measure;
pub mod pace;
pub mod report;
pub mod results;
pub mod roster;
pub mod run;
pub mod statistics;
pub mod suite;
pub mod trace;

pub use evaluation::{Asked, EvaluateError, Evaluation, Options};
pub use results::{Measure, Results};
pub use roster::{Roster, Rules};
pub use statistics::{Summary, SummaryOptions, summarise};
pub use suite::Suite;
