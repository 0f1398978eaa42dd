//! The report as one HTML page that needs no network. Owns its sections; must not refer to other resources or trust names.
//!
//! Every string of the results passes [`escape`] or [`data::json`]. Plots are inline SVG coloured by the page's style
//! sheet, for light and dark mode.

mod data;
mod latency;
mod scatter;
mod tables;

use super::escape::escape;
use super::page::{page, section};
use super::sentences::{self, headline};
use crate::results::Results;
use crate::statistics::{ComparisonVerdict, Summary, SummaryPart, SummaryScope};

/// The report as HTML.
#[must_use]
pub fn html(results: &Results, summary: &Summary) -> String {
    let title = format!("Comparison of policies: {}", results.suite.name);
    let sections = [
        compared(results),
        findings(results, summary),
        section("table", "All competitors over all cells", &tables::overall(results, summary)),
        section("keep-alive", "Slowdown, cold requests and wasted memory-time, means", &tables::keep_alive(results, summary)),
        section("front", "Cost against violations", &front(results, summary)),
        section("parts", "Cost against violations, by part", &panels(results, summary)),
        section("latency", "Latency", &latency::figure(results, &featured(results, summary))),
        section("run", "Time series of a run", &explorer(results)),
        section("cells", "Violations and cost by cell", &tables::heat(results, summary)),
        section("tuning", "Tuning", &tables::tuning(results)),
        section("method", "Method", &method(results, summary)),
    ];
    let after = format!(
        "<script type=\"application/json\" id=\"data\">{}</script>\n<script>\n{}</script>\n",
        data::embedded(results, &featured(results, summary)),
        include_str!("html/explore.js"),
    );
    page(&title, &sections.concat(), &after)
}

/// Cost against violations over all cells, as an SVG file: the tuned policies and the bound, or all policies if none
/// was tuned. Empty without results.
#[must_use]
pub fn front_svg(results: &Results, summary: &Summary) -> String {
    summary.overall().map(|part| scatter::file(results, summary, part)).unwrap_or_default()
}

fn compared(results: &Results) -> String {
    let settings = &results.settings;
    let seeds = |seeds: &[u64]| seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let document = serde_json::to_string_pretty(&results.suite.document).unwrap_or_default();
    let shortened = if settings.quick { "<p class=\"warn\">Shortened: these are not the published numbers.</p>\n" } else { "" };
    let validation = match settings.validation_seeds.as_slice() {
        [] => String::new(),
        found => format!("<p>Validation seeds, for tuning only: {}</p>\n", seeds(found)),
    };
    format!(
        "<p>{}</p>\n{shortened}<p>{}.</p>\n<pre><code>{}</code></pre>\n<details><summary>Registered suite and seeds</summary>\n\
         <p>Seeds: {}</p>\n{validation}<pre><code>{}</code></pre></details>\n",
        escape(&results.suite.description),
        escape(&sentences::what(results)),
        escape(&settings.command),
        seeds(&settings.seeds),
        document.lines().map(escape).collect::<Vec<_>>().join("\n"),
    )
}

fn findings(results: &Results, summary: &Summary) -> String {
    let sentences = headline(results, summary);
    let items: String = sentences.iter().map(|sentence| format!("<li>{}</li>\n", marked(sentence))).collect();
    section("findings", "Findings", &format!("<ul class=\"findings\">\n{items}</ul>\n"))
}

/// A sentence with its names, given in backticks, as marked spans: a label such as `hpa, tuned` contains a comma.
fn marked(sentence: &str) -> String {
    let part =
        |(index, part): (usize, &str)| if index % 2 == 0 { escape(part) } else { format!("<span class=\"who\">{}</span>", escape(part)) };
    sentence.split('`').enumerate().map(part).collect()
}

fn front(results: &Results, summary: &Summary) -> String {
    let Some(overall) = summary.overall() else { return String::new() };
    let note = "Interquartile means with intervals on both axes; lower left is better. Numbers refer to the table above. Faint points: settings tried in \
                tuning, means over validation runs.";
    scatter::figure(results, summary, overall, "Cost against violations, all cells", note)
}

