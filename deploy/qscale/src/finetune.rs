//! `qscale finetune`: requests of operators to the promoter, and its decisions. Owns arguments and output; rounds, trials and rollbacks are carried out by the
//! promoter.

mod reporter;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use qscale_common::name::Name;
use qscale_common::runtime::author::Author;
use qscale_common::runtime::bus::Bus;
use qscale_common::runtime::models::ModelStore;
use qscale_common::runtime::{clock, shutdown};
use qscale_common::time::Span;
use qscale_promote::finetune::FinetuneConfig;
use qscale_promote::promotion::{RoundState, Stage};
use qscale_promote::record::{self, PromotionRecord};
use qscale_promote::{PromotionRules, PromotionSettings};
use qscale_replay::policy::STORE_PREFIX;
use serde_json::{Value, json};

use self::reporter::Reporter;
use crate::author::{AuthorArgs, SignerArgs};
use crate::output;
use crate::system::Locate;

/// Interval at which the record of the promoter is read; real time.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Time after which a request that no promoter accepted is reported; real time.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(10);

/// Settings of rounds, and what to do.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale finetune --once                        one round: train, evaluate, shadow; nothing is put in use
  qscale finetune --budget 10                   a round every six hours; candidates under watch may spend 10 violation minutes per day
  qscale finetune --budget 10 --every 1d --since 3d --watch-for 4h
  qscale finetune --once --candidate better.dqn --budget 5    pass another model through the same gates
  qscale finetune --status                      stage, budget and decisions
  qscale finetune --off                         no further rounds

The promoter, a service of `qscale up`, executes a round: it trains a candidate on the recorded States and Rewards of the functions that obey the agent, mixed with
simulated functions so that nothing is forgotten. The candidate replaces the model in use only if it passes three gates:
  offline  not worse on validation worlds; and over the simulated arrivals of the recording: for no function more violations or cost; for at least one,
           significantly fewer violations or lower cost, where the simulation matches the recording. A function that cannot be simulated fails the gate
  shadow   stored, not in use; it decides on the States of --shadow-for, always finite and in distribution, and is not worse over the arrivals of that time
  watch    in use, and watched for --watch-for: if violations are more frequent than in the same time before, or the daily budget is spent, the version before is put
           in use again, and no other candidate is tried until the next day (UTC)

Fine-tuning is off by default, and without --budget no candidate is put in use: one that passes the shadow gate is recommended. Every minute in which an objective is
violated while a candidate is under watch counts against the budget, for all functions together.

A candidate in use is watched by the promoter, whether or not this command runs. A version that an operator puts in use ends the trial.

Exit status: 0 after a decision of the gates, 1 after an error, 130 if interrupted (the promoter continues).")]
pub struct FinetuneArgs {
    /// Model in the store; if no version of it is in use, the bundled model decides and is fine-tuned
    #[arg(value_name = "MODEL", default_value = "dqn")]
    model: Name,
    /// Agent that uses the model
    #[arg(long, value_name = "NAME", default_value = "dqn")]
    agent: Name,
    /// Age of the oldest recording to train on
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    since: Span,
    /// Pause between two rounds
    #[arg(long, value_name = "DURATION", default_value_t = PromotionRules::default().every)]
    every: Span,
    /// Length of the shadow
    #[arg(long, value_name = "DURATION", default_value_t = PromotionRules::default().shadow_for)]
    shadow_for: Span,
    /// Length of the watch, and of the period before it that it is compared with
    #[arg(long, value_name = "DURATION", default_value_t = PromotionRules::default().watch_for)]
    watch_for: Span,
    /// Violation minutes per day that candidates under watch may spend; with 0 no candidate is put in use
    #[arg(long, value_name = "MINUTES", default_value_t = 0.0, value_parser = non_negative)]
    budget: f64,
    /// Accepted increase of the violation rate: 0.25 accepts a quarter more than before
    #[arg(long, value_name = "SHARE", default_value_t = PromotionRules::default().margin, value_parser = non_negative)]
    margin: f64,
    /// Roll back only if the candidate adds at least this many violation minutes over the period before
    #[arg(long, value_name = "MINUTES", default_value_t = PromotionRules::default().least_minutes, value_parser = non_negative)]
    least_minutes: f64,
    /// Try this model instead of a trained one
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath, requires = "once")]
    candidate: Option<PathBuf>,
    /// Updates per round
    #[arg(long, value_name = "NUMBER", default_value_t = FinetuneConfig::default().updates)]
    updates: u32,
    /// Learning rate
    #[arg(long, value_name = "NUMBER", default_value_t = FinetuneConfig::default().learning_rate)]
    learning_rate: f32,
    /// Minimum share of simulated transitions in training
    #[arg(long, value_name = "SHARE", default_value_t = FinetuneConfig::default().simulated)]
    simulated: f64,
    /// Random seed: the same recording and seed give the same candidate
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Validation worlds
    #[arg(long, value_name = "NUMBER", default_value_t = PromotionSettings::default().validation_worlds, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    validation_worlds: u64,
    /// Simulations of each model over the recorded arrivals of each function
    #[arg(long, value_name = "NUMBER", default_value_t = PromotionSettings::default().seeds, value_parser = clap::value_parser!(u64).range(2..=1000))]
    seeds: u64,
    /// Threads for validation worlds, by default one per core; the result does not depend on them
    #[arg(long, value_name = "NUMBER")]
    threads: Option<NonZeroUsize>,
    /// Start one round now and follow it to its end
    #[arg(long)]
    once: bool,
    /// Print stage, budget and decisions
    #[arg(long, conflicts_with_all = ["once", "off"])]
    status: bool,
    /// End periodic rounds; a candidate on trial is still watched
    #[arg(long, conflicts_with = "once")]
    off: bool,
    /// Print one JSON object per decision; with --status one object
    #[arg(long)]
    json: bool,
}

