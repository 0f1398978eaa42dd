//! Results of an evaluation, as files and on the terminal. Owns the file names; tables and plots belong to `qscale_evaluate::report`.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use qscale_common::time::Span;
use qscale_evaluate::decision_latency::DecisionLatency;
use qscale_evaluate::report::{csv_runs, csv_summary, front_svg, html, terminal};
use qscale_evaluate::suite::SHIPPED;
use qscale_evaluate::{Results, Suite, SummaryOptions, summarise};
use serde_json::json;

use crate::output;

/// Width of tables without a terminal, columns.
const WIDTH: usize = 100;

/// Writes the files of an evaluation, and prints the results and the duration.
pub fn write(
    out: &Path,
    results: &Results,
    paces: &BTreeMap<String, DecisionLatency>,
    took: Duration,
    as_json: bool,
) -> anyhow::Result<()> {
    let summary = summarise(results, &SummaryOptions::default())?;
    let suite = serde_json::to_string_pretty(&results.suite.document)?;
    let json = serde_json::to_string(results)?;
    for (name, text) in [
        ("suite.json", suite),
        ("results.json", json),
        ("results.csv", csv_runs(results)),
        ("summary.json", serde_json::to_string_pretty(&summary)?),
        ("summary.csv", csv_summary(results, &summary)),
        ("report.html", html(results, &summary)),
        ("front.svg", front_svg(results, &summary)),
    ] {
        let path = out.join(name);
        // Renamed once complete, so that readers never see a partial file.
        let part = out.join(format!("{name}.part"));
        std::fs::write(&part, text)
            .and_then(|()| std::fs::rename(&part, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if as_json {
        return output::json(
            &json!({ "folder": out, "command": results.settings.command, "competitors": results.competitors, "cells": results.cells, "summary": summary }),
        );
    }
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    output::line(terminal(results, &summary, width(), colour).trim_end())?;
    output::line("")?;
    output::line(pace(paces))?;
    let runs: usize = results.groups.len() * results.settings.seeds.len();
    output::line(format!("{runs} runs in {}; {}", Span(Duration::from_secs(took.as_secs())), results.settings.command))?;
    output::line(format!(
        "{0}/report.html, {0}/front.svg, {0}/results.json, {0}/results.csv, {0}/summary.json, {0}/summary.csv",
        out.display()
    ))
}

fn width() -> usize {
    let given = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    given.or_else(|| console::Term::stdout().size_checked().map(|(_, columns)| usize::from(columns))).unwrap_or(WIDTH)
}

/// Decision latency, median and p99. It depends on the machine, so it is not in the files.
fn pace(paces: &BTreeMap<String, DecisionLatency>) -> String {
    let micros = |pace: &DecisionLatency, share: f64| pace.within(share).map(|time| format!("{:.1}", time.as_nanos() as f64 / 1000.0));
    let shown = paces.iter().filter_map(|(name, pace)| Some(format!("{name} {}/{}", micros(pace, 0.5)?, micros(pace, 0.99)?)));
    format!("decision latency on this machine, median/p99 in microseconds: {}", shown.collect::<Vec<_>>().join(", "))
}

/// Prints the suites, competitors and cells.
pub fn list(suite: &Suite) -> anyhow::Result<()> {
    let names = |names: Vec<String>| if names.is_empty() { "those of the trace".to_owned() } else { names.join(", ") };
    output::line(format!("suites         {}", SHIPPED.map(|suite| suite.name).join(", ")))?;
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
