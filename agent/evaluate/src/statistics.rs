//! Statistics of the runs: centres, intervals, tests and verdicts. Owns the arithmetic of samples; must not run anything or format numbers.
//!
//! The protocol of Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice" (NeurIPS
//! 2021): interquartile means with stratified bootstrap intervals. In addition paired tests, since all competitors have
//! equal arrivals for equal seeds.

mod bootstrap;
mod comparison;
mod gap;
mod holm;
mod pareto;
mod sample;
mod sign_flip;
mod student;
mod summary;
mod wilcoxon;

pub use bootstrap::{Bootstrap, Estimate, Interval};
pub use comparison::{Comparison, ComparisonVerdict, DifferenceSign, Finding, Paired};
pub use gap::{GAP_MEASURE, GapShare, share_of_gap};
pub use holm::holm;
pub use pareto::pareto;
pub use sample::{Sample, StatisticsError};
pub use sign_flip::sign_flip;
pub use student::{mean_and_deviation, student_quantile};
pub use summary::{KEY_MEASURES, Summary, SummaryLine, SummaryOptions, SummaryPart, SummaryScope, UnknownReference, summarise};
pub use wilcoxon::{Wilcoxon, wilcoxon};
