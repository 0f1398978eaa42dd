//! `qscale finetune`: the model in use goes on learning from what was recorded, and what comes of it replaces it through gates alone. Owns the order in which things are
//! read, computed, stored and put in use; whether a candidate passes is decided by `qscale_promote`.

mod record;
mod served;
mod tell;
mod weigh;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use qscale_common::name::{FunctionId, Name};
use qscale_common::runtime::bus::Bus;
use qscale_common::runtime::models::ModelStore;
use qscale_common::runtime::{clock, shutdown};
use qscale_common::time::{Span, Timestamp};
use qscale_dqn::Checkpoint;
use qscale_dqn::checkpoint::MOST_BYTES;
use qscale_dqn::pretrained::pretrained;
use qscale_dqn::registry;
use qscale_policies::History;
use qscale_promote::experience::{Reader, Recording};
use qscale_promote::{Due, Experience, Gates, Look, MOST_RECORDED, Margins, Outcome, Rules, Ruling, Shadowed, Stage, Study, Trial};
use qscale_replay::{Period, RecordedScenario};
use qscale_rl::device::cpu;
use tokio_util::sync::CancellationToken;

use self::record::{Record, Taken};
use self::served::{Follower, Recorded, burn};
use self::tell::Teller;
use self::weigh::{Case, Effort, Pair};
use crate::blocking::until_cancelled;
use crate::show;
use crate::system::Locate;
use crate::train;

/// Fewer recorded steps than this are not learned from: at the default tick, ten minutes of one function.
const LEAST_STEPS: usize = 120;
/// How often a candidate in use is looked at, in the system's time.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// How often in a row the system may not answer while the only round is on its way.
const MOST_FAILURES: u32 = 5;
/// Pause after the system did not answer.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// How a round goes, and what it may do.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale finetune --once                        one round: learn, judge, shadow, and say what came of it; nothing is put in use
  qscale finetune --budget 10                   every six hours; candidates under watch may burn 10 SLO-minutes a day
  qscale finetune --budget 10 --every 1d --since 3d --watch-for 4h
  qscale finetune --once --candidate better.dqn --budget 5    a model from elsewhere through the same gates
  qscale finetune --status                      where it stands, and what was decided

A round learns a candidate from the recorded States and Rewards of the functions that obey the agent, and from simulated worlds beside them, so that nothing known is
forgotten. It replaces the model in use only through three gates:
  offline  no worse on validation worlds; simulated over the recorded arrivals, as `qscale compare` does it, it violates no more, costs no more, and one of both less,
           beyond chance and where the simulation comes near what was recorded
  shadow   stored, not in use; decides on the States of --shadow-for beside the model in use, is never astray, and is no worse by the arrivals of that time
  use      in use, and watched for --watch-for: where the objectives burn faster than in the same time before, or the day's budget is spent, the version before is
           put in use again, and nothing else is tried until the next day (UTC)

It is off by default: without --budget nothing is ever put in use, and what passes the shadow is recommended. All minutes in which an objective is violated while a
candidate is under watch count against the budget, those of all functions together.

Ctrl-C ends it and loses nothing: the same command goes on where it was. While it does not run, nobody watches a candidate that is in use. A version that somebody else
puts in use meanwhile is theirs, and is not watched.

