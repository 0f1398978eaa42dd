//! `qscale train`: a model from nothing, in the simulator. Owns arguments, files and what is shown; how it learns belongs to `qscale-dqn`.

pub mod ablate;
pub mod device;
mod folder;
mod progress;
mod rules;

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use clap::{Args, ValueEnum};
use qscale_common::document::{self, Format};
use qscale_common::runtime::clock;
use qscale_dqn::actions::{ActionSet, Scope};
use qscale_dqn::checkpoint::{Checkpoint, Judged};
use qscale_dqn::domain::{Kind, Part};
use qscale_rl::device::Device;
use qscale_rl::learner::{Hyperparameters, RolloutConfig};
use qscale_train::course::{Best, Course};
use qscale_train::judge::{Court, Score};
use qscale_train::recipe::Recipe;
use serde_json::json;

use self::device::Wish;
use self::folder::Folder;
pub use self::folder::{load, replace};
use self::progress::Watcher;
use self::rules::Rule;
use crate::blocking::until_stopped;
use crate::show::{self, Cell, Paint, Table, Tone};
use crate::system::Locate;

/// Train a model from nothing in the simulator, and judge it beside the best tuned rule.
///
/// Hundreds of functions that were never seen live at once, each with a load, an objective and troubles of its own. The network is judged now and then on other
/// worlds, and the best is kept. Needs no server. With two cores the default takes some minutes.
///
/// The folder of --out then holds the recipe and the seed (recipe.json), the curves (curves.csv, curves.svg), what is needed to go on (last.dqn), the best network with
/// its card (model.dqn) and how it was judged at last (evaluation.json). Ctrl-C keeps what was learned; the same command goes on, with a replay that fills anew.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  qscale train                                     a model for all scopes, in minutes
  qscale train --seeds 5 --ticks 20M               five of them, and how much luck there is
  qscale train --scope horizontal --out mine       one that only changes replicas
  qscale train --specialist                        a model of two networks, one for functions that always keep a replica
  qscale train --trainer means                     means of returns, as double DQN learns them
  qscale train --functions steady --out steady     a specialist alone, for qscale model join
  qscale train --print-recipe > recipe.json        everything that can be told
  qscale train --recipe recipe.json
  qscale evaluate --model .qscale/training/model.dqn --policy dqn --policy hpa --quick
  qscale model push mine .qscale/training/model.dqn")]
pub struct TrainArgs {
    /// Folder of the run; by default training in the state folder
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    out: Option<PathBuf>,
    /// Recipe that differs from the default (.toml, .yaml, .json)
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    recipe: Option<PathBuf>,
    /// Ticks of simulated functions to live through, all together; k, M and G are thousands, millions and thousands of millions
    #[arg(long, value_name = "NUMBER", value_parser = count)]
    ticks: Option<u64>,
    /// Which choices there are: headroom, step or grid
    #[arg(long, value_name = "NAME")]
    action_set: Option<ActionSet>,
    /// Which of them may be taken: horizontal, vertical or joint
    #[arg(long, value_name = "NAME")]
    scope: Option<Scope>,
    /// Which functions it learns about: all; steady, which are called all the time; or sparse, which are called now and then
    #[arg(long, value_name = "all|steady|sparse", default_value_t)]
    functions: Kind,
    /// Train a specialist for functions that always keep a replica, too, for so many ticks, by default as many as --ticks, and join the two
    #[arg(long, value_name = "TICKS", value_parser = count, num_args = 0..=1, conflicts_with = "functions")]
    specialist: Option<Option<u64>>,
    /// How is learned: replay learns quantiles of returns from a million ticks (QR-DQN); means their means (double DQN); rollouts quantiles of λ-returns from the
    /// latest ticks alone (PQN); by default as the recipe says, which is replay
    #[arg(long, value_name = "replay|means|rollouts")]
    trainer: Option<Learning>,
    /// Seed of chance: the same gives the same network
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Train so many models, with this seed and those that follow
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    seeds: u32,
    /// Where the network computes: auto measures, and takes what is fastest
    #[arg(long, value_name = "auto|cpu|gpu", default_value = "auto")]
    device: Wish,
    /// Threads that live through worlds; by default one a core. They change nothing of the result
    #[arg(long, value_name = "NUMBER")]
    threads: Option<NonZeroUsize>,
    /// Go on with what the folder holds, and do not begin where it holds nothing
    #[arg(long, conflicts_with = "overwrite")]
    resume: bool,
    /// Begin anew, whatever the folder holds
    #[arg(long)]
    overwrite: bool,
    /// Print how each model was judged as JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Print the recipe that would be followed, as JSON, and train nothing
    #[arg(long)]
    print_recipe: bool,
}

