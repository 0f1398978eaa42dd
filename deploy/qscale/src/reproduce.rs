//! `qscale reproduce`: the two experiments that Qscale grew out of, simulated, or short with real functions. Owns arguments, files and what is shown; simulator, rules,
//! learners and charts are those of everybody else, and so is the system that runs functions on this machine.

mod experiment;
mod figures;
mod findings;
mod learn;
mod live;
mod local;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use qscale_common::runtime::shutdown;
use qscale_common::time::Span;
use qscale_common::units::Allocation;
use qscale_dqn::device::cpu;
use qscale_dqn::policy::{Dqn, DqnParams};
use qscale_dqn::pretrained::pretrained;
use qscale_dqn::registry::DQN;
use qscale_dqn::tabular::TABULAR;
use qscale_dqn::{Checkpoint, Tabular};
use qscale_policies::Policy;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use self::experiment::{Experiment, Judged, Place, Which};
use self::findings::{Finding, Line, Mean};
use self::learn::Effort;
use self::live::{Course, Figure, Lived, Stopped, Watch};
use crate::blocking::until_stopped;
use crate::journal::Journal;
use crate::show::{self, Cell, Table, Tone};
use crate::system::Locate;
use crate::train::replace;

/// How long a run on this machine may last: a change of load should be seen, and what a view keeps is ten minutes.
const SHORTEST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(600);
/// How long it lasts where nobody says.
const LOCAL: Duration = Duration::from_secs(60);
const LOCAL_QUICK: Duration = Duration::from_secs(20);

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

On this machine (--local): all contestants decide at the same time, each as an agent of its own for its own copy of the native fibonacci, under the same requests; they
share the cores. CPU, its steps and thresholds, and rates are a tenth of the study's, ticks a fifth; a request takes some 1.2 ms of CPU; 1 to 21 replicas; one fixed and
one changing rate. The learned ones learn in the simulator of that, and their models then decide without learning on; beside a network stands the agent's rule,
and how often it decided is told. Latency is the client's, from when a request was due; the late share is told from a histogram.

Intervals are Student's over seeds, each of which trains anew: over the two of --local they are wide. Better is who is late less often or cheaper beyond the 95 %
interval of the pairs, while that of the other lies within what does not matter: a thousandth of the requests, a hundredth of the cost. The number of comparisons is
not corrected for.

Exit status: 0 done, 1 an error, 130 stopped.")]
pub struct ReproduceArgs {
    /// Which of the two experiments
    #[arg(value_name = "EXPERIMENT", value_enum)]
    which: Which,
    /// Run real functions on this machine, smaller and for a shorter time, instead of simulated ones
    #[arg(long)]
    local: bool,
    /// How long each run on this machine lasts, 10s to 10m; by default 60s, or 20s with --quick
    #[arg(long = "for", value_name = "TIME", requires = "local")]
    duration: Option<Span>,
    /// Trainings and runs of each contestant under each load; by default 5, or 2 with --local
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(2..=100))]
    seeds: Option<u64>,
    /// First seed; those that follow are the others
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    seed: u64,
    /// Two seeds, two loads and little training: shows what comes out, and proves nothing
    #[arg(long, conflicts_with = "seeds")]
    quick: bool,
    /// Threads that learn and simulate; by default one a core. They change nothing of the results
    #[arg(long, value_name = "NUMBER")]
    threads: Option<NonZeroUsize>,
    /// Folder for results; by default reproduce/<EXPERIMENT> in the state folder
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    out: Option<PathBuf>,
    /// Go on with what the folder holds, and do not begin where it holds nothing
    #[arg(long, conflicts_with = "overwrite")]
    resume: bool,
    /// Begin anew, whatever the folder holds
    #[arg(long)]
    overwrite: bool,
    /// Print table and findings as one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs an experiment, and writes down what was found.