Exit status: 0 whatever the gates said, 1 an error, 130 stopped.")]
pub struct FinetuneArgs {
    /// The model in the store; where no version of it is in use, the one that comes along decides and is learned from
    #[arg(value_name = "MODEL", default_value = "dqn")]
    model: Name,
    /// The agent that follows it
    #[arg(long, value_name = "NAME", default_value = "dqn")]
    agent: Name,
    /// Learn from what was recorded since so long ago
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    since: Span,
    /// Pause between two rounds
    #[arg(long, value_name = "DURATION", default_value = "6h")]
    every: Span,
    /// How long a candidate decides beside the model in use
    #[arg(long, value_name = "DURATION", default_value = "30m")]
    shadow_for: Span,
    /// How long a candidate in use is watched, beside the same time before
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    watch_for: Span,
    /// SLO-minutes that candidates under watch may burn in a day; 0 puts nothing in use
    #[arg(long, value_name = "MINUTES", default_value_t = 0.0, value_parser = not_below_zero)]
    budget: f64,
    /// How much faster than before objectives may burn: 0.25 is a quarter
    #[arg(long, value_name = "SHARE", default_value_t = Rules::default().margin, value_parser = not_below_zero)]
    margin: f64,
    /// Minutes in violation beyond those of the time before without which nothing is taken back: less may be chance
    #[arg(long, value_name = "MINUTES", default_value_t = Rules::default().least_minutes, value_parser = not_below_zero)]
    least_minutes: f64,
    /// Send this model through the gates instead of one that is learned
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath, requires = "once")]
    candidate: Option<PathBuf>,
    /// Updates of a round
    #[arg(long, value_name = "NUMBER", default_value_t = Study::default().updates)]
    updates: u32,
    /// Step size of an update
    #[arg(long, value_name = "NUMBER", default_value_t = Study::default().learning_rate)]
    learning_rate: f32,
    /// Least share of simulated worlds in what is learned from
    #[arg(long, value_name = "SHARE", default_value_t = Study::default().simulated)]
    simulated: f64,
    /// Seed of chance: the same experience and seed give the same candidate
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Worlds on which nothing may be forgotten
    #[arg(long, value_name = "NUMBER", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    validation_worlds: u64,
    /// Simulated runs of each model over the recorded arrivals
    #[arg(long, value_name = "NUMBER", default_value_t = 10, value_parser = clap::value_parser!(u64).range(2..=1000))]
    seeds: u64,
    /// Threads that live through validation worlds; by default one a core. They change nothing of the result
    #[arg(long, value_name = "NUMBER")]
    threads: Option<NonZeroUsize>,
    /// One round at once, through all its gates, and end
    #[arg(long)]
    once: bool,
    /// Say where it stands and what was decided, and end
    #[arg(long, conflicts_with = "once")]
    status: bool,
    /// One JSON object a decision; with --status one for all
    #[arg(long)]
    json: bool,
}

fn not_below_zero(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "must be a number".to_owned())?;
    if number.is_finite() && number >= 0.0 { Ok(number) } else { Err("must be at least 0".into()) }
}

impl FinetuneArgs {
    fn rules(&self) -> Rules {
        Rules {
            every: self.every.0,
            shadow_for: self.shadow_for.0,
            watch_for: self.watch_for.0,
            budget_minutes: Some(self.budget),
            margin: self.margin,
            least_minutes: self.least_minutes,
        }
    }

    fn effort(&self) -> anyhow::Result<Effort> {
        let (updates, learning_rate, simulated, seed) = (self.updates, self.learning_rate, self.simulated, self.seed);
        let study = Study { updates, learning_rate, simulated, seed, ..Study::default() };
        study.check()?;
        let threads = self.threads.unwrap_or_else(|| std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN));
        Ok(Effort { study, worlds: self.validation_worlds, seeds: self.seeds, threads, margins: Margins::default() })
    }

    /// The command that learns the same again from the same recording.
    fn command(&self) -> String {
        let mut command = format!("qscale finetune {} --since {} --seed {}", self.model, self.since, self.seed);
        let default = Study::default();
        if self.updates != default.updates {
            command += &format!(" --updates {}", self.updates);
        }
        if self.learning_rate != default.learning_rate {
            command += &format!(" --learning-rate {}", self.learning_rate);
        }
        if self.simulated != default.simulated {
            command += &format!(" --simulated {}", self.simulated);
        }
        command
    }
}

