//! `qscale reproduce`: the two experiments that Qscale grew out of, simulated. Owns arguments, files and what is shown; simulator, rules, learners and charts are
//! those of everybody else.

mod experiment;
mod figures;
mod findings;
mod learn;
mod live;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use qscale_common::runtime::shutdown;
use qscale_common::units::Allocation;
use qscale_dqn::device::cpu;
use qscale_dqn::policy::{Dqn, DqnParams};
use qscale_dqn::pretrained::pretrained;
use qscale_policies::Policy;
use serde::Serialize;
use serde_json::{Value, json};

use self::experiment::{Judged, RUN, Which};
use self::findings::{Finding, Line, Mean};
use self::learn::Effort;
use self::live::{Course, Figure, Stopped, Watch};
use crate::show::{self, Cell, Table, Tone};
use crate::system::Locate;

/// Repeat the study that Qscale grew out of: a threshold rule, tabular Q-learning and Deep Q-learning on fibonacci, horizontally or vertically.
///
/// Needs no server. The folder of --out then holds everything (results.json), a row for each run (results.csv), the course under each load (low.svg, usual.svg,
/// high.svg, steps.svg, wave.svg) and what agents earned while they learned (learning.svg). The same seeds give the same bytes of results.json, on any number of
/// threads. Ctrl-C writes down what was finished.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale reproduce horizontal                    replicas change, each of half a core
  qscale reproduce vertical                      CPU and memory of one replica change
  qscale reproduce vertical --quick              a look within a minute
  qscale reproduce horizontal --seeds 10 --json | jq .findings

Contestants:
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

Intervals are Student's over seeds, each of which trains anew. Better is who is late less often or cheaper beyond the 95 % interval of the pairs, while that of the other
lies within what does not matter: a thousandth of the requests, a hundredth of the cost. The number of comparisons is not corrected for.

Exit status: 0 done, 1 an error, 130 stopped.")]
pub struct ReproduceArgs {
    /// Which of the two experiments
    #[arg(value_name = "EXPERIMENT", value_enum)]
    which: Which,
    /// Trainings and runs of each contestant under each load
    #[arg(long, value_name = "NUMBER", default_value_t = 5, value_parser = clap::value_parser!(u64).range(2..=100))]
    seeds: u64,
    /// First seed; those that follow are the others
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    seed: u64,
    /// Two seeds, two loads and little training: shows what comes out, and proves nothing
    #[arg(long, conflicts_with = "seeds")]
    quick: bool,
    /// Threads; by default one a core. They change nothing of the results
    #[arg(long, value_name = "NUMBER")]
    threads: Option<NonZeroUsize>,
    /// Folder for results; by default reproduce/<EXPERIMENT> in the state folder
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    out: Option<PathBuf>,
    /// Replace the results that the folder holds
    #[arg(long)]
    overwrite: bool,
    /// Print table and findings as one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs an experiment, and writes down what was found.
pub async fn run(locate: &Locate, arguments: ReproduceArgs) -> anyhow::Result<ExitCode> {
    let quick = if arguments.quick { "-quick" } else { "" };
    let name = format!("{}{quick}", arguments.which.name());
    let out = arguments.out.clone().unwrap_or_else(|| locate.state_dir.join("reproduce").join(name));
    ensure!(
        arguments.overwrite || !out.join("results.json").exists(),
        "{} holds results already; replace them with --overwrite, or choose another folder with --out DIR",
        out.display()
    );
    // What cannot be written should be known before the work.
    std::fs::create_dir_all(&out).with_context(|| format!("--out {}", out.display()))?;
    let plan = Plan::of(&arguments);
    let watch = Arc::new(progress(plan.ticks()));
    let (token, watched) = (shutdown::token(), Arc::clone(&watch));
    let threads = arguments.threads.unwrap_or_else(|| std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN));
    let work = tokio::task::spawn_blocking(move || plan.run(threads, &watched));
    tokio::pin!(work);
    let results = tokio::select! {
        ended = &mut work => ended,
        () = token.cancelled() => {
            watch.stop();
            work.await
        }
    };
    let results = results.context("the experiment broke off")??;
    if results.runs.is_empty() {
        eprintln!("stopped before anything was finished; nothing was written");
        return Ok(ExitCode::from(130));
    }
    write(&out, &results)?;
    if arguments.json {
        let Results { experiment, settings, complete, table, findings, .. } = &results;
        show::json(&json!({
            "folder": out, "experiment": experiment, "settings": settings, "complete": complete, "table": table, "findings": findings,
            "sentences": findings::sentences(findings),
        }))?;
    } else {
        tell(&out, &results)?;
    }
    if !results.complete {
        eprintln!("stopped; {} holds what was finished", out.display());
        return Ok(ExitCode::from(130));
    }
    Ok(ExitCode::SUCCESS)
}

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Contestant {
    /// The study's rule.
    Threshold,
    /// A table that moves by so much.
    Table { name: &'static str, step: u32 },
    /// A network that takes steps, trained here.
    Steps,
    /// The model that comes along.
    Pretrained,
}

impl Contestant {
    fn all(which: Which) -> Vec<Self> {
        let table = |name, step| Self::Table { name, step };
        match which {
            Which::Horizontal => {
                vec![Self::Threshold, table("tabular-q", 20), table("tabular-q-1", 1), Self::Steps, Self::Pretrained]
            }
            Which::Vertical => vec![Self::Threshold, table("tabular-q", 30), Self::Steps, Self::Pretrained],
        }
    }

    fn name(self, which: Which) -> &'static str {
        match self {
            Self::Threshold => rule(which),
            Self::Table { name, .. } => name,
            Self::Steps => "dqn-step",
            Self::Pretrained => "dqn",
        }
    }
}

