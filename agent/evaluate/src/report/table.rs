//! Text tables with aligned columns. Owns widths and padding; must not know the content. Not `comfy-table`: columns are
//! dropped by priority to fit the width.

use std::fmt::Write;

use qscale_common::text::acts_on_terminal;

/// Colour of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryTone {
    Plain,
    Good,
    Bad,
    Even,
    Faint,
    Strong,
}

impl EntryTone {
    /// The colour's number in ECMA-48.
    fn code(self) -> Option<u8> {
        match self {
            Self::Plain => None,
            Self::Good => Some(32),
            Self::Bad => Some(31),
            Self::Even => Some(33),
            Self::Faint => Some(2),
            Self::Strong => Some(1),
        }
    }

    /// `text` in this tone.
    pub(super) fn paint(self, text: &str, colour: bool) -> String {
        match self.code().filter(|_| colour && !text.is_empty()) {
            Some(code) => format!("\x1b[{code}m{text}\x1b[0m"),
            None => text.into(),
        }
    }
}

/// An entry of a table.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TableEntry {
    pub text: String,
    pub tone: EntryTone,
}

impl From<String> for TableEntry {
    fn from(text: String) -> Self {
        Self { text, tone: EntryTone::Plain }
    }
}

impl From<&str> for TableEntry {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

/// A column; the first is left-aligned, all others right-aligned.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Column {
    pub heading: String,
    pub entries: Vec<TableEntry>,
    /// Priority of being dropped if the width is too small: the greatest first, 0 never.
    pub dispensable: u8,
}

impl Column {
    fn width(&self) -> usize {
        self.entries.iter().map(|entry| entry.text.chars().count()).chain([self.heading.chars().count()]).max().unwrap_or(0)
    }
}

const GAP: &str = "  ";

/// Lays out as many columns as fit into `width`.
pub(super) fn lay_out(mut columns: Vec<Column>, width: usize, colour: bool) -> String {
    while columns.iter().map(|column| column.width() + GAP.len()).sum::<usize>() > width + GAP.len() {
        let most = columns.iter().map(|column| column.dispensable).max().filter(|most| *most > 0);
        let Some(place) = most.and_then(|most| columns.iter().rposition(|column| column.dispensable == most)) else { break };
        columns.remove(place);
    }
    let rows = columns.iter().map(|column| column.entries.len()).max().unwrap_or(0);
    let heads: Vec<TableEntry> =
        columns.iter().map(|column| TableEntry { text: column.heading.clone(), tone: EntryTone::Strong }).collect();
    let body = (0..rows).map(|row| columns.iter().map(|column| column.entries[row].clone()).collect());
    let widths: Vec<usize> = columns.iter().map(Column::width).collect();
    std::iter::once(heads).chain(body).map(|row| line(&row, &widths, colour)).collect()
}

fn line(row: &[TableEntry], widths: &[usize], colour: bool) -> String {
    let mut line = String::new();
    for (index, (entry, width)) in row.iter().zip(widths).enumerate() {
        let padding = " ".repeat(width - entry.text.chars().count());
        let painted = entry.tone.paint(&entry.text, colour);
        let gap = if index == 0 { "" } else { GAP };
        let _ = if index == 0 { write!(line, "{gap}{painted}{padding}") } else { write!(line, "{gap}{padding}{painted}") };
    }
    format!("{}\n", line.trim_end())
}

/// `text` without control sequences, at most `most` characters long.
pub(super) fn clean(text: &str, most: usize) -> String {
    let count = text.chars().count();
    let kept = if count > most { most.saturating_sub(1) } else { count };
    let safe = |character: char| if acts_on_terminal(character) || is_invisible(character) { '?' } else { character };
    text.chars().take(kept).map(safe).chain((count > most).then_some('~')).collect()
}

/// Characters without width.
fn is_invisible(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2065}' | '\u{feff}')
}

/// `text` in lines of at most `width` characters, broken at spaces.
pub(super) fn wrapped(text: &str, width: usize) -> String {
    let mut out = String::new();
    let mut used = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > width {
            out.push('\n');
            used = 0;
        } else if used > 0 {
            out.push(' ');
            used += 1;
        }
        out.push_str(word);
        used += length;
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(heading: &str, entries: &[&str], dispensable: u8) -> Column {
        Column { heading: heading.into(), entries: entries.iter().map(|text| TableEntry::from(*text)).collect(), dispensable }
    }

    #[test]
    fn the_first_column_is_left_aligned() {
        let found = lay_out(vec![column("who", &["a", "bcde"], 0), column("n", &["1", "234"], 0)], 80, false);
        assert_eq!(found, "who     n\na       1\nbcde  234\n");
    }

    #[test]
    fn dispensable_columns_are_dropped_first() {
        let columns = vec![column("who", &["a"], 0), column("much", &["1"], 1), column("more", &["2"], 2)];
        assert_eq!(lay_out(columns.clone(), 10, false), "who  much\na       1\n");
        assert_eq!(lay_out(columns, 3, false), "who\na\n");
    }

    #[test]
    fn colours_take_no_width() {
        let mut tinted = column("n", &["1"], 0);
        tinted.entries[0].tone = EntryTone::Good;
        assert_eq!(lay_out(vec![column("a", &["b"], 0), tinted], 80, true), "\x1b[1ma\x1b[0m  \x1b[1mn\x1b[0m\nb  \x1b[32m1\x1b[0m\n");
    }

    #[test]
    fn names_cannot_control_the_terminal() {
        assert_eq!(clean("a\x1b[31mb\u{202e}c\n", 40), "a?[31mb?c?");
        assert_eq!(clean("abcdef", 4), "abc~");
    }

    #[test]
    fn lines_break_at_spaces() {
        assert_eq!(wrapped("one two three", 8), "one two\nthree\n");
        assert_eq!(wrapped("unbreakable", 3), "unbreakable\n");
    }
}
