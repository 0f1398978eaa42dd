//! `qscale reproduce`. Owns options, progress and the printed tables; the experiments belong to `qscale_experiments`.

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use qscale_common::runtime::shutdown;
use qscale_common::time::Span;
use qscale_experiments::reproduce::experiment::ExperimentKind;
use qscale_experiments::reproduce::results::{StudyResults, StudySettings, format_mean, remarks};
use qscale_experiments::reproduce::run::RunMetric;
use qscale_experiments::reproduce::{ReproduceOptions, findings, reproduce};
use serde_json::json;

use crate::output::{self, Table, TableCell, Tone};
use crate::run_options::RunOptions;
use crate::system::Locate;

/// Reproduce the original study: a threshold rule, tabular Q-learning and deep Q-learning on fibonacci, scaled horizontally or vertically.
///
/// By default in the simulator, without a server; with --local shorter and at a smaller scale, with real functions,
/// load and services on this machine. The folder of --out then contains all results (results.json), one row per run
/// (results.csv), time series under each load (low.svg, usual.svg, high.svg, steps.svg, wave.svg) and learning curves
/// (learning.svg). In the simulator, the same seeds give the same results.json, with any number of threads. After
/// Ctrl-C, run the same command to resume.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale reproduce horizontal                    change replicas of half a core
  qscale reproduce vertical                      change CPU and memory of one replica
  qscale reproduce vertical --quick              a first look within a minute
  qscale reproduce horizontal --local            real functions on this machine, in a few minutes
  qscale reproduce vertical --local --for 5m --seeds 4
  qscale reproduce horizontal --seeds 10 --json | jq .findings

Competitors:
  threshold    above 250m of CPU or 256 MiB of memory per replica up, otherwise down: by one replica, or by 30m (threshold-vertical)
  tabular-q    five bins of CPU; steps of 20 replicas or 30m of CPU; learns online in 50 episodes of 24 ticks
  tabular-q-1  the same with steps of one replica
  dqn-step     deep Q-learning with a replay and the action set `step`, trained here on this function under such loads
  dqn          the bundled model, which was not trained on this function, restricted to the scope of the experiment

Setting        From the study
  load         332 evenly spaced requests per second to its function
  objective    p90 within 400 ms (vertical) or 100 ms (horizontal, from the reward of the table)
  allocations  1 to 121 replicas; CPU from the measured 250m; memory 100 to 1900 MiB
  ticks        5 s; 50 episodes of 24
  rule         that of the study
  table        its bins and steps; alpha 0.5; gamma 0.9; epsilon 0.9, times 0.995 per step from step 50 on
  networks     layers 128-128 and 64-64; epsilon 0.9 to 0.05; tau 0.005

Setting        Unknown, and chosen here
  load         the other rates and their changes; runs of ten minutes
  allocations  half a core per replica (horizontal); 100m to 1000m of CPU (vertical)

Setting        Different from the study
  reward       one for all learners, with a cost term
  latency      starts at arrival; failures count as late; requests queued at the end count as unanswered
  resize       does not restart the replica
  observation  CPU relative to the limit of the replica, not of the node
  networks     double and dueling; learn from 64 functions in parallel; multiply CPU by 0.8 or 1.25
  guard        none

On this machine (--local) all competitors run at the same time and share the cores, each as an agent for its own copy of the native fibonacci, under the same requests.
CPU, its steps and thresholds, and rates are a tenth of the study's, ticks a fifth; a request takes about 1.2 ms of CPU; 1 to 21 replicas; one fixed and
one changing rate. Learners are trained in a simulation of this set-up and do not learn further. Networks have the agent's fallback rule, and the number of its
decisions is reported. Latency is measured by the client from the due time; the late share comes from a histogram.

