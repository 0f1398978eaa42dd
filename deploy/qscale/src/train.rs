//! `qscale train` and `qscale ablate`. Owns options and what is printed; training belongs to `qscale_experiments`.

pub mod ablate;
mod progress;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use qscale_common::document;
use qscale_common::runtime::cancellable::until_stopped;
use qscale_common::runtime::files::read_document;
use qscale_dqn::tasks::FunctionClass;
use qscale_dqn::{ActionSet, Scope};
use qscale_experiments::train::device::{self, DeviceChoice};
use qscale_experiments::train::{BaselineRule, LearningMethod, TrainOptions, TrainOutcome, TrainReport, TrainedModel};
use qscale_rl::learner::{Hyperparameters, RolloutConfig};
use qscale_train::config::TrainingConfig;
use qscale_train::evaluate::Score;
use serde_json::json;

use crate::output::{self, Table, TableCell, Tone};
use crate::run_options::RunOptions;
use crate::system::Locate;

/// Train a model in the simulator, and compare it with the best tuned rule.
///
/// The network learns in hundreds of parallel simulated functions, each with its own load, objective and perturbations.
/// It is evaluated regularly on other worlds, and the best network is kept. No server is needed. On two cores the
/// default takes a few minutes.
///
/// The folder of --out then contains the training configuration and the seed (recipe.json), the curves (curves.csv,
/// curves.svg), the checkpoint to resume from (last.dqn), the best network with its card (model.dqn) and its evaluation
/// (evaluation.json). After Ctrl-C, run the same command to resume; the replay then fills from empty.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale train                                     a model for all scopes, in minutes
  qscale train --seeds 5 --ticks 20M               five models, to see the spread over seeds
  qscale train --scope horizontal --out mine       a model that only changes replicas
  qscale train --specialist                        two networks, one for functions that always keep a replica
  qscale train --trainer means                     mean returns, as in double DQN
  qscale train --functions steady --out steady     only the specialist, for `qscale model join`
  qscale train --print-recipe > recipe.json        all settings
  qscale train --recipe recipe.json
  qscale evaluate --model .qscale/training/model.dqn --policy dqn --policy hpa --quick
  qscale model push mine .qscale/training/model.dqn")]
pub struct TrainArgs {
    /// Training configuration: settings that differ from the defaults (.toml, .yaml, .json)
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    recipe: Option<PathBuf>,
    /// Total ticks of simulated functions; k, M and G are accepted as units
    #[arg(long, value_name = "NUMBER", value_parser = count)]
    ticks: Option<u64>,
    /// Action set: headroom, step or grid
    #[arg(long, value_name = "NAME")]
    action_set: Option<ActionSet>,
    /// Scope of the actions: horizontal, vertical or joint
    #[arg(long, value_name = "NAME")]
    scope: Option<Scope>,
    /// Functions in the training worlds: all, steady (called all the time) or sparse (called rarely)
    #[arg(long, value_name = "all|steady|sparse", default_value_t)]
    functions: FunctionClass,
    /// Also train a specialist for functions that always keep a replica, for this number of ticks (default: --ticks),
    /// and join the two networks
    #[arg(long, value_name = "TICKS", value_parser = count, num_args = 0..=1, conflicts_with = "functions")]
    specialist: Option<Option<u64>>,
    /// Trainer: replay: QR-DQN; means: double DQN; rollouts: PQN, without replay buffer [default: that of --recipe, or replay]
    #[arg(long, value_name = "replay|means|rollouts")]
    trainer: Option<LearningMethod>,
    /// Random seed; the same seed gives the same network
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Number of models, with consecutive seeds
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    seeds: u32,
    /// Device that computes the network; auto measures and takes the fastest
    #[arg(long, value_name = "auto|cpu|gpu", default_value = "auto")]
    device: DeviceChoice,
    /// Print the training configuration as JSON without training
    #[arg(long)]
    print_recipe: bool,
    #[command(flatten)]
    run: RunOptions,
}

/// `12000`, `12k`, `1.5M`.
fn count(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 'k')) => (&text[..at], 1e3),
        Some((at, 'M')) => (&text[..at], 1e6),
        Some((at, 'G')) => (&text[..at], 1e9),
        _ => (text, 1.0),
    };
    let number: f64 = digits.parse().map_err(|_| "must be a number such as 500000, 500k or 20M".to_owned())?;
    if number.is_finite() && number >= 0.0 { Ok((number * unit).round() as u64) } else { Err("must not be negative".into()) }
}