/// What the rule is called, against which everybody is held.
fn rule(which: Which) -> &'static str {
    match which {
        Which::Horizontal => "threshold",
        Which::Vertical => "threshold-vertical",
    }
}

/// What is to be done.
#[derive(Debug, Clone)]
struct Plan {
    which: Which,
    quick: bool,
    seeds: Vec<u64>,
    effort: Effort,
    /// Which of the experiment's loads.
    loads: Vec<usize>,
}

impl Plan {
    fn of(arguments: &ReproduceArgs) -> Self {
        let &ReproduceArgs { which, quick, seed, seeds, .. } = arguments;
        let (seeds, effort, loads) = match quick {
            true => (2, Effort { episodes: 10, worlds: 32 }, vec![1, 3]),
            false => (seeds, Effort { episodes: 50, worlds: 64 }, (0..which.loads().len()).collect()),
        };
        Self { which, quick, seeds: (seed..seed + seeds).collect(), effort, loads }
    }

    /// Worlds in which those that do not learn here say what they earn.
    fn levels(&self) -> usize {
        self.effort.worlds / 4
    }

    /// Ticks of single functions that all of it takes.
    fn ticks(&self) -> u64 {
        let runs = self.loads.len() as u64 * u64::from(RUN);
        let level = self.levels() as u64 * u64::from(RUN);
        let of = |contestant: &Contestant| {
            runs + match contestant {
                Contestant::Table { .. } => self.effort.ticks(1),
                Contestant::Steps => self.effort.ticks(self.effort.worlds),
                Contestant::Threshold | Contestant::Pretrained => level,
            }
        };
        Contestant::all(self.which).iter().map(of).sum::<u64>() * self.seeds.len() as u64
    }

    /// Lets everybody learn and run, until it is done or stopped.
    fn run(&self, threads: NonZeroUsize, watch: &Watch) -> anyhow::Result<Results> {
        // Networks take longest, so they begin.
        let mut order = Contestant::all(self.which);
        order.sort_by_key(|contestant| *contestant != Contestant::Steps);
        let jobs: Vec<(u64, Contestant)> = self.seeds.iter().flat_map(|seed| order.iter().map(|contestant| (*seed, *contestant))).collect();
        let (next, done, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Mutex::new(None));
        std::thread::scope(|scope| {
            for _ in 0..threads.get().min(jobs.len()) {
                scope.spawn(|| {
                    while let Some((seed, contestant)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        match self.contest(*contestant, *seed, watch) {
                            Ok(finished) => done.lock().unwrap_or_else(PoisonError::into_inner).push(finished),
                            Err(error) if error.is::<Stopped>() => return,
                            Err(error) => {
                                watch.stop();
                                *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                            }
                        }
                    }
                });
            }
        });
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        Ok(self.results(done.into_inner().unwrap_or_else(PoisonError::into_inner), jobs.len()))
    }

