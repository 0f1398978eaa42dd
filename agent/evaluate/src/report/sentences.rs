//! Findings in sentences. Owns their wording; must not compute results.

use super::number::{short, tenths};
use crate::results::{CompetitorVariant, Measure, Results};
use crate::statistics::{Comparison, ComparisonVerdict, Paired, Summary, SummaryLine, SummaryPart, SummaryScope};

/// The cheapest competitors at no more violations, ties, and worse ones; one sentence each. Plain text, to be escaped by the caller.
#[must_use]
pub fn headline(results: &Results, summary: &Summary) -> Vec<String> {
    let (Some(overall), Some(reference)) = (summary.overall(), summary.reference) else {
        return vec!["No runs to compare.".into()];
    };
    let label = |line: &SummaryLine| results.competitors[line.competitor].label();
    let name = results.competitors[reference].label();
    let judged = |verdict: ComparisonVerdict| {
        overall.lines.iter().filter(move |line| line.against.is_some_and(|against| against.comparison.verdict == verdict))
    };
    let mut findings = vec![why(results, summary, reference, &name)];
    let cost = |line: &SummaryLine| line.measures.get(&Measure::CostPerHour).map_or(f64::INFINITY, |estimate| estimate.iqm);
    let mut winners: Vec<&SummaryLine> = judged(ComparisonVerdict::Better).collect();
    winners.sort_by(|a, b| cost(a).total_cmp(&cost(b)));
    match winners.split_first() {
        None => findings.push(format!("No competitor is cheaper than `{name}` at equal or fewer violations.")),
        Some((first, others)) => {
            let by = first.against.map(|against| saving(summary, reference, &against)).unwrap_or_default();
            findings.push(format!("Cheapest at no more violations: `{}`{by}.", label(first)));
            if !others.is_empty() {
                findings.push(format!("Also cheaper at no more violations: {}.", list(others.iter().map(|line| label(line)))));
            }
        }
    }
    // Ties by what they are made of, in the order of the table.
    let mut ties: Vec<(&str, Vec<String>)> = Vec::new();
    for line in judged(ComparisonVerdict::Tie) {
        let reading = line.against.map_or("", |against| against.comparison.reading());
        match ties.iter_mut().find(|(known, _)| *known == reading) {
            Some((_, names)) => names.push(label(line)),
            None => ties.push((reading, vec![label(line)])),
        }
    }
    findings.extend(ties.into_iter().map(|(reading, names)| format!("Tie ({reading}): {}.", list(names.into_iter()))));
    let worse: Vec<String> = judged(ComparisonVerdict::Worse).map(label).collect();
    if !worse.is_empty() {
        findings.push(format!("Worse (`{name}` is cheaper at equal or fewer violations): {}.", list(worse.into_iter())));
    }
    findings.extend(forecast(summary, overall, results, &name));
    findings
}

/// Share of the reference's loss that a perfect forecast of rates would avoid, over all cells and by workload.
fn forecast(summary: &Summary, overall: &SummaryPart, results: &Results, name: &str) -> Option<String> {
    let (share, known_rates) = (overall.rates_close?, &results.competitors[summary.known_rates?]);
    let percent = |value: f64| tenths(value * 100.0);
    let parts = summary.parts_like(|scope| matches!(scope, SummaryScope::Workload(_)));
    let by_workload: Vec<String> =
        parts.filter_map(|part| Some(format!("{} {}", part.scope.name(), percent(part.rates_close?.value)))).collect();
    let by_workload = if by_workload.is_empty() { String::new() } else { format!("; by workload: {}", by_workload.join(", ")) };
    Some(format!(
        "With a perfect forecast of rates (`{}`) {} % of the loss of `{name}` above the bound would be avoided ({} to {} %){by_workload}.",
        known_rates.label(),
        percent(share.value),
        percent(share.interval.low),
        percent(share.interval.high)
    ))
}