/// Goes through rounds until it is stopped, or through one.
pub async fn run(locate: &Locate, arguments: FinetuneArgs) -> anyhow::Result<ExitCode> {
    let effort = arguments.effort()?;
    let given = arguments.candidate.as_deref().map(train::load).transpose()?;
    if let Some(given) = &given {
        given.check().context("--candidate")?;
    }
    let bus = locate.bus().await?;
    let record = Record::read(&bus, &arguments.model).await?;
    let store = ModelStore::open(&bus).await?;
    if arguments.status {
        let in_use = store.in_use(&arguments.model).await?.map(|in_use| in_use.version);
        return tell::status(&arguments.model, &record.gates, in_use, clock::now(), arguments.json).map(|()| ExitCode::SUCCESS);
    }
    if let Some(trial) = record.gates.trial().filter(|_| given.is_some()) {
        let name = &arguments.model;
        bail!(
            "--candidate: {name}@{} is on its way through the gates; `qscale finetune {name} --once` brings it to its end first",
            trial.version
        );
    }
    let follower = Follower::of(locate, &arguments.agent, &arguments.model)?;
    let (rules, told) = (arguments.rules(), record.gates.decisions);
    let teller = Teller { model: arguments.model.clone(), json: arguments.json, told };
    let mut tuner = Tuner { locate, bus, store, follower, record, rules, effort, given, teller, arguments, token: shutdown::token() };
    tuner.begin()?;
    match tuner.run().await? {
        Flow::Ended => Ok(ExitCode::SUCCESS),
        Flow::Stopped => {
            tuner.stopped();
            Ok(ExitCode::from(130))
        }
    }
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Ended,
    Stopped,
}

/// All that a round needs.
struct Tuner<'a> {
    locate: &'a Locate,
    bus: Bus,
    store: ModelStore,
    follower: Follower,
    record: Record,
    rules: Rules,
    effort: Effort,
    given: Option<Checkpoint>,
    teller: Teller,
    arguments: FinetuneArgs,
    token: CancellationToken,
}