Intervals are 95 % confidence intervals (Student's t) over seeds, with one training per seed; with the two seeds of --local they are wide. Better: one metric improves
significantly and the other changes by less than 0.1 % of requests or 1 % of cost. There is no correction for multiple comparisons.

Exit status: 0 done, 1 error, 130 stopped.")]
pub struct ReproduceArgs {
    /// Experiment: horizontal changes replicas of half a core, vertical the CPU and memory of one replica
    #[arg(value_name = "horizontal|vertical")]
    kind: ExperimentKind,
    /// Run real functions on this machine, at a smaller scale and for a shorter time
    #[arg(long)]
    local: bool,
    /// Length of each run on this machine, 10s to 10m [default: 60s, or 20s with --quick]
    #[arg(long = "for", value_name = "DURATION", requires = "local")]
    duration: Option<Span>,
    /// Seeds: trainings and runs of each competitor under each load [default: 5, or 2 with --local]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(2..=100))]
    seeds: Option<u64>,
    /// First seed
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    seed: u64,
    /// Two seeds, two loads and little training: an example of the output without significance
    #[arg(long, conflicts_with = "seeds")]
    quick: bool,
    #[command(flatten)]
    run: RunOptions,
}

/// Runs an experiment, and prints what was found.
pub async fn run(locate: &Locate, arguments: ReproduceArgs) -> anyhow::Result<ExitCode> {
    let mut name = arguments.kind.name().to_owned();
    [("-local", arguments.local), ("-quick", arguments.quick)].iter().filter(|(_, given)| *given).for_each(|(part, _)| name += part);
    let options = ReproduceOptions {
        kind: arguments.kind,
        local: arguments.local,
        duration: arguments.duration,
        seeds: arguments.seeds,
        seed: arguments.seed,
        quick: arguments.quick,
        threads: arguments.run.threads(),
        out: arguments.run.out(|| locate.state_dir.join("reproduce").join(name)),
        resume: arguments.run.resume,
        overwrite: arguments.run.overwrite,
    };
    let out = &options.out;
    let results = reproduce(&options, progress(), &shutdown::token()).await?;
    if results.runs.is_empty() {
        output::note(format_args!("stopped before the first run was finished; run the same command to resume from {}", out.display()));
        return Ok(ExitCode::from(130));
    }
    if arguments.run.json {
        let StudyResults { experiment, settings, complete, table, findings, .. } = &results;
        output::json(&json!({
            "folder": out, "experiment": experiment, "settings": settings, "complete": complete, "table": table, "findings": findings,
            "sentences": findings::sentences(findings), "remarks": remarks(&results),
        }))?;
    } else {
        print(out, &results)?;
    }
    if !results.complete {
        output::note(format_args!("stopped; run the same command to resume from {}", out.display()));
        return Ok(ExitCode::from(130));
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows on standard error how much is done: a bar on a terminal, a line at each tenth elsewhere.
fn progress() -> impl Fn(u64, u64) + Send + Sync + 'static {
    const LINES: u64 = 10;
    let bar = std::io::stderr().is_terminal().then(|| {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("[{bar:40}] {percent} %, {elapsed}, {eta} to go") {
            bar.set_style(style.progress_chars("=> "));
        }
        bar
    });
    let shown = AtomicU64::new(0);
    move |ticks, all| match &bar {
        Some(bar) if ticks < all => {
            bar.set_length(all);
            bar.set_position(ticks);
        }
        Some(bar) => bar.finish_and_clear(),
        None => {
            let part = ticks * LINES / all.max(1);
            if part > shown.fetch_max(part, Ordering::Relaxed) {
                output::note(format_args!("{} %", part * 100 / LINES));
            }
        }
    }
}

fn print(out: &Path, results: &StudyResults) -> anyhow::Result<()> {
    table(results).print()?;
    output::line("")?;
    for load in &results.loads {
        output::line(format!("{:6} {}", load.name, load.pattern))?;
    }
    let StudySettings { percentile, latency_ms, currency, seeds, .. } = &results.settings;
    output::line(format!(
        "late: share of requests that failed or took longer than {} ms (objective at p{percentile}); cost: {currency}/h; ±: 95 % confidence intervals over {} seeds",
        latency_ms,
        seeds.len()
    ))?;
    output::line("")?;
    for sentence in findings::sentences(&results.findings) {
        output::line(format!("{sentence}\n"))?;
    }
    let remarks = remarks(results);
    if !remarks.is_empty() {
        output::line("Remarks on single runs")?;
        remarks.iter().try_for_each(|remark| output::line(format!("  {remark}")))?;
        output::line("")?;
    }
    output::line(format!("{0}/results.json, {0}/results.csv, {0}/learning.svg and one figure per load", out.display()))
}

fn table(results: &StudyResults) -> Table {
    let allocated = match results.experiment {
        ExperimentKind::Horizontal => ("REPLICAS", RunMetric::Replicas),
        ExperimentKind::Vertical => ("CORES", RunMetric::Cores),
    };
    let mut table = Table::new(&["LOAD", "COMPETITOR", "P95", "LATE %", "SUCCEEDED/S", allocated.0, "COST/H", "CHANGES/H"]);
    let mut last = "";
    for line in &results.table {
        let mean = |figure| line.figures[&figure];
        let load = if line.load == last { "" } else { line.load };
        last = line.load;
        table.row([
            TableCell::new(load, Tone::Strong),
            line.competitor.into(),
            format_mean(mean(RunMetric::P95Ms), output::latency).into(),
            format_mean(mean(RunMetric::LateShare), |share| output::number(share * 100.0)).into(),
            format_mean(mean(RunMetric::ThroughputRps), output::number).into(),
            format_mean(mean(allocated.1), output::number).into(),
            format_mean(mean(RunMetric::CostPerHour), |cost| format!("{cost:.4}")).into(),
            format_mean(mean(RunMetric::ChangesPerHour), output::number).into(),
        ]);
    }
    table
}
