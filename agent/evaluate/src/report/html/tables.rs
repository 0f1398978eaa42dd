//! Tables of the page. Owns rows and shading; must not sort or omit competitors.

use std::fmt::Write;

use super::super::number::{NOTHING, heading, p_value, range, short, shown, tenths};
use super::super::sentences;
use crate::report::escape::escape;
use crate::results::{Measure, Results, ScoredSetting, Tuning};
use crate::statistics::{Summary, SummaryLine, SummaryPart, SummaryScope};

const SHOWN: [Measure; 8] = [
    Measure::ViolatedShare,
    Measure::Severity,
    Measure::P95Ms,
    Measure::P99Ms,
    Measure::CostPerHour,
    Measure::ColdStarts,
    Measure::ActionsPerHour,
    Measure::Loss,
];
/// Number of settings of a grid that are shown, the best ones; all are in `results.json`.
const SETTINGS: usize = 15;

/// One line for each competitor, over all cells.
pub(super) fn overall(results: &Results, summary: &Summary) -> String {
    let Some(part) = summary.overall() else { return String::new() };
    let mut out = String::from("<div class=\"wide\"><table>\n<thead><tr><th>no.</th><th>competitor</th><th>verdict</th>");
    for measure in SHOWN {
        let (meaning, head) = (escape(measure.meaning()), escape(&heading(measure, &results.settings.currency)));
        let _ = write!(out, "<th title=\"{meaning}\">{head}</th>");
    }
    out.push_str(
        "<th title=\"mean, all runs\">violations %, mean</th><th>gap closed %</th><th title=\"probability of a smaller loss than the reference\">improves</th>\
         <th title=\"cost against the reference, corrected\">p (Holm)</th></tr></thead>\n<tbody>\n",
    );
    part.lines.iter().for_each(|line| out.push_str(&row(results, summary, line)));
    out.push_str("</tbody></table></div>\n");
    out
}

