//! An assessment as one HTML page that needs no network. Owns its sections; figures are those of [`crate::shown`].

use qscale_common::text::{clock, day, number};
use qscale_common::time::Span;
use qscale_evaluate::report::{IntervalPoint, escape, interval_plot, page, section};

use crate::assessment::{AssessConclusion, Assessment, PolicyEstimate, WorkloadAssessment};
use crate::interval::EstimatedRange;
use crate::prometheus::MissingMetric;
use crate::report::NamespaceTotals;
use crate::shown::{COMPARED, compared, cost, percent, range, signed_percent, value};

/// Policies of a workload that its plot shows, the best first, besides the acting autoscaler and the learned policy.
const PLOTTED: usize = 8;
/// Name of the learned policy.
const LEARNED: &str = "dqn";
/// Explanation of the intervals.
const METHOD: &str = "Estimates are means with 95 % intervals, which cover the calibration, chance, and the error of the simulator on the acting autoscaler in \
                      the judged half. The first half of the history calibrates the simulator and tunes the rules; the second half judges.";

/// The page. `missing` and `remarks` are the faults of the history.
#[must_use]
pub fn html(assessment: &Assessment, totals: &[NamespaceTotals], missing: &[MissingMetric], remarks: &[String]) -> String {
    let count = assessment.workloads.len();
    let title = format!("Assessment of {count} workload{}", if count == 1 { "" } else { "s" });
    let namespaces = totals.iter().filter(|totals| totals.workloads > 1).map(namespace).collect::<String>();
    let workloads = assessment.workloads.iter().map(workload).collect::<String>();
    let faults = missing.iter().map(describe).chain(remarks.iter().cloned());
    let skipped = assessment.skipped.iter().map(|skipped| format!("{}: not assessed: {}", skipped.workload, skipped.reason));
    let main = format!(
        "<p>{METHOD}</p>\n{}{}{namespaces}{workloads}",
        section("history", "Missing in the history", &list(faults)),
        section("skipped", "Not assessed", &list(skipped)),
    );
    page(&title, &main, "")
}

/// A metric that is missing, with the consequence and its query.
#[must_use]
pub fn describe(missing: &MissingMetric) -> String {
    let names: Vec<String> = missing.workloads.iter().take(5).map(ToString::to_string).collect();
    let of = match (names.is_empty(), missing.workloads.len() - names.len()) {
        (true, _) => String::new(),
        (false, 0) => format!(" of {}", names.join(", ")),
        (false, more) => format!(" of {} and {more} more", names.join(", ")),
    };
    let query = missing.query.as_ref().map_or_else(String::new, |query| format!("; no result of {query}"));
    format!("{}{of}: {}{query}", missing.metric, missing.metric.consequence())
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: String = items.map(|item| format!("<li>{}</li>\n", escape(&item))).collect();
    if items.is_empty() { items } else { format!("<ul>\n{items}</ul>\n") }
}

/// A table; each row has a class and its cells, of which the first is a heading.
fn table(caption: &str, head: &[String], rows: &[(&str, Vec<String>)]) -> String {
    let cells = |cells: &[String], tag: &str, class: &str| -> String {
        cells.iter().map(|cell| format!("<{tag}{class}>{}</{tag}>", escape(cell))).collect()
    };
    let rows: String = rows
        .iter()
        .map(|(class, row)| {
            let (first, rest) = row.split_at(1);
            format!("<tr class=\"{class}\">{}{}</tr>\n", cells(first, "th", " scope=\"row\""), cells(rest, "td", " class=\"n\""))
        })
        .collect();
    format!(
        "<div class=\"wide\"><table><caption>{}</caption>\n<thead><tr>{}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n",
        escape(caption),
        cells(head, "th", " scope=\"col\"")
    )
}

fn headings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn namespace(totals: &NamespaceTotals) -> String {
    let cost_heading = format!("cost, {}/h", totals.currency);
    let measured = vec!["measured".to_owned(), value(totals.measured_cost_per_hour, cost), value(totals.measured_violated_share, percent)];
    let rows = std::iter::once(("reference", measured)).chain(
        totals
            .policies
            .iter()
            .map(|policy| ("", vec![policy.policy.clone(), range(policy.cost_per_hour, cost), range(policy.violated_share, percent)])),
    );
    let caption = format!("{} workloads, of which the simulator reproduces {}", totals.workloads, totals.reproduced);
    let body = table(&caption, &headings(&["policy", &cost_heading, "violated steps, %"]), &rows.collect::<Vec<_>>());
    section(&format!("namespace-{}", totals.namespace), &format!("Namespace {}", totals.namespace), &body)
}

