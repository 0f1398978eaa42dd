//! Output: lines, JSON, warnings, colours and tables. Owns standard output; values are formatted by `qscale_common::text`.

use std::fmt::Display;
use std::io::{self, Write as _};

use anstyle::{AnsiColor, Style};
use anyhow::Context as _;
use qscale_common::runtime::telemetry;
use qscale_common::text::safe_json;
pub use qscale_common::text::{age, clean, clock, day, difference, latency, number, rate, whole};
use serde::Serialize;

/// Writes a line to standard output, in colour if it is a terminal, NO_COLOR is not set and TERM is not dumb.
///
/// # Errors
/// When standard output is closed; [`pipe_closed`] recognises that.
pub fn line(text: impl Display) -> anyhow::Result<()> {
    Ok(writeln!(anstream::stdout(), "{text}")?)
}

/// Writes a value as indented JSON.
///
/// # Errors
/// As [`line`].
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(safe_json(&serde_json::to_string_pretty(value).context("failed to write as JSON")?))
}

/// Writes a value as JSON on one line.
///
/// # Errors
/// As [`line`].
pub fn json_line(value: &impl Serialize) -> anyhow::Result<()> {
    line(safe_json(&serde_json::to_string(value).context("failed to write as JSON")?))
}

/// Writes a line to standard error. A closed standard error is ignored.
pub fn note(text: impl Display) {
    telemetry::say(text);
}

/// Writes a warning to standard error.
pub fn warn(text: impl Display) {
    note(format_args!("warning: {text}"));
}

/// Writes an error to standard error. Control characters of values that it repeats are escaped.
pub fn error(error: &anyhow::Error) {
    format!("error: {error:#}").lines().for_each(|text| note(whole(text)));
}

/// Whether `error` only means that the reader of standard output, such as `head`, closed it.
pub fn pipe_closed(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// Meaning of a colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tone {
    /// No colour.
    #[default]
    Plain,
    /// Secondary.
    Dim,
    /// A name or heading.
    Strong,
    /// Good.
    Good,
    /// A warning.
    Warn,
    /// An error.
    Bad,
    /// Distinguishes kinds.
    Accent,
}

impl Tone {
    /// `text` in this tone, with escape sequences; [`line`] removes them where colours are not wanted.
    pub fn paint(self, text: impl Display) -> String {
        let style = match self {
            Self::Plain => Style::new(),
            Self::Dim => Style::new().dimmed(),
            Self::Strong => Style::new().bold(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Warn => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default(),
            Self::Accent => AnsiColor::Cyan.on_default(),
        };
        format!("{style}{text}{style:#}")
    }
}

/// A cell of a table.
#[derive(Debug, Clone, Default)]
pub struct TableCell {
    text: String,
    tone: Tone,
}

impl TableCell {
    /// A cell in `tone`.
    pub fn new(text: impl Display, tone: Tone) -> Self {
        Self { text: text.to_string(), tone }
    }
}

impl<T: Display> From<T> for TableCell {
    fn from(text: T) -> Self {
        Self::new(text, Tone::Plain)
    }
}

/// Rows under headings, in columns as wide as their widest cell.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<TableCell>>,
}

impl Table {
    /// A table with these headings.
    pub fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|heading| TableCell::new(heading, Tone::Dim)).collect()] }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [TableCell; N]) {
        self.rows.push(cells.into());
    }

    /// The table as text, without a line end after its last line.
    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let length = |cell: &TableCell| cell.text.chars().count();
        let widths: Vec<usize> =
            (0..columns).map(|column| self.rows.iter().filter_map(|row| row.get(column)).map(length).max().unwrap_or(0)).collect();
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            if number > 0 {
                text.push('\n');
            }
            for (column, cell) in row.iter().enumerate() {
                text.push_str(&cell.tone.paint(&cell.text));
                if column + 1 < row.len() {
                    text.extend(std::iter::repeat_n(' ', widths[column] - length(cell) + 2));
                }
            }
        }
        text
    }

    /// Writes the table.
    ///
    /// # Errors
    /// As [`line`].
    pub fn print(&self) -> anyhow::Result<()> {
        line(self.render())
    }
}

/// `text` without colours.
#[cfg(test)]
pub fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAME", "MODE"]);
        table.row(["a".into(), TableCell::new("active", Tone::Good)]);
        table.row(["fibonacci".into(), "é".into()]);
        let text = table.render();
        assert_eq!(plain(&text), "NAME       MODE\na          active\nfibonacci  é");
        assert!(text.contains("\x1b[32mactive\x1b[0m"), "{text:?}");
    }

    #[test]
    fn only_a_closed_pipe_is_not_an_error() {
        let closed = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("write");
        assert!(pipe_closed(&closed));
        assert!(!pipe_closed(&anyhow::anyhow!("other")));
    }
}
