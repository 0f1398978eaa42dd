//! `qscale ablate`: what each part of the recipe is worth. Owns which parts are left out or changed; how a model is trained belongs to [`super`].

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use clap::Args;
use qscale_dqn::actions::{ActionSet, BRANCHES};
use qscale_rl::device::cpu;
use qscale_rl::learner::{Hyperparameters, RolloutConfig};
use qscale_rl::loss::Munchausen;
use qscale_rl::replay::Sampling;
use qscale_train::judge::Score;
use qscale_train::recipe::Recipe;
use serde_json::json;

use super::{How, Trained, cores, count, one};
use crate::blocking::until_stopped;
use crate::show::{self, Cell, Paint, Table, Tone};
use crate::system::Locate;

/// Say what each part of training is worth: the recipe as it is, and with one part left out or changed at a time.
///
/// Every variant is trained with the same seeds for as many ticks, and judged in the same worlds. The folder of --out holds a training for each variant and seed,
/// and the table as ablations.json and ablations.csv. Ctrl-C keeps what is done; the same command goes on.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale ablate                              every variant
  qscale ablate --only dueling --only rollouts --ticks 5M --seeds 5")]
pub struct AblateArgs {
    /// Folder of the runs; by default ablations in the state folder
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    out: Option<PathBuf>,
    /// Only this variant; may be repeated
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(VARIANTS.map(|(name, ..)| name)))]
    only: Vec<String>,
    /// Ticks of simulated functions that each model lives through
    #[arg(long, value_name = "NUMBER", value_parser = count, default_value = "2M")]
    ticks: u64,
    /// Models of each variant
    #[arg(long, value_name = "NUMBER", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    seeds: u32,
    /// Threads that live through worlds; by default one a core
    #[arg(long, value_name = "NUMBER")]
    threads: Option<NonZeroUsize>,
    /// Begin anew, whatever the folder holds
    #[arg(long)]
    overwrite: bool,
    /// Print the table as JSON
    #[arg(long)]
    json: bool,
}

/// A name, what is changed, and how.
type Variant = (&'static str, &'static str, fn(&mut Recipe));

/// What is tried beside the recipe as it is.
const VARIANTS: [Variant; 22] = [
    ("dueling", "a plain head", |recipe| recipe.hyperparameters.dueling = false),
    ("layer-norm", "hidden layers not normalised", |recipe| recipe.hyperparameters.layer_norm = false),
    ("normalise", "what is seen not normalised", |recipe| recipe.hyperparameters.normalise = false),
    ("settling", "a step size that stays", |recipe| recipe.hyperparameters.decay_over = u64::MAX),
    ("corner", "Huber's corner at 30", |recipe| recipe.hyperparameters.huber_delta = 30.0),
    ("horizon", "a horizon of 33 ticks, not 10", |recipe| recipe.hyperparameters.discount = 0.97),
    ("narrow", "two layers of 128", |recipe| recipe.hyperparameters.hidden = vec![128, 128]),
    ("wide", "two layers of 512", |recipe| recipe.hyperparameters.hidden = vec![512, 512]),
    ("quantiles", "32 quantiles, not 8", |recipe| recipe.hyperparameters.quantiles = 32),
    ("step-set", "the action set `step`", |recipe| recipe.action_set = ActionSet::Step),
    ("grid-set", "the action set `grid`", |recipe| recipe.action_set = ActionSet::Grid),
    ("branches", "the action set `grid`, a branch each for replicas, CPU and memory", |recipe| {
        recipe.action_set = ActionSet::Grid;
        recipe.hyperparameters.branches = BRANCHES.to_vec();
    }),
    ("rollouts", "rollouts and λ-returns, not a replay (PQN)", |recipe| recipe.hyperparameters.rollouts = Some(RolloutConfig::default())),
    ("rollouts-means", "the same, means of returns", |recipe| {
        recipe.hyperparameters = Hyperparameters { rollouts: Some(RolloutConfig::default()), ..Hyperparameters::plain() };
    }),
    ("steps", "returns of one step", |recipe| recipe.hyperparameters.steps = 1),
    ("plain", "means of returns, not quantiles (double DQN)", |recipe| recipe.hyperparameters = Hyperparameters::plain()),
    ("plain-single", "the same, targets by the target network alone", |recipe| {
        recipe.hyperparameters = Hyperparameters { double: false, ..Hyperparameters::plain() };
    }),
    ("plain-steps", "the same, returns of one step", |recipe| {
        recipe.hyperparameters = Hyperparameters { steps: 1, ..Hyperparameters::plain() };
    }),
    ("plain-priorities", "the same, by priority", |recipe| {
        let sampling = Sampling::Prioritised { alpha: 0.6, beta: 0.4, beta_over: 10_000 };
        recipe.hyperparameters = Hyperparameters { sampling, ..Hyperparameters::plain() };
    }),
    ("plain-munchausen", "the same, the policy's logarithm in rewards (Munchausen)", |recipe| {
        recipe.hyperparameters = Hyperparameters { munchausen: Some(Munchausen::default()), ..Hyperparameters::plain() };
    }),
    ("plain-small", "the same, 50,000 transitions", |recipe| {
        recipe.hyperparameters = Hyperparameters { capacity: 50_000, ..Hyperparameters::plain() };
    }),
    ("plain-corner", "the same, Huber's corner at 1", |recipe| {
        recipe.hyperparameters = Hyperparameters { huber_delta: 1.0, ..Hyperparameters::plain() };
    }),
];

