//! `qscale evaluate`: compares policies in the simulator. Owns options, files and output; the evaluation belongs to `qscale_evaluate`.

mod policies;
mod progress;
mod report;
mod trace;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use clap::Args;
use qscale_common::document::Format;
use qscale_common::runtime::clock;
use qscale_common::runtime::files::read_document;
use qscale_evaluate::evaluation::jobs::{JobOutcome, Ledger, Progress};
use qscale_evaluate::suite::{SHIPPED, SuiteFilter};
use qscale_evaluate::{EvaluateError, Evaluation, EvaluationRequest, Options, Suite};

use self::policies::All;
use self::progress::Bar;
use self::trace::TraceArgs;
use crate::output;
use crate::run_options::RunOptions;
use crate::system::Locate;
use qscale_common::runtime::cancellable::until_stopped;
use qscale_experiments::journal::Journal;

/// Compare policies in the simulator: every policy in every cell of a suite, with the same requests and perturbations.
///
/// A suite is a file that defines the comparison in advance: functions, workloads, perturbations, competitors, and the grid in which each rule may be tuned. Two suites are
/// bundled: `synthetic`, with load patterns, and `trace`, for traces of real functions. No server is needed.
///
/// The folder of --out then contains the suite (suite.json), all runs (results.json, results.csv), the summary (summary.json, summary.csv) and a self-contained report
/// (report.html). After an interruption, run the same command to resume. The same suite, settings and seeds give the same bytes of results.json, with any number of
/// threads.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale evaluate --quick                                     a first look within a minute
  qscale evaluate --tune                                      the published table: every rule with defaults and tuned
  qscale evaluate --policy hpa:cpu_utilization=50 --policy kpa --workload step
  qscale evaluate --trace ../my-trace --functions 50 --seeds 5
  qscale evaluate --tune --policy dqn --policy hpa --model .qscale/training/model.dqn
  qscale evaluate --suite my-suite.toml --out my-results --json
  qscale evaluate --list                                      suites, competitors, cells
  qscale evaluate --print-suite synthetic > my-suite.toml     a suite to start from")]
pub struct EvaluateArgs {
    /// Suite: synthetic, trace, or a file (.toml, .yaml, .json) [default: synthetic, or trace with --trace]
    #[arg(long, value_name = "NAME|FILE", value_hint = clap::ValueHint::FilePath)]
    suite: Option<String>,
    #[command(flatten)]
    trace: TraceArgs,
    /// Only this competitor of the suite, or any policy, with these parameters; repeatable
    #[arg(long = "policy", value_name = "NAME[:KEY=VALUE,...]")]
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
    /// Also tune every rule on the validation part, and report both
    #[arg(long)]
    tune: bool,
    /// A first look: the few cells and seeds that the suite lists for it
    #[arg(long)]
    quick: bool,
    /// List suites, competitors and cells, without running anything
    #[arg(long)]
    list: bool,
    /// Print the file of a bundled suite, without running anything
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(SHIPPED.map(|suite| suite.name)))]
    print_suite: Option<String>,
    #[command(flatten)]
    run: RunOptions,
}

