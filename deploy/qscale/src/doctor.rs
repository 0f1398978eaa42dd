//! `qscale doctor`: finds problems of a setup and how to fix them. Owns the order of the checks and the output; the checks belong to `qscale_up`.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use qscale_common::platform::FunctionStatus;
use qscale_common::runtime::bus::Bus;
use qscale_common::runtime::clock;
use qscale_up::doctor::{DoctorVerdict, Report, bus, cluster, machine, workloads};

use crate::cluster::Kubectl;
use crate::output::{self, Tone};
use crate::system::{Locate, StateDir, SystemTrust};

/// Age up to which losses of streams and buckets are shown.
const SHOWN_LOSSES: Duration = Duration::from_secs(24 * 3600);
/// Number of equal findings of functions up to which each is shown, and number of problems shown above it.
const GROUPED_ABOVE: usize = 10;
const SHOWN_PROBLEMS: usize = 3;

/// Output of the findings.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale doctor
  qscale --context NAME doctor
  qscale doctor --json | jq '.[] | select(.verdict == \"failed\") | .fix'

Exit status: 0 no problem, 1 a check failed.")]
pub struct DoctorArgs {
    /// Print a JSON array of findings
    #[arg(long)]
    json: bool,
}

/// Runs every check that is possible; fails if one of them does.
pub async fn run(locate: &Locate, arguments: DoctorArgs) -> anyhow::Result<ExitCode> {
    let mut report = Report::default();
    match locate.kubectl() {
        Some(kubectl) => examine_cluster(&mut report, locate, &kubectl).await,
        None => examine_machine(&mut report, locate).await,
    }
    if arguments.json {
        output::json(&report.findings())?;
    } else {
        output::line(render(&report))?;
    }
    Ok(if report.has_failures() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Checks a system in a cluster.
async fn examine_cluster(report: &mut Report, locate: &Locate, kubectl: &Kubectl) {
    let ask = |arguments: &[&str], input: &str| kubectl.ask(arguments, input);
    tokio::task::block_in_place(|| cluster::examine(report, kubectl.namespace(), &ask));
    let mut locate = locate.clone();
    let _forward = match locate.forward() {
        Ok(forward) => forward,
        Err(error) => return report.fail("NATS", format!("{error:#}"), "see the other problems"),
    };
    if let Some(bus) = bus::reach(report, locate.bus().await) {
        let written = bus::storage(report, &bus).await;
        examine_loop(report, &locate, &bus, None, None, written).await;
    }
}

/// Checks a system on this machine, or one whose nats-server is specified.
async fn examine_machine(report: &mut Report, locate: &Locate) {
    // Does not create a missing state folder.
    let state = locate.state_dir.is_dir().then(|| StateDir::open(&locate.state_dir).ok()).flatten();
    machine::disk(report, &locate.state_dir, state.as_ref());
    machine::state_folder(report, &locate.state_dir);
    machine::real_time(report);
    let addresses = machine::system(report, &locate.state_dir, state.as_ref(), locate.nats.is_some());
    let up = addresses.is_some() || locate.nats.is_some();
    machine::nats_program(report, up).await;
    let bus = if up { bus::reach(report, locate.bus().await) } else { None };
    let written = match &bus {
        Some(bus) => bus::storage(report, bus).await,
        None => false,
    };
    let mut sources = None;
    if let (Some(addresses), Some(state)) = (&addresses, &state) {
        bus::losses(report, state, clock::wall().minus(SHOWN_LOSSES));
        workloads::services(report, addresses, state).await;
        workloads::measurements(report, addresses).await;
        sources = workloads::sources(addresses).await;
    }
    let has_platform = locate.platform.is_some() || addresses.as_ref().is_some_and(|addresses| addresses.has_platform());
    let functions = if has_platform { workloads::platform(report, locate.platform()).await } else { None };
    if let Some(bus) = &bus {
        examine_loop(report, locate, bus, functions.as_deref(), sources.as_ref(), written).await;
    }
}

/// Checks what is measured and decided.
async fn examine_loop(
    report: &mut Report,
    locate: &Locate,
    bus: &Bus,
    functions: Option<&[FunctionStatus]>,
    sources: Option<&BTreeSet<String>>,
    written: bool,
) {
    match locate.trust() {
        Ok(SystemTrust { policies, models }) => {
            workloads::policies(report, bus, &policies, functions, sources, written).await;
            workloads::models(report, bus, &models).await;
        }
        Err(error) => report.fail("signatures", format!("{error:#}"), "start the system again with `qscale up`"),
    }
    workloads::control(report, bus).await;
}

/// The findings as lines, and a last line with their number.
fn render(report: &Report) -> String {
    let mut lines = Vec::new();
    for findings in report.groups() {
        let Some(first) = findings.first() else { continue };
        let (sign, tone) = match first.verdict {
            DoctorVerdict::Passed => ("✓", Tone::Good),
            DoctorVerdict::Warning => ("!", Tone::Warn),
            DoctorVerdict::Failed => ("✗", Tone::Bad),
        };
        let shown = match (first.verdict, findings.len()) {
            (_, 0..=GROUPED_ABOVE) => findings.len(),
            (DoctorVerdict::Passed, _) => 0,
            _ => SHOWN_PROBLEMS,
        };
        for finding in findings.iter().take(shown) {
            lines.push(format!("{} {}: {}", tone.paint(sign), Tone::Strong.paint(&finding.check), output::clean(&finding.found)));
            lines.extend(finding.fix.as_ref().map(|fix| format!("    → {}", output::clean(fix))));
        }
        let rest = match (findings.len() - shown, shown) {
            (0, _) => continue,
            (rest, 0) => format!("{rest} functions: no problem"),
            (rest, _) => format!("{rest} more functions: `qscale doctor --json` lists them"),
        };
        lines.push(format!("{} {} {rest}", tone.paint(sign), Tone::Strong.paint(output::clean(&first.kind))));
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
    use qscale_up::doctor::CheckedItem;

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

    #[test]
    fn findings_of_many_functions_are_summarized() {
        let mut report = Report::default();
        for number in 0..30 {
            let function = format!("default/f{number}").parse().expect("a function");
            report.pass(CheckedItem::of("policy", &function), "active");
            match number {
                0..15 => report.pass(CheckedItem::of("state of", &function), "1s old"),
                15..18 => report.warn(CheckedItem::of("state of", &function), "incomplete", "wait"),
                _ => report.fail(CheckedItem::of("state of", &function), "9s old", "check the collector"),
            }
        }
        let text = output::plain(&render(&report));
        assert!(
            text.starts_with("✓ policy 30 functions: no problem\n✓ state of 15 functions: no problem\n! state of default/f15: incomplete"),
            "{text}"
        );
        assert!(text.contains("\n! state of default/f17: incomplete\n    → wait\n✗ state of default/f18: 9s old"), "{text}");
        assert!(text.ends_with("f20: 9s old\n    → check the collector\n✗ state of 9 more functions: `qscale doctor --json` lists them\n12 problems, 3 warnings"), "{text}");
        assert_eq!(report.findings().len(), 60, "none is left out of the JSON array");
    }
}
