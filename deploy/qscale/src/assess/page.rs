//! The page of an assessment, and its progress. Owns the text; figures are those of `qscale_assess`.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressStyle};
use qscale_assess::assessment::{AssessConclusion, PolicyEstimate};
use qscale_assess::html::describe;
use qscale_assess::prometheus::CollectedHistories;
use qscale_assess::report::NamespaceTotals;
use qscale_assess::shown::{COMPARED, compared, cost, percent, range, signed_percent, value};
use qscale_assess::{AssessStep, Assessment, WorkloadAssessment};
use qscale_common::time::Span;

use crate::output::{self, Table, TableCell, Tone};

/// Progress on standard error: a bar on a terminal, a line for each workload elsewhere.
pub struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// A bar before the first workload.
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:30}] {pos} of {len} runs, {elapsed}") {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        });
        Self { bar }
    }

    /// Shows the progress.
    pub fn show(&mut self, step: &AssessStep<'_>) {
        match (step, &self.bar) {
            (AssessStep::Calibrating { workload, index, all }, None) => {
                output::note(format_args!("{} of {all}: {workload}", index + 1));
            }
            (AssessStep::Calibrating { workload, index, all }, Some(bar)) => {
                bar.reset();
                bar.set_message(format!("{} of {all}: {workload}", index + 1));
            }
            (AssessStep::Running(progress), Some(bar)) => {
                bar.set_length(progress.all);
                bar.set_position(progress.done);
            }
            (AssessStep::Running(_), None) => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Prints which histories there are, and what is missing.
pub fn sources(collected: &CollectedHistories) -> anyhow::Result<()> {
    let steps = collected.histories.iter().map(|history| history.steps.len()).max().unwrap_or(0);
    if let Some(first) = collected.histories.first() {
        output::line(format_args!(
            "{} workload{}, up to {steps} steps of {} from {} {} UTC",
            collected.histories.len(),
            if collected.histories.len() == 1 { "" } else { "s" },
            Span(first.step),
            output::day(first.begin),
            output::clock(first.begin)
        ))?;
    }
    collected.missing.iter().try_for_each(|missing| output::line(format_args!("  missing: {}", output::whole(&describe(missing)))))?;
    collected.remarks.iter().try_for_each(|remark| output::line(format_args!("  {}", output::whole(remark))))
}

/// Prints the page.
pub fn assessment(assessment: &Assessment, totals: &[NamespaceTotals], rows: usize) -> anyhow::Result<()> {
    for workload in &assessment.workloads {
        output::line("")?;
        one(workload, rows)?;
    }
    for skipped in &assessment.skipped {
        output::line(format_args!("\n{}: not assessed: {}", Tone::Strong.paint(&skipped.workload), output::whole(&skipped.reason)))?;
    }
    for namespace in totals.iter().filter(|namespace| namespace.workloads > 1) {
        output::line("")?;
        total(namespace, rows)?;
    }
    output::line(
        "\nMeans with 95 % intervals, which cover the calibration, chance, and the error of the simulator on the acting autoscaler in the judged half.",
    )
}

fn one(workload: &WorkloadAssessment, rows: usize) -> anyhow::Result<()> {
    let objective = &workload.policy.objective;
    let step = Span::millis(workload.step_ms);
    output::line(format_args!(
        "{}, {} {} to {} {} UTC, p{} within {}",
        Tone::Strong.paint(&workload.workload),
        output::day(workload.begin),
        output::clock(workload.begin),
        output::day(workload.end),
        output::clock(workload.end),
        objective.percentile.get(),
        Span(objective.latency.get())
    ))?;
    let blocks = if workload.blocks == workload.available_blocks {
        String::new()
    } else {
        format!(", {} of {} blocks", workload.blocks, workload.available_blocks)
    };
    output::line(format_args!(
        "judged on {} steps of {step} of the second half{blocks}; acting: {}",
        workload.judged_steps,
        output::clean(&workload.acting)
    ))?;
    check(workload)?;
    let currency = output::clean(&workload.policy.prices.currency);
    let mut table = Table::new(&["POLICY", &format!("COST, {currency}/h"), "CHANGE, %", "VIOLATED STEPS, %", "CHANGES/h", "RESULT"]);
    let measured = &workload.reproduction.measured;
    table.row([
        TableCell::new(format!("{} (measured)", output::clean(&workload.acting)), Tone::Strong),
        value(measured.cost_per_hour, cost).into(),
        "".into(),
        value(measured.violated_share, percent).into(),
        "".into(),
        "".into(),
    ]);
    row(&mut table, &workload.acting_estimate, "(simulated)");
    let own = |estimate: &&PolicyEstimate| estimate.policy == "dqn";
    // The learned policy is shown wherever it is in the order.
    let shown: Vec<&PolicyEstimate> = workload.estimates.iter().take(rows).collect();
    let below = workload.estimates.iter().skip(rows).filter(own);
    shown.into_iter().chain(below).for_each(|estimate| row(&mut table, estimate, ""));
    table.print()?;
    if workload.estimates.len() > rows {
        output::line(format_args!("{} policies, ordered by loss; --rows, --out or --json show all", workload.estimates.len()))?;
    }
    workload.assumptions.iter().try_for_each(|assumption| output::line(format_args!("  assumed: {}", output::whole(assumption))))
}

/// Prints the check of the simulator.
fn check(workload: &WorkloadAssessment) -> anyhow::Result<()> {
    let reproduction = &workload.reproduction;
    let mut table = Table::new(&["CHECK", "MEASURED", "WITH RECORDED REPLICAS", "UNDER THE ACTING AUTOSCALER"]);
    for figure in &COMPARED {
        let simulated = |simulated| compared(figure, &reproduction.measured, simulated);
        table.row([
            figure.0.into(),
            value((figure.1)(&reproduction.measured), figure.2).into(),
            simulated(&reproduction.with_recorded).into(),
            simulated(&reproduction.with_acting).into(),
        ]);
    }
    table.print()?;
    if reproduction.faults.is_empty() {
        return output::line(Tone::Good.paint("the simulator reproduces the measurements"));
    }
    let faults = reproduction.faults.join("; ");
    output::line(
        Tone::Warn.paint(format_args!("the simulator does not reproduce the measurements, so that no result is conclusive: {faults}")),
    )
}

fn row(table: &mut Table, estimate: &PolicyEstimate, role: &str) {
    let (result, tone) = match (role, estimate.conclusion) {
        ("", AssessConclusion::Better) => ("better", Tone::Good),
        ("", AssessConclusion::Worse) => ("worse", Tone::Bad),
        ("", AssessConclusion::Mixed) => ("mixed", Tone::Warn),
        ("", AssessConclusion::Inconclusive) => ("inconclusive", Tone::Dim),
        _ => ("", Tone::Plain),
    };
    table.row([
        format!("{} {role}", estimate.policy).trim_end().into(),
        range(estimate.cost_per_hour, cost).into(),
        if role.is_empty() { range(estimate.relative_cost, signed_percent) } else { String::new() }.into(),
        range(estimate.violated_share, percent).into(),
        output::number(estimate.changes_per_hour).into(),
        TableCell::new(result, tone),
    ]);
}

fn total(namespace: &NamespaceTotals, rows: usize) -> anyhow::Result<()> {
    output::line(format_args!(
        "namespace {}: {} workloads, of which the simulator reproduces {}",
        Tone::Strong.paint(&namespace.namespace),
        namespace.workloads,
        namespace.reproduced
    ))?;
    let mut table = Table::new(&["POLICY", &format!("COST, {}/h", output::clean(&namespace.currency)), "VIOLATED STEPS, %"]);
    table.row([
        "measured".into(),
        value(namespace.measured_cost_per_hour, cost).into(),
        value(namespace.measured_violated_share, percent).into(),
    ]);
    for policy in namespace.policies.iter().take(rows + 1) {
        table.row([
            TableCell::new(&policy.policy, Tone::Plain),
            range(policy.cost_per_hour, cost).into(),
            range(policy.violated_share, percent).into(),
        ]);
    }
    table.print()
}
