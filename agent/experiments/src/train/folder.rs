//! The folder of a training. Owns its files and their names; every file is replaced atomically.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use qscale_common::runtime::files::{self, MAX_STATE};
use qscale_dqn::Checkpoint;
use qscale_dqn::checkpoint::MAX_BYTES;
use qscale_dqn::tasks::Split;
use qscale_evaluate::report::{Curve, Panel, chart};
use qscale_train::config::TrainingConfig;
use qscale_train::evaluate::Score;
use qscale_train::run::{Best, TrainingProgress, TrainingRun};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::TrainContext;
use super::rules::{self, BaselineRule};

/// The open folder of a training.
pub struct TrainingFolder {
    path: PathBuf,
    _lock: File,
    rows: Vec<TrainingPoint>,
    kept: Option<u64>,
    /// Checkpoint to resume from.
    pub last: Option<Checkpoint>,
    /// Best network so far.
    pub best: Option<Best>,
    /// Time of training including validation, seconds.
    pub seconds: f64,
}

/// Identity of a training.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Identity {
    seed: u64,
    recipe: TrainingConfig,
}

/// One point of the training curves.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct TrainingPoint {
    ticks: u64,
    seconds: f64,
    updates: u64,
    epsilon: f32,
    loss: f64,
    value: f64,
    exploring_reward: f64,
    reward: f64,
    violation: f64,
    cost: f64,
    reversal: f64,
    kills: f64,
    best: bool,
}

/// Score of the best network.
#[derive(Debug, Serialize, Deserialize)]
struct BestInfo {
    ticks: u64,
    score: Score,
}

impl TrainingFolder {
    /// Opens the folder at `path`: resumes its training if recipe and seed are the same, or starts one.
    ///
    /// # Errors
    /// When it holds another training, is used by another process, cannot be read or written, or holds none although `resume` is set.
    pub fn open(path: &Path, recipe: &TrainingConfig, seed: u64, resume: bool, overwrite: bool) -> anyhow::Result<Self> {
        std::fs::create_dir_all(path)
            .with_context(|| format!("failed to create the folder {}; use another one with --out", path.display()))?;
        let identity_file = path.join("recipe.json");
        if resume && !identity_file.exists() {
            bail!("nothing to resume: {} does not exist; leave out --resume to start", identity_file.display());
        }
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(path.join(".lock"));
        let lock = lock.with_context(|| format!("failed to write in {}; use another folder with --out", path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another training is using {}; use another folder with --out", path.display()),
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("failed to lock {}", path.display())),
        }
        let mut folder = Self { path: path.to_owned(), _lock: lock, rows: Vec::new(), kept: None, last: None, best: None, seconds: 0.0 };
        let asked = Identity { seed, recipe: recipe.clone() };
        if identity_file.exists() && !overwrite {
            let found: Identity = folder.read("recipe.json")?.context("it was there")?;
            if found != asked {
                bail!(
                    "{} holds a training with a different recipe or seed ({}); use another folder with --out, or --overwrite to start over",
                    path.display(),
                    identity_file.display()
                );
            }
            folder.resume()?;
        } else {
            for name in ["curves.json", "curves.csv", "curves.svg", "rule.json", "last.dqn", "best.json", "model.dqn", "evaluation.json"] {
                let _ = std::fs::remove_file(path.join(name));
            }
            folder.write("recipe.json", &serde_json::to_vec_pretty(&asked)?)?;
        }
        Ok(folder)
    }

    fn resume(&mut self) -> anyhow::Result<()> {
        self.last = self.checkpoint("last.dqn")?;
        let Some(last) = &self.last else { return Ok(()) };
        let ticks = last.header.actions_taken;
        let rows: Option<Vec<TrainingPoint>> = self.read("curves.json")?;
        // Points after the last checkpoint are computed again.
        self.rows = rows.unwrap_or_default().into_iter().filter(|row| row.ticks <= ticks).collect();
        self.seconds = self.rows.last().map_or(0.0, |row| row.seconds);
        if let (Some(model), Some(BestInfo { ticks, score })) = (self.checkpoint("model.dqn")?, self.read("best.json")?) {
            self.kept = Some(ticks);
            self.best = Some(Best { model, ticks, score });
        }
        Ok(())
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> anyhow::Result<Option<T>> {
        let path = self.path.join(name);
        let Some(text) = files::read_text_if_present(&path, MAX_STATE)? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).with_context(|| format!("failed to read {}; use --overwrite to start over", path.display()))
    }

    fn checkpoint(&self, name: &str) -> anyhow::Result<Option<Checkpoint>> {
        let path = self.path.join(name);
        let read = files::open(&path, MAX_BYTES as u64).and_then(|file| Ok(Checkpoint::read(file)?));
        files::present(read).with_context(|| format!("model {}", path.display()))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        crate::files::replace(&self.path.join(name), bytes)
    }

