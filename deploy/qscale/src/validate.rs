//! `qscale validate`. Owns options and the printed comparison; the runs belong to `qscale_experiments`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use qscale_common::runtime::files::read_document;
use qscale_common::runtime::shutdown;
use qscale_common::time::Span;
use qscale_experiments::profile::describe;
use qscale_experiments::profile::measure::ProfileBudget;
use qscale_experiments::validate::compare::{self, Percentage, ScenarioComparison};
use qscale_experiments::validate::{TRIES, ValidateOptions, ValidationStep, machine, scenario, validate};
use qscale_sim::FunctionProfile;
use serde_json::json;

use crate::output::{self, Table, TableCell, Tone};
use crate::profile::{FunctionArgs, show_step, steps};
use crate::system::Locate;

/// Largest acceptable error of the simulator.
const AIM: f64 = 0.1;

/// Compare the simulator with the local platform: the same function under the same load.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale validate                                        fibonacci, measured first, in all scenarios
  qscale validate my-function.toml --profile my-function-profile.toml --for 60s
  qscale validate --scenario knee-350m --check 10% --json

Without --profile, a profile is measured first. The simulator replays the arrivals that the load generator sent; demands and startup times are drawn from the profile with
twenty seeds, and medians are reported. The overhead of load generator and gateway is part of the profile's waiting time; nothing is fitted to a scenario. The machine should be
idle: CPU use of other processes is reported for each scenario.

Exit status: 0 done, 1 error, or an error of the simulator above --check.")]
pub struct ValidateArgs {
    #[command(flatten)]
    subject: FunctionArgs,
    /// Profile of the function, .toml or .json, as `qscale profile` writes it [default: measured first]
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    profile: Option<PathBuf>,
    /// Length of each scenario
    #[arg(long = "for", value_name = "DURATION", default_value = "20s")]
    length: Span,
    /// Only this scenario; repeatable
    #[arg(long = "scenario", value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(scenario::NAMES))]
    scenarios: Vec<String>,
    /// Seed of the arrivals
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Fail if an error of the simulator exceeds this percentage, such as 10%
    #[arg(long, value_name = "PERCENT")]
    check: Option<Percentage>,
    /// Measure the profile with few starts and requests
    #[arg(long, conflicts_with = "profile")]
    quick: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the scenarios, and prints the errors of the simulator.
pub async fn run(locate: &Locate, arguments: ValidateArgs) -> anyhow::Result<ExitCode> {
    ensure!(arguments.length.0 >= Duration::from_secs(1), "--for {}: must be at least 1s", arguments.length);
    let options = ValidateOptions {
        profile: arguments.profile.as_deref().map(read).transpose()?,
        subject: arguments.subject.into(),
        budget: if arguments.quick { ProfileBudget::QUICK } else { ProfileBudget::FULL },
        length: arguments.length.0,
        scenarios: arguments.scenarios,
        seed: arguments.seed,
    };
    let bar = steps();
    let progress = |progress| match progress {
        ValidationStep::Measuring(step) => show_step(&bar, step),
        ValidationStep::Scenario { name, index, all } => {
            bar.set_length(all as u64);
            bar.set_position(index as u64);
            bar.set_message(name);
        }
    };
    let validation = validate(locate.given_platform()?, &options, &progress, &shutdown::token()).await;
    bar.finish_and_clear();
    let validation = validation?.context("stopped")?;
    validation.remarks.iter().for_each(output::warn);
    let comparisons = &validation.comparisons;
    if arguments.json {
        let scenarios: Vec<_> = comparisons.iter().map(ScenarioComparison::to_json).collect();
        output::json(&json!({
            "function": validation.function,
            "profile": validation.profile,
            "seed": options.seed,
            "seconds": options.length.as_secs_f64(),
            "cores": machine::cores(),
            "worst_error": compare::worst(comparisons),
            "scenarios": scenarios,
        }))?;
    } else {
        output::line(describe(&validation.profile))?;
        table(comparisons).print()?;
        print_notes(comparisons)?;
    }
    Ok(exit_code(comparisons, arguments.check))
}

/// Reads the file of `--profile`.
///
/// # Errors
/// When it cannot be read, or is not a profile.
pub fn read(path: &Path) -> anyhow::Result<FunctionProfile> {
    let (text, format) = read_document(path).context("--profile")?;
    FunctionProfile::read(&text, format).with_context(|| format!("--profile {}", path.display()))
}

fn table(comparisons: &[ScenarioComparison]) -> Table {
    let mut table = Table::new(&[
        "SCENARIO",
        "LIMITS",
        "REQUESTS",
        "P50 real sim",
        "P95 real sim",
        "P99 real sim",
        "COMPLETED",
        "CPU real sim",
        "OTHERS",
    ]);
    for comparison in comparisons {
        let [p50, p95, p99, completed, cpu] = comparison.measures().map(|measure| TableCell::new(measure.text(), tone(measure.error())));
        let others = &comparison.real.others;
        table.row([
            TableCell::new(comparison.scenario.name, if comparison.real.void.is_some() { Tone::Bad } else { Tone::Strong }),
            comparison.scenario.limits().into(),
            comparison.real.requests().into(),
            p50,
            p95,
            p99,
            completed,
            cpu,
            TableCell::new(format!("{:.2}", others.cores), if others.is_disturbing() { Tone::Warn } else { Tone::Dim }),
        ]);
    }
    table
}

fn tone(error: Option<f64>) -> Tone {
    match error {
        None => Tone::Dim,
        Some(error) if error.abs() <= AIM => Tone::Good,
        Some(error) if error.abs() <= 2.5 * AIM => Tone::Warn,
        Some(_) => Tone::Bad,
    }
}

/// Prints a legend, and warnings that the table does not show.
fn print_notes(comparisons: &[ScenarioComparison]) -> anyhow::Result<()> {
    output::line("\nCells: local platform, simulator, error. OTHERS: cores used by other processes.")?;
    let errors: Vec<f64> = comparisons.iter().flat_map(ScenarioComparison::measures).filter_map(|measure| measure.error()).collect();
    let within = errors.iter().filter(|error| error.abs() <= AIM).count();
    output::line(format_args!("{within} of {} errors are within {:.0} %", errors.len(), AIM * 100.0))?;
    for comparison in comparisons {
        if let Some(void) = &comparison.real.void {
            output::line(format_args!("{}: void after {TRIES} attempts: {void}", comparison.scenario.name))?;
        }
    }
    if comparisons.iter().any(|comparison| comparison.real.others.is_disturbing()) {
        output::line("warning: the machine was busy; results with OTHERS above 0 are unreliable")?;
    }
    Ok(())
}

fn exit_code(comparisons: &[ScenarioComparison], check: Option<Percentage>) -> ExitCode {
    let Some(Percentage(most)) = check else { return ExitCode::SUCCESS };
    let beyond = |comparison: &&ScenarioComparison| {
        comparison.real.void.is_some() || comparison.measures().iter().any(|measure| measure.error().is_none_or(|error| error.abs() > most))
    };
    let beyond: Vec<&str> = comparisons.iter().filter(beyond).map(|comparison| comparison.scenario.name).collect();
    if beyond.is_empty() {
        return ExitCode::SUCCESS;
    }
    output::note(format_args!("error: the simulator error exceeds {:.0} % in {}", most * 100.0, beyond.join(", ")));
    ExitCode::FAILURE
}