/// How a network learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Learning {
    /// Quantiles from a replay
    Replay,
    /// Means from a replay
    Means,
    /// Quantiles from rollouts
    Rollouts,
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
    if number.is_finite() && number >= 0.0 { Ok((number * unit).round() as u64) } else { Err("must not be below zero".into()) }
}

/// Trains, and writes down what came of it.
pub async fn run(locate: &Locate, arguments: TrainArgs) -> anyhow::Result<ExitCode> {
    let recipe = recipe(&arguments)?;
    let special = special(&arguments, &recipe)?;
    if arguments.print_recipe {
        return show::line(serde_json::to_string_pretty(&recipe)?).map(|()| ExitCode::SUCCESS);
    }
    let out = arguments.out.clone().unwrap_or_else(|| locate.state_dir.join("training"));
    let device = device::choose(arguments.device).await?;
    until_stopped("training", move |stop| train(&recipe, special.as_ref(), &arguments, &out, &device, stop)).await
}

fn recipe(arguments: &TrainArgs) -> anyhow::Result<Recipe> {
    let mut recipe = Recipe::default();
    if let Some(path) = &arguments.recipe {
        let text = std::fs::read_to_string(path).with_context(|| format!("--recipe {}", path.display()))?;
        recipe = document::parse(&text, Format::of(path)?).with_context(|| format!("--recipe {}", path.display()))?;
    }
    recipe.ticks = arguments.ticks.unwrap_or(recipe.ticks);
    recipe.action_set = arguments.action_set.unwrap_or(recipe.action_set);
    recipe.scope = arguments.scope.unwrap_or(recipe.scope);
    recipe.domain = recipe.domain.of(arguments.functions);
    let Hyperparameters { rollouts, quantiles, huber_delta, .. } = match arguments.trainer {
        None => recipe.hyperparameters.clone(),
        Some(Learning::Replay) => Hyperparameters::default(),
        Some(Learning::Means) => Hyperparameters::plain(),
        Some(Learning::Rollouts) => Hyperparameters { rollouts: Some(RolloutConfig::default()), ..Hyperparameters::default() },
    };
    recipe.hyperparameters = Hyperparameters { rollouts, quantiles, huber_delta, ..recipe.hyperparameters };
    recipe.check().map_err(anyhow::Error::msg)?;
    Ok(recipe)
}

/// The recipe of the specialist, where one is asked for.
fn special(arguments: &TrainArgs, recipe: &Recipe) -> anyhow::Result<Option<Recipe>> {
    let Some(ticks) = arguments.specialist else { return Ok(None) };
    let special = Recipe { ticks: ticks.unwrap_or(recipe.ticks), domain: recipe.domain.clone().of(Kind::Steady), ..recipe.clone() };
    special.check().map_err(anyhow::Error::msg).context("--specialist")?;
    Ok(Some(special))
}

/// The command that trains a network of `recipe` for `functions` and with `seed` again, and a `special` one beside it.
fn command(arguments: &TrainArgs, recipe: &Recipe, functions: Kind, special: Option<&Recipe>, seed: u64) -> String {
    let default = Recipe::default();
    let mut words = vec!["qscale train".to_owned()];
    if let Some(path) = &arguments.recipe {
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
    match arguments.trainer {
        Some(Learning::Replay) => words.push("--trainer replay".into()),
        Some(Learning::Means) => words.push("--trainer means".into()),
        Some(Learning::Rollouts) => words.push("--trainer rollouts".into()),
        None => {}
    }
    if functions != Kind::All {
        words.push(format!("--functions {functions}"));
    }
    if let Some(special) = special {
        words.push(format!("--specialist {}", special.ticks));
    }
    words.push(format!("--seed {seed}"));
    words.join(" ")
}

/// A model that was trained, and how it was judged on the test worlds.
struct Trained {
    seed: u64,
    model: Checkpoint,
    validation: Score,
    test: Score,
    rule: Rule,
    seconds: f64,
}

/// How trainings go, whatever is trained.
struct How<'a> {
    device: &'a Device,
    threads: NonZeroUsize,
    resume: bool,
    overwrite: bool,
    stop: &'a AtomicBool,
    /// The best tuned rules that were found, by the worlds that they were tried on.
    rules: RefCell<Vec<(Court, Rule)>>,
}

