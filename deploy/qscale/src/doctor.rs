//! `qscale doctor`: finds problems of a setup and how to fix them. Owns the order of the checks; must not change anything.

mod bus;
mod machine;
mod report;
mod workloads;

use std::process::ExitCode;

use clap::Args;

use self::report::Report;
use crate::output;
use crate::system::{Locate, StateDir};

/// Output of the findings.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale doctor
  qscale doctor --json | jq '.[] | select(.verdict == \"failed\") | .fix'

Exit status: 0 no problem, 1 a check failed.")]
pub struct DoctorArgs {
    /// Print a JSON array of findings
    #[arg(long)]
    json: bool,
}

/// Runs every check that is possible; fails if one of them does.
pub async fn run(locate: &Locate, arguments: DoctorArgs) -> anyhow::Result<ExitCode> {
    let report = examine(locate).await;
    if arguments.json {
        output::json(&report.findings())?;
    } else {
        output::line(report.render())?;
    }
    Ok(if report.has_failures() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn examine(locate: &Locate) -> Report {
    let mut report = Report::default();
    // Does not create a missing state folder.
    let state = locate.state_dir.is_dir().then(|| StateDir::new(&locate.state_dir).ok()).flatten();
    machine::nats_program(&mut report, locate.nats.is_some()).await;
    machine::disk(&mut report, &locate.state_dir);
    machine::real_time(&mut report);
    let addresses = machine::system(&mut report, locate, state.as_ref());
    let up = addresses.is_some() || locate.nats.is_some();
    let bus = if up { bus::reach(&mut report, locate).await } else { None };
    if let Some(bus) = &bus {
        bus::storage(&mut report, bus).await;
    }
    if let (Some(addresses), Some(state)) = (&addresses, &state) {
        workloads::services(&mut report, addresses, state).await;
    }
    let functions = if addresses.is_some() || locate.platform.is_some() { workloads::platform(&mut report, locate).await } else { None };
    if let Some(bus) = &bus {
        workloads::policies(&mut report, bus, functions.as_deref()).await;
        workloads::control(&mut report, bus).await;
    }
    report
}