pub async fn run(locate: &Locate, arguments: ReproduceArgs) -> anyhow::Result<ExitCode> {
    let token = shutdown::token();
    let plan = Plan::of(&arguments)?;
    let mut name = plan.experiment.which.name().to_owned();
    [("-local", arguments.local), ("-quick", arguments.quick)].iter().filter(|(_, given)| *given).for_each(|(part, _)| name += part);
    let out = arguments.out.clone().unwrap_or_else(|| locate.state_dir.join("reproduce").join(name));
    // An agent is told where its model is wherever it runs.
    let out = std::path::absolute(&out).with_context(|| format!("--out {}", out.display()))?;
    let journal = Journal::open(&out, "experiment", &plan.identity()?, arguments.resume, arguments.overwrite)?;
    let mut desk = Desk { out, journal };
    let (learning, threads) = (plan.clone(), arguments.threads.unwrap_or_else(cores));
    let work = until_stopped("experiment", move |stop| {
        let watch = progress(Watch::new(stop), learning.ticks());
        let done = learning.run(threads, &mut desk, &watch)?;
        Ok((desk, done))
    });
    let (mut desk, mut done) = work.await?;
    if arguments.local && done.len() == plan.jobs().len() {
        plan.run_local(&mut desk, &mut done, &token).await?;
    }
    let results = plan.results(done);
    let out = desk.out;
    if results.runs.is_empty() {
        eprintln!("stopped before any run was finished; the same command goes on with what was learned, which {} keeps", out.display());
        return Ok(ExitCode::from(130));
    }
    write(&out, &results)?;
    if arguments.json {
        let Results { experiment, settings, complete, table, findings, .. } = &results;
        show::json(&json!({
            "folder": out, "experiment": experiment, "settings": settings, "complete": complete, "table": table, "findings": findings,
            "sentences": findings::sentences(findings), "remarks": remarks(&results),
        }))?;
    } else {
        tell(&out, &results)?;
    }
    if !results.complete {
        eprintln!("stopped; {} holds what was finished, and the same command goes on from there", out.display());
        return Ok(ExitCode::from(130));
    }
    Ok(ExitCode::SUCCESS)
}

fn cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// Keeps what is finished.
struct Desk {
    out: PathBuf,
    journal: Journal<Part>,
}

/// What a job found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Part {
    /// What was earned in each episode; nothing where the job was a run.
    reward: Vec<f64>,
    /// Runs: of one contestant, a load each, or under one load, a contestant each.
    runs: Vec<Lived>,
}

/// What was learned, and what was run.
type Done = BTreeMap<Job, Part>;

/// Something that is done as a whole or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Job {
    /// A contestant learns with a seed and, in the simulator, runs under each load.
    Contest(u64, Contestant),
    /// All contestants of a seed run on this machine under this load.
    Local(u64, usize),
}

impl Job {
    /// As the journal calls it.
    fn key(self, experiment: Experiment) -> String {
        match self {
            Self::Contest(seed, contestant) => format!("{} {seed}", contestant.name(experiment.which)),
            Self::Local(seed, load) => format!("load {} {seed}", experiment.loads()[load].name),
        }
    }
}

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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

    /// Where what it learned with `seed` is kept in `out`, for an agent to decide by; `None` of one that learns nothing here.
    fn model(self, which: Which, seed: u64, out: &Path) -> Option<PathBuf> {
        let ending = match self {
            Self::Table { .. } => "json",
            Self::Steps => "dqn",
            Self::Threshold | Self::Pretrained => return None,
        };
        Some(out.join("models").join(format!("{}-{seed}.{ending}", self.name(which))))
    }

    /// What an agent is told that decides as it does.
    fn told(self, experiment: Experiment, seed: u64, out: &Path) -> Map<String, Value> {
        let which = experiment.which;
        let mut told = Map::new();
        let (policy, params) = match self {
            Self::Threshold => (rule(which), experiment.rule()),
            Self::Table { .. } => (TABULAR, Value::Null),
            Self::Steps => (DQN, Value::Null),
            Self::Pretrained => (DQN, json!({ "scope": which.scope() })),
        };
        told.insert("policy".into(), policy.into());
        if !params.is_null() {
            told.insert("params".into(), params);
        }
        if let Some(model) = self.model(which, seed, out) {
            told.insert("model".into(), json!(model));
        }
        told
    }
}

