//! Policies against each other: the same functions, loads and misfortunes for each, measures and statistics. Pure: no I/O, no clock, chance only from seeds.

pub mod cell;
pub mod decision_latency;
pub mod evaluation;
pub mod measure;
pub mod policy_set;
pub mod report;
pub mod results;
pub mod run;
pub mod statistics;
pub mod suite;
pub mod trace;

pub use evaluation::{EvaluateError, Evaluation, EvaluationRequest, Options};
pub use policy_set::{PolicySet, Rules};
pub use results::{Measure, Results};
pub use statistics::{Summary, SummaryOptions, summarise};
pub use suite::Suite;
