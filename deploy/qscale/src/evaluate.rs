//! `qscale evaluate`: compares policies in the simulator. Owns options and output; the evaluation and its files belong
//! to `qscale_experiments`.

mod progress;
mod recorded;
mod report;
mod trace;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use clap::Args;
use qscale_common::runtime::cancellable::until_stopped;
use qscale_evaluate::suite::{BUNDLED, SuiteFilter};
use qscale_experiments::evaluate::{EvaluateOptions, EvaluateOutcome, SuiteOptions, SuiteRun};

pub use self::progress::Bar;
use self::recorded::RecordedArgs;
use self::trace::TraceArgs;
use crate::output;
use crate::run_options::RunOptions;
use crate::system::Locate;

/// Compare policies in the simulator: every policy in every cell of a suite, with the same requests and perturbations.
///
/// A suite is a file that defines the comparison in advance: functions, workloads, perturbations, competitors, and the
/// grid in which each rule may be tuned. Three suites are bundled: `synthetic`, with load patterns, `trace`, for
/// traces of real functions, and `steady`, with constant loads. No server is needed.
///
/// The folder of --out then contains the suite (suite.json), all runs (results.json, results.csv), the summary
/// (summary.json, summary.csv) and a self-contained report (report.html). After an interruption, run the same command
/// to resume. The same suite, settings and seeds give the same bytes of results.json, with any number of threads.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale evaluate --quick                                     a first look within a minute
  qscale evaluate --tune                                      the published table: every rule with defaults and tuned
  qscale evaluate --policy hpa:cpu_utilization=50 --policy kpa --workload step
  qscale evaluate --trace ../my-trace --functions 50 --seeds 5
  qscale evaluate --suite steady                              constant loads: who settles, and at what cost
  qscale evaluate --curves                                    violations against cost of every setting of every policy
  qscale evaluate --curves --recorded fibonacci --since 4h    the same for the recorded arrivals of a function
  qscale evaluate --tune --policy dqn --policy hpa --model .qscale/training/model.dqn
  qscale evaluate --policy mine=external:command='python policy.py'    a program in any language, see agent/python/README.md
  qscale evaluate --quick --policy tree:file=mine.tree --policy dqn    a decision tree of `qscale model distil`, and the model
  qscale evaluate --suite my-suite.toml --out my-results --json
  qscale evaluate --list                                      suites, competitors, cells
  qscale evaluate --print-suite synthetic > my-suite.toml     a suite to start from")]
pub struct EvaluateArgs {
    /// Suite: synthetic, steady, trace, or a file (.toml, .yaml, .json) [default: synthetic, or trace with --trace]
    #[arg(long, value_name = "NAME|FILE", value_hint = clap::ValueHint::FilePath)]
    suite: Option<String>,
    #[command(flatten)]
    trace: TraceArgs,
    #[command(flatten)]
    recorded: RecordedArgs,
    /// Only this competitor of the suite, or any policy, with these parameters, shown as LABEL; repeatable
    #[arg(long = "policy", value_name = "[LABEL=]NAME[:KEY=VALUE,...]")]
    policies: Vec<String>,
    /// Model of the policy dqn, as `qscale train` writes it [default: the bundled model]
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    model: Option<PathBuf>,
    /// Only this function of the suite; repeatable
    #[arg(long = "function", value_name = "NAME")]
    functions: Vec<String>,
    /// Only this workload; repeatable
    #[arg(long = "workload", value_name = "NAME")]
    workloads: Vec<String>,
    /// Only this perturbation; repeatable
    #[arg(long = "perturbation", value_name = "NAME")]
    perturbations: Vec<String>,
    /// Test runs of each competitor in each cell [default: that of the suite]
    #[arg(long, value_name = "NUMBER")]
    seeds: Option<u32>,
    /// Passes of the search for the bound of each run, from its best competitor on; with 0 the bound is that competitor [default: that of the suite]
    #[arg(long, value_name = "NUMBER")]
    bound_passes: Option<u32>,
    /// Also tune every rule on the validation part, and report both
    #[arg(long)]
    tune: bool,
    /// Instead of the comparison, plot violations against cost for every setting of every policy's grid; 3 seeds unless
    /// --seeds is given
    #[arg(long, conflicts_with_all = ["tune", "json"])]
    curves: bool,
    /// A first look: the few cells and seeds that the suite lists for it
    #[arg(long)]
    quick: bool,
    /// List suites, competitors and cells, without running anything
    #[arg(long)]
    list: bool,
    /// Print the file of a bundled suite, without running anything
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(BUNDLED.map(|suite| suite.name)))]
    print_suite: Option<String>,
    #[command(flatten)]
    run: RunOptions,
}

/// Files of the curves of a suite.
const CURVE_FILES: [&str; 4] = ["curves.svg", "curves.csv", "results.csv", "suite.json"];

