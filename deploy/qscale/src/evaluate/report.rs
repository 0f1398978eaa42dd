//! Results of an evaluation on the terminal. Tables belong to `qscale_evaluate::report`.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use qscale_common::time::Span;
use qscale_evaluate::Suite;
use qscale_evaluate::decision_latency::DecisionLatency;
use qscale_evaluate::report::{curve_table, terminal};
use qscale_evaluate::suite::BUNDLED;
use qscale_experiments::evaluate::{CurveReport, EvaluationReport};
use serde_json::json;

use crate::output;

/// Width of tables without a terminal, columns.
const WIDTH: usize = 100;

/// Prints the results and the duration of an evaluation with its files in `out`.
pub fn print(out: &Path, report: &EvaluationReport, as_json: bool) -> anyhow::Result<()> {
    let EvaluationReport { results, summary, latencies, took } = report;
    if as_json {
        return output::json(
            &json!({ "folder": out, "command": results.settings.command, "competitors": results.competitors, "cells": results.cells, "summary": summary }),
        );
    }
    output::line(terminal(results, summary, width(), colours()).trim_end())?;
    output::line("")?;
    output::line(latency(latencies))?;
    let runs: usize = results.groups.len() * results.settings.seeds.len();
    output::line(format!("{runs} runs in {}; {}", Span(Duration::from_secs(took.as_secs())), results.settings.command))?;
    output::line(format!(
        "{0}/report.html, {0}/front.svg, {0}/results.json, {0}/results.csv, {0}/summary.json, {0}/summary.csv",
        out.display()
    ))
}

/// Prints the cost-violation curves that `command` gave, with their `files` in `out`.
pub fn print_curves(out: &Path, report: &CurveReport, command: &str, files: &[&str]) -> anyhow::Result<()> {
    let CurveReport { curves, currency, runs, took } = report;
    output::line(curve_table(curves, currency, width(), colours()).trim_end())?;
    output::line("")?;
    output::line(format!("{runs} runs in {}; {command}", Span(Duration::from_secs(took.as_secs()))))?;
    output::line(files.iter().map(|file| out.join(file).display().to_string()).collect::<Vec<_>>().join(", "))
}

fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

fn width() -> usize {
    let given = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    given.or_else(|| console::Term::stdout().size_checked().map(|(_, columns)| usize::from(columns))).unwrap_or(WIDTH)
}

/// Decision latency, median and p99. It depends on the machine, so it is not in the files.
fn latency(latencies: &BTreeMap<String, DecisionLatency>) -> String {
    let micros =
        |latency: &DecisionLatency, share: f64| latency.within(share).map(|time| format!("{:.1}", time.as_nanos() as f64 / 1000.0));
    let shown = latencies.iter().filter_map(|(name, latency)| Some(format!("{name} {}/{}", micros(latency, 0.5)?, micros(latency, 0.99)?)));
    format!("decision latency on this machine, median/p99 in microseconds: {}", shown.collect::<Vec<_>>().join(", "))
}

/// Prints the suites, competitors and cells.
pub fn list(suite: &Suite) -> anyhow::Result<()> {
    let names = |names: Vec<String>| if names.is_empty() { "those of the trace".to_owned() } else { names.join(", ") };
    output::line(format!("suites         {}", BUNDLED.map(|suite| suite.name).join(", ")))?;
    output::line(format!("this one       {}: {}", suite.name, suite.description))?;
    output::line(format!("functions      {}", names(suite.functions.iter().map(|entry| entry.name.to_string()).collect())))?;
    output::line(format!("workloads      {}", names(suite.workloads.iter().map(|entry| entry.name.to_string()).collect())))?;
    output::line(format!("perturbations  {}", names(suite.perturbations.iter().map(|entry| entry.name.to_string()).collect())))?;
    let cells = if suite.trace.is_some() { "one for each perturbation".to_owned() } else { suite.evaluation_cells().len().to_string() };
    output::line(format!("cells          {cells}, each under {} seeds", suite.seeds))?;
    for entry in &suite.competitors {
        let settings = entry.settings().map_or(0, |settings| settings.len());
        let params = serde_json::to_string(&entry.params)?;
        output::line(format!(
            "competitor     {} {}, {settings} settings to tune",
            entry.called(),
            if params == "{}" { "with defaults" } else { &params }
        ))?;
    }
    for rule in qscale_policies::RULES {
        output::line(format!("policy         {}: {}", rule.name, rule.description))?;
    }
    output::line(format!("policy         {}: the learned policy, with the bundled model or --model", qscale_dqn::registry::DQN))
}