fn why(results: &Results, summary: &Summary, reference: usize, name: &str) -> String {
    if summary.options.reference.is_some() {
        return format!("Reference: `{name}`, as requested.");
    }
    let kind = if results.competitors[reference].variant == CompetitorVariant::Tuned { "tuned policy" } else { "policy (none was tuned)" };
    format!("Reference: `{name}`, the {kind} with the least mean loss in these runs.")
}

/// Saving relative to the reference.
fn saving(summary: &Summary, reference: usize, against: &Comparison) -> String {
    let line = summary.overall().and_then(|part| part.lines.iter().find(|line| line.competitor == reference));
    let Some(cost) = line.and_then(|line| line.measures.get(&Measure::CostPerHour)).map(|cost| cost.mean).filter(|cost| *cost > 0.0) else {
        return String::new();
    };
    let share = |value: f64| tenths(-value / cost * 100.0);
    let difference = against.cost.difference;
    let interval = difference.mean_interval;
    format!(", {} % cheaper in the mean ({} to {} %)", share(difference.mean), share(interval.high), share(interval.low))
}

/// Method, for the foot of a table.
pub(super) fn method(results: &Results, summary: &Summary) -> String {
    let (bootstrap, settings) = (summary.options.bootstrap, &results.settings);
    format!(
        "Interquartile means over {} and {}; in brackets {} % intervals from {} resamples, drawn within cells. Verdict: better is cheaper at equal or fewer \
         violations, the intervals excluding zero; equal is up to {} percentage points more. Gap closed: share of the loss difference between `{}` and `{}` that is avoided.{}",
        counted(results.cells.len(), "cell"),
        counted(settings.seeds.len(), "seed"),
        tenths(bootstrap.confidence * 100.0).trim_end_matches(".0"),
        bootstrap.resamples,
        short(summary.options.margin * 100.0),
        summary.baseline.map_or_else(|| "-".into(), |index| results.competitors[index].label()),
        summary.bound.map_or_else(|| "-".into(), |index| results.competitors[index].label()),
        if settings.quick { " Shortened: these are not the published numbers." } else { "" },
    )
}

/// Extent of the evaluation, in a line.
pub(super) fn what(results: &Results) -> String {
    let settings = &results.settings;
    let trace = settings.trace.as_ref().map(|trace| {
        let [train, validation, test] = trace.split;
        let (functions, invocations) = (trace.functions, trace.invocations);
        let left_out = match trace.left_out.len() {
            0 => String::new(),
            count => format!("; {} left out, which cannot meet the objective with the largest allocation", counted(count, "function")),
        };
        format!("; trace {}, {functions} functions, {invocations} invocations, split {train}/{validation}/{test} %{left_out}", trace.name)
    });
    format!(
        "Suite {}: {}, {}, {}, {} s measured after {} s of warm-up{}",
        results.suite.name,
        counted(results.competitors.len(), "competitor"),
        counted(results.cells.len(), "cell"),
        counted(settings.seeds.len(), "seed"),
        settings.measured_s,
        settings.warm_up_s,
        trace.unwrap_or_default()
    )
}

pub(super) fn counted(count: usize, noun: &str) -> String {
    qscale_common::text::counted(count as u64, noun)
}

/// Text of the verdict column.
pub(super) fn verdict(results: &Results, summary: &Summary, line: &SummaryLine) -> &'static str {
    match line.against {
        Some(against) => against.comparison.verdict.word(),
        None if summary.reference == Some(line.competitor) => "reference",
        None if results.competitors[line.competitor].variant == CompetitorVariant::Bound => "bound",
        None if results.competitors[line.competitor].variant == CompetitorVariant::KnownRates => "forecast",
        None => "-",
    }
}

/// The greater of both corrected p-values: a difference is significant if both tests agree.
pub(super) fn p_holm(paired: &Paired) -> f64 {
    paired.sign_flip_holm.max(paired.wilcoxon_holm)
}

fn list(names: impl Iterator<Item = String>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
