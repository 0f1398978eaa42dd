//! Ablations: the effect of each part of the recipe. Owns the list of variants; training belongs to [`super`].

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use anyhow::ensure;
use qscale_dqn::actions::{ActionSet, BRANCHES};
use qscale_rl::device::cpu;
use qscale_rl::learner::{Hyperparameters, RolloutConfig};
use qscale_rl::loss::Munchausen;
use qscale_rl::replay::Sampling;
use qscale_train::config::TrainingConfig;
use qscale_train::evaluate::Score;
use serde_json::json;

use super::{TrainContext, TrainEvent, TrainedModel, train_network};

/// Options of an ablation.
#[derive(Debug, Clone)]
pub struct AblateOptions {
    /// Folder of the runs.
    pub out: PathBuf,
    /// Names of the variants; empty for all.
    pub only: Vec<String>,
    /// Ticks of simulated functions for each model.
    pub ticks: u64,
    /// Models of each variant.
    pub seeds: u32,
    /// Threads that simulate; they do not change the result.
    pub threads: NonZeroUsize,
    /// Whether the folder must exist already.
    pub resume: bool,
    /// Whether to discard what the folder holds.
    pub overwrite: bool,
}

/// Name of a variant, its description, and its change of the recipe.
pub type Variant = (&'static str, &'static str, fn(&mut TrainingConfig));

/// Variants that are compared with the unchanged recipe.
pub const VARIANTS: [Variant; 22] = [
    ("dueling", "without the dueling head", |recipe| recipe.hyperparameters.dueling = false),
    ("layer-norm", "without layer normalisation", |recipe| recipe.hyperparameters.layer_norm = false),
    ("normalise", "without normalisation of observations", |recipe| recipe.hyperparameters.normalise = false),
    ("settling", "constant step size", |recipe| recipe.hyperparameters.decay_over = u64::MAX),
    ("huber-delta", "Huber loss with delta 30", |recipe| recipe.hyperparameters.huber_delta = 30.0),
    ("horizon", "discount 0.97: a horizon of 33 ticks instead of 10", |recipe| recipe.hyperparameters.discount = 0.97),
    ("narrow", "two layers of 128", |recipe| recipe.hyperparameters.hidden = vec![128, 128]),
    ("wide", "two layers of 512", |recipe| recipe.hyperparameters.hidden = vec![512, 512]),
    ("quantiles", "32 quantiles instead of 8", |recipe| recipe.hyperparameters.quantiles = 32),
    ("step-set", "the action set `step`", |recipe| recipe.action_set = ActionSet::Step),
    ("grid-set", "the action set `grid`", |recipe| recipe.action_set = ActionSet::Grid),
    ("branches", "the action set `grid`, with one branch each for replicas, CPU and memory", |recipe| {
        recipe.action_set = ActionSet::Grid;
        recipe.hyperparameters.branches = BRANCHES.to_vec();
    }),
    ("rollouts", "rollouts and λ-returns instead of a replay (PQN)", |recipe| {
        recipe.hyperparameters.rollouts = Some(RolloutConfig::default())
    }),
    ("rollouts-means", "rollouts, means of returns", |recipe| {
        recipe.hyperparameters = Hyperparameters { rollouts: Some(RolloutConfig::default()), ..Hyperparameters::plain() };
    }),
    ("steps", "1-step returns", |recipe| recipe.hyperparameters.steps = 1),
    ("plain", "means of returns instead of quantiles (double DQN)", |recipe| recipe.hyperparameters = Hyperparameters::plain()),
    ("plain-single", "double DQN without the double estimator", |recipe| {
        recipe.hyperparameters = Hyperparameters { double: false, ..Hyperparameters::plain() };
    }),
    ("plain-steps", "double DQN with 1-step returns", |recipe| {
        recipe.hyperparameters = Hyperparameters { steps: 1, ..Hyperparameters::plain() };
    }),
    ("plain-priorities", "double DQN with prioritised replay", |recipe| {
        let sampling = Sampling::Prioritised { alpha: 0.6, beta: 0.4, beta_over: 10_000 };
        recipe.hyperparameters = Hyperparameters { sampling, ..Hyperparameters::plain() };
    }),
    ("plain-munchausen", "double DQN with Munchausen rewards", |recipe| {
        recipe.hyperparameters = Hyperparameters { munchausen: Some(Munchausen::default()), ..Hyperparameters::plain() };
    }),
    ("plain-small", "double DQN with a replay of 50,000 transitions", |recipe| {
        recipe.hyperparameters = Hyperparameters { capacity: 50_000, ..Hyperparameters::plain() };
    }),
    ("plain-huber-delta", "double DQN, Huber loss with delta 1", |recipe| {
        recipe.hyperparameters = Hyperparameters { huber_delta: 1.0, ..Hyperparameters::plain() };
    }),
];