/// Evaluates, and writes and prints the results.
pub async fn run(locate: &Locate, arguments: EvaluateArgs) -> anyhow::Result<ExitCode> {
    if let Some(name) = &arguments.print_suite {
        let suite = SHIPPED.iter().find(|suite| suite.name == name).context("not a bundled suite")?;
        output::line(suite.text.trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    let policies = All { model: arguments.model.as_deref().map(qscale_replay::policy::load_model).transpose()? };
    let suite = load(&arguments, &policies)?;
    if arguments.list {
        report::list(&suite)?;
        return Ok(ExitCode::SUCCESS);
    }
    let out = arguments.run.out(|| default_out(locate, &suite, &arguments));
    let evaluation = plan(suite, &arguments)?;
    until_stopped("evaluation", move |stop| work(&evaluation, &policies, &arguments, &out, stop)).await
}

/// The requested part of the requested suite.
fn load(arguments: &EvaluateArgs, policies: &All) -> anyhow::Result<Suite> {
    let by_default = if arguments.trace.is_given() { "trace" } else { "synthetic" };
    let asked = arguments.suite.as_deref().unwrap_or(by_default);
    let mut suite = match SHIPPED.iter().find(|suite| suite.name == asked) {
        Some(shipped) => Suite::parse(shipped.text, Format::Toml)?,
        None => read(Path::new(asked))?,
    };
    let patterns = suite.trace.is_none();
    if patterns && arguments.trace.is_given() {
        anyhow::bail!(
            "--trace is not valid with suite {asked}, which has load patterns; use --suite trace, or a suite with a [trace] section"
        );
    }
    if !patterns && !arguments.trace.is_given() && !arguments.list {
        anyhow::bail!("suite {asked} replays a trace; add --trace DIR");
    }
    if let Some(entry) = &mut suite.trace {
        arguments.trace.apply(entry)?;
    }
    let narrow = SuiteFilter {
        policies: arguments.policies.clone(),
        functions: arguments.functions.clone(),
        workloads: arguments.workloads.clone(),
        perturbations: arguments.perturbations.clone(),
        seeds: arguments.seeds,
        quick: arguments.quick,
    };
    Ok(suite.narrowed(&narrow).with_context(|| format!("suite {asked}"))?.with_natural_ticks(policies))
}

fn read(path: &Path) -> anyhow::Result<Suite> {
    let names = SHIPPED.map(|suite| suite.name).join(", ");
    let read = read_document(path);
    let (text, format) =
        read.with_context(|| format!("suite {}: not a bundled suite ({names}), and not a readable file", path.display()))?;
    Suite::parse(&text, format).with_context(|| format!("suite {}", path.display()))
}

fn default_out(locate: &Locate, suite: &Suite, arguments: &EvaluateArgs) -> PathBuf {
    let mut name = suite.name.to_string();
    if let Some(trace) = arguments.trace.name() {
        name = format!("{name}-{trace}");
    }
    let quick = if arguments.quick { "-quick" } else { "" };
    locate.state_dir.join("evaluations").join(name + quick)
}

fn plan(suite: Suite, arguments: &EvaluateArgs) -> anyhow::Result<Evaluation> {
    let asked = EvaluationRequest { command: command(arguments), tune: arguments.tune, quick: arguments.quick };
    if suite.trace.is_none() {
        return Ok(Evaluation::of_patterns(suite, asked)?);
    }
    let trace = arguments.trace.read(&suite)?;
    let (cells, played) =
        qscale_evaluate::trace::cells(&suite, &trace, &arguments.trace.name().unwrap_or_default()).map_err(anyhow::Error::msg)?;
    Ok(Evaluation::of_trace(suite, cells, asked, played)?)
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
    arguments.policies.iter().for_each(|policy| add("--policy", policy));
    arguments.model.iter().for_each(|model| add("--model", &model.display().to_string()));
    arguments.functions.iter().for_each(|function| add("--function", function));
    arguments.workloads.iter().for_each(|workload| add("--workload", workload));
    arguments.perturbations.iter().for_each(|perturbation| add("--perturbation", perturbation));
    arguments.seeds.iter().for_each(|seeds| add("--seeds", &seeds.to_string()));
    [("--tune", arguments.tune), ("--quick", arguments.quick)]
        .into_iter()
        .filter(|(_, given)| *given)
        .for_each(|(flag, _)| words.push(flag.to_owned()));
    words.join(" ")
}

fn work(evaluation: &Evaluation, policies: &All, arguments: &EvaluateArgs, out: &Path, stop: &AtomicBool) -> anyhow::Result<ExitCode> {
    // A suite that cannot be run must not leave a journal.
    evaluation.check(policies)?;
    let journal = Journal::open(out, "evaluation", &evaluation.identity(policies), arguments.run.resume, arguments.run.overwrite)?;
    let mut ledger = JobStore { journal, bar: Bar::new() };
    let threads = arguments.run.threads();
    let began = clock::instant();
    let time = || clock::since(began);
    let options = Options { threads, stop, clock: Some(&time) };
    let found = evaluation.run(policies, &options, &mut ledger);
    ledger.bar.finish();
    match found {
        Ok((results, paces)) => report::write(out, &results, &paces, clock::since(began), arguments.run.json)?,
        Err(EvaluateError::Stopped) => {
            output::note(format_args!("stopped; run the same command to resume from {}", out.display()));
            return Ok(ExitCode::from(130));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Stores finished runs in the journal, and shows progress.
struct JobStore {
    journal: Journal<JobOutcome>,
    bar: Bar,
}

impl Ledger for JobStore {
    fn recall(&mut self, key: &str) -> Option<JobOutcome> {
        self.journal.recall(key)
    }

    fn record(&mut self, key: &str, outcome: &JobOutcome) -> Result<(), String> {
        self.journal.record(key, outcome).map_err(|error| format!("{error:#}"))
    }

    fn progress(&mut self, progress: Progress) {
        self.bar.show(progress);
    }
}
