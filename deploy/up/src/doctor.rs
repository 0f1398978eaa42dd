//! Checks of a setup. Owns what is checked and the remedies; must not change anything or print.

pub mod bus;
pub mod cluster;
pub mod machine;
mod report;
pub mod workloads;

pub use self::report::{CheckResult, CheckedItem, DoctorVerdict, Report};