fn non_negative(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "must be a number".to_owned())?;
    if number.is_finite() && number >= 0.0 { Ok(number) } else { Err("must be at least 0".into()) }
}

impl FinetuneArgs {
    fn settings(&self, locate: &Locate) -> anyhow::Result<PromotionSettings> {
        let rules = PromotionRules {
            every: self.every,
            shadow_for: self.shadow_for,
            watch_for: self.watch_for,
            budget_minutes: Some(self.budget),
            margin: self.margin,
            least_minutes: self.least_minutes,
        };
        let (updates, learning_rate, simulated, seed) = (self.updates, self.learning_rate, self.simulated, self.seed);
        let settings = PromotionSettings {
            agent: self.agent.clone(),
            params: self.agent_params(locate)?,
            since: self.since,
            rules,
            finetune: FinetuneConfig { updates, learning_rate, simulated, seed, ..FinetuneConfig::default() },
            validation_worlds: self.validation_worlds,
            seeds: self.seeds,
            threads: self.threads,
        };
        settings.check()?;
        Ok(settings)
    }

    /// Parameters of the agent's policy, as its configuration in the state folder sets them.
    fn agent_params(&self, locate: &Locate) -> anyhow::Result<Value> {
        let (agent, model) = (&self.agent, &self.model);
        let Some(settings) = locate.agent_settings().read(agent)? else { return Ok(json!({})) };
        let used = settings.model.as_deref().unwrap_or("the bundled model");
        ensure!(
            used.strip_prefix(STORE_PREFIX) == Some(model.as_str()),
            "agent {agent} uses {used}, not {STORE_PREFIX}{model}: start it with `qscale up --model {STORE_PREFIX}{model}`, or name its model"
        );
        Ok(if settings.params.is_null() { json!({}) } else { settings.params })
    }
}

/// Requests what the arguments say.
pub async fn run(locate: &Locate, arguments: FinetuneArgs) -> anyhow::Result<ExitCode> {
    let settings = if arguments.status || arguments.off { None } else { Some(arguments.settings(locate)?) };
    let candidate = arguments.candidate.as_deref().map(qscale_replay::policy::load_model).transpose()?;
    if let Some(candidate) = &candidate {
        candidate.check().context("--candidate")?;
    }
    let (bus, model, json) = (locate.bus().await?, arguments.model, arguments.json);
    let author = AuthorArgs::default().author(&bus);
    match settings {
        None if arguments.status => status(&bus, &model, json).await.map(|()| ExitCode::SUCCESS),
        None => off(&author, &model).await.map(|()| ExitCode::SUCCESS),
        Some(settings) if arguments.once => {
            let record = PromotionRecord::read(&bus, &model).await?;
            let candidate = match candidate {
                None => None,
                Some(candidate) => {
                    if let Some(trial) = record.promotion.trial() {
                        bail!("--candidate: {model}@{} is on trial; `qscale finetune {model} --once` follows it to its end", trial.version);
                    }
                    let store = ModelStore::open(&bus).await?;
                    let author = SignerArgs::default().author(locate, &bus, &locate.trust()?.models)?;
                    Some(store.push(&author, &model, &candidate.to_bytes(), &candidate.fingerprint()).await?)
                }
            };
            once(&author, &model, record, settings, candidate, json).await
        }
        Some(settings) => periodic(&author, &model, settings).await.map(|()| ExitCode::SUCCESS),
    }
}