    /// Lets one contestant of one seed learn, and run under each load.
    fn contest(&self, contestant: Contestant, seed: u64, watch: &Watch) -> anyhow::Result<(Learning, Vec<Run>)> {
        let which = self.which;
        let name = contestant.name(which);
        let (policy, reward): (Box<dyn Policy>, _) = match contestant {
            Contestant::Threshold => (qscale_policies::by_name(name, &Value::Null)?, None),
            Contestant::Table { step, .. } => {
                let (table, reward) = learn::table(which, step, self.effort, seed, watch)?;
                (Box::new(table), Some(reward))
            }
            Contestant::Steps => {
                let (model, reward) = learn::network(which, self.effort, seed, watch)?;
                (Box::new(Dqn::new(&model, DqnParams::default(), &cpu())?), Some(reward))
            }
            Contestant::Pretrained => {
                let params = DqnParams { scope: Some(which.scope()), ..DqnParams::default() };
                (Box::new(Dqn::new(pretrained(), params, &cpu())?), None)
            }
        };
        let reward = match reward {
            Some(reward) => reward,
            None => vec![learn::earned(which, &*policy, self.levels(), seed, watch)?],
        };
        let loads = which.loads();
        let mut runs = Vec::new();
        for load in &self.loads {
            let lived = live::run(which, *load, &*policy, seed, watch)?;
            runs.push(Run { contestant: name, load: loads[*load].name, seed, figures: lived.figures, course: lived.course });
        }
        let reward = reward.into_iter().map(qscale_evaluate::results::rounded).collect();
        Ok((Learning { contestant: name, seed, reward }, runs))
    }

    fn results(&self, done: Vec<(Learning, Vec<Run>)>, jobs: usize) -> Results {
        let which = self.which;
        let complete = done.len() == jobs;
        let contestants: Vec<&'static str> = Contestant::all(which).iter().map(|contestant| contestant.name(which)).collect();
        let loads: Vec<Judged> =
            which.loads().into_iter().enumerate().filter(|(load, _)| self.loads.contains(load)).map(|(_, load)| load).collect();
        let place = |name: &str| contestants.iter().position(|contestant| *contestant == name);
        let (mut learning, runs): (Vec<Learning>, Vec<Vec<Run>>) = done.into_iter().unzip();
        let mut runs: Vec<Run> = runs.into_iter().flatten().collect();
        // Whoever was done first says nothing.
        learning.sort_by_key(|learning| (place(learning.contestant), learning.seed));
        runs.sort_by_key(|run| (loads.iter().position(|load| load.name == run.load), place(run.contestant), run.seed));
        let policy = which.policy();
        let settings = Settings {
            command: self.command(),
            function: "fibonacci-python",
            seeds: self.seeds.clone(),
            effort: self.effort,
            tick_s: experiment::TICK.as_secs_f64(),
            run_ticks: RUN,
            percentile: policy.objective.percentile.get(),
            latency_ms: policy.objective.latency.get().as_secs_f64() * 1000.0,
            currency: policy.prices.currency.clone(),
            model: pretrained().fingerprint(),
            least: policy.bounds.clamp(Allocation::new(0, 0, 0)),
            begins: which.beginning(),
            most: policy.bounds.largest(),
        };
        let (table, findings) = (findings::table(&runs), findings::findings(&runs, rule(which)));
        Results { version: "1.0", experiment: which, settings, complete, contestants, loads, table, findings, learning, runs }
    }

    /// The command that gives the same results again.
    fn command(&self) -> String {
        let mut words = format!("qscale reproduce {}", self.which.name());
        if self.quick {
            words += " --quick";
        } else if self.seeds.len() != 5 {
            words += &format!(" --seeds {}", self.seeds.len());
        }
        match self.seeds.first() {
            Some(first) if *first != 1 => words + &format!(" --seed {first}"),
            _ => words,
        }
    }
}

/// All of `results.json`. A function of experiment, seeds and effort alone.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Results {
    version: &'static str,
    experiment: Which,
    settings: Settings,
    /// Whether everything was finished.
    complete: bool,
    contestants: Vec<&'static str>,
    loads: Vec<Judged>,
    table: Vec<Line>,
    findings: Vec<Finding>,
    learning: Vec<Learning>,
    runs: Vec<Run>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Settings {
    command: String,
    function: &'static str,
    seeds: Vec<u64>,
    effort: Effort,
    tick_s: f64,
    run_ticks: u32,
    percentile: f64,
    latency_ms: f64,
    currency: String,
    /// The model that comes along.
    model: String,
    least: Allocation,
    begins: Allocation,
    most: Allocation,
}

/// What a contestant earned a tick, episode by episode while it learned; one number where it does not learn here.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Learning {
    contestant: &'static str,
    seed: u64,
    reward: Vec<f64>,
}

