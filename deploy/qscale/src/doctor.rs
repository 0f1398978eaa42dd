//! `qscale doctor`: finds problems of a setup and how to fix them. Owns the order of the checks and the output; the checks belong to `qscale_up`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use qscale_common::runtime::clock;
use qscale_up::doctor::{DoctorVerdict, Report, bus, machine, workloads};

use crate::output::{self, Tone};
use crate::system::{Locate, StateDir, SystemTrust};

/// Age up to which losses of streams and buckets are shown.
const SHOWN_LOSSES: Duration = Duration::from_secs(24 * 3600);

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
        output::line(render(&report))?;
    }
    Ok(if report.has_failures() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn examine(locate: &Locate) -> Report {
    let mut report = Report::default();
    // Does not create a missing state folder.
    let state = locate.state_dir.is_dir().then(|| StateDir::open(&locate.state_dir).ok()).flatten();
    machine::disk(&mut report, &locate.state_dir, state.as_ref());
    machine::state_folder(&mut report, &locate.state_dir);
    machine::real_time(&mut report);
    let addresses = machine::system(&mut report, &locate.state_dir, state.as_ref(), locate.nats.is_some());
    let up = addresses.is_some() || locate.nats.is_some();
    machine::nats_program(&mut report, up).await;
    let bus = if up { bus::reach(&mut report, locate.bus().await) } else { None };
    let written = match &bus {
        Some(bus) => bus::storage(&mut report, bus).await,
        None => false,
    };
    let mut sources = None;
    if let (Some(addresses), Some(state)) = (&addresses, &state) {
        bus::losses(&mut report, state, clock::wall().minus(SHOWN_LOSSES));
        workloads::services(&mut report, addresses, state).await;
        workloads::measurements(&mut report, addresses).await;
        sources = workloads::sources(addresses).await;
    }
    let has_platform = locate.platform.is_some() || addresses.as_ref().is_some_and(|addresses| addresses.has_platform());
    let functions = if has_platform { workloads::platform(&mut report, locate.platform()).await } else { None };
    if let Some(bus) = &bus {
        match locate.trust() {
            Ok(SystemTrust { policies, models }) => {
                workloads::policies(&mut report, bus, &policies, functions.as_deref(), sources.as_ref(), written).await;
                workloads::models(&mut report, bus, &models).await;
            }
            Err(error) => report.fail("signatures", format!("{error:#}"), "start the system again with `qscale up`"),
        }
        workloads::control(&mut report, bus).await;
    }
    report
}

/// The findings as lines, and a last line with their number.
fn render(report: &Report) -> String {
    let mut lines = Vec::new();
    for finding in report.findings() {
        let (sign, tone) = match finding.verdict {
            DoctorVerdict::Passed => ("✓", Tone::Good),
            DoctorVerdict::Warning => ("!", Tone::Warn),
            DoctorVerdict::Failed => ("✗", Tone::Bad),
        };
        lines.push(format!("{} {}: {}", tone.paint(sign), Tone::Strong.paint(&finding.check), output::clean(&finding.found)));
        lines.extend(finding.fix.as_ref().map(|fix| format!("    → {}", output::clean(fix))));
    }
    let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let (failed, warnings) = (report.count(DoctorVerdict::Failed), count(report.count(DoctorVerdict::Warning), "warning"));
    lines.push(match failed {
        0 => Tone::Good.paint(format_args!("no problems, {warnings}")),
        _ => Tone::Bad.paint(format_args!("{}, {warnings}", count(failed, "problem"))),
    });
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_come_with_a_fix() {
        let mut report = Report::default();
        assert_eq!(output::plain(&render(&report)), "no problems, 0 warnings");
        report.pass("disk", "9 GiB free");
        report.fail("lease", "not held", "start an actuator");
        let text = output::plain(&render(&report));
        assert_eq!(text, "✓ disk: 9 GiB free\n✗ lease: not held\n    → start an actuator\n1 problem, 0 warnings");
        assert!(report.has_failures());
    }
}
