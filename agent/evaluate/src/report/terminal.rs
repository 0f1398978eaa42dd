//! The report for a terminal. Owns its columns; must not query the terminal.

use super::number::{NOTHING, range, short, shown, tenths};
use super::sentences::{self, headline};
use super::table::{Column, EntryTone, TableEntry, clean, lay_out, wrapped};
use crate::results::{Measure, Results};
use crate::statistics::{ComparisonVerdict, Summary, SummaryLine, SummaryPart, SummaryScope};

/// Whether a part is of one kind.
type ScopeFilter = fn(&SummaryScope) -> bool;

/// Longest name of a competitor that is shown in full, and of a part.
const NAME: usize = 22;
const PART: usize = 14;
/// Least width of a table.
const LEAST_WIDTH: usize = 40;

/// The report in at most `width` columns, if possible (from 80): a table over all cells, the findings, then violations
/// and cost by perturbation and by workload. Colours are ECMA-48 sequences, only if `colour`.
#[must_use]
pub fn terminal(results: &Results, summary: &Summary, width: usize, colour: bool) -> String {
    let width = width.max(LEAST_WIDTH);
    let mut out = wrapped(&clean(&sentences::what(results), usize::MAX), width);
    out.push('\n');
    if let Some(overall) = summary.overall() {
        out.push_str(&lay_out(overall_columns(results, summary, overall), width, colour));
    }
    out.push('\n');
    for sentence in headline(results, summary) {
        out.push_str(&wrapped(&clean(&sentence, usize::MAX), width));
    }
    let kinds: [(&str, ScopeFilter); 3] = [
        ("By perturbation", |scope| matches!(scope, SummaryScope::Perturbation(_))),
        ("By workload", |scope| matches!(scope, SummaryScope::Workload(_))),
        ("By function", |scope| matches!(scope, SummaryScope::Function(_))),
    ];
    let price = Price::of(results, summary);
    for (title, like) in kinds {
        let parts: Vec<&SummaryPart> = summary.parts_like(like).collect();
        if !parts.is_empty() {
            let legend = format!("{title}: violations % / cost {}; + better, - worse, = tie", price.unit);
            out.push('\n');
            out.push_str(&wrapped(&EntryTone::Strong.paint(&clean(&legend, usize::MAX), colour), width));
            out.push_str(&matrix(results, &parts, &price, width, colour));
        }
    }
    out.push('\n');
    out.push_str(&wrapped(&clean(&sentences::method(results, summary), usize::MAX), width));
    out
}

/// Unit of costs: an hour, or a thousand hours if costs are small.
struct Price {
    hours: f64,
    unit: String,
}

impl Price {
    fn of(results: &Results, summary: &Summary) -> Self {
        let costs = summary.overall().into_iter().flat_map(|part| &part.lines).filter_map(|line| line.measures.get(&Measure::CostPerHour));
        let currency = clean(&results.settings.currency, 6);
        match costs.map(|cost| cost.iqm).fold(0.0, f64::max) {
            most if most > 0.0 && most < 1.0 => Self { hours: 1000.0, unit: format!("{currency}/1000h") },
            _ => Self { hours: 1.0, unit: format!("{currency}/h") },
        }
    }

    fn bracketed(&self, line: &SummaryLine) -> String {
        let shown = |value: f64| short(value * self.hours);
        let found = line.measures.get(&Measure::CostPerHour);
        found.map_or_else(
            || NOTHING.into(),
            |cost| format!("{} ({}-{})", shown(cost.iqm), shown(cost.iqm_interval.low), shown(cost.iqm_interval.high)),
        )
    }
}