impl How<'_> {
    /// The best tuned rule on the worlds of `court`, where it was found before.
    fn known(&self, court: &Court) -> Option<Rule> {
        self.rules.borrow().iter().find(|(known, _)| known == court).map(|(_, rule)| rule.clone())
    }

    /// Remembers that `rule` is the best on the worlds of `court`.
    fn found(&self, court: Court, rule: &Rule) {
        let mut rules = self.rules.borrow_mut();
        rules.retain(|(known, _)| *known != court);
        rules.push((court, rule.clone()));
    }
}

fn cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

fn train(
    recipe: &Recipe,
    special: Option<&Recipe>,
    arguments: &TrainArgs,
    out: &Path,
    device: &Device,
    stop: &AtomicBool,
) -> anyhow::Result<ExitCode> {
    let threads = arguments.threads.unwrap_or_else(cores);
    let how = How { device, threads, resume: arguments.resume, overwrite: arguments.overwrite, stop, rules: RefCell::default() };
    let mut trained = Vec::new();
    for seed in (0..u64::from(arguments.seeds)).map(|further| arguments.seed.wrapping_add(further)) {
        let folder = if arguments.seeds == 1 { out.to_owned() } else { out.join(format!("seed-{seed}")) };
        let command = command(arguments, recipe, arguments.functions, special, seed);
        let model = match special {
            None => one(recipe, seed, &command, "", &folder, &how)?,
            Some(special) => pair(recipe, special, arguments, seed, &folder, &how)?,
        };
        match model {
            Some(model) => trained.push(model),
            None => {
                eprintln!("stopped; {} keeps what was learned, and the same command goes on from there", folder.display());
                return Ok(ExitCode::from(130));
            }
        }
    }
    let reward = |trained: &&Trained| trained.validation.mean.reward;
    let best = trained.iter().max_by(|one, other| reward(one).total_cmp(&reward(other))).context("no seed")?;
    let path = out.join("model.dqn");
    folder::replace(&path, &best.model.to_bytes())?;
    if arguments.json {
        let told = |trained: &Trained| {
            json!({
                "seed": trained.seed, "seconds": trained.seconds, "model": trained.model.fingerprint(), "validation": trained.validation.mean,
                "test": trained.test.mean, "best_rule": { "policy": trained.rule.name(), "test": trained.rule.test.map(|score| score.mean) },
            })
        };
        return show::json(&json!({ "models": trained.iter().map(told).collect::<Vec<_>>(), "best": path })).map(|()| ExitCode::SUCCESS);
    }
    report(&trained)?;
    show::line(format!("the best on validation worlds is that of seed {}: {}", best.seed, path.display()))?;
    show::line(format!("next: qscale evaluate --model {0} --quick, or qscale model push NAME {0}", path.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn report(trained: &[Trained]) -> anyhow::Result<()> {
    let mut table = Table::new(&["TEST WORLDS", "VIOLATED", "COST", "REWARD", "TRAINED IN"]);
    let mut row = |name: String, score: &Score, time: String| {
        let mean = &score.mean;
        table.row([
            Cell::new(name, Tone::Plain),
            Cell::new(format!("{:.2} %", mean.violation * 100.0), Tone::Plain),
            Cell::new(format!("{:.3}", mean.cost), Tone::Plain),
            Cell::new(format!("{:.3}", mean.reward), Tone::Plain),
            Cell::new(time, Tone::Plain),
        ]);
    };
    for model in trained {
        row(format!("dqn, seed {}", model.seed), &model.test, format!("{:.0} s", model.seconds));
    }
    if let Some(Trained { rule: rule @ Rule { test: Some(test), .. }, .. }) = trained.first() {
        row(format!("{}, the best tuned rule", rule.name()), test, String::new());
    }
    show::line(table.render(Paint::of_terminal()).trim_end())?;
    show::line("violated: share of ticks, near the bound in part; cost: multiples of what the usual load costs at full use")
}

/// Trains two networks with one seed, of which `special` one decides for functions that always keep a replica, and joins them; `None` where it was stopped.
fn pair(
    recipe: &Recipe,
    special: &Recipe,
    arguments: &TrainArgs,
    seed: u64,
    folder: &Path,
    how: &How<'_>,
) -> anyhow::Result<Option<Trained>> {
    let both = command(arguments, recipe, Kind::All, Some(special), seed);
    let alone = command(arguments, special, Kind::Steady, None, seed);
    let Some(general) = one(recipe, seed, &both, ", general", &folder.join("general"), how)? else { return Ok(None) };
    let Some(beside) = one(special, seed, &alone, ", specialist", &folder.join("specialist"), how)? else { return Ok(None) };
    let mut model = general.model.join(&beside.model).context("two networks of one recipe")?;
    let judge = |part| recipe.court(part, how.threads).model(&model, how.device).map(|scores| Score::of(&scores));
    let (validation, test) = (judge(Part::Validation)?, judge(Part::Test)?);
    let card = model.header.card.iter_mut().flat_map(|card| &mut card.judged);
    for judged in card.filter(|judged| judged.policy == "dqn") {
        judged.mean = if judged.part == Part::Test { test.mean } else { validation.mean };
    }
    folder::replace(&folder.join("model.dqn"), &model.to_bytes())?;
    Ok(Some(Trained { seed, model, validation, test, rule: general.rule, seconds: general.seconds + beside.seconds }))
}

/// Trains the network of one seed, of which `part` says to people which it is; `None` where it was stopped.
fn one(recipe: &Recipe, seed: u64, command: &str, part: &str, path: &Path, how: &How<'_>) -> anyhow::Result<Option<Trained>> {
    let How { device, threads, stop, .. } = *how;
    let mut folder = Folder::open(path, recipe, seed, how.resume, how.overwrite)?;
    let mut course = Course::new(recipe.clone(), seed, folder.last.as_ref(), device, threads)?;
    if let Some(best) = folder.best.take() {
        course.keep(best);
    }
    let mut watcher = Watcher::new(format!("seed {seed}{part}"), recipe.ticks, course.ticks());
    let Some(mut rule) = folder.rule(&course, &watcher, how)? else { return Ok(None) };
    watcher.beside(&rule);
    let mut began = clock::instant();
    while !course.is_over() {
        let judged = course.advance()?;
        let stopped = stop.load(Ordering::Relaxed);
        if judged.is_some() || stopped {
            folder.seconds += began.elapsed().as_secs_f64();
            began = clock::instant();
            if let Some(judgement) = &judged {
                folder.judged(judgement, &rule)?;
                watcher.judged(judgement);
            }
            folder.keep(&course, |best| with_card(&course, best, command, &rule, None))?;
        }
        if stopped {
            watcher.finish();
            return Ok(None);
        }
        watcher.at(course.ticks());
    }
    watcher.finish();
    let best = course.best().context("a training that is over was judged")?;
    watcher.say("judging the best network on test worlds");
    let test = Score::of(&course.judged(best, Part::Test)?);
    if rule.test.is_none() {
        rule.test = Some(Score::of(&course.court(Part::Test).rule(&*rule.policy())));
    }
    folder.ruled(&rule)?;
    how.found(course.court(Part::Validation), &rule);
    let model = with_card(&course, best, command, &rule, Some(&test));
    folder.over(&model, &rule)?;
    Ok(Some(Trained { seed, model, validation: best.score, test, rule, seconds: folder.seconds }))
}

/// The best network with its card.
fn with_card(course: &Course, best: &Best, command: &str, rule: &Rule, test: Option<&Score>) -> Checkpoint {
    let recipe = course.recipe();
    let judged = |policy: &str, part: Part, score: &Score| {
        let worlds = if part == Part::Test { recipe.test_worlds } else { recipe.validation_worlds };
        Judged { policy: policy.to_owned(), part, worlds, mean: score.mean }
    };
    let mut all = vec![judged("dqn", Part::Validation, &best.score), judged(&rule.name(), Part::Validation, &rule.validation)];
    all.extend(test.map(|score| judged("dqn", Part::Test, score)));
    all.extend(rule.test.as_ref().map(|score| judged(&rule.name(), Part::Test, score)));
    course.with_card(best, command, all)
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