fn panels(results: &Results, summary: &Summary) -> String {
    let kinds: [(&str, bool, ScopeFilter); 4] = [
        ("By workload", true, |scope| matches!(scope, SummaryScope::Workload(_))),
        ("By perturbation", true, |scope| matches!(scope, SummaryScope::Perturbation(_))),
        ("By function", true, |scope| matches!(scope, SummaryScope::Function(_))),
        ("By cell: function, workload and perturbation", false, |scope| matches!(scope, SummaryScope::Cell(_))),
    ];
    let mut out = String::new();
    for (title, open, like) in kinds {
        let parts: Vec<&SummaryPart> = summary.parts_like(like).collect();
        if !parts.is_empty() {
            if out.is_empty() {
                out.push_str("<p class=\"faint\">Marks as above; numbers refer to the table. Point at a mark to see its values.</p>\n");
            }
            let panels: String = parts.iter().map(|part| scatter::panel(results, summary, part)).collect();
            let open = if open { " open" } else { "" };
            out.push_str(&format!("<details{open}><summary>{title}</summary>\n<div class=\"panels\">\n{panels}</div></details>\n"));
        }
    }
    out
}

/// Whether a part is of one kind.
type ScopeFilter = fn(&SummaryScope) -> bool;

/// Greatest number of competitors with their own colour.
const COLOURS: usize = 8;

/// Competitors that plots show first: reference, baseline and bound, those better than the reference, then the Pareto front.
fn featured(results: &Results, summary: &Summary) -> Vec<usize> {
    let mut found: Vec<usize> = [summary.reference, summary.baseline, summary.bound].into_iter().flatten().collect();
    let lines = summary.overall().map_or(&[][..], |part| &part.lines);
    let better = lines.iter().filter(|line| line.against.is_some_and(|against| against.comparison.verdict == ComparisonVerdict::Better));
    let front = lines.iter().filter(|line| line.pareto && results.competitors[line.competitor].variant.competes());
    for line in better.chain(front) {
        if !found.contains(&line.competitor) {
            found.push(line.competitor);
        }
    }
    found.truncate(COLOURS);
    found.sort_unstable();
    found.dedup();
    found
}

fn explorer(results: &Results) -> String {
    if results.timelines.is_empty() && results.groups.is_empty() {
        return String::new();
    }
    let options = |values: Vec<&str>| -> String {
        let mut seen = Vec::new();
        values.into_iter().for_each(|value| {
            if !seen.contains(&value) {
                seen.push(value)
            }
        });
        seen.iter().map(|value| format!("<option value=\"{0}\">{0}</option>", escape(value))).collect()
    };
    let select =
        |id: &str, label: &str, values: Vec<&str>| format!("<label>{label} <select id=\"{id}\">{}</select></label>\n", options(values));
    let boxes: String = results
        .competitors
        .iter()
        .enumerate()
        .map(|(index, competitor)| format!("<label><input type=\"checkbox\" value=\"{index}\"> {}</label>\n", escape(&competitor.label())))
        .collect();
    format!(
        "<noscript><p>Selecting a run needs JavaScript; all runs are in results.json.</p></noscript>\n<form id=\"choice\">\n{}{}{}\
         <fieldset><legend>Competitors, at most {COLOURS}</legend>\n{boxes}</fieldset>\n</form>\n<div id=\"course\" aria-live=\"polite\"></div><svg id=\"names\" hidden></svg>\n\
         <details><summary>All runs of the selected cell and competitors</summary>\n<div class=\"wide\" id=\"runs\"></div></details>\n",
        select("f", "Function", results.cells.iter().map(|cell| cell.function.as_str()).collect()),
        select("w", "Workload", results.cells.iter().map(|cell| cell.workload.as_str()).collect()),
        select("p", "Perturbation", results.cells.iter().map(|cell| cell.perturbation.as_str()).collect()),
    )
}

fn method(results: &Results, summary: &Summary) -> String {
    format!(
        "<p>{}</p>\n<p>All competitors have equal arrivals for equal seeds, so differences are paired by cell and seed. p is the greater one of a sign-flip \
         test and of Wilcoxon's signed-rank test, each over one mean difference a seed and corrected by Holm over all comparisons of this table. An interquartile mean \
         ignores the worst quarter of the runs, so verdicts use the mean as well.</p>\n",
        marked(&sentences::method(results, summary))
    )
}