/// Evaluates, and prints the results.
pub async fn run(locate: &Locate, arguments: EvaluateArgs) -> anyhow::Result<ExitCode> {
    if let Some(name) = &arguments.print_suite {
        let suite = BUNDLED.iter().find(|suite| suite.name == name).context("not a bundled suite")?;
        output::line(suite.text.trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    let loaded = SuiteRun::load(suite_options(&arguments)?, arguments.list)?;
    if arguments.list {
        report::list(&loaded.suite)?;
        return Ok(ExitCode::SUCCESS);
    }
    let loaded = if arguments.curves { loaded.with_each_setting(arguments.seeds)? } else { loaded };
    if let Some(function) = &arguments.recorded.function {
        return recorded::run(locate, &arguments, function, &loaded).await;
    }
    let out = arguments.run.out(|| locate.state_dir.join("evaluations").join(&loaded.folder_name));
    let options = EvaluateOptions {
        tune: arguments.tune,
        command: command(&arguments),
        threads: arguments.run.threads(),
        out: out.clone(),
        resume: arguments.run.resume,
        overwrite: arguments.run.overwrite,
    };
    let prepared = loaded.prepare(options, |trace| output::note(trace))?;
    if arguments.curves {
        let outcome = with_bar(move |bar, stop| prepared.curves(|progress| bar.show(progress), stop)).await?;
        return finish(outcome, &out, |found| report::print_curves(&out, found, &command(&arguments), &CURVE_FILES));
    }
    let outcome = with_bar(move |bar, stop| prepared.run(|progress| bar.show(progress), stop)).await?;
    finish(outcome, &out, |found| report::print(&out, found, arguments.run.json))
}

/// Runs `evaluate` with a progress bar, until it is done or stopped by a signal.
async fn with_bar<R: Send + 'static>(
    evaluate: impl FnOnce(&mut Bar, &AtomicBool) -> anyhow::Result<EvaluateOutcome<R>> + Send + 'static,
) -> anyhow::Result<EvaluateOutcome<R>> {
    let outcome = until_stopped("evaluation", move |stop| {
        let mut bar = Bar::new();
        let outcome = evaluate(&mut bar, stop);
        bar.finish();
        outcome
    });
    outcome.await
}

fn finish<R>(outcome: EvaluateOutcome<R>, out: &Path, print: impl FnOnce(&R) -> anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    match outcome {
        EvaluateOutcome::Done(found) => print(&found).map(|()| ExitCode::SUCCESS),
        EvaluateOutcome::Stopped => {
            output::note(format_args!("stopped; run the same command to resume from {}", out.display()));
            Ok(ExitCode::from(130))
        }
    }
}

fn suite_options(arguments: &EvaluateArgs) -> anyhow::Result<SuiteOptions> {
    Ok(SuiteOptions {
        suite: arguments.suite.clone(),
        trace: arguments.trace.selection(),
        filter: SuiteFilter {
            policies: arguments.policies.clone(),
            functions: arguments.functions.clone(),
            workloads: arguments.workloads.clone(),
            perturbations: arguments.perturbations.clone(),
            seeds: arguments.seeds,
            bound_passes: arguments.bound_passes,
            quick: arguments.quick,
        },
        model: arguments.model.as_deref().map(qscale_replay::policy::load_model).transpose()?,
    })
}

/// The command that repeats the results, without options that do not affect them.
fn command(arguments: &EvaluateArgs) -> String {
    let mut words = vec!["qscale evaluate".to_owned()];
    let mut add = |flag: &str, value: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,".contains(c);
        let value = if value.chars().all(plain) { value.to_owned() } else { format!("'{}'", value.replace('\'', r"'\''")) };
        words.push(format!("{flag} {value}").trim_end().to_owned());
    };
    arguments.suite.iter().for_each(|suite| add("--suite", suite));
    arguments.trace.words(&mut add);
    arguments.recorded.words(&mut add);
    arguments.policies.iter().for_each(|policy| add("--policy", policy));
    arguments.model.iter().for_each(|model| add("--model", &model.display().to_string()));
    arguments.functions.iter().for_each(|function| add("--function", function));
    arguments.workloads.iter().for_each(|workload| add("--workload", workload));
    arguments.perturbations.iter().for_each(|perturbation| add("--perturbation", perturbation));
    arguments.seeds.iter().for_each(|seeds| add("--seeds", &seeds.to_string()));
    arguments.bound_passes.iter().for_each(|passes| add("--bound-passes", &passes.to_string()));
    [("--tune", arguments.tune), ("--curves", arguments.curves), ("--quick", arguments.quick)]
        .into_iter()
        .filter(|(_, given)| *given)
        .for_each(|(flag, _)| words.push(flag.to_owned()));
    words.join(" ")
}
