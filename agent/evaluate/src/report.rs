//! What people see of an evaluation: a table on the terminal, one for a README, CSV, and one page. Owns how findings look; must not compute any.
//!
//! The same results give the same bytes.

mod chart;
mod csv;
mod html;
mod markdown;
mod number;
mod plot;
mod sentences;
mod table;
mod terminal;

pub use chart::{Curve, Panel, chart};
pub use csv::{csv_runs, csv_summary};
pub use html::html;
pub use markdown::markdown;
pub use sentences::headline;
pub use terminal::terminal;
