//! Training of a model from nothing, in the simulator. Owns the folder of a run, its resumption and the comparison with
//! tuned rules; how a network learns belongs to `qscale-dqn`.

pub mod ablate;
pub mod device;
mod folder;
mod rules;

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use qscale_common::runtime::clock;
use qscale_dqn::checkpoint::{Checkpoint, Evaluation};
use qscale_dqn::tasks::{FunctionClass, Split};
use qscale_rl::device::Device;
use qscale_train::config::TrainingConfig;
use qscale_train::evaluate::{Evaluator, Score};
use qscale_train::run::{Best, TrainingProgress, TrainingRun};

use self::folder::TrainingFolder;
pub use self::rules::BaselineRule;

/// Learning method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LearningMethod {
    /// Quantiles from a replay.
    Replay,
    /// Means from a replay.
    Means,
    /// Quantiles from rollouts.
    Rollouts,
}

impl LearningMethod {
    /// All of them, with their names.
    pub const ALL: [(Self, &'static str); 3] = [(Self::Replay, "replay"), (Self::Means, "means"), (Self::Rollouts, "rollouts")];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Means => "means",
            Self::Rollouts => "rollouts",
        }
    }
}

impl FromStr for LearningMethod {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(_, name)| *name == text);
        found.map(|(learning, _)| *learning).ok_or_else(|| "must be one of replay, means, rollouts".to_owned())
    }
}

/// A step of a training, for a caller that shows progress.
#[derive(Debug)]
pub enum TrainEvent<'a> {
    /// The training of one network begins.
    Started {
        /// Name of the network among those that are trained.
        name: &'a str,
        /// Ticks that it was trained for before, and will have been at the end.
        ticks: (u64, u64),
    },
    /// A setting of the rules is tried on the validation worlds.
    Tuning {
        /// Its index.
        setting: usize,
        /// Number of settings.
        settings: usize,
    },
    /// The best rule is known, and the network begins to learn.
    Baseline(&'a BaselineRule),
    /// The network was trained for this many ticks.
    Ticks(u64),
    /// The network was evaluated on the validation worlds.
    Validated(&'a TrainingProgress),
    /// The best network is evaluated on the test worlds.
    Testing,
    /// The training of the network is over or was stopped.
    Ended,
}

/// Options of a training.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// Configuration of the network, or of the general one of two.
    pub recipe: TrainingConfig,
    /// Configuration of the specialist for functions that always keep a replica; `None` to train no specialist.
    pub special: Option<TrainingConfig>,
    /// File of the recipe, for the command on the model's card.
    pub recipe_file: Option<PathBuf>,
    /// Trainer if it was named explicitly, for the command on the model's card.
    pub trainer: Option<LearningMethod>,
    /// Class of functions in the training worlds.
    pub functions: FunctionClass,
    /// First seed.
    pub seed: u64,
    /// Number of models, with consecutive seeds.
    pub seeds: u32,
    /// Folder of the run.
    pub out: PathBuf,
    /// Threads that simulate; they do not change the result.
    pub threads: NonZeroUsize,
    /// Whether the folder must hold a training to resume.
    pub resume: bool,
    /// Whether to discard what the folder holds.
    pub overwrite: bool,
}

/// The result of [`train`].
#[derive(Debug)]
pub enum TrainOutcome {
    /// All models are trained.
    Done(TrainReport),
    /// Stopped; this folder holds the state to resume from.
    Stopped(PathBuf),
}

/// All models of a training.
#[derive(Debug)]
pub struct TrainReport {
    /// One model a seed.
    pub models: Vec<TrainedModel>,
    /// Index of the best on validation worlds.
    pub best: usize,
    /// File that the best one was written to.
    pub path: PathBuf,
}