fn workload(workload: &WorkloadAssessment) -> String {
    let objective = &workload.policy.objective;
    let blocks = if workload.blocks == workload.available_blocks {
        String::new()
    } else {
        format!(", {} of {} blocks", workload.blocks, workload.available_blocks)
    };
    let judged = format!(
        "{} {} to {} {} UTC, p{} within {}. Judged on {} steps of {} of the second half{blocks}. Acting: {}.",
        day(workload.begin),
        clock(workload.begin),
        day(workload.end),
        clock(workload.end),
        objective.percentile.get(),
        Span(objective.latency.get()),
        workload.judged_steps,
        Span::millis(workload.step_ms),
        workload.acting,
    );
    let faults = &workload.reproduction.faults;
    let verdict = if faults.is_empty() {
        "<p>The simulator reproduces the measurements.</p>\n".to_owned()
    } else {
        let text = format!("The simulator does not reproduce the measurements, so that no result is conclusive: {}.", faults.join("; "));
        format!("<p class=\"warn\">{}</p>\n", escape(&text))
    };
    let assumptions = list(workload.assumptions.iter().map(|assumption| format!("assumed: {assumption}")));
    let body = format!("<p>{}</p>\n{verdict}{}{}{}{assumptions}", escape(&judged), plot(workload), estimates(workload), check(workload));
    section(&format!("workload-{}", workload.workload), &workload.workload.to_string(), &body)
}

/// Cost against violations of the acting autoscaler, the best policies and the learned one.
fn plot(workload: &WorkloadAssessment) -> String {
    let values = |range: EstimatedRange, unit: f64| [range.mean, range.low, range.high].map(|value| value * unit);
    let point = |estimate: &PolicyEstimate, reference: bool| IntervalPoint {
        name: if reference { format!("{} (acting)", estimate.policy) } else { estimate.policy.clone() },
        x: values(estimate.cost_per_hour, 1.0),
        y: values(estimate.violated_share, 100.0),
        reference,
    };
    let best = workload.estimates.iter().take(PLOTTED);
    let learned = workload.estimates.iter().skip(PLOTTED).filter(|estimate| estimate.policy == LEARNED);
    let others = best.chain(learned).map(|estimate| point(estimate, false));
    let points: Vec<_> = std::iter::once(point(&workload.acting_estimate, true)).chain(others).collect();
    let labels = (&*format!("cost, {}/h", workload.policy.prices.currency), "violated steps, %");
    let svg =
        interval_plot(&format!("Cost against violations of {}", workload.workload), "The table below holds the numbers.", labels, &points);
    format!("<figure><div class=\"wide plot\">{svg}</div>\n<figcaption>Lower left is better.</figcaption></figure>\n")
}

fn estimates(workload: &WorkloadAssessment) -> String {
    let measured = &workload.reproduction.measured;
    let first = vec![
        format!("{} (measured)", workload.acting),
        value(measured.cost_per_hour, cost),
        String::new(),
        value(measured.violated_share, percent),
        String::new(),
        String::new(),
    ];
    let row = |estimate: &PolicyEstimate, acting: bool| {
        let (class, conclusion) = match estimate.conclusion {
            _ if acting => ("reference", String::new()),
            AssessConclusion::Better => ("better", estimate.conclusion.to_string()),
            AssessConclusion::Worse => ("worse", estimate.conclusion.to_string()),
            AssessConclusion::Mixed | AssessConclusion::Inconclusive => ("", estimate.conclusion.to_string()),
        };
        let cells = vec![
            format!("{}{}", estimate.policy, if acting { " (simulated)" } else { "" }),
            range(estimate.cost_per_hour, cost),
            if acting { String::new() } else { range(estimate.relative_cost, signed_percent) },
            range(estimate.violated_share, percent),
            number(estimate.changes_per_hour),
            conclusion,
        ];
        (class, cells)
    };
    let simulated =
        std::iter::once(row(&workload.acting_estimate, true)).chain(workload.estimates.iter().map(|estimate| row(estimate, false)));
    let rows: Vec<_> = std::iter::once(("reference", first)).chain(simulated).collect();
    let cost_heading = format!("cost, {}/h", workload.policy.prices.currency);
    table(
        "Policies, ordered by loss; change is the difference of the cost to that of the acting autoscaler",
        &headings(&["policy", &cost_heading, "change, %", "violated steps, %", "changes/h", "result"]),
        &rows,
    )
}

/// The check of the simulator.
fn check(workload: &WorkloadAssessment) -> String {
    let reproduction = &workload.reproduction;
    let rows: Vec<_> = COMPARED
        .iter()
        .map(|figure| {
            let simulated = [&reproduction.with_recorded, &reproduction.with_acting]
                .map(|simulated| compared(figure, &reproduction.measured, simulated));
            let measured = value((figure.1)(&reproduction.measured), figure.2);
            ("", [figure.0.to_owned(), measured].into_iter().chain(simulated).collect())
        })
        .collect();
    let head = headings(&["figure", "measured", "with recorded replicas", "under the acting autoscaler"]);
    format!(
        "<details><summary>Check of the simulator</summary>\n{}</details>\n",
        table("The judged half, measured and simulated", &head, &rows)
    )
}
