//! Assessment of autoscalers by a history: calibrates the simulator, checks it, and estimates the cost and violations of other policies.
//!
//! [`prometheus`] and [`recorded`] read histories; everything else is pure. Nothing here prints, or changes an allocation.

pub mod acting;
pub mod assessment;
pub mod blocks;
pub mod calibration;
pub mod competitors;
mod csv_text;
pub mod estimate;
pub mod history;
pub mod html;
pub mod interval;
pub mod prometheus;
pub mod queries;
pub mod recorded;
pub mod replay;
pub mod report;
pub mod reproduction;
pub mod shown;

pub use assessment::{AssessOptions, AssessStep, Assessment, WorkloadAssessment, assess};
pub use history::WorkloadHistory;