/// Command that trains the same network again.
fn command(
    options: &TrainOptions,
    recipe: &TrainingConfig,
    functions: FunctionClass,
    special: Option<&TrainingConfig>,
    seed: u64,
) -> String {
    let default = TrainingConfig::default();
    let mut words = vec!["qscale train".to_owned()];
    if let Some(path) = &options.recipe_file {
        words.push(format!("--recipe {}", path.display()));
    }
    if recipe.ticks != default.ticks {
        words.push(format!("--ticks {}", recipe.ticks));
    }
    if recipe.action_set != default.action_set {
        words.push(format!("--action-set {}", recipe.action_set));
    }
    if recipe.scope != default.scope {
        words.push(format!("--scope {}", recipe.scope));
    }
    if let Some(trainer) = options.trainer {
        words.push(format!("--trainer {}", trainer.as_str()));
    }
    if functions != FunctionClass::All {
        words.push(format!("--functions {functions}"));
    }
    if let Some(special) = special {
        words.push(format!("--specialist {}", special.ticks));
    }
    words.push(format!("--seed {seed}"));
    words.join(" ")
}

/// A trained model with its scores.
#[derive(Debug)]
pub struct TrainedModel {
    /// Its seed.
    pub seed: u64,
    /// The best network with its card.
    pub model: Checkpoint,
    /// Score on the validation worlds.
    pub validation: Score,
    /// Score on the test worlds.
    pub test: Score,
    /// The best tuned rule on the same worlds.
    pub rule: BaselineRule,
    /// Time of training, seconds.
    pub seconds: f64,
}

/// Settings and shared results of all trainings of a run.
struct TrainContext<'a> {
    progress: &'a dyn Fn(TrainEvent<'_>),
    device: &'a Device,
    threads: NonZeroUsize,
    resume: bool,
    overwrite: bool,
    stop: &'a AtomicBool,
    /// Best tuned rules by validation worlds.
    rules: RefCell<Vec<(Evaluator, BaselineRule)>>,
}

impl TrainContext<'_> {
    /// The best tuned rule on the worlds of `evaluator`, if it is known.
    fn known(&self, evaluator: &Evaluator) -> Option<BaselineRule> {
        self.rules.borrow().iter().find(|(known, _)| known == evaluator).map(|(_, rule)| rule.clone())
    }

    /// Stores `rule` as the best on the worlds of `evaluator`.
    fn found(&self, evaluator: Evaluator, rule: &BaselineRule) {
        let mut rules = self.rules.borrow_mut();
        rules.retain(|(known, _)| *known != evaluator);
        rules.push((evaluator, rule.clone()));
    }
}