    /// The best tuned rule on the validation worlds of `run`, from the folder or tuned now; `None` if stopped.
    pub fn rule(&self, run: &TrainingRun, context: &TrainContext<'_>) -> anyhow::Result<Option<BaselineRule>> {
        if let Some(rule) = self.read("rule.json")? {
            return Ok(Some(rule));
        }
        let evaluator = run.evaluator(Split::Validation);
        let Some(rule) = context.known(&evaluator).or_else(|| rules::best(&evaluator, context.progress, context.stop)) else {
            return Ok(None);
        };
        self.ruled(&rule)?;
        Ok(Some(rule))
    }

    /// Writes the scores of `rule`.
    pub fn ruled(&self, rule: &BaselineRule) -> anyhow::Result<()> {
        self.write("rule.json", &serde_json::to_vec_pretty(rule)?)
    }

    /// Adds a validation to the curves.
    pub fn add_validation(&mut self, validation: &TrainingProgress, rule: &BaselineRule) -> anyhow::Result<()> {
        let mean = &validation.score.mean;
        self.rows.push(TrainingPoint {
            ticks: validation.ticks,
            seconds: self.seconds,
            updates: validation.updates,
            epsilon: validation.epsilon,
            loss: validation.updates_since.loss,
            value: validation.updates_since.value,
            exploring_reward: validation.explored.mean.reward,
            reward: mean.reward,
            violation: mean.violation,
            cost: mean.cost,
            reversal: mean.reversal,
            kills: mean.kills,
            best: validation.best,
        });
        self.write("curves.json", &serde_json::to_vec(&self.rows)?)?;
        self.write("curves.csv", csv(&self.rows).as_bytes())?;
        self.write("curves.svg", plot(&self.rows, rule).as_bytes())
    }

    /// Writes the checkpoint to resume from, and the best network, with the card of `with_card`, if it is new.
    pub fn keep(&mut self, run: &TrainingRun, with_card: impl Fn(&Best) -> Checkpoint) -> anyhow::Result<()> {
        self.write("last.dqn", &run.last()?.to_bytes())?;
        if let Some(best) = run.best().filter(|best| self.kept != Some(best.ticks)) {
            self.write("model.dqn", &with_card(best).to_bytes())?;
            self.write("best.json", &serde_json::to_vec(&BestInfo { ticks: best.ticks, score: best.score })?)?;
            self.kept = Some(best.ticks);
        }
        Ok(())
    }

    /// Writes the final model and its evaluation.
    pub fn over(&self, model: &Checkpoint, rule: &BaselineRule) -> anyhow::Result<()> {
        self.write("model.dqn", &model.to_bytes())?;
        let evaluation = json!({ "model": model.fingerprint(), "card": model.header.card, "seconds": self.seconds, "rule": rule });
        self.write("evaluation.json", &serde_json::to_vec_pretty(&evaluation)?)
    }
}

fn csv(rows: &[TrainingPoint]) -> String {
    let mut text = "ticks,seconds,updates,epsilon,loss,value,exploring_reward,reward,violation,cost,reversal,kills,best\n".to_owned();
    for row in rows {
        let TrainingPoint {
            ticks,
            seconds,
            updates,
            epsilon,
            loss,
            value,
            exploring_reward,
            reward,
            violation,
            cost,
            reversal,
            kills,
            best,
        } = row;
        text += &format!(
            "{ticks},{seconds:.1},{updates},{epsilon},{loss},{value},{exploring_reward},{reward},{violation},{cost},{reversal},{kills},{best}\n"
        );
    }
    text
}

fn plot(rows: &[TrainingPoint], rule: &BaselineRule) -> String {
    let curve = |name: &str, of: &dyn Fn(&TrainingPoint) -> f64| Curve {
        name: name.to_owned(),
        points: rows.iter().map(|row| (row.ticks as f64 / 1e6, of(row))).collect(),
    };
    let mean = rule.validation.mean;
    let panel = |label: &str, curves: Vec<Curve>| Panel { label: label.to_owned(), curves };
    let name = rule.name();
    let panels = [
        panel("violated, % of ticks", vec![curve("dqn", &|row| row.violation * 100.0), curve(&name, &|_| mean.violation * 100.0)]),
        panel("cost, relative to the usual", vec![curve("dqn", &|row| row.cost), curve(&name, &|_| mean.cost)]),
        panel(
            "reward per tick",
            vec![
                curve("dqn", &|row| row.reward),
                curve(&name, &|_| mean.reward),
                curve("dqn, exploring, in training worlds", &|row| row.exploring_reward),
            ],
        ),
        panel("loss", vec![curve("loss", &|row| row.loss)]),
    ];
    chart("Validation worlds in training", "ticks of simulated functions, millions", &panels)
}
