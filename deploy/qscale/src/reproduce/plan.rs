//! What is to be done, job by job, and the results of it. Owns the order and what is kept; must not show anything.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use qscale_common::time::Span;
use qscale_common::units::Allocation;
use qscale_dqn::policy::{Dqn, DqnParams};
use qscale_dqn::pretrained::pretrained;
use qscale_rl::device::cpu;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::contestant::{Contestant, Learned, rule};
use super::experiment::{Experiment, Judged, Place};
use super::learn::{self, Effort};
use super::live::{self, Lived, Stopped, Watch};
use super::results::{Learning, Results, Run, Settings, VERSION, write_file};
use super::{LOCAL, LOCAL_QUICK, LONGEST, ReproduceArgs, SHORTEST, findings, local};
use crate::journal::Journal;

/// Keeps what is finished.
pub(super) struct Desk {
    pub(super) out: PathBuf,
    pub(super) journal: Journal<Part>,
}

/// What a job found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Part {
    /// What was earned in each episode; nothing where the job was a run.
    pub(super) reward: Vec<f64>,
    /// Runs: of one contestant, a load each, or under one load, a contestant each.
    pub(super) runs: Vec<Lived>,
}

/// What was learned, and what was run.
pub(super) type Done = BTreeMap<Job, Part>;

/// Something that is done as a whole or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Job {
    /// A contestant learns with a seed and, in the simulator, runs under each load.
    Contest(u64, Contestant),
    /// All contestants of a seed run on this machine under this load.
    Local(u64, usize),
}

impl Job {
    /// As the journal calls it.
    pub(super) fn key(self, experiment: Experiment) -> String {
        match self {
            Self::Contest(seed, contestant) => format!("{} {seed}", contestant.name(experiment.which)),
            Self::Local(seed, load) => format!("load {} {seed}", experiment.loads()[load].name),
        }
    }
}

/// What is to be done.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) experiment: Experiment,
    pub(super) quick: bool,
    pub(super) seeds: Vec<u64>,
    pub(super) effort: Effort,
    /// Which of the experiment's loads.
    pub(super) loads: Vec<usize>,
}

impl Plan {
    pub(super) fn of(arguments: &ReproduceArgs) -> anyhow::Result<Self> {
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
    pub(super) fn seeds_of(place: Place) -> u64 {
        if place == Place::Simulator { 5 } else { 2 }
    }

    /// Worlds in which those that do not learn here say what they earn.
    pub(super) fn levels(&self) -> usize {
        self.effort.worlds / 4
    }

    /// Everybody's learning, and in the simulator everybody's runs.
    pub(super) fn jobs(&self) -> Vec<Job> {
        // Networks take longest, so they begin.
        let mut order = Contestant::all(self.experiment.which);
        order.sort_by_key(|contestant| *contestant != Contestant::Steps);
        self.seeds.iter().flat_map(|seed| order.iter().map(|contestant| Job::Contest(*seed, *contestant))).collect()
    }

    /// Runs on this machine; none in the simulator.
    pub(super) fn local_jobs(&self) -> Vec<Job> {
        if self.experiment.place == Place::Simulator {
            return Vec::new();
        }
        self.seeds.iter().flat_map(|seed| self.loads.iter().map(|load| Job::Local(*seed, *load))).collect()
    }

    /// Ticks of single functions that a contestant lives through with one seed in the simulator.
    pub(super) fn ticks_of(&self, contestant: Contestant) -> u64 {
        let run = u64::from(self.experiment.ticks());
        let runs = if self.experiment.place == Place::Simulator { self.loads.len() as u64 * run } else { 0 };
        runs + match contestant {
            Contestant::Table { .. } => self.effort.ticks(1),
            Contestant::Steps => self.effort.ticks(self.effort.worlds),
            Contestant::Threshold | Contestant::Pretrained => self.levels() as u64 * run,
        }
    }

    /// Ticks of single functions that all of it takes in the simulator.
    pub(super) fn ticks(&self) -> u64 {
        let all = Contestant::all(self.experiment.which).into_iter().map(|contestant| self.ticks_of(contestant));
        all.sum::<u64>() * self.seeds.len() as u64
    }

    /// What the results depend on: of another one, nothing that was finished can be taken.
    pub(super) fn identity(&self) -> anyhow::Result<Value> {
        let loads: Vec<Judged> = self.loads();
        Ok(json!({ "version": VERSION, "experiment": self.experiment.which, "settings": self.settings(), "loads": loads }))
    }

    /// Lets everybody learn, and run in the simulator, until it is done or stopped. What was finished before is taken as it was.
    pub(super) fn run(&self, threads: NonZeroUsize, desk: &mut Desk, watch: &Watch<'_>) -> anyhow::Result<Done> {
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
    pub(super) fn contest(&self, contestant: Contestant, seed: u64, watch: &Watch<'_>) -> anyhow::Result<(Part, Vec<u8>)> {
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
    pub(super) async fn run_local(&self, desk: &mut Desk, done: &mut Done, token: &CancellationToken) -> anyhow::Result<()> {
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
    pub(super) fn loads(&self) -> Vec<Judged> {
        let all = self.experiment.loads();
        self.loads.iter().filter_map(|load| all.get(*load).cloned()).collect()
    }

    pub(super) fn settings(&self) -> Settings {
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

    pub(super) fn results(&self, done: Done) -> Results {
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
    pub(super) fn command(&self) -> String {
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
pub(super) fn by_default(quick: bool) -> Duration {
    if quick { LOCAL_QUICK } else { LOCAL }
}

pub(super) fn run_length(arguments: &ReproduceArgs) -> anyhow::Result<Duration> {
    let length = arguments.duration.map_or_else(|| by_default(arguments.quick), |Span(length)| length);
    anyhow::ensure!((SHORTEST..=LONGEST).contains(&length), "--for {}, must be from {} to {}", Span(length), Span(SHORTEST), Span(LONGEST));
    Ok(length)
}