/// The result of one variant.
#[derive(Debug, Clone)]
pub struct AblationResult {
    /// Its name.
    pub name: String,
    /// Difference from the default recipe.
    pub what: String,
    /// Mean reward of each model on the test worlds.
    pub rewards: Vec<f64>,
    /// Mean score on the test worlds.
    pub test: Score,
    /// Mean time of training, seconds.
    pub seconds: f64,
}

/// Trains every variant and writes `ablations.csv` and `ablations.json`; `None` if stopped.
///
/// # Errors
/// When the folder cannot be used, or holds another training.
pub fn ablate(
    options: &AblateOptions,
    progress: &dyn Fn(TrainEvent<'_>),
    stop: &AtomicBool,
) -> anyhow::Result<Option<Vec<AblationResult>>> {
    let whole = TrainingConfig { ticks: options.ticks, validations: 4, ..TrainingConfig::default() };
    whole.check().map_err(anyhow::Error::msg)?;
    ensure!(!options.resume || options.out.is_dir(), "nothing to resume in {}; leave out --resume to start", options.out.display());
    let (device, out) = (cpu(), &options.out);
    let context = TrainContext {
        progress,
        device: &device,
        threads: options.threads,
        resume: false,
        overwrite: options.overwrite,
        stop,
        rules: RefCell::default(),
    };
    let asked = |name: &str| options.only.is_empty() || options.only.iter().any(|only| only == name);
    let unchanged: Variant = ("as-it-is", "the default recipe", |_| {});
    let mut lines = Vec::new();
    for (name, what, change) in std::iter::once(unchanged).chain(VARIANTS.into_iter().filter(|(name, ..)| asked(name))) {
        let mut recipe = whole.clone();
        change(&mut recipe);
        let mut trained = Vec::new();
        for seed in 1..=u64::from(options.seeds) {
            let part = format!(", {name} ({what})");
            match train_network(&recipe, seed, "qscale ablate", &part, &out.join(name).join(format!("seed-{seed}")), &context)? {
                Some(model) => trained.push(model),
                None => return Ok(None),
            }
        }
        lines.push(line(name, what, &trained));
        write(options, &lines)?;
    }
    Ok(Some(lines))
}

fn line(name: &str, what: &str, trained: &[TrainedModel]) -> AblationResult {
    let scores: Vec<Score> = trained.iter().map(|trained| trained.test).collect();
    AblationResult {
        name: name.to_owned(),
        what: what.to_owned(),
        rewards: scores.iter().map(|score| score.mean.reward).collect(),
        test: Score::of(&scores),
        seconds: trained.iter().map(|trained| trained.seconds).sum::<f64>() / trained.len().max(1) as f64,
    }
}

/// The results as JSON.
pub fn to_json(options: &AblateOptions, lines: &[AblationResult]) -> serde_json::Value {
    let row = |line: &AblationResult| json!({ "variant": line.name, "what": line.what, "rewards": line.rewards, "test": line.test.mean, "seconds": line.seconds });
    json!({ "ticks": options.ticks, "seeds": options.seeds, "variants": lines.iter().map(row).collect::<Vec<_>>() })
}

fn write(options: &AblateOptions, lines: &[AblationResult]) -> anyhow::Result<()> {
    let mut csv = "variant,what,reward,worst_reward,violation,cost,seconds\n".to_owned();
    for AblationResult { name, what, rewards, test, seconds } in lines {
        let worst = rewards.iter().copied().fold(f64::INFINITY, f64::min);
        csv += &format!("{name},\"{what}\",{},{worst},{},{},{seconds:.1}\n", test.mean.reward, test.mean.violation, test.mean.cost);
    }
    crate::files::replace(&options.out.join("ablations.csv"), csv.as_bytes())?;
    crate::files::replace(&options.out.join("ablations.json"), &serde_json::to_vec_pretty(&to_json(options, lines))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_is_valid_and_differs_from_the_default() {
        for (name, _, change) in VARIANTS {
            let mut recipe = TrainingConfig::default();
            change(&mut recipe);
            assert_ne!(recipe, TrainingConfig::default(), "{name}");
            recipe.check().unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}
