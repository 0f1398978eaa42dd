//! How things are written for people: colours, tables, numbers with units. Owns standard output; decides nothing.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use qscale_common::time::Timestamp;
use qscale_common::units::Allocation;
use serde::Serialize;

/// Longest text of others that is shown on one line, in characters.
const LONGEST_TEXT: usize = 200;

/// Writes a line to standard output.
///
/// # Errors
/// When nobody reads any more, which [`pipe_closed`] tells from real errors.
pub fn line(text: impl Display) -> anyhow::Result<()> {
    Ok(writeln!(io::stdout(), "{text}")?)
}

/// Writes a value as indented JSON.
///
/// # Errors
/// As [`line`].
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(serde_json::to_string_pretty(value).context("write as JSON")?)
}

/// Says on standard error what deserves attention without being a failure.
pub fn warn(text: impl Display) {
    // Where standard error is closed there is nobody to warn.
    let _unheard = writeln!(io::stderr(), "warning: {text}");
}

/// Whether `error` says only that the reader of standard output went away, as `head` does.
pub fn pipe_closed(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// What a colour means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tone {
    /// As it is.
    #[default]
    Plain,
    /// In the background.
    Dim,
    /// A name or heading.
    Strong,
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Wrong.
    Bad,
    /// Tells kinds apart.
    Accent,
}

/// Whether colours are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paint(bool);

impl Paint {
    /// Colours on a terminal that wants them: not where NO_COLOR is set, nor on a dumb terminal.
    pub fn of_terminal() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self(io::stdout().is_terminal() && !refused && !dumb)
    }

    /// No colours.
    #[cfg(test)]
    pub const fn none() -> Self {
        Self(false)
    }

    /// `text` in `tone`.
    pub fn tone(self, tone: Tone, text: impl Display) -> String {
        let code = match tone {
            Tone::Plain => return text.to_string(),
            _ if !self.0 => return text.to_string(),
            Tone::Dim => "2",
            Tone::Strong => "1",
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "31",
            Tone::Accent => "36",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// A cell of a table.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell in `tone`.
    pub fn new(text: impl Display, tone: Tone) -> Self {
        Self { text: text.to_string(), tone }
    }
}

impl<T: Display> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Tone::Plain)
    }
}

/// Rows under headings, in columns as wide as their widest cell.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table with these headings.
    pub fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|heading| Cell::new(heading, Tone::Dim)).collect()] }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        self.rows.push(cells.into());
    }

    /// The table as text, without a line end after its last line.
    pub fn render(&self, paint: Paint) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let length = |cell: &Cell| cell.text.chars().count();
        let widths: Vec<usize> =
            (0..columns).map(|column| self.rows.iter().filter_map(|row| row.get(column)).map(length).max().unwrap_or(0)).collect();
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            if number > 0 {
                text.push('\n');
            }
            for (column, cell) in row.iter().enumerate() {
                text.push_str(&paint.tone(cell.tone, &cell.text));
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
        line(self.render(Paint::of_terminal()))
    }
}

/// A rate, `12.3/s`.
pub fn rate(a_second: f64) -> String {
    format!("{}/s", number(a_second))
}

/// A number with three significant digits where it is small, whole where it is large, and no zeros at its end.
pub fn number(value: f64) -> String {
    let decimals = match value.abs() {
        ..1.0 => 3,
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// A latency, `85ms` or `1.2s`.
pub fn latency(milliseconds: f64) -> String {
    if milliseconds < 1000.0 { format!("{}ms", number(milliseconds)) } else { format!("{}s", number(milliseconds / 1000.0)) }
}

/// How long ago, in its largest unit: `900ms`, `4s`, `3m`, `2h`, `5d`.
pub fn age(age: Duration) -> String {
    match age.as_secs() {
        0 => format!("{}ms", age.as_millis()),
        seconds @ 1..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// The time of day in UTC, `06:53:04.123`.
pub fn clock(at: Timestamp) -> String {
    part(at, 11..23)
}

/// The day in UTC, `2025-11-23`.
pub fn day(at: Timestamp) -> String {
    part(at, 0..10)
}

fn part(at: Timestamp, range: std::ops::Range<usize>) -> String {
    let text = at.to_string();
    text.get(range).unwrap_or(&text).to_owned()
}

/// What differs between two allocations: `1 → 2 replicas, 500m → 250m`; `None` where nothing does.
pub fn difference(before: Allocation, after: Allocation) -> Option<String> {
    let mut parts = Vec::new();
    if before.replicas != after.replicas {
        parts.push(format!("{} → {} replicas", before.replicas, after.replicas));
    }
    if before.cpu_millicores != after.cpu_millicores {
        parts.push(format!("{} → {}", before.cpu_millicores, after.cpu_millicores));
    }
    if before.memory_mib != after.memory_mib {
        parts.push(format!("{} → {}", before.memory_mib, after.memory_mib));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Text of others, safe for a terminal: control characters written out, and cut where it is long.
pub fn clean(text: &str) -> String {
    let text = text.trim_end();
    match text.char_indices().nth(LONGEST_TEXT) {
        Some((end, _)) => format!("{}…", whole(&text[..end])),
        None => whole(text),
    }
}

/// Text of others, safe for a terminal, however long: control characters are written out, except tabs.
pub fn whole(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\t' => shown.push(character),
            _ if character.is_control() => shown.extend(character.escape_default()),
            _ => shown.push(character),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAME", "MODE"]);
        table.row(["a".into(), Cell::new("active", Tone::Good)]);
        table.row(["fibonacci".into(), "é".into()]);
        assert_eq!(table.render(Paint::none()), "NAME       MODE\na          active\nfibonacci  é");
        assert!(table.render(Paint(true)).contains("\x1b[32mactive\x1b[0m"));
    }

    #[test]
    fn numbers_are_short_and_carry_their_unit() {
        assert_eq!([0.0, 0.1234, 1.5, 12.34, 1234.5].map(number), ["0", "0.123", "1.5", "12.3", "1234"]);
        assert_eq!([0.5, 85.04, 1200.0].map(latency), ["0.5ms", "85ms", "1.2s"]);
        assert_eq!([0, 119, 120, 7200, 172_800].map(|seconds| age(Duration::from_secs(seconds))), ["0ms", "119s", "2m", "2h", "2d"]);
        assert_eq!(number(f64::NAN), "NaN");
    }

    #[test]
    fn a_difference_names_only_what_differs() {
        let one = Allocation::new(1, 500, 128);
        assert_eq!(difference(one, one), None);
        assert_eq!(difference(one, Allocation::new(2, 500, 128)).as_deref(), Some("1 → 2 replicas"));
        assert_eq!(difference(one, Allocation::new(1, 250, 256)).as_deref(), Some("500m → 250m, 128Mi → 256Mi"));
    }

    #[test]
    fn text_of_others_cannot_move_the_cursor() {
        assert_eq!(clean("a\x1b[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        assert_eq!(clean(&"x".repeat(500)).chars().count(), LONGEST_TEXT + 1);
    }

    #[test]
    fn instants_are_shown_in_utc() {
        let at = Timestamp(1_763_880_784_123);
        assert_eq!((day(at).as_str(), clock(at).as_str()), ("2025-11-23", "06:53:04.123"));
    }

    #[test]
    fn only_a_closed_pipe_is_no_error() {
        let closed = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("write");
        assert!(pipe_closed(&closed));
        assert!(!pipe_closed(&anyhow::anyhow!("other")));
    }
}