/// What a contestant decides by once it has learned.
enum Learned {
    Rule(Box<dyn Policy>),
    Table(Box<Tabular>),
    Network(Box<Checkpoint>),
}

impl Learned {
    fn policy(self) -> anyhow::Result<Box<dyn Policy>> {
        Ok(match self {
            Self::Rule(rule) => rule,
            Self::Table(table) => table,
            Self::Network(model) => Box::new(Dqn::new(&model, DqnParams::default(), &cpu())?),
        })
    }

    /// As its file holds it.
    fn bytes(&self) -> anyhow::Result<Vec<u8>> {
        Ok(match self {
            Self::Rule(_) => Vec::new(),
            Self::Table(table) => serde_json::to_vec(table)?,
            Self::Network(model) => model.to_bytes(),
        })
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
    experiment: Experiment,
    quick: bool,
    seeds: Vec<u64>,
    effort: Effort,
    /// Which of the experiment's loads.
    loads: Vec<usize>,
}

impl Plan {
    fn of(arguments: &ReproduceArgs) -> anyhow::Result<Self> {
        let &ReproduceArgs { which, local, quick, seed, .. } = arguments;
        let place = if local { Place::local(run_length(arguments)?) } else { Place::Simulator };
        let experiment = Experiment { which, place };
        let effort = if quick { Effort { episodes: 10, worlds: 32 } } else { Effort { episodes: 50, worlds: 64 } };
        let seeds = arguments.seeds.unwrap_or(if quick { 2 } else { Self::seeds_of(place) });
        // A usual rate, and one that changes in steps.
        let loads = if quick || local { vec![1, 3] } else { (0..experiment.loads().len()).collect() };
        Ok(Self { experiment, quick, seeds: (seed..seed + seeds).collect(), effort, loads })
    }

    /// How many seeds there are where nobody says.
    fn seeds_of(place: Place) -> u64 {
        if place == Place::Simulator { 5 } else { 2 }
    }

    /// Worlds in which those that do not learn here say what they earn.
    fn levels(&self) -> usize {
        self.effort.worlds / 4
    }

    /// Everybody's learning, and in the simulator everybody's runs.
    fn jobs(&self) -> Vec<Job> {
        // Networks take longest, so they begin.
        let mut order = Contestant::all(self.experiment.which);
        order.sort_by_key(|contestant| *contestant != Contestant::Steps);
        self.seeds.iter().flat_map(|seed| order.iter().map(|contestant| Job::Contest(*seed, *contestant))).collect()
    }

    /// Runs on this machine; none in the simulator.
    fn local_jobs(&self) -> Vec<Job> {
        if self.experiment.place == Place::Simulator {
            return Vec::new();
        }
        self.seeds.iter().flat_map(|seed| self.loads.iter().map(|load| Job::Local(*seed, *load))).collect()
    }

    /// Ticks of single functions that a contestant lives through with one seed in the simulator.
    fn ticks_of(&self, contestant: Contestant) -> u64 {
        let run = u64::from(self.experiment.ticks());
        let runs = if self.experiment.place == Place::Simulator { self.loads.len() as u64 * run } else { 0 };
        runs + match contestant {
            Contestant::Table { .. } => self.effort.ticks(1),
            Contestant::Steps => self.effort.ticks(self.effort.worlds),
            Contestant::Threshold | Contestant::Pretrained => self.levels() as u64 * run,
        }
    }