/// Means of the measures of the keep-alive literature, one line for each competitor.
pub(super) fn keep_alive(results: &Results, summary: &Summary) -> String {
    let Some(part) = summary.overall() else { return String::new() };
    let mut out = String::from("<div class=\"wide\"><table>\n<thead><tr><th>competitor</th>");
    for measure in Measure::KEEP_ALIVE {
        let (meaning, head) = (escape(measure.meaning()), escape(&heading(measure, &results.settings.currency)));
        let _ = write!(out, "<th title=\"{meaning}\">{head}</th>");
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for line in &part.lines {
        let _ = write!(out, "<tr><th scope=\"row\">{}</th>", escape(&results.competitors[line.competitor].label()));
        for measure in Measure::KEEP_ALIVE {
            let found = line.measures.get(&measure);
            let value = found.map_or_else(
                || NOTHING.into(),
                |found| format!("{} <small>{}</small>", shown(measure, found.mean), range(measure, found.mean_interval)),
            );
            let _ = write!(out, "<td class=\"n\">{value}</td>");
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
    out
}

fn row(results: &Results, summary: &Summary, line: &SummaryLine) -> String {
    let class = if summary.reference == Some(line.competitor) { " class=\"reference\"" } else { "" };
    let mut out = format!(
        "<tr{class}><td class=\"n\">{}</td><th scope=\"row\">{}</th>",
        line.competitor + 1,
        escape(&results.competitors[line.competitor].label())
    );
    let verdict = sentences::verdict(results, summary, line);
    let reading = line.against.map(|against| format!(" <small>{}</small>", against.comparison.reading())).unwrap_or_default();
    let _ = write!(out, "<td class=\"{verdict}\">{verdict}{reading}</td>");
    let bracketed = |value: String, interval: String| format!("<td class=\"n\">{value} <small>{interval}</small></td>");
    let nothing = || format!("<td class=\"n\">{NOTHING}</td>");
    for measure in SHOWN {
        let found = line.measures.get(&measure);
        out.push_str(&found.map_or_else(nothing, |found| bracketed(shown(measure, found.iqm), range(measure, found.iqm_interval))));
    }
    let violated = line.measures.get(&Measure::ViolatedShare);
    out.push_str(&violated.map_or_else(nothing, |found| {
        bracketed(shown(Measure::ViolatedShare, found.mean), range(Measure::ViolatedShare, found.mean_interval))
    }));
    let percent = |value: f64| tenths(value * 100.0);
    out.push_str(&line.gap_closed.map_or_else(nothing, |share| {
        bracketed(percent(share.value), format!("{} to {}", percent(share.interval.low), percent(share.interval.high)))
    }));
    out.push_str(&line.against.map_or_else(nothing, |against| {
        let interval = against.improvement_interval;
        bracketed(format!("{:.2}", against.improvement), format!("{:.2}-{:.2}", interval.low, interval.high))
    }));
    let p = line.against.map_or_else(|| NOTHING.into(), |against| escape(&p_value(sentences::p_holm(&against.cost))));
    let _ = writeln!(out, "<td class=\"n\">{p}</td></tr>");
    out
}

/// Violations and cost by cell, shaded.
pub(super) fn heat(results: &Results, summary: &Summary) -> String {
    let mut parts: Vec<&SummaryPart> = summary.parts_like(|scope| matches!(scope, SummaryScope::Cell(_))).collect();
    if parts.is_empty() {
        parts.extend(summary.overall().filter(|part| part.cells.len() == 1));
    }
    if parts.is_empty() {
        return String::new();
    }
    let cost = heading(Measure::CostPerHour, &results.settings.currency);
    let violated = "Violated intervals, %; darker is worse, of all cells";
    let note = format!("{cost}; darker is more expensive within a cell");
    format!("{}{}", shaded(results, &parts, Measure::ViolatedShare, violated), shaded(results, &parts, Measure::CostPerHour, &note))
}

fn shaded(results: &Results, parts: &[&SummaryPart], measure: Measure, caption: &str) -> String {
    let value = |line: &SummaryLine| line.measures.get(&measure).map(|estimate| estimate.iqm);
    let most = |part: &&SummaryPart| part.lines.iter().filter_map(value).fold(0.0, f64::max);
    let all = parts.iter().map(most).fold(0.0, f64::max);
    let mut out =
        format!("<div class=\"wide\"><table class=\"heat\"><caption>{}</caption>\n<thead><tr><th>competitor</th>", escape(caption));
    for part in parts {
        let words = part.cells.first().and_then(|cell| results.cells.get(*cell));
        let name = words
            .map_or_else(String::new, |cell| [&cell.function, &cell.workload, &cell.perturbation].map(|word| escape(word)).join("<br>"));
        let _ = write!(out, "<th><span>{name}</span></th>");
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for (index, competitor) in results.competitors.iter().enumerate() {
        let _ = write!(out, "<tr><th scope=\"row\">{}</th>", escape(&competitor.label()));
        for part in parts {
            let scale = if measure == Measure::ViolatedShare { all } else { most(part) };
            let entry = part.lines.get(index).and_then(value).map_or_else(
                || format!("<td>{NOTHING}</td>"),
                |value| {
                    let share = if scale > 0.0 { (value / scale).clamp(0.0, 1.0) } else { 0.0 };
                    format!("<td class=\"h{:.0}\">{}</td>", share * 9.0, shown(measure, value))
                },
            );
            out.push_str(&entry);
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
    out
}

/// Tuning of each policy.
pub(super) fn tuning(results: &Results) -> String {
    results.tuning.iter().map(|tuning| grid(results, tuning)).collect()
}

fn grid(results: &Results, tuning: &Tuning) -> String {
    let mut order: Vec<usize> = (0..tuning.tried.len()).collect();
    order.sort_by(|a, b| tuning.tried[*a].score.total_cmp(&tuning.tried[*b].score).then(a.cmp(b)));
    // The default is tried first and always shown.
    let mut kept: Vec<usize> = order.iter().copied().take(SETTINGS).collect();
    if !kept.contains(&0) && !tuning.tried.is_empty() {
        kept.push(0);
    }
    let left_out = match order.len() - kept.len() {
        0 => String::new(),
        count => format!("<p>{count} more settings with a greater loss are in results.json.</p>\n"),
    };
    let of = if tuning.function == "*" { String::new() } else { format!(" for {}", escape(&tuning.function)) };
    let mut out = format!(
        "<details><summary>{}{of}: {}</summary>\n<p>Tried in: {}.</p>\n<div class=\"wide\"><table>\n<thead><tr><th>setting</th><th>mean loss</th>\
         <th>violations %</th><th>{}</th><th></th></tr></thead>\n<tbody>\n",
        escape(&tuning.competitor),
        sentences::counted(tuning.tried.len(), "setting"),
        tuning.cells.iter().map(|cell| escape(cell)).collect::<Vec<_>>().join(", "),
        escape(&heading(Measure::CostPerHour, &results.settings.currency)),
    );
    kept.into_iter().for_each(|index| out.push_str(&setting(&tuning.tried[index], index, index == tuning.chosen)));
    let _ = writeln!(out, "</tbody></table></div>\n{left_out}</details>");
    out
}

fn setting(tried: &ScoredSetting, index: usize, chosen: bool) -> String {
    let of = |measure: Measure| tried.measures.get(&measure).map_or_else(|| NOTHING.into(), |value| shown(measure, *value));
    let note = match (chosen, index) {
        (true, 0) => "chosen, default",
        (true, _) => "chosen",
        (false, 0) => "default",
        _ => "",
    };
    let class = if chosen { " class=\"reference\"" } else { "" };
    format!(
        "<tr{class}><td><code>{}</code></td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{note}</td></tr>\n",
        escape(&tried.params.to_string()),
        short(tried.score),
        of(Measure::ViolatedShare),
        of(Measure::CostPerHour)
    )
}
