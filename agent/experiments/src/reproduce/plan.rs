//! The jobs of a study and their results. Owns the order of the jobs and the journal; must not print results.

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

use super::competitor::{StudyCompetitor, TrainedCompetitor, rule};
use super::experiment::{Experiment, Site, StudyLoad};
use super::files::write_file;
use super::learn::{self, LearningCurve, TrainingBudget};
use super::results::{StudyResults, StudySettings, VERSION};
use super::run::{self, RunRecord, Stopped, StudyRun, TickCounter};
use super::{LOCAL, LOCAL_QUICK, LONGEST, ReproduceOptions, SHORTEST, findings, local};
use crate::journal::Journal;

/// Stores the results of finished jobs.
pub(super) struct StudyStore {
    pub(super) out: PathBuf,
    pub(super) journal: Journal<JobResult>,
}

/// Result of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct JobResult {
    /// Mean reward a tick by episode; empty for a run on this machine.
    pub(super) reward: Vec<f64>,
    /// Runs: of one competitor, one a load; or under one load, one a competitor.
    pub(super) runs: Vec<RunRecord>,
}

/// Results of all finished jobs.
pub(super) type CompletedJobs = BTreeMap<StudyJob, JobResult>;

/// A unit of work that is stored as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum StudyJob {
    /// A competitor is trained with a seed and, in the simulator, runs under each load.
    Contest(u64, StudyCompetitor),
    /// All competitors of a seed run on this machine under this load.
    Local(u64, usize),
}

impl StudyJob {
    /// Key in the journal.
    pub(super) fn key(self, experiment: Experiment) -> String {
        match self {
            Self::Contest(seed, competitor) => format!("{} {seed}", competitor.name(experiment.kind)),
            Self::Local(seed, load) => format!("load {} {seed}", experiment.loads()[load].name),
        }
    }
}

/// The plan of a study.
#[derive(Debug, Clone)]
pub(super) struct StudyPlan {
    pub(super) experiment: Experiment,
    pub(super) quick: bool,
    pub(super) seeds: Vec<u64>,
    pub(super) budget: TrainingBudget,
    /// Indices of the experiment's loads.
    pub(super) loads: Vec<usize>,
}

impl StudyPlan {
    pub(super) fn of(options: &ReproduceOptions) -> anyhow::Result<Self> {
        let &ReproduceOptions { kind, local, quick, seed, .. } = options;
        let site = if local { Site::local(run_length(options)?) } else { Site::Simulator };
        let experiment = Experiment { kind, site };
        let budget = if quick { TrainingBudget { episodes: 10, worlds: 32 } } else { TrainingBudget { episodes: 50, worlds: 64 } };
        let seeds = options.seeds.unwrap_or(if quick { 2 } else { Self::seeds_of(site) });
        // The usual rate, and the one that changes in steps.
        let loads = if quick || local { vec![1, 3] } else { (0..experiment.loads().len()).collect() };
        Ok(Self { experiment, quick, seeds: (seed..seed + seeds).collect(), budget, loads })
    }

    /// Default number of seeds.
    pub(super) fn seeds_of(site: Site) -> u64 {
        if site == Site::Simulator { 5 } else { 2 }
    }

    /// Worlds for the level of competitors that do not learn here.
    pub(super) fn levels(&self) -> usize {
        self.budget.worlds / 4
    }

    /// Training of all competitors and, in the simulator, their runs.
    pub(super) fn jobs(&self) -> Vec<StudyJob> {
        // Networks take longest, so they start first.
        let mut order = StudyCompetitor::all(self.experiment.kind);
        order.sort_by_key(|competitor| *competitor != StudyCompetitor::Steps);
        self.seeds.iter().flat_map(|seed| order.iter().map(|competitor| StudyJob::Contest(*seed, *competitor))).collect()
    }

    /// Runs on this machine; none in the simulator.
    pub(super) fn local_jobs(&self) -> Vec<StudyJob> {
        if self.experiment.site == Site::Simulator {
            return Vec::new();
        }
        self.seeds.iter().flat_map(|seed| self.loads.iter().map(|load| StudyJob::Local(*seed, *load))).collect()
    }

    /// Simulated ticks of a competitor with one seed.
    pub(super) fn ticks_of(&self, competitor: StudyCompetitor) -> u64 {
        let run = u64::from(self.experiment.ticks());
        let runs = if self.experiment.site == Site::Simulator { self.loads.len() as u64 * run } else { 0 };
        runs + match competitor {
            StudyCompetitor::Table { .. } => self.budget.ticks(1),
            StudyCompetitor::Steps => self.budget.ticks(self.budget.worlds),
            StudyCompetitor::Threshold | StudyCompetitor::Pretrained => self.levels() as u64 * run,
        }
    }