    /// Ticks of single functions that all of it takes in the simulator.
    fn ticks(&self) -> u64 {
        let all = Contestant::all(self.experiment.which).into_iter().map(|contestant| self.ticks_of(contestant));
        all.sum::<u64>() * self.seeds.len() as u64
    }

    /// What the results depend on: of another one, nothing that was finished can be taken.
    fn identity(&self) -> anyhow::Result<Value> {
        let loads: Vec<Judged> = self.loads();
        Ok(json!({ "version": VERSION, "experiment": self.experiment.which, "settings": self.settings(), "loads": loads }))
    }

    /// Lets everybody learn, and run in the simulator, until it is done or stopped. What was finished before is taken as it was.
    fn run(&self, threads: NonZeroUsize, desk: &mut Desk, watch: &Watch<'_>) -> anyhow::Result<Done> {
        let mut done = Done::new();
        let mut jobs = Vec::new();
        for job in self.jobs() {
            let Job::Contest(seed, contestant) = job else { continue };
            let kept = contestant.model(self.experiment.which, seed, &desk.out).filter(|_| self.experiment.place != Place::Simulator);
            let finished = desk.journal.recall(&job.key(self.experiment)).filter(|_| kept.is_none_or(|model| model.exists()));
            match finished {
                Some(part) => {
                    watch.pass(self.ticks_of(contestant));
                    done.insert(job, part);
                }
                None => jobs.push((job, seed, contestant)),
            }
        }
        let (next, shared, failed) = (AtomicUsize::new(0), Mutex::new((&mut *desk, &mut done)), Mutex::new(None));
        let one = |job: Job, seed, contestant| {
            let (part, learned) = self.contest(contestant, seed, watch)?;
            let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let (desk, done) = &mut *shared;
            if let Some(model) = contestant.model(self.experiment.which, seed, &desk.out).filter(|_| !learned.is_empty()) {
                write_file(&model, &learned)?;
            }
            desk.journal.record(&job.key(self.experiment), &part)?;
            done.insert(job, part);
            anyhow::Ok(())
        };
        std::thread::scope(|scope| {
            for _ in 0..threads.get().min(jobs.len()) {
                scope.spawn(|| {
                    while let Some((job, seed, contestant)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        match one(*job, *seed, *contestant) {
                            Ok(()) => {}
                            Err(error) if error.is::<Stopped>() => return,
                            Err(error) => {
                                watch.stop();
                                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                            }
                        }
                    }
                });
            }
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(done),
        }
    }

    /// Lets one contestant of one seed learn and, in the simulator, run under each load; gives what its model's file shall hold on this machine.
    fn contest(&self, contestant: Contestant, seed: u64, watch: &Watch<'_>) -> anyhow::Result<(Part, Vec<u8>)> {
        let experiment = self.experiment;
        let (learned, reward) = match contestant {
            Contestant::Threshold => (Learned::Rule(qscale_policies::by_name(rule(experiment.which), &experiment.rule())?), None),
            Contestant::Table { step, .. } => {
                let (table, reward) = learn::table(experiment, experiment.step(step), self.effort, seed, watch)?;
                (Learned::Table(Box::new(table)), Some(reward))
            }
            Contestant::Steps => {
                let (model, reward) = learn::network(experiment, self.effort, seed, watch)?;
                (Learned::Network(Box::new(model)), Some(reward))
            }
            Contestant::Pretrained => {
                let params = DqnParams { scope: Some(experiment.which.scope()), ..DqnParams::default() };
                (Learned::Rule(Box::new(Dqn::new(pretrained(), params, &cpu())?)), None)
            }
        };
        let kept = if experiment.place == Place::Simulator { Vec::new() } else { learned.bytes()? };
        let policy = learned.policy()?;
        let reward = match reward {
            Some(reward) => reward,
            None => vec![learn::earned(experiment, &*policy, self.levels(), seed, watch)?],
        };
        let mut runs = Vec::new();
        if experiment.place == Place::Simulator {
            for load in &self.loads {
                runs.push(live::run(experiment, *load, &*policy, seed, watch)?);
            }
        }
        let reward = reward.into_iter().map(qscale_evaluate::results::rounded).collect();
        Ok((Part { reward, runs }, kept))
    }

    /// Runs everybody on this machine, until it is done or stopped. What was finished before is taken as it was.
    async fn run_local(&self, desk: &mut Desk, done: &mut Done, token: &CancellationToken) -> anyhow::Result<()> {
        let experiment = self.experiment;
        let (jobs, loads) = (self.local_jobs(), experiment.loads());
        for (number, job) in jobs.iter().enumerate() {
            let Job::Local(seed, load) = *job else { continue };
            let key = job.key(experiment);
            let part = match desk.journal.recall(&key) {
                Some(part) => part,
                None if token.is_cancelled() => return Ok(()),
                None => {
                    let load = &loads[load];
                    eprintln!("run {} of {}: load {} for {}, seed {seed}", number + 1, jobs.len(), load.name, Span(experiment.length()));
                    let agent = |contestant: Contestant| local::Agent {
                        name: contestant.name(experiment.which),
                        told: contestant.told(experiment, seed, &desk.out),
                    };
                    let agents: Vec<local::Agent> = Contestant::all(experiment.which).into_iter().map(agent).collect();
                    let runs = match local::run(experiment, load, &agents, seed, &desk.out.join(local::SYSTEM), token).await {
                        Ok(runs) => runs,
                        Err(error) if error.is::<Stopped>() => return Ok(()),
                        Err(error) => return Err(error),
                    };
                    let part = Part { reward: Vec::new(), runs };
                    desk.journal.record(&key, &part)?;
                    part
                }
            };
            done.insert(*job, part);
        }
        Ok(())
    }

    /// The loads that are judged.
    fn loads(&self) -> Vec<Judged> {
        let all = self.experiment.loads();
        self.loads.iter().filter_map(|load| all.get(*load).cloned()).collect()
    }

    fn settings(&self) -> Settings {
        let experiment = self.experiment;
        let policy = experiment.policy();
        Settings {
            command: self.command(),
            place: experiment.place,
            function: experiment.function(),
            seeds: self.seeds.clone(),
            effort: self.effort,
            tick_s: experiment.tick().as_secs_f64(),
            run_ticks: experiment.ticks(),
            percentile: policy.objective.percentile.get(),
            latency_ms: policy.objective.latency.get().as_secs_f64() * 1000.0,
            currency: policy.prices.currency.clone(),
            model: pretrained().fingerprint(),
            least: policy.bounds.clamp(Allocation::new(0, 0, 0)),
            begins: experiment.beginning(),
            most: policy.bounds.largest(),
        }
    }

    fn results(&self, done: Done) -> Results {
        let which = self.experiment.which;
        let complete = done.len() == self.jobs().len() + self.local_jobs().len();
        let contestants: Vec<&'static str> = Contestant::all(which).iter().map(|contestant| contestant.name(which)).collect();
        let loads = self.loads();
        let (mut learning, mut runs) = (Vec::new(), Vec::new());
        for (job, part) in done {
            let run = |contestant, load, seed, lived: Lived| {
                let Lived { figures, course, remarks } = lived;
                Run { contestant, load, seed, figures, course, remarks }
            };
            match job {
                Job::Contest(seed, contestant) => {
                    let contestant = contestant.name(which);
                    learning.push(Learning { contestant, seed, reward: part.reward });
                    runs.extend(loads.iter().zip(part.runs).map(|(load, lived)| run(contestant, load.name, seed, lived)));
                }
                Job::Local(seed, load) => {
                    let load = self.experiment.loads()[load].name;
                    runs.extend(contestants.iter().zip(part.runs).map(|(contestant, lived)| run(contestant, load, seed, lived)));
                }
            }
        }
        // Whoever was done first says nothing.
        let place = |name: &str| contestants.iter().position(|contestant| *contestant == name);
        learning.sort_by_key(|learning| (place(learning.contestant), learning.seed));
        runs.sort_by_key(|run| (loads.iter().position(|load| load.name == run.load), place(run.contestant), run.seed));
        let (table, findings) = (findings::table(&runs), findings::findings(&runs, rule(which)));
        let settings = self.settings();
        Results { version: VERSION, experiment: which, settings, complete, contestants, loads, table, findings, learning, runs }
    }

    /// The command that gives the same results again, or on this machine does the same again.
    fn command(&self) -> String {
        let Experiment { which, place } = self.experiment;
        let mut words = format!("qscale reproduce {}", which.name());
        if place != Place::Simulator {
            words += " --local";
            if self.experiment.length() != by_default(self.quick) {
                words += &format!(" --for {}", Span(self.experiment.length()).to_string().replace(' ', ""));
            }
        }
        if self.quick {
            words += " --quick";
        } else if self.seeds.len() as u64 != Self::seeds_of(place) {
            words += &format!(" --seeds {}", self.seeds.len());
        }
        match self.seeds.first() {
            Some(first) if *first != 1 => words + &format!(" --seed {first}"),
            _ => words,
        }
    }
}

/// How long a run on this machine lasts where nobody says.
fn by_default(quick: bool) -> Duration {
    if quick { LOCAL_QUICK } else { LOCAL }
}

fn run_length(arguments: &ReproduceArgs) -> anyhow::Result<Duration> {
    let length = arguments.duration.map_or_else(|| by_default(arguments.quick), |Span(length)| length);
    anyhow::ensure!((SHORTEST..=LONGEST).contains(&length), "--for {}, must be from {} to {}", Span(length), Span(SHORTEST), Span(LONGEST));
    Ok(length)
}

/// Version of the form of `results.json`.
const VERSION: &str = "1.1";

/// All of `results.json`. In the simulator a function of experiment, seeds and effort alone.
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
    place: Place,
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
    /// What a reader of its figures should know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    remarks: Vec<String>,
}

/// Shows on standard error how much of so many ticks is done: a bar on a terminal, a line at each tenth elsewhere.
fn progress(watch: Watch<'_>, all: u64) -> Watch<'_> {
    const LINES: u64 = 10;
    if std::io::stderr().is_terminal() {
        let bar = ProgressBar::new(all);
        if let Ok(style) = ProgressStyle::with_template("[{bar:40}] {percent} %, {elapsed}, {eta} to go") {
            bar.set_style(style.progress_chars("=> "));
        }
        return watch.telling(move |ticks| if ticks < all { bar.set_position(ticks) } else { bar.finish_and_clear() });
    }
    let told = AtomicU64::new(0);
    watch.telling(move |ticks| {
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
    let experiment = Experiment { which: results.experiment, place: results.settings.place };
    for load in &results.loads {
        let drawn = figures::courses(experiment, load, &results.contestants, &results.runs);
        files.extend(drawn.map(|svg| (format!("{}.svg", load.name), svg)));
    }
    files.into_iter().try_for_each(|(name, text)| write_file(&out.join(name), text.as_bytes()))
}

/// Writes a file, and the folder that it lies in.
fn write_file(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    replace(path, bytes)
}

/// What a reader of the figures should know of single runs.
fn remarks(results: &Results) -> Vec<String> {
    let of = |run: &Run| {
        let about = format!("{} under load {}, seed {}", run.contestant, run.load, run.seed);
        run.remarks.iter().map(move |remark| format!("{about}: {remark}")).collect::<Vec<_>>()
    };
    results.runs.iter().flat_map(of).collect()
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
    let remarks = remarks(results);
    if !remarks.is_empty() {
        show::line("To know of single runs")?;
        remarks.iter().try_for_each(|remark| show::line(format!("  {remark}")))?;
        show::line("")?;
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