fn overall_columns(results: &Results, summary: &Summary, part: &SummaryPart) -> Vec<Column> {
    let column = |heading: String, dispensable: u8, of: &dyn Fn(&SummaryLine) -> TableEntry| Column {
        heading,
        entries: part.lines.iter().map(of).collect(),
        dispensable,
    };
    let centre =
        |line: &SummaryLine, measure| line.measures.get(&measure).map_or_else(|| NOTHING.into(), |estimate| shown(measure, estimate.iqm));
    let bracketed = |line: &SummaryLine, measure| {
        let found = line.measures.get(&measure);
        found.map_or_else(
            || NOTHING.into(),
            |estimate| format!("{} ({})", shown(measure, estimate.iqm), range(measure, estimate.iqm_interval)),
        )
    };
    let price = Price::of(results, summary);
    let cost = format!("cost {}", price.unit);
    vec![
        column("competitor".into(), 0, &|line| name(results, summary, line)),
        column("violations %".into(), 0, &|line| TableEntry::from(bracketed(line, Measure::ViolatedShare))),
        column("sev %".into(), 3, &|line| TableEntry::from(centre(line, Measure::Severity))),
        column("p95 ms".into(), 1, &|line| TableEntry::from(centre(line, Measure::P95Ms))),
        column(cost, 0, &|line| price.bracketed(line).into()),
        column("cold".into(), 5, &|line| TableEntry::from(centre(line, Measure::ColdStarts))),
        column("act/h".into(), 4, &|line| TableEntry::from(centre(line, Measure::ActionsPerHour))),
        column("gap %".into(), 2, &|line| line.gap_closed.map_or_else(|| NOTHING.into(), |share| tenths(share.value * 100.0)).into()),
        column("result".into(), 0, &|line| verdict(results, summary, line)),
    ]
}

fn name(results: &Results, summary: &Summary, line: &SummaryLine) -> TableEntry {
    let competitor = &results.competitors[line.competitor];
    let tone = if summary.reference == Some(line.competitor) {
        EntryTone::Strong
    } else if !competitor.variant.competes() {
        EntryTone::Faint
    } else {
        EntryTone::Plain
    };
    TableEntry { text: clean(&competitor.label(), NAME), tone }
}

fn verdict(results: &Results, summary: &Summary, line: &SummaryLine) -> TableEntry {
    let text = match sentences::verdict(results, summary, line) {
        "reference" => "(ref.)",
        "bound" => "bound",
        other => other,
    };
    TableEntry { text: text.into(), tone: line.against.map_or(EntryTone::Faint, |against| tone(against.comparison.verdict)) }
}

fn tone(verdict: ComparisonVerdict) -> EntryTone {
    match verdict {
        ComparisonVerdict::Better => EntryTone::Good,
        ComparisonVerdict::Worse => EntryTone::Bad,
        ComparisonVerdict::Tie => EntryTone::Even,
    }
}

/// Violations and cost of all competitors in each part, in as many blocks as the width requires.
fn matrix(results: &Results, parts: &[&SummaryPart], price: &Price, width: usize, colour: bool) -> String {
    let names = Column {
        heading: "competitor".into(),
        entries: results.competitors.iter().map(|competitor| clean(&competitor.label(), NAME).into()).collect(),
        dispensable: 0,
    };
    let taken = names.entries.iter().map(|entry| entry.text.chars().count()).max().unwrap_or(0).max("competitor".len());
    // An entry is as wide as `100/0.0123 =`, a heading as wide as a name may be.
    let each = parts.iter().map(|part| part_column(part, price)).collect::<Vec<_>>();
    let widest = each
        .iter()
        .flat_map(|column| column.entries.iter().map(|entry| entry.text.chars().count()).chain([column.heading.chars().count()]))
        .max();
    let fitting = (width.saturating_sub(taken) / (widest.unwrap_or(0) + 2)).max(1);
    let blocks = each.chunks(fitting).map(|chunk| lay_out([std::slice::from_ref(&names), chunk].concat(), usize::MAX / 2, colour));
    blocks.collect::<Vec<_>>().join("\n")
}

fn part_column(part: &SummaryPart, price: &Price) -> Column {
    let entry = |line: &SummaryLine| {
        let (Some(violated), Some(cost)) = (line.measures.get(&Measure::ViolatedShare), line.measures.get(&Measure::CostPerHour)) else {
            return TableEntry::from(NOTHING);
        };
        let mark = match line.against.map(|against| against.comparison.verdict) {
            Some(ComparisonVerdict::Better) => '+',
            Some(ComparisonVerdict::Worse) => '-',
            Some(ComparisonVerdict::Tie) => '=',
            None => ' ',
        };
        let text = format!("{}/{} {mark}", shown(Measure::ViolatedShare, violated.iqm), short(cost.iqm * price.hours));
        TableEntry { text, tone: line.against.map_or(EntryTone::Plain, |against| tone(against.comparison.verdict)) }
    };
    Column { heading: clean(part.scope.name(), PART), entries: part.lines.iter().map(entry).collect(), dispensable: 0 }
}