    /// All simulated ticks.
    pub(super) fn ticks(&self) -> u64 {
        let all = StudyCompetitor::all(self.experiment.kind).into_iter().map(|competitor| self.ticks_of(competitor));
        all.sum::<u64>() * self.seeds.len() as u64
    }

    /// Identity of the results; results of another identity cannot be resumed.
    pub(super) fn identity(&self) -> anyhow::Result<Value> {
        let loads: Vec<StudyLoad> = self.loads();
        Ok(json!({ "version": VERSION, "experiment": self.experiment.kind, "settings": self.settings(), "loads": loads }))
    }

    /// Trains all competitors and runs them in the simulator, until done or stopped. Finished jobs are read from the journal.
    pub(super) fn run(&self, threads: NonZeroUsize, store: &mut StudyStore, counter: &TickCounter<'_>) -> anyhow::Result<CompletedJobs> {
        let mut done = CompletedJobs::new();
        let mut jobs = Vec::new();
        for job in self.jobs() {
            let StudyJob::Contest(seed, competitor) = job else { continue };
            let kept = competitor.model(self.experiment.kind, seed, &store.out).filter(|_| self.experiment.site != Site::Simulator);
            let finished = store.journal.stored(&job.key(self.experiment)).filter(|_| kept.is_none_or(|model| model.exists()));
            match finished {
                Some(part) => {
                    counter.add(self.ticks_of(competitor));
                    done.insert(job, part);
                }
                None => jobs.push((job, seed, competitor)),
            }
        }
        let (next, shared, failed) = (AtomicUsize::new(0), Mutex::new((&mut *store, &mut done)), Mutex::new(None));
        let one = |job: StudyJob, seed, competitor| {
            let (part, learned) = self.contest(competitor, seed, counter)?;
            let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let (store, done) = &mut *shared;
            if let Some(model) = competitor.model(self.experiment.kind, seed, &store.out).filter(|_| !learned.is_empty()) {
                write_file(&model, &learned)?;
            }
            store.journal.record(&job.key(self.experiment), &part)?;
            done.insert(job, part);
            anyhow::Ok(())
        };
        std::thread::scope(|scope| {
            for _ in 0..threads.get().min(jobs.len()) {
                scope.spawn(|| {
                    while let Some((job, seed, competitor)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        match one(*job, *seed, *competitor) {
                            Ok(()) => {}
                            Err(error) if error.is::<Stopped>() => return,
                            Err(error) => {
                                counter.stop();
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

    /// Trains one competitor with one seed and, in the simulator, runs it under each load; returns the content of its
    /// model file for this machine.
    pub(super) fn contest(
        &self,
        competitor: StudyCompetitor,
        seed: u64,
        counter: &TickCounter<'_>,
    ) -> anyhow::Result<(JobResult, Vec<u8>)> {
        let experiment = self.experiment;
        let (learned, reward) = match competitor {
            StudyCompetitor::Threshold => {
                (TrainedCompetitor::Rule(qscale_policies::by_name(rule(experiment.kind), &experiment.rule())?), None)
            }
            StudyCompetitor::Table { step, .. } => {
                let (table, reward) = learn::table(experiment, experiment.step(step), self.budget, seed, counter)?;
                (TrainedCompetitor::Table(Box::new(table)), Some(reward))
            }
            StudyCompetitor::Steps => {
                let (model, reward) = learn::network(experiment, self.budget, seed, counter)?;
                (TrainedCompetitor::Network(Box::new(model)), Some(reward))
            }
            StudyCompetitor::Pretrained => {
                let params = DqnParams { scope: Some(experiment.kind.scope()), ..DqnParams::default() };
                (TrainedCompetitor::Rule(Box::new(Dqn::new(pretrained(), params, &cpu())?)), None)
            }
        };
        let kept = if experiment.site == Site::Simulator { Vec::new() } else { learned.bytes()? };
        let policy = learned.policy()?;
        let reward = match reward {
            Some(reward) => reward,
            None => vec![learn::earned(experiment, &*policy, self.levels(), seed, counter)?],
        };
        let mut runs = Vec::new();
        if experiment.site == Site::Simulator {
            for load in &self.loads {
                runs.push(run::run(experiment, *load, &*policy, seed, counter)?);
            }
        }
        let reward = reward.into_iter().map(qscale_evaluate::results::rounded).collect();
        Ok((JobResult { reward, runs }, kept))
    }

    /// Runs all competitors on this machine, until done or stopped. Finished jobs are read from the journal.
    pub(super) async fn run_local(
        &self,
        store: &mut StudyStore,
        done: &mut CompletedJobs,
        token: &CancellationToken,
    ) -> anyhow::Result<()> {
        let experiment = self.experiment;
        let (jobs, loads) = (self.local_jobs(), experiment.loads());
        for (number, job) in jobs.iter().enumerate() {
            let StudyJob::Local(seed, load) = *job else { continue };
            let key = job.key(experiment);
            let part = match store.journal.stored(&key) {
                Some(part) => part,
                None if token.is_cancelled() => return Ok(()),
                None => {
                    let load = &loads[load];
                    eprintln!("run {} of {}: load {} for {}, seed {seed}", number + 1, jobs.len(), load.name, Span(experiment.length()));
                    let agent = |competitor: StudyCompetitor| local::StudyAgent {
                        name: competitor.name(experiment.kind),
                        configuration: competitor.agent_configuration(experiment, seed, &store.out),
                    };
                    let agents: Vec<local::StudyAgent> = StudyCompetitor::all(experiment.kind).into_iter().map(agent).collect();
                    let runs = match local::run(experiment, load, &agents, seed, &store.out.join(local::SYSTEM), token).await {
                        Ok(runs) => runs,
                        Err(error) if error.is::<Stopped>() => return Ok(()),
                        Err(error) => return Err(error),
                    };
                    let part = JobResult { reward: Vec::new(), runs };
                    store.journal.record(&key, &part)?;
                    part
                }
            };
            done.insert(*job, part);
        }
        Ok(())
    }

    /// The evaluation loads.
    pub(super) fn loads(&self) -> Vec<StudyLoad> {
        let all = self.experiment.loads();
        self.loads.iter().filter_map(|load| all.get(*load).cloned()).collect()
    }

    pub(super) fn settings(&self) -> StudySettings {
        let experiment = self.experiment;
        let policy = experiment.policy();
        StudySettings {
            command: self.command(),
            site: experiment.site,
            function: experiment.function(),
            seeds: self.seeds.clone(),
            budget: self.budget,
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

    pub(super) fn results(&self, done: CompletedJobs) -> StudyResults {
        let kind = self.experiment.kind;
        let complete = done.len() == self.jobs().len() + self.local_jobs().len();
        let competitors: Vec<&'static str> = StudyCompetitor::all(kind).iter().map(|competitor| competitor.name(kind)).collect();
        let loads = self.loads();
        let (mut learning, mut runs) = (Vec::new(), Vec::new());
        for (job, part) in done {
            let run = |competitor, load, seed, record: RunRecord| {
                let RunRecord { figures, series, remarks } = record;
                StudyRun { competitor, load, seed, figures, series, remarks }
            };
            match job {
                StudyJob::Contest(seed, competitor) => {
                    let competitor = competitor.name(kind);
                    learning.push(LearningCurve { competitor, seed, reward: part.reward });
                    runs.extend(loads.iter().zip(part.runs).map(|(load, record)| run(competitor, load.name, seed, record)));
                }
                StudyJob::Local(seed, load) => {
                    let load = self.experiment.loads()[load].name;
                    runs.extend(competitors.iter().zip(part.runs).map(|(competitor, record)| run(competitor, load, seed, record)));
                }
            }
        }
        // The order of completion does not matter.
        let place = |name: &str| competitors.iter().position(|competitor| *competitor == name);
        learning.sort_by_key(|learning| (place(learning.competitor), learning.seed));
        runs.sort_by_key(|run| (loads.iter().position(|load| load.name == run.load), place(run.competitor), run.seed));
        let (table, findings) = (findings::table(&runs), findings::findings(&runs, rule(kind)));
        let settings = self.settings();
        StudyResults { version: VERSION, experiment: kind, settings, complete, competitors, loads, table, findings, learning, runs }
    }

    /// The command that repeats the study.
    pub(super) fn command(&self) -> String {
        let Experiment { kind, site } = self.experiment;
        let mut words = format!("qscale reproduce {}", kind.name());
        if site != Site::Simulator {
            words += " --local";
            if self.experiment.length() != by_default(self.quick) {
                words += &format!(" --for {}", Span(self.experiment.length()).to_string().replace(' ', ""));
            }
        }
        if self.quick {
            words += " --quick";
        } else if self.seeds.len() as u64 != Self::seeds_of(site) {
            words += &format!(" --seeds {}", self.seeds.len());
        }
        match self.seeds.first() {
            Some(first) if *first != 1 => words + &format!(" --seed {first}"),
            _ => words,
        }
    }
}

/// Default length of a run on this machine.
pub(super) fn by_default(quick: bool) -> Duration {
    if quick { LOCAL_QUICK } else { LOCAL }
}

pub(super) fn run_length(options: &ReproduceOptions) -> anyhow::Result<Duration> {
    let length = options.duration.map_or_else(|| by_default(options.quick), |Span(length)| length);
    anyhow::ensure!((SHORTEST..=LONGEST).contains(&length), "--for {}, must be from {} to {}", Span(length), Span(SHORTEST), Span(LONGEST));
    Ok(length)
}