/// Trains, and prints the result.
pub async fn run(locate: &Locate, arguments: TrainArgs) -> anyhow::Result<ExitCode> {
    let recipe = recipe(&arguments)?;
    let special = special(&arguments, &recipe)?;
    if arguments.print_recipe {
        return output::json(&recipe).map(|()| ExitCode::SUCCESS);
    }
    let options = TrainOptions {
        recipe,
        special,
        recipe_file: arguments.recipe,
        trainer: arguments.trainer,
        functions: arguments.functions,
        seed: arguments.seed,
        seeds: arguments.seeds,
        out: arguments.run.out(|| locate.state_dir.join("training")),
        threads: arguments.run.threads(),
        resume: arguments.run.resume,
        overwrite: arguments.run.overwrite,
    };
    let device = device::choose(arguments.device).await?;
    match until_stopped("training", move |stop| qscale_experiments::train::train(&options, &device, &progress::show(), stop)).await? {
        TrainOutcome::Done(report) => print(&report, arguments.run.json).map(|()| ExitCode::SUCCESS),
        TrainOutcome::Stopped(folder) => {
            output::note(format_args!("stopped; run the same command to resume from {}", folder.display()));
            Ok(ExitCode::from(130))
        }
    }
}

fn recipe(arguments: &TrainArgs) -> anyhow::Result<TrainingConfig> {
    let mut recipe = TrainingConfig::default();
    if let Some(path) = &arguments.recipe {
        let (text, format) = read_document(path).context("--recipe")?;
        recipe = document::parse(&text, format).with_context(|| format!("--recipe {}", path.display()))?;
    }
    recipe.ticks = arguments.ticks.unwrap_or(recipe.ticks);
    recipe.action_set = arguments.action_set.unwrap_or(recipe.action_set);
    recipe.scope = arguments.scope.unwrap_or(recipe.scope);
    recipe.tasks = recipe.tasks.of(arguments.functions);
    let Hyperparameters { rollouts, quantiles, huber_delta, .. } = match arguments.trainer {
        None => recipe.hyperparameters.clone(),
        Some(LearningMethod::Replay) => Hyperparameters::default(),
        Some(LearningMethod::Means) => Hyperparameters::plain(),
        Some(LearningMethod::Rollouts) => Hyperparameters { rollouts: Some(RolloutConfig::default()), ..Hyperparameters::default() },
    };
    recipe.hyperparameters = Hyperparameters { rollouts, quantiles, huber_delta, ..recipe.hyperparameters };
    recipe.check().map_err(anyhow::Error::msg)?;
    Ok(recipe)
}

/// The recipe of the specialist, if one is requested.
fn special(arguments: &TrainArgs, recipe: &TrainingConfig) -> anyhow::Result<Option<TrainingConfig>> {
    let Some(ticks) = arguments.specialist else { return Ok(None) };
    let special =
        TrainingConfig { ticks: ticks.unwrap_or(recipe.ticks), tasks: recipe.tasks.clone().of(FunctionClass::Steady), ..recipe.clone() };
    special.check().map_err(anyhow::Error::msg).context("--specialist")?;
    Ok(Some(special))
}

fn print(report: &TrainReport, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        let row = |trained: &TrainedModel| {
            json!({
                "seed": trained.seed, "seconds": trained.seconds, "model": trained.model.fingerprint(), "validation": trained.validation.mean,
                "test": trained.test.mean, "best_rule": { "policy": trained.rule.name(), "test": trained.rule.test.map(|score| score.mean) },
            })
        };
        return output::json(&json!({ "models": report.models.iter().map(row).collect::<Vec<_>>(), "best": report.path }));
    }
    table(&report.models)?;
    output::line(format!("best on the validation worlds: seed {}, {}", report.models[report.best].seed, report.path.display()))?;
    output::line(format!("next: qscale evaluate --model {0} --quick, or qscale model push NAME {0}", report.path.display()))
}

fn table(trained: &[TrainedModel]) -> anyhow::Result<()> {
    let mut table = Table::new(&["TEST WORLDS", "VIOLATED", "COST", "REWARD", "TRAINED IN"]);
    let mut row = |name: String, score: &Score, time: String| {
        let mean = &score.mean;
        table.row([
            TableCell::new(name, Tone::Plain),
            TableCell::new(format!("{:.2} %", mean.violation * 100.0), Tone::Plain),
            TableCell::new(format!("{:.3}", mean.cost), Tone::Plain),
            TableCell::new(format!("{:.3}", mean.reward), Tone::Plain),
            TableCell::new(time, Tone::Plain),
        ]);
    };
    for model in trained {
        row(format!("dqn, seed {}", model.seed), &model.test, format!("{:.0} s", model.seconds));
    }
    if let Some(TrainedModel { rule: rule @ BaselineRule { test: Some(test), .. }, .. }) = trained.first() {
        row(format!("{} (best tuned rule)", rule.name()), test, String::new());
    }
    output::line(table.render().trim_end())?;
    output::line("violated: share of ticks, partly counted near the bound; cost: relative to the usual load at full utilisation")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_units() {
        assert_eq!([count("12000"), count("12k"), count("1.5M"), count("2G")], [Ok(12_000), Ok(12_000), Ok(1_500_000), Ok(2_000_000_000)]);
        assert!(count("many").is_err() && count("-1k").is_err() && count("").is_err() && count("µ").is_err());
    }
}
