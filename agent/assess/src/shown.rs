//! Figures of an assessment as the page on the terminal and the HTML page show them. Owns digits and units.

use qscale_common::text::{latency, number};

use crate::interval::EstimatedRange;
use crate::reproduction::{StepFigures, relative_error};

/// A compared figure: its name, its value, and its text.
pub type ComparedFigure = (&'static str, fn(&StepFigures) -> Option<f64>, fn(f64) -> String);

/// The figures of the check of the simulator.
pub const COMPARED: [ComparedFigure; 6] = [
    ("cost an hour", |figures| figures.cost_per_hour, cost),
    ("replicas", |figures| figures.replicas, number),
    ("CPU use, cores", |figures| figures.cpu_cores, number),
    ("median latency", |figures| figures.median_ms, latency),
    ("objective's percentile", |figures| figures.objective_ms, latency),
    ("violated steps, %", |figures| figures.violated_share, percent),
];

/// A simulated figure with its relative error.
#[must_use]
pub fn compared((_, of, shown): &ComparedFigure, measured: &StepFigures, simulated: &StepFigures) -> String {
    let error = relative_error(of(measured), of(simulated)).map_or_else(String::new, |error| format!(" ({:+.0} %)", error * 100.0));
    format!("{}{error}", value(of(simulated), *shown))
}

/// A value that may be unknown.
#[must_use]
pub fn value(value: Option<f64>, shown: fn(f64) -> String) -> String {
    value.map_or_else(|| "unknown".to_owned(), shown)
}

/// An estimate with its interval.
#[must_use]
pub fn range(range: EstimatedRange, shown: fn(f64) -> String) -> String {
    format!("{} ({} to {})", shown(range.mean), shown(range.low), shown(range.high))
}

/// A cost.
#[must_use]
pub fn cost(value: f64) -> String {
    format!("{value:.4}")
}

/// A share in percent.
#[must_use]
pub fn percent(share: f64) -> String {
    format!("{:.1}", share * 100.0)
}

/// A relative difference in percent.
#[must_use]
pub fn signed_percent(share: f64) -> String {
    format!("{:+.0}", share * 100.0)
}
