//! The table in Markdown. Owns Markdown syntax; must not show less than the terminal.

use qscale_common::text::acts_on_terminal;

use super::number::{NOTHING, heading, p_value, range, shown, tenths};
use super::sentences::{self, headline};
use crate::results::{Measure, Results};
use crate::statistics::{Summary, SummaryLine};

const SHOWN: [Measure; 6] =
    [Measure::ViolatedShare, Measure::Severity, Measure::P95Ms, Measure::CostPerHour, Measure::ColdStarts, Measure::ActionsPerHour];

/// The report in GitHub Markdown: extent, command, table with intervals, and findings.
#[must_use]
pub fn markdown(results: &Results, summary: &Summary) -> String {
    let mut out = format!("{}.\n\n", escape(&sentences::what(results)));
    if !results.settings.command.is_empty() {
        // A fence longer than any run of backticks inside cannot be closed by it.
        let fence = "`".repeat(results.settings.command.split(|character| character != '`').map(str::len).max().unwrap_or(0).max(2) + 1);
        out.push_str(&format!("{fence}\n{}\n{fence}\n\n", results.settings.command.replace(['\n', '\r'], " ")));
    }
    let headings = SHOWN.iter().map(|measure| heading(*measure, &results.settings.currency));
    let headings: Vec<String> =
        std::iter::once("competitor".into()).chain(headings).chain(["gap closed %", "p (Holm)", "verdict"].map(String::from)).collect();
    out.push_str(&row(headings.iter().map(|heading| escape(heading))));
    out.push_str(&row((0..headings.len()).map(|index| if index == 0 { "---".into() } else { "---:".into() })));
    for line in summary.overall().map_or(&[][..], |part| &part.lines) {
        out.push_str(&row(cells(results, summary, line).into_iter()));
    }
    out.push('\n');
    out.push_str(&keep_alive(results, summary));
    headline(results, summary).iter().for_each(|sentence| out.push_str(&format!("- {}\n", escape_spans(sentence))));
    out.push_str(&format!("\n{}\n", escape_spans(&sentences::method(results, summary))));
    out
}

/// The means of the measures of the keep-alive literature.
fn keep_alive(results: &Results, summary: &Summary) -> String {
    let headings = Measure::KEEP_ALIVE.iter().map(|measure| escape(&heading(*measure, &results.settings.currency)));
    let mut out = row(std::iter::once("mean".into()).chain(headings));
    out.push_str(&row((0..=Measure::KEEP_ALIVE.len()).map(|index| if index == 0 { "---".into() } else { "---:".into() })));
    for line in summary.overall().map_or(&[][..], |part| &part.lines) {
        let values = Measure::KEEP_ALIVE.iter().map(|measure| {
            let found = line.measures.get(measure);
            found.map_or_else(|| NOTHING.into(), |estimate| shown(*measure, estimate.mean))
        });
        out.push_str(&row(std::iter::once(escape(&results.competitors[line.competitor].label())).chain(values)));
    }
    out.push('\n');
    out
}

fn cells(results: &Results, summary: &Summary, line: &SummaryLine) -> Vec<String> {
    let label = escape(&results.competitors[line.competitor].label());
    let mut cells = vec![if summary.reference == Some(line.competitor) { format!("**{label}**") } else { label }];
    for measure in SHOWN {
        let found = line.measures.get(&measure);
        cells.push(found.map_or_else(
            || NOTHING.into(),
            |estimate| format!("{} ({})", shown(measure, estimate.iqm), range(measure, estimate.iqm_interval)),
        ));
    }
    cells.push(line.gap_closed.map_or_else(
        || NOTHING.into(),
        |share| {
            let percent = |value: f64| tenths(value * 100.0);
            format!("{} ({} to {})", percent(share.value), percent(share.interval.low), percent(share.interval.high))
        },
    ));
    cells.push(line.against.map_or_else(|| NOTHING.into(), |against| p_value(sentences::p_holm(&against.cost)).replace('<', "&lt;")));
    let reading = line.against.map(|against| format!(" ({})", against.comparison.reading())).unwrap_or_default();
    cells.push(format!("{}{reading}", sentences::verdict(results, summary, line)));
    cells
}

fn row(cells: impl Iterator<Item = String>) -> String {
    format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
}

/// Escapes `text` for Markdown, in one line.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            character if acts_on_terminal(character) => out.push(' '),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '!' | '~' => out.extend(['\\', character]),
            character => out.push(character),
        }
    }
    out
}

/// Escapes a sentence whose names are in backticks.
fn escape_spans(sentence: &str) -> String {
    let mut out = String::new();
    for (index, part) in sentence.split('`').enumerate() {
        if index % 2 == 0 { out.push_str(&escape(part)) } else { out.push_str(&format!("`{}`", part.replace('|', "¦"))) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped() {
        assert_eq!(escape("a|b <script> `x` [y](z)\n"), "a\\|b &lt;script&gt; \\`x\\` \\[y\\](z) ");
        assert_eq!(escape_spans("next to `a*b`, *c*"), "next to `a*b`, \\*c\\*");
    }
}