/// One run of one contestant.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Run {
    contestant: &'static str,
    load: &'static str,
    seed: u64,
    #[serde(flatten)]
    figures: BTreeMap<Figure, f64>,
    course: Course,
}

/// Shows on standard error how much of so many ticks is done: a bar on a terminal, a line at each tenth elsewhere.
fn progress(all: u64) -> Watch {
    const LINES: u64 = 10;
    if std::io::stderr().is_terminal() {
        let bar = ProgressBar::new(all);
        if let Ok(style) = ProgressStyle::with_template("[{bar:40}] {percent} %, {elapsed}, {eta} to go") {
            bar.set_style(style.progress_chars("=> "));
        }
        return Watch::telling(move |ticks| if ticks < all { bar.set_position(ticks) } else { bar.finish_and_clear() });
    }
    let told = AtomicU64::new(0);
    Watch::telling(move |ticks| {
        let part = ticks * LINES / all.max(1);
        if part > told.fetch_max(part, Ordering::Relaxed) {
            eprintln!("{} %", part * 100 / LINES);
        }
    })
}

fn write(out: &Path, results: &Results) -> anyhow::Result<()> {
    let mut files = vec![
        ("results.json".to_owned(), serde_json::to_string(results)?),
        ("results.csv".to_owned(), csv(&results.runs)),
        ("learning.svg".to_owned(), figures::learning(results.experiment, &results.contestants, &results.learning)),
    ];
    for load in &results.loads {
        let drawn = figures::courses(results.experiment, load, &results.contestants, &results.runs);
        files.extend(drawn.map(|svg| (format!("{}.svg", load.name), svg)));
    }
    for (name, text) in files {
        // Renamed when whole, so that nobody reads half a file.
        let (path, part) = (out.join(&name), out.join(format!("{name}.part")));
        std::fs::write(&part, text)
            .and_then(|()| std::fs::rename(&part, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn csv(runs: &[Run]) -> String {
    let mut text = format!("contestant,load,seed,{}\n", Figure::ALL.map(Figure::name).join(","));
    for run in runs {
        let figures = Figure::ALL.map(|figure| run.figures[&figure].to_string()).join(",");
        text += &format!("{},{},{},{figures}\n", run.contestant, run.load, run.seed);
    }
    text
}

fn tell(out: &Path, results: &Results) -> anyhow::Result<()> {
    table(results).print()?;
    show::line("")?;
    for load in &results.loads {
        show::line(format!("{:6} {}", load.name, load.pattern))?;
    }
    let Settings { percentile, latency_ms, currency, seeds, .. } = &results.settings;
    show::line(format!(
        "late: above {} ms, of which p{percentile} is the objective, or failed; cost: {currency} an hour; ±: 95 % intervals over {} seeds",
        latency_ms,
        seeds.len()
    ))?;
    show::line("")?;
    for sentence in findings::sentences(&results.findings) {
        show::line(format!("{sentence}\n"))?;
    }
    show::line(format!("{0}/results.json, {0}/results.csv, {0}/learning.svg and a figure for each load", out.display()))
}

fn table(results: &Results) -> Table {
    let allocated = match results.experiment {
        Which::Horizontal => ("REPLICAS", Figure::Replicas),
        Which::Vertical => ("CORES", Figure::Cores),
    };
    let mut table = Table::new(&["LOAD", "CONTESTANT", "P95", "LATE %", "ANSWERED/S", allocated.0, "COST/H", "CHANGES/H"]);
    let mut last = "";
    for line in &results.table {
        let mean = |figure| line.figures[&figure];
        let load = if line.load == last { "" } else { line.load };
        last = line.load;
        table.row([
            Cell::new(load, Tone::Strong),
            line.contestant.into(),
            told(mean(Figure::P95Ms), show::latency).into(),
            told(mean(Figure::LateShare), |share| show::number(share * 100.0)).into(),
            told(mean(Figure::ThroughputRps), show::number).into(),
            told(mean(allocated.1), show::number).into(),
            told(mean(Figure::CostPerHour), |cost| format!("{cost:.4}")).into(),
            told(mean(Figure::ChangesPerHour), show::number).into(),
        ]);
    }
    table
}

/// A mean with half of its interval.
fn told(mean: Mean, shown: impl Fn(f64) -> String) -> String {
    match mean.half() {
        Some(half) => format!("{} ±{}", shown(mean.mean), shown(half)),
        None => shown(mean.mean),
    }
}

#[cfg(test)]
mod tests;