/// Trains every variant, and says what came of it.
pub async fn run(locate: &Locate, arguments: AblateArgs) -> anyhow::Result<ExitCode> {
    let out = arguments.out.clone().unwrap_or_else(|| locate.state_dir.join("ablations"));
    until_stopped("ablation", move |stop| ablate(&arguments, &out, stop)).await
}

/// One line of the table.
struct Line {
    name: String,
    what: String,
    rewards: Vec<f64>,
    test: Score,
    seconds: f64,
}

fn ablate(arguments: &AblateArgs, out: &Path, stop: &AtomicBool) -> anyhow::Result<ExitCode> {
    let whole = Recipe { ticks: arguments.ticks, judgements: 4, ..Recipe::default() };
    whole.check().map_err(anyhow::Error::msg)?;
    let device = cpu();
    let threads = arguments.threads.unwrap_or_else(cores);
    let how = How { device: &device, threads, resume: false, overwrite: arguments.overwrite, stop, rules: RefCell::default() };
    let asked = |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|only| only == name);
    let as_it_is: Variant = ("as-it-is", "the recipe as it is", |_| {});
    let mut lines = Vec::new();
    for (name, what, change) in std::iter::once(as_it_is).chain(VARIANTS.into_iter().filter(|(name, ..)| asked(name))) {
        let mut recipe = whole.clone();
        change(&mut recipe);
        let mut trained = Vec::new();
        for seed in 1..=u64::from(arguments.seeds) {
            eprintln!("{name}: {what}, seed {seed}");
            match one(&recipe, seed, "qscale ablate", "", &out.join(name).join(format!("seed-{seed}")), &how)? {
                Some(model) => trained.push(model),
                None => {
                    eprintln!("stopped; {} keeps what was learned, and the same command goes on from there", out.display());
                    return Ok(ExitCode::from(130));
                }
            }
        }
        lines.push(line(name, what, &trained));
        write(arguments, out, &lines)?;
    }
    if arguments.json {
        return show::json(&told(arguments, &lines)).map(|()| ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["VARIANT", "", "REWARD", "WORST", "VIOLATED", "COST", "SECONDS"]);
    for line in &lines {
        let cell = |text: String| Cell::new(text, Tone::Plain);
        table.row([
            cell(line.name.clone()),
            cell(line.what.clone()),
            cell(format!("{:.4}", line.test.mean.reward)),
            cell(format!("{:.4}", line.rewards.iter().copied().fold(f64::INFINITY, f64::min))),
            cell(format!("{:.2} %", line.test.mean.violation * 100.0)),
            cell(format!("{:.3}", line.test.mean.cost)),
            cell(format!("{:.0}", line.seconds)),
        ]);
    }
    show::line(table.render(Paint::of_terminal()).trim_end())?;
    show::line(format!(
        "means over {} seeds in the same test worlds, {} ticks each; {}",
        arguments.seeds,
        arguments.ticks,
        out.join("ablations.csv").display()
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn line(name: &str, what: &str, trained: &[Trained]) -> Line {
    let scores: Vec<Score> = trained.iter().map(|trained| trained.test).collect();
    Line {
        name: name.to_owned(),
        what: what.to_owned(),
        rewards: scores.iter().map(|score| score.mean.reward).collect(),
        test: Score::of(&scores),
        seconds: trained.iter().map(|trained| trained.seconds).sum::<f64>() / trained.len().max(1) as f64,
    }
}

fn told(arguments: &AblateArgs, lines: &[Line]) -> serde_json::Value {
    let told = |line: &Line| json!({ "variant": line.name, "what": line.what, "rewards": line.rewards, "test": line.test.mean, "seconds": line.seconds });
    json!({ "ticks": arguments.ticks, "seeds": arguments.seeds, "variants": lines.iter().map(told).collect::<Vec<_>>() })
}

fn write(arguments: &AblateArgs, out: &Path, lines: &[Line]) -> anyhow::Result<()> {
    let mut csv = "variant,what,reward,worst_reward,violation,cost,seconds\n".to_owned();
    for Line { name, what, rewards, test, seconds } in lines {
        let worst = rewards.iter().copied().fold(f64::INFINITY, f64::min);
        csv += &format!("{name},\"{what}\",{},{worst},{},{},{seconds:.1}\n", test.mean.reward, test.mean.violation, test.mean.cost);
    }
    super::folder::replace(&out.join("ablations.csv"), csv.as_bytes())?;
    super::folder::replace(&out.join("ablations.json"), &serde_json::to_vec_pretty(&told(arguments, lines))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_differs_from_the_recipe_and_can_be_followed() {
        for (name, _, change) in VARIANTS {
            let mut recipe = Recipe::default();
            change(&mut recipe);
            assert_ne!(recipe, Recipe::default(), "{name}");
            recipe.check().unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}
