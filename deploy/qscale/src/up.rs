//! `qscale up`: the whole system on this machine, in the foreground. Owns the printed summary; the system itself belongs to `qscale_up`.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use qscale_common::runtime::{clock, shutdown};
use qscale_up::board::Summary;
use qscale_up::plan::{Plan, Planned};
use qscale_up::state_dir::StateDir;
use qscale_up::{Lived, Look, SENTENCES, UpArgs, crowd, falls_behind, live, say};

use crate::system::Locate;

/// Runs the system until it is asked to end.
pub async fn run(locate: &Locate, arguments: UpArgs) -> anyhow::Result<ExitCode> {
    let token = shutdown::token();
    let plan = Plan::new(&arguments)?;
    clock::follow(plan.pace);
    let began = clock::now();
    let look = Look { drawn: !arguments.json && !arguments.plain, told: true, limits: false, duration: arguments.duration };
    let lived = live(&plan, &StateDir::new(&locate.state_dir)?, look, &token).await?;
    let summary = |planned: &Planned| lived.board.summary(&planned.id, planned.agent.as_str(), lived.load_of(&planned.id));
    let summaries: Vec<_> = plan.functions.iter().map(summary).collect();
    let Lived { board, load } = lived;
    if board.missed_ticks() > 0 {
        say(&format!("warning: {}", falls_behind(board.missed_ticks(), &plan)));
    }
    if let Some(first) = board.first_change {
        say(&format!("first change of an allocation {:.1} s after the start", first.since(began).as_secs_f64()));
    }
    if arguments.json {
        let summary = serde_json::json!({
            "seconds": clock::now().since(began).as_secs_f64(),
            "seed": arguments.seed,
            "backend": arguments.backend_name(),
            "speed": arguments.speed,
            "load": plan.load_description,
            "missed_ticks": board.missed_ticks(),
            "void": load.as_ref().map(|load| load["void"].clone()),
            "send_lag_us": load.as_ref().map(|load| load["send_lag_us"].clone()),
            "functions": summaries,
        });
        writeln!(std::io::stdout(), "{summary}").context("standard output")?;
    } else {
        crowd::worst_first(&board, &plan.ids())
            .iter()
            .take(SENTENCES)
            .filter_map(|id| summaries.iter().find(|summary| summary.function == id.to_string()))
            .for_each(|summary| say(&sentence(summary)));
        if summaries.len() > SENTENCES {
            say(&format!("({} more functions; --json shows them all)", summaries.len() - SENTENCES));
        }
    }
    if let Some(load) = load.filter(|load| load["void"] == true) {
        say(&format!("the load generator declares its run void: {}", load["void_reasons"]));
    }
    Ok(ExitCode::SUCCESS)
}

fn sentence(summary: &Summary) -> String {
    let load = summary.load.as_ref().map_or_else(String::new, |load| {
        let latency = &load["latency_ms"];
        format!(
            "{} sent, {} answered well, {} failed; p50 {} ms, p95 {} ms, p99 {} ms; ",
            load["sent"], load["succeeded"], load["failed"], latency["p50"], latency["p95"], latency["p99"]
        )
    });
    let most = summary.max_allocation.map_or_else(|| "unknown".to_owned(), |most| most.to_string());
    format!(
        "{} under {}: {load}allocation mean {:.2} replicas and {:.2} cores, at most {most}; {:.1} core-seconds; {} actions, {} changes, {} guard interventions",
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