impl Tuner<'_> {
    fn begin(&mut self) -> anyhow::Result<()> {
        let name = &self.arguments.model;
        if self.arguments.budget == 0.0 {
            self.teller.remark(
                "nothing will be put in use: that needs --budget MINUTES, the SLO-minutes a day that candidates under watch may burn",
            )?;
        }
        match self.record.gates.stage {
            Stage::Rest { until } if !self.arguments.once && until > clock::now() => {
                self.teller.remark(&format!("the next candidate is learned after {until}"))
            }
            Stage::Rest { .. } => Ok(()),
            Stage::Shadow { trial, until, .. } => self.teller.remark(&format!("{name}@{} is in the shadow until {until}", trial.version)),
            Stage::Watch { trial, until, .. } => {
                self.teller.remark(&format!("{name}@{} is in use and watched until {until}", trial.version))
            }
        }
    }

    /// What to say to whoever stopped it.
    fn stopped(&self) {
        let name = &self.arguments.model;
        match self.record.gates.stage {
            Stage::Watch { trial, .. } => show::warn(format_args!(
                "{name}@{} is in use and nobody watches it any more; the same command goes on, `qscale model rollback {name}` takes it back",
                trial.version
            )),
            _ => eprintln!("stopped; the same command goes on from there"),
        }
    }

    async fn run(&mut self) -> anyhow::Result<Flow> {
        let once = self.arguments.once;
        if once {
            self.record.gates.hurry(clock::now());
        }
        let (mut last, mut failures) = (String::new(), 0);
        while !self.token.is_cancelled() {
            match self.go_on().await {
                Ok(Some(flow)) => return Ok(flow),
                Ok(None) => (last, failures) = (String::new(), 0),
                Err(error) if error.is::<Taken>() || show::pipe_closed(&error) => return Err(error),
                // Whoever waits for one round is told at once, unless a candidate is on its way.
                Err(error) if once && (self.record.gates.trial().is_none() || failures >= MOST_FAILURES) => return Err(error),
                Err(error) => {
                    failures += 1;
                    let error = format!("{error:#}");
                    if error != last {
                        show::warn(format_args!("{error}; trying again"));
                        last = error;
                    }
                    self.wait(clock::real(TRY_AGAIN).max(TRY_AGAIN / 10)).await;
                }
            }
        }
        Ok(Flow::Stopped)
    }

    /// Does what is due, or waits for it; how it ended, where it did.
    async fn go_on(&mut self) -> anyhow::Result<Option<Flow>> {
        let (now, once) = (clock::now(), self.arguments.once);
        let resting = |gates: &Gates| matches!(gates.stage, Stage::Rest { .. });
        match self.record.gates.due(now, &self.rules) {
            Due::Wait(until) if once && resting(&self.record.gates) => {
                self.teller.waits(until)?;
                return Ok(Some(Flow::Ended));
            }
            Due::Wait(until) => {
                if !self.is_ours(now).await? {
                    return Ok(once.then_some(Flow::Ended));
                }
                self.wait(clock::real(until.since(now).min(LOOK_EVERY))).await;
                return Ok(None);
            }
            Due::Round => {
                if !self.round(now).await? {
                    return Ok(Some(Flow::Stopped));
                }
            }
            Due::JudgeShadow(trial, since) => {
                if self.is_ours(now).await? && !self.judge_shadow(trial, since).await? {
                    return Ok(Some(Flow::Stopped));
                }
            }
            Due::Look(trial, since) => self.look(trial, since, now).await?,
        }
        let over = once && resting(&self.record.gates);
        if matches!(self.record.gates.stage, Stage::Watch { .. }) {
            self.wait(clock::real(LOOK_EVERY)).await;
        }
        Ok(over.then_some(Flow::Ended))
    }

    /// Waits for `real` time, or until it is stopped.
    async fn wait(&self, real: Duration) {
        tokio::select! {
            () = tokio::time::sleep(real) => {}
            () = self.token.cancelled() => {}
        }
    }

    /// Writes down what was decided, and tells it.
    async fn decided(&mut self) -> anyhow::Result<()> {
        self.record.write().await?;
        let not_before = self.record.gates.not_before(clock::now(), &self.rules);
        self.teller.tell(&self.record.gates, not_before)
    }

    async fn over(&mut self, outcome: Outcome, version: Option<u64>, why: &str) -> anyhow::Result<()> {
        self.record.gates.over(outcome, version, why, clock::now(), &self.rules);
        self.decided().await
    }

    async fn in_use(&self) -> anyhow::Result<Option<u64>> {
        Ok(self.store.in_use(&self.arguments.model).await?.map(|in_use| in_use.version))
    }

    /// Whether the version is still in use that the candidate was learned beside; where it is not, the candidate is dropped.
    async fn is_ours(&mut self, now: Timestamp) -> anyhow::Result<bool> {
        if self.record.gates.trial().is_none() {
            return Ok(true);
        }
        let in_use = self.in_use().await?;
        let Some(why) = self.record.gates.foreign(in_use) else { return Ok(true) };
        self.record.gates.lost(in_use, &why, now, &self.rules);
        self.decided().await?;
        Ok(false)
    }

    async fn model(&self, version: Option<u64>) -> anyhow::Result<(Checkpoint, String)> {
        let name = &self.arguments.model;
        let Some(version) = version else { return Ok((pretrained().clone(), "the model that comes along".to_owned())) };
        let called = format!("{name}@{version}");
        let bytes = self.store.read(name, version, MOST_BYTES).await.with_context(|| format!("model {called}"))?;
        Ok((Checkpoint::from_bytes(&bytes).with_context(|| format!("model {called}"))?, called))
    }

    async fn recorded(&self, functions: &[FunctionId], since: Timestamp, until: Timestamp) -> anyhow::Result<Vec<Recorded>> {
        let mut recorded = Vec::new();
        for function in functions {
            recorded.push(Recorded::read(&self.bus, function, since, until).await?);
        }
        Ok(recorded)
    }

    /// Each of `recorded` as it is simulated; those of which too little is known are told and left out.
    async fn scenes(&self, recorded: &[Recorded], until: Timestamp) -> anyhow::Result<Vec<RecordedScenario>> {
        let (mut scenes, platform) = (Vec::new(), self.locate.platform().ok());
        for Recorded { function, states, since } in recorded.iter().filter(|recorded| !recorded.looked_at().is_empty()) {
            match RecordedScenario::read(&self.bus, platform.as_ref(), states, History::REACH, Period { since: *since, until }, None).await
            {
                Ok(scene) => scenes.push(scene),
                Err(error) => self.teller.remark(&format!("{function} is not simulated: {error:#}"))?,
            }
        }
        Ok(scenes)
    }

    /// Learns a candidate and holds it against the model in use; false where it was stopped.
    async fn round(&mut self, now: Timestamp) -> anyhow::Result<bool> {
        let base_version = self.in_use().await?;
        let (base, called) = self.model(base_version).await?;
        let functions = self.follower.functions(&self.bus).await?;
        let mut recorded = self.recorded(&functions, now.minus(self.arguments.since.0), now).await?;
        let experiences = self.experiences(&base, &recorded).await?;
        let steps: usize = experiences.iter().map(Experience::steps).sum();
        self.tell_experience(&functions, &experiences)?;
        if self.given.is_none() && steps < LEAST_STEPS {
            let why = format!(
                "{steps} recorded ticks can be learned from, at least {LEAST_STEPS} are needed; reach further back with --since, or wait"
            );
            self.over(Outcome::TooLittle, None, &why).await?;
            return Ok(true);
        }
        // What another model did says nothing of how well the one in use is simulated.
        for recorded in &mut recorded {
            recorded.since = recorded.decided_by(&self.bus, &self.follower.agent, &base.fingerprint()).await?;
        }
        let scenes = self.scenes(&recorded, now).await?;
        let (effort, params, command) = (self.effort.clone(), self.follower.params.clone(), self.arguments.command());
        let case = Case { base, called, given: self.given.clone(), experiences, scenes, params, command };
        let offline = until_cancelled(&self.token, "round", move |stop| effort.offline(case, stop)).await?;
        let Some(offline) = offline else { return Ok(false) };
        if let Some(studied) = &offline.studied {
            self.teller.remark(&format!(
                "learned from {} recorded steps, each {} times, and {} simulated ones; mean error {:.3}",
                studied.recorded, studied.repeats, studied.simulated, studied.error
            ))?;
        }
        if !offline.ruling.passes() {
            self.over(Outcome::RejectedOffline, None, &offline.ruling.why()).await?;
            return Ok(true);
        }
        let candidate = &offline.candidate;
        let version = self.store.push(&self.arguments.model, &candidate.to_bytes(), &candidate.fingerprint()).await?;
        self.record.gates.shadow(Trial { version, base: base_version }, &offline.ruling.why(), clock::now(), &self.rules);
        self.decided().await?;
        Ok(true)
    }

    /// What each of `recorded` teaches whoever decides by `base`.
    async fn experiences(&self, base: &Checkpoint, recorded: &[Recorded]) -> anyhow::Result<Vec<Experience>> {
        let dqn = registry::learned(&self.follower.params, Some(base), &cpu())?;
        let worth = base.header.worth.unwrap_or_default();
        let caution = |state: &_| self.follower.caution(state);
        let mut experiences = Vec::new();
        for function in recorded {
            let rewards = function.rewards(&self.bus).await?;
            let reader = Reader { actions: dqn.actions(), worth, caution: &caution };
            let mut experience = reader.read(&Recording { states: &function.states, rewards: &rewards, since: function.since });
            // More is not learned from, and days of many functions would fill the memory.
            experience.keep_newest(MOST_RECORDED / recorded.len());
            experiences.push(experience);
        }
        Ok(experiences)
    }

    fn tell_experience(&self, functions: &[FunctionId], experiences: &[Experience]) -> anyhow::Result<()> {
        for (function, Experience { lived, skipped }) in functions.iter().zip(experiences) {
            self.teller.remark(&format!(
                "{function}: {} ticks recorded; {} teach nothing ({} missing, {} not measured, {} with an allocation that no choice names)",
                lived.len(),
                skipped.all(),
                skipped.missing,
                skipped.unmeasured,
                skipped.unmatched
            ))?;
        }
        Ok(())
    }

    /// Judges what the candidate made of the States since `since`; false where it was stopped.
    async fn judge_shadow(&mut self, trial: Trial, since: Timestamp) -> anyhow::Result<bool> {
        let now = clock::now();
        let functions = self.follower.functions(&self.bus).await?;
        let recorded = self.recorded(&functions, since, now).await?;
        let scenes = self.scenes(&recorded, now).await?;
        let ((base, _), (candidate, _)) = (self.model(trial.base).await?, self.model(Some(trial.version)).await?);
        let pair = Pair::new(&base, &candidate, &self.follower.params)?;
        let (margins, seeds) = (self.effort.margins, self.effort.seeds);
        let judged = until_cancelled(&self.token, "shadow", move |stop| {
            let seen: Shadowed = pair.shadow(&recorded)?;
            let estimates = pair.estimates(&scenes, seeds, stop)?;
            Ok(estimates.map(|estimates| margins.shadowed(&seen).and(margins.estimated(&estimates, false))))
        });
        let Some(ruling) = judged.await? else { return Ok(false) };
        if !ruling.passes() {
            self.over(Outcome::RejectedInShadow, Some(trial.version), &ruling.why()).await?;
            return Ok(true);
        }
        self.after_shadow(trial, &functions, &ruling).await?;
        Ok(true)
    }

    /// Puts the candidate in use that passed the shadow, where it may, and recommends it where it may not.
    async fn after_shadow(&mut self, trial: Trial, functions: &[FunctionId], ruling: &Ruling) -> anyhow::Result<()> {
        let (name, now) = (self.arguments.model.clone(), clock::now());
        if let Err(reason) = self.record.gates.may_use(now, &self.rules) {
            let why = format!("{}; {reason}: `qscale model use {name}@{}` does", ruling.why(), trial.version);
            return self.over(Outcome::Recommended, Some(trial.version), &why).await;
        }
        let before = burn(&self.bus, functions, now.minus(self.rules.watch_for), now).await?;
        if !self.is_ours(now).await? {
            return Ok(());
        }
        let base = match trial.base {
            Some(base) => base,
            // The model that comes along becomes a version, so that there is something to go back to.
            None => {
                let version = self.store.push(&name, &pretrained().to_bytes(), &pretrained().fingerprint()).await?;
                self.store.put_in_use(&name, version).await?;
                version
            }
        };
        let trial = Trial { base: Some(base), ..trial };
        self.record.gates.watch(trial, before, &ruling.why(), clock::now(), &self.rules);
        // Written down before it is done: whoever comes after this process watches it.
        self.record.write().await?;
        self.store.put_in_use(&name, trial.version).await?;
        self.teller.tell(&self.record.gates, now)
    }

    /// Looks at what objectives burn since the candidate is in use, and takes it back where that is too much.
    async fn look(&mut self, trial: Trial, since: Timestamp, now: Timestamp) -> anyhow::Result<()> {
        let functions = self.follower.functions(&self.bus).await?;
        let burned = burn(&self.bus, &functions, since, now).await?;
        let in_use = self.in_use().await?;
        match self.record.gates.look(in_use, burned, now, &self.rules) {
            Look::GoOn => self.record.write().await,
            Look::Keep(why) => self.over(Outcome::Kept, Some(trial.version), &why).await,
            Look::Foreign(why) => {
                self.record.gates.lost(in_use, &why, now, &self.rules);
                self.decided().await
            }
            Look::RollBack(why) => {
                let back = self.store.roll_back(&self.arguments.model).await?;
                let why = format!("{why}; {}@{} is in use again", self.arguments.model, back.version);
                self.over(Outcome::RolledBack, Some(trial.version), &why).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_below_zero_are_refused() {
        assert_eq!(not_below_zero("2.5"), Ok(2.5));
        for wrong in ["-1", "NaN", "inf", "ten"] {
            assert!(not_below_zero(wrong).is_err(), "{wrong}");
        }
    }
}
