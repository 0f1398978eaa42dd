//! `qscale up`: the whole system on this machine, in the foreground. Owns the printed summary; the system itself belongs to `qscale_up`.

use std::process::ExitCode;

use qscale_common::name::{FunctionId, Name};
use qscale_common::runtime::{clock, shutdown};
use qscale_up::dashboard::FunctionSummary;
use qscale_up::plan::Plan;
use qscale_up::state_dir::StateDir;
use qscale_up::{BackendKind, LINES, SystemRun, UpOptions, ViewOptions, lag_warning, many, run_until_done, say};
use serde_json::json;

use crate::output;
use crate::system::Locate;

/// Runs the system until it is stopped, and prints a summary.
pub async fn run(locate: &Locate, options: UpOptions) -> anyhow::Result<ExitCode> {
    let token = shutdown::token();
    let plan = Plan::new(&options)?;
    clock::set_rate(plan.clock_rate);
    let began = clock::now();
    let view = ViewOptions { draw: !options.json && !options.plain, print: true, require_limits: false, duration: options.duration };
    let result = run_until_done(&plan, &StateDir::new(&locate.state_dir)?, view, &token).await?;
    let ids = if options.backend == BackendKind::Kubernetes { result.dashboard.functions.keys().cloned().collect() } else { plan.ids() };
    let agent = |id: &FunctionId| {
        let planned = plan.functions.iter().find(|planned| planned.id == *id).map(|planned| &planned.agent);
        let state = result.dashboard.functions.get(id).and_then(|record| record.state.as_ref());
        planned.or(state.map(|state| &state.agent)).map_or_else(String::new, Name::to_string)
    };
    let summaries: Vec<_> = ids.iter().map(|id| result.dashboard.summary(id, &agent(id), result.load_of(id).cloned())).collect();
    let SystemRun { dashboard, load } = result;
    if dashboard.missed_ticks() > 0 {
        say(format!("warning: {}", lag_warning(dashboard.missed_ticks(), &plan)));
    }
    if let Some(first) = dashboard.first_change {
        say(format!("first change of an allocation after {:.1} s", first.since(began).as_secs_f64()));
    }
    if options.json {
        output::json_line(&json!({
            "seconds": clock::now().since(began).as_secs_f64(),
            "seed": options.seed,
            "backend": options.backend_name(),
            "speed": options.speed,
            "load": plan.load_description,
            "missed_ticks": dashboard.missed_ticks(),
            "void": load.as_ref().map(|load| load.void),
            "send_lag_us": load.as_ref().map(|load| load.send_lag_us),
            "functions": summaries,
        }))?;
    } else {
        many::worst_first(&dashboard, &ids)
            .iter()
            .take(LINES)
            .filter_map(|id| summaries.iter().find(|summary| summary.function == id.to_string()))
            .for_each(|summary| say(summary_line(summary)));
        if summaries.len() > LINES {
            say(format!("({} more functions; --json prints all of them)", summaries.len() - LINES));
        }
    }
    if let Some(load) = load.filter(|load| load.void) {
        say(format!("warning: the load generator declares the run void: {}", load.void_reasons.join("; ")));
    }
    Ok(ExitCode::SUCCESS)
}

fn summary_line(summary: &FunctionSummary) -> String {
    let load = summary.load.as_ref().map_or_else(String::new, |load| {
        let latency = load
            .latency_ms
            .map_or_else(String::new, |latency| format!("p50 {} ms, p95 {} ms, p99 {} ms; ", latency.p50, latency.p95, latency.p99));
        format!("{} sent, {} succeeded, {} failed; {latency}", load.sent, load.succeeded, load.failed)
    });
    let most = summary.max_allocation.map_or_else(|| "unknown".to_owned(), |most| most.to_string());
    format!(
        "{} under {}: {load}mean allocation {:.2} replicas and {:.2} cores, at most {most}; {:.1} core-seconds; {} actions, {} changes, {} guard interventions",
        summary.function,
        summary.agent,
        summary.mean_allocation.replicas,
        summary.mean_allocation.cores,
        summary.core_seconds,
        summary.actions,
        summary.changes,
        summary.guard_interventions
    )
}