async fn status(bus: &Bus, model: &Name, json: bool) -> anyhow::Result<()> {
    let record = PromotionRecord::read(bus, model).await?;
    let request = record::read_request(bus, model).await?;
    let in_use = ModelStore::open(bus).await?.in_use(model).await?.map(|in_use| in_use.version);
    reporter::status(model, &record.promotion, &request, in_use, clock::now(), json)
}

async fn off(author: &Author, model: &Name) -> anyhow::Result<()> {
    record::edit_request(author, model, |request| request.periodic = None).await?;
    let note = match PromotionRecord::read(author.bus(), model).await?.promotion.trial() {
        Some(trial) => format!("; {model}@{} is on trial until its end", trial.version),
        None => String::new(),
    };
    output::line(format_args!("periodic fine-tuning of {model} is off{note}"))
}

async fn periodic(author: &Author, model: &Name, settings: PromotionSettings) -> anyhow::Result<()> {
    let rules = settings.rules;
    record::edit_request(author, model, |request| request.periodic = Some(settings.clone())).await?;
    output::line(format_args!(
        "fine-tuning of {model} is on: a round every {}; `qscale finetune {model} --status` shows the decisions",
        rules.every
    ))?;
    reporter::note_budget(rules.budget_minutes)
}

/// Requests a round and prints its decisions until it ends.
async fn once(
    author: &Author,
    model: &Name,
    record: PromotionRecord,
    settings: PromotionSettings,
    candidate: Option<u64>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let rules = settings.rules;
    let mut reporter = Reporter { model: model.clone(), json, seen: record.promotion.decisions };
    if !json {
        reporter::note_budget(rules.budget_minutes)?;
    }
    let id = record::request_round(author, model, &record.promotion, &settings, candidate).await?;
    let (token, started, mut warned) = (shutdown::token(), clock::instant(), false);
    loop {
        let promotion = PromotionRecord::read(author.bus(), model).await?.promotion;
        let status = promotion.round.as_ref().filter(|status| status.id >= id);
        ensure!(
            status.is_none_or(|status| status.id == id),
            "another command requested a round of {model}; `qscale finetune {model} --status` shows it"
        );
        reporter.report(&promotion, promotion.not_before(clock::now(), &rules))?;
        match status.map(|status| &status.state) {
            Some(RoundState::Done) => return Ok(ExitCode::SUCCESS),
            Some(RoundState::NotTried { until }) => return reporter.not_tried(*until).map(|()| ExitCode::FAILURE),
            Some(RoundState::Failed { error }) => bail!("the round failed: {error}"),
            Some(RoundState::Running) => {}
            None if !warned && clock::instant().duration_since(started) > ACCEPT_TIMEOUT => {
                warned = true;
                output::warn(format_args!("no promoter has accepted the request yet; is qscale-promoter running?"));
            }
            None => {}
        }
        tokio::select! {
            () = tokio::time::sleep(POLL_INTERVAL) => {}
            () = token.cancelled() => {
                let on_trial = !matches!(promotion.stage, Stage::Rest { .. });
                let what = if on_trial { "the trial" } else { "the round" };
                output::note(format_args!("interrupted; the promoter continues {what}, `qscale finetune {model} --status` shows it"));
                return Ok(ExitCode::from(130));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negative_numbers_are_refused() {
        assert_eq!(non_negative("2.5"), Ok(2.5));
        for wrong in ["-1", "NaN", "inf", "ten"] {
            assert!(non_negative(wrong).is_err(), "{wrong}");
        }
    }
}
