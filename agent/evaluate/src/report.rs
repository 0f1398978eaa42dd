//! Reports of an evaluation: a table for the terminal, one in Markdown, CSV, one HTML page, and cost-violation curves. Owns their form; must not compute results.
//!
//! Equal results give equal bytes.

mod chart;
mod csv;
mod curves;
mod escape;
mod html;
mod intervals;
mod markdown;
mod number;
mod page;
mod plot;
mod sentences;
mod table;
mod terminal;

pub use chart::{Curve, Panel, chart};
pub use csv::{csv_runs, csv_summary};
pub use curves::{curve_csv, curve_svg, curve_table};
pub use escape::escape;
pub use html::{front_svg, html};
pub use intervals::{IntervalPoint, interval_plot};
pub use markdown::markdown;
pub use page::{page, section};
pub use sentences::headline;
pub use terminal::terminal;
