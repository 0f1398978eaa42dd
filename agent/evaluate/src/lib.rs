//! Comparison of policies in the simulator: suites, runs, measures, statistics and reports. Every policy meets the same
//! functions, arrivals and perturbations. Pure: no I/O, no clock, random numbers only from seeds.

pub mod cell;
pub mod curve;
pub mod decision_latency;
pub mod evaluation;
pub mod measure;
pub mod planner;
pub mod policy_set;
pub mod report;
pub mod results;
pub mod run;
pub mod statistics;
pub mod suite;
pub mod trace;

pub use evaluation::{CompetitorError, EvaluateError, EvaluationRequest, Options, SuiteEvaluation};
pub use policy_set::{PolicySet, RulePolicies};
pub use results::{Measure, Results};
pub use statistics::{Summary, SummaryOptions, summarise};
pub use suite::Suite;