/// Trains a model for each seed, and writes the best one to `model.dqn` in the folder.
///
/// # Errors
/// When the folder cannot be used, or holds another training.
pub fn train(
    options: &TrainOptions,
    device: &Device,
    progress: &dyn Fn(TrainEvent<'_>),
    stop: &AtomicBool,
) -> anyhow::Result<TrainOutcome> {
    let TrainOptions { recipe, special, out, threads, resume, overwrite, .. } = options;
    let context =
        TrainContext { progress, device, threads: *threads, resume: *resume, overwrite: *overwrite, stop, rules: RefCell::default() };
    let mut models = Vec::new();
    for seed in (0..u64::from(options.seeds)).map(|further| options.seed.wrapping_add(further)) {
        let folder = if options.seeds == 1 { out.to_owned() } else { out.join(format!("seed-{seed}")) };
        let command = command(options, recipe, options.functions, special.as_ref(), seed);
        let model = match special {
            None => train_network(recipe, seed, &command, "", &folder, &context)?,
            Some(special) => train_pair(recipe, special, options, seed, &folder, &context)?,
        };
        match model {
            Some(model) => models.push(model),
            None => return Ok(TrainOutcome::Stopped(folder)),
        }
    }
    let reward = |trained: &TrainedModel| trained.validation.mean.reward;
    let best =
        (0..models.len()).max_by(|one, other| reward(&models[*one]).total_cmp(&reward(&models[*other]))).context("no seed was trained")?;
    let path = out.join("model.dqn");
    crate::files::replace(&path, &models[best].model.to_bytes())?;
    Ok(TrainOutcome::Done(TrainReport { models, best, path }))
}

/// Trains a general network and a specialist for functions that always keep a replica, and joins them; `None` if stopped.
fn train_pair(
    recipe: &TrainingConfig,
    special: &TrainingConfig,
    options: &TrainOptions,
    seed: u64,
    folder: &Path,
    context: &TrainContext<'_>,
) -> anyhow::Result<Option<TrainedModel>> {
    let both = command(options, recipe, FunctionClass::All, Some(special), seed);
    let alone = command(options, special, FunctionClass::Steady, None, seed);
    let Some(general) = train_network(recipe, seed, &both, ", general", &folder.join("general"), context)? else { return Ok(None) };
    let Some(specialist) = train_network(special, seed, &alone, ", specialist", &folder.join("specialist"), context)? else {
        return Ok(None);
    };
    let mut model = general.model.join(&specialist.model).context("failed to join the two networks")?;
    let score = |part| recipe.evaluator(part, context.threads).model(&model, context.device).map(|scores| Score::of(&scores));
    let (validation, test) = (score(Split::Validation)?, score(Split::Test)?);
    let card = model.header.card.iter_mut().flat_map(|card| &mut card.evaluations);
    for evaluation in card.filter(|evaluation| evaluation.policy == "dqn") {
        evaluation.mean = if evaluation.split == Split::Test { test.mean } else { validation.mean };
    }
    crate::files::replace(&folder.join("model.dqn"), &model.to_bytes())?;
    Ok(Some(TrainedModel { seed, model, validation, test, rule: general.rule, seconds: general.seconds + specialist.seconds }))
}

/// Trains the network of one seed; `part` distinguishes it in progress events. `None` if stopped.
fn train_network(
    recipe: &TrainingConfig,
    seed: u64,
    command: &str,
    part: &str,
    path: &Path,
    context: &TrainContext<'_>,
) -> anyhow::Result<Option<TrainedModel>> {
    let TrainContext { progress, device, threads, stop, .. } = *context;
    let mut folder = TrainingFolder::open(path, recipe, seed, context.resume, context.overwrite)?;
    let mut run = TrainingRun::new(recipe.clone(), seed, folder.last.as_ref(), device, threads)?;
    if let Some(best) = folder.best.take() {
        run.set_best(best);
    }
    progress(TrainEvent::Started { name: &format!("seed {seed}{part}"), ticks: (run.ticks(), recipe.ticks) });
    let Some(mut rule) = folder.rule(&run, context)? else { return Ok(None) };
    progress(TrainEvent::Baseline(&rule));
    let mut began = clock::instant();
    while !run.is_over() {
        let validation = run.advance()?;
        let stopped = stop.load(Ordering::Relaxed);
        if validation.is_some() || stopped {
            folder.seconds += clock::since(began).as_secs_f64();
            began = clock::instant();
            if let Some(validation) = &validation {
                folder.add_validation(validation, &rule)?;
                progress(TrainEvent::Validated(validation));
            }
            folder.keep(&run, |best| with_card(&run, best, command, &rule, None))?;
        }
        if stopped {
            progress(TrainEvent::Ended);
            return Ok(None);
        }
        progress(TrainEvent::Ticks(run.ticks()));
    }
    progress(TrainEvent::Ended);
    let best = run.best().context("a finished training has no best network")?;
    progress(TrainEvent::Testing);
    let test = Score::of(&run.evaluate(best, Split::Test)?);
    if rule.test.is_none() {
        rule.test = Some(Score::of(&run.evaluator(Split::Test).rule(&*rule.policy())));
    }
    folder.ruled(&rule)?;
    context.found(run.evaluator(Split::Validation), &rule);
    let model = with_card(&run, best, command, &rule, Some(&test));
    folder.over(&model, &rule)?;
    Ok(Some(TrainedModel { seed, model, validation: best.score, test, rule, seconds: folder.seconds }))
}

/// The best network with its card.
fn with_card(run: &TrainingRun, best: &Best, command: &str, rule: &BaselineRule, test: Option<&Score>) -> Checkpoint {
    let recipe = run.config();
    let evaluation = |policy: &str, part: Split, score: &Score| {
        let worlds = if part == Split::Test { recipe.test_worlds } else { recipe.validation_worlds };
        Evaluation { policy: policy.to_owned(), split: part, worlds, mean: score.mean }
    };
    let mut all = vec![evaluation("dqn", Split::Validation, &best.score), evaluation(&rule.name(), Split::Validation, &rule.validation)];
    all.extend(test.map(|score| evaluation("dqn", Split::Test, score)));
    all.extend(rule.test.as_ref().map(|score| evaluation(&rule.name(), Split::Test, score)));
    run.with_card(best, command, all)
}
