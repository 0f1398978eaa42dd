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
use qscale_experiments::reproduce::results::{StudyResults, StudySettings, remarks, told};
use qscale_experiments::reproduce::run::RunMetric;
use qscale_experiments::reproduce::{ReproduceOptions, findings, reproduce};
use serde_json::json;

use crate::run_options::RunOptions;
use crate::show::{self, Cell, Table, Tone};
use crate::system::Locate;

/// Repeat the study that Qscale grew out of: a threshold rule, tabular Q-learning and Deep Q-learning on fibonacci, horizontally or vertically.
///
/// In the simulator, and needs no server; with --local shorter and smaller, with real functions, load and services on this machine. The folder of --out then holds everything
/// (results.json), a row for each run (results.csv), the course under each load (low.svg, usual.svg, high.svg, steps.svg, wave.svg) and what agents earned while they
/// learned (learning.svg). The same seeds give the same bytes of results.json in the simulator, on any number of threads. What is finished is kept at once: after Ctrl-C
/// the same command goes on.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale reproduce horizontal                    replicas change, each of half a core
  qscale reproduce vertical                      CPU and memory of one replica change
  qscale reproduce vertical --quick              a look within a minute
  qscale reproduce horizontal --local            real functions on this machine, in some minutes
  qscale reproduce vertical --local --for 5m --seeds 4
  qscale reproduce horizontal --seeds 10 --json | jq .findings

Entrants:
  threshold    above 250m of CPU or 256 MiB of memory a replica up, else down: by one replica, or by 30m (threshold-vertical)
  tabular-q    five bins of CPU; 20 replicas less, none or more, or 30m of CPU; learns online in 50 episodes of 24 ticks
  tabular-q-1  the same with steps of one replica
  dqn-step     Deep Q-learning with a replay buffer on the action set `step`, trained here on this function under such loads
  dqn          the model that comes along, which never saw this function, narrowed to what may change here

Taken from the study: function and rule; the table's bins, steps, alpha 0.5, gamma 0.9, epsilon 0.9 times 0.995 a step from step 50 on; 1 to 121 replicas; CPU from
the 250m that it measured at, memory from 100 to 1900 MiB; layers 128-128 and 64-64, epsilon 0.9 to 0.05, tau 0.005; a tick of 5 s, 50 episodes of 24; evenly spaced
requests, 332 of them a second; p90 within 400 ms vertically, and 100 ms horizontally from the table's reward.
Not known, and chosen here: the other rates and how they change; half a core a replica horizontally; 100m to 1000m vertically; runs of ten minutes.
Otherwise on purpose: one reward for all that learn, with a term for cost; failures count as late, latency from arrival, and what waits at the end is no answer;
a resize does not restart; agents see a replica's CPU over its limit, not a node's; the networks are double and dueling, learn from 64 functions at once and multiply
CPU by 0.8 or 1.25. No guard limits anyone.

On this machine (--local): all entrants decide at the same time, each as an agent of its own for its own copy of the native fibonacci, under the same requests; they
share the cores. CPU, its steps and thresholds, and rates are a tenth of the study's, ticks a fifth; a request takes some 1.2 ms of CPU; 1 to 21 replicas; one fixed and
one changing rate. The learned ones learn in the simulator of that, and their models then decide without learning on; beside a network stands the agent's rule,
and how often it decided is told. Latency is the client's, from when a request was due; the late share is told from a histogram.

Intervals are Student's over seeds, each of which trains anew: over the two of --local they are wide. Better is who is late less often or cheaper beyond the 95 %
interval of the pairs, while that of the other lies within what does not matter: a thousandth of the requests, a hundredth of the cost. The number of comparisons is
not corrected for.

Exit status: 0 done, 1 an error, 130 stopped.")]
pub struct ReproduceArgs {
    /// Experiment: horizontal changes replicas of half a core, vertical the CPU and memory of one replica
    #[arg(value_name = "horizontal|vertical")]
    kind: ExperimentKind,
    /// StudyRun real functions on this machine, smaller and for a shorter time, instead of simulated ones
    #[arg(long)]
    local: bool,
    /// How long each run on this machine lasts, 10s to 10m; by default 60s, or 20s with --quick
    #[arg(long = "for", value_name = "TIME", requires = "local")]
    duration: Option<Span>,
    /// Trainings and runs of each entrant under each load; by default 5, or 2 with --local
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(2..=100))]
    seeds: Option<u64>,
    /// First seed; those that follow are the others
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    seed: u64,
    /// Two seeds, two loads and little training: shows what comes out, and proves nothing
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
        eprintln!("stopped before any run was finished; the same command goes on with what was learned, which {} keeps", out.display());
        return Ok(ExitCode::from(130));
    }
    if arguments.run.json {
        let StudyResults { experiment, settings, complete, table, findings, .. } = &results;
        show::json(&json!({
            "folder": out, "experiment": experiment, "settings": settings, "complete": complete, "table": table, "findings": findings,
            "sentences": findings::sentences(findings), "remarks": remarks(&results),
        }))?;
    } else {
        tell(out, &results)?;
    }
    if !results.complete {
        eprintln!("stopped; {} holds what was finished, and the same command goes on from there", out.display());
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
                eprintln!("{} %", part * 100 / LINES);
            }
        }
    }
}

fn tell(out: &Path, results: &StudyResults) -> anyhow::Result<()> {
    table(results).print()?;
    show::line("")?;
    for load in &results.loads {
        show::line(format!("{:6} {}", load.name, load.pattern))?;
    }
    let StudySettings { percentile, latency_ms, currency, seeds, .. } = &results.settings;
    show::line(format!(
        "late: above {} ms, of which p{percentile} is the objective, or failed; cost: {currency} an hour; ±: 95 % intervals over {} seeds",
        latency_ms,
        seeds.len()
    ))?;
    show::line("")?;
    for sentence in findings::sentences(&results.findings) {
        show::line(format!("{sentence}\n"))?;
    }
    let remarks = remarks(results);
    if !remarks.is_empty() {
        show::line("To know of single runs")?;
        remarks.iter().try_for_each(|remark| show::line(format!("  {remark}")))?;
        show::line("")?;
    }
    show::line(format!("{0}/results.json, {0}/results.csv, {0}/learning.svg and a figure for each load", out.display()))
}

fn table(results: &StudyResults) -> Table {
    let allocated = match results.experiment {
        ExperimentKind::Horizontal => ("REPLICAS", RunMetric::Replicas),
        ExperimentKind::Vertical => ("CORES", RunMetric::Cores),
    };
    let mut table = Table::new(&["LOAD", "CONTESTANT", "P95", "LATE %", "ANSWERED/S", allocated.0, "COST/H", "CHANGES/H"]);
    let mut last = "";
    for line in &results.table {
        let mean = |figure| line.figures[&figure];
        let load = if line.load == last { "" } else { line.load };
        last = line.load;
        table.row([
            Cell::new(load, Tone::Strong),
            line.entrant.into(),
            told(mean(RunMetric::P95Ms), show::latency).into(),
            told(mean(RunMetric::LateShare), |share| show::number(share * 100.0)).into(),
            told(mean(RunMetric::ThroughputRps), show::number).into(),
            told(mean(allocated.1), show::number).into(),
            told(mean(RunMetric::CostPerHour), |cost| format!("{cost:.4}")).into(),
            told(mean(RunMetric::ChangesPerHour), show::number).into(),
        ]);
    }
    table
}
