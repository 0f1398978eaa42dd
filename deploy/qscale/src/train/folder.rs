//! The folder of a training. Owns its files and their names; a file is whole or as it was before.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use qscale_dqn::Checkpoint;
use qscale_dqn::checkpoint::MOST_BYTES;
use qscale_dqn::domain::Part;
use qscale_evaluate::report::{Curve, Panel, chart};
use qscale_train::course::{Best, Course, Judgement};
use qscale_train::judge::Score;
use qscale_train::recipe::Recipe;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::How;
use super::progress::Watcher;
use super::rules::{self, Rule};

/// A folder of a training that is open.
pub struct Folder {
    path: PathBuf,
    _lock: File,
    rows: Vec<Row>,
    kept: Option<u64>,
    /// Where training goes on.
    pub last: Option<Checkpoint>,
    /// The best so far.
    pub best: Option<Best>,
    /// How long was trained, in seconds, judging included.
    pub seconds: f64,
}

/// What a training depends on.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Told {
    seed: u64,
    recipe: Recipe,
}

/// One line of the curves.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Row {
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

/// What is kept beside the best network.
#[derive(Debug, Serialize, Deserialize)]
struct BestOf {
    ticks: u64,
    score: Score,
}

impl Folder {
    /// The folder at `path`: the training that it holds, if it is of the same recipe and seed, or a new one.
    pub fn open(path: &Path, recipe: &Recipe, seed: u64, resume: bool, overwrite: bool) -> anyhow::Result<Self> {
        std::fs::create_dir_all(path).with_context(|| format!("cannot make the folder {}; name another one with --out", path.display()))?;
        let told = path.join("recipe.json");
        if resume && !told.exists() {
            bail!("there is nothing to resume: {} is not there; leave --resume out to begin", told.display());
        }
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(path.join(".lock"));
        let lock = lock.with_context(|| format!("cannot write in {}; name another folder with --out", path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another training is writing to {}; name another folder with --out", path.display()),
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
        let mut folder = Self { path: path.to_owned(), _lock: lock, rows: Vec::new(), kept: None, last: None, best: None, seconds: 0.0 };
        let asked = Told { seed, recipe: recipe.clone() };
        if told.exists() && !overwrite {
            let found: Told = folder.read("recipe.json")?.context("it was there")?;
            if found != asked {
                bail!(
                    "{} holds a training of another recipe or seed ({}); name another folder with --out, or begin anew with --overwrite",
                    path.display(),
                    told.display()
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
        let lived = last.header.choices;
        let rows: Option<Vec<Row>> = self.read("curves.json")?;
        // A line that was written after the last checkpoint is lived through again.
        self.rows = rows.unwrap_or_default().into_iter().filter(|row| row.ticks <= lived).collect();
        self.seconds = self.rows.last().map_or(0.0, |row| row.seconds);
        if let (Some(model), Some(BestOf { ticks, score })) = (self.checkpoint("model.dqn")?, self.read("best.json")?) {
            self.kept = Some(ticks);
            self.best = Some(Best { model, ticks, score });
        }
        Ok(())
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> anyhow::Result<Option<T>> {
        let path = self.path.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .with_context(|| format!("cannot read {}; begin anew with --overwrite", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn checkpoint(&self, name: &str) -> anyhow::Result<Option<Checkpoint>> {
        let path = self.path.join(name);
        if path.exists() { load(&path).map(Some) } else { Ok(None) }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        replace(&self.path.join(name), bytes)
    }

    /// The best tuned rule on the validation worlds of `course`: as it was found before, or found now; `None` where that was stopped.
    pub fn rule(&self, course: &Course, watcher: &Watcher, how: &How<'_>) -> anyhow::Result<Option<Rule>> {
        if let Some(rule) = self.read("rule.json")? {
            return Ok(Some(rule));
        }
        let court = course.court(Part::Validation);
        let Some(rule) = how.known(&court).or_else(|| rules::best(&court, watcher, how.stop)) else { return Ok(None) };
        self.ruled(&rule)?;
        Ok(Some(rule))
    }

    /// Writes down what `rule` is worth.
    pub fn ruled(&self, rule: &Rule) -> anyhow::Result<()> {
        self.write("rule.json", &serde_json::to_vec_pretty(rule)?)
    }

    /// Writes down a judgement.
    pub fn judged(&mut self, judgement: &Judgement, rule: &Rule) -> anyhow::Result<()> {
        let mean = &judgement.validation.mean;
        self.rows.push(Row {
            ticks: judgement.ticks,
            seconds: self.seconds,
            updates: judgement.updates,
            epsilon: judgement.epsilon,
            loss: judgement.loss.loss,
            value: judgement.loss.value,
            exploring_reward: judgement.explored.mean.reward,
            reward: mean.reward,
            violation: mean.violation,
            cost: mean.cost,
            reversal: mean.reversal,
            kills: mean.kills,
            best: judgement.best,
        });
        self.write("curves.json", &serde_json::to_vec(&self.rows)?)?;
        self.write("curves.csv", csv(&self.rows).as_bytes())?;
        self.write("curves.svg", plot(&self.rows, rule).as_bytes())
    }

    /// Keeps what is needed to go on, and the best network, as `with_card` makes it, where it is a new one.
    pub fn keep(&mut self, course: &Course, with_card: impl Fn(&Best) -> Checkpoint) -> anyhow::Result<()> {
        self.write("last.dqn", &course.last()?.to_bytes())?;
        if let Some(best) = course.best().filter(|best| self.kept != Some(best.ticks)) {
            self.write("model.dqn", &with_card(best).to_bytes())?;
            self.write("best.json", &serde_json::to_vec(&BestOf { ticks: best.ticks, score: best.score })?)?;
            self.kept = Some(best.ticks);
        }
        Ok(())
    }

    /// Keeps the model of a training that is over, and how it was judged.
    pub fn over(&self, model: &Checkpoint, rule: &Rule) -> anyhow::Result<()> {
        self.write("model.dqn", &model.to_bytes())?;
        let evaluation = json!({ "model": model.fingerprint(), "card": model.header.card, "seconds": self.seconds, "rule": rule });
        self.write("evaluation.json", &serde_json::to_vec_pretty(&evaluation)?)
    }
}

/// The checkpoint in a file.
pub fn load(path: &Path) -> anyhow::Result<Checkpoint> {
    let bytes = read_bounded(path).with_context(|| format!("model {}", path.display()))?;
    Checkpoint::from_bytes(&bytes).with_context(|| format!("model {}", path.display()))
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes a file so that nobody reads half of it.
pub fn replace(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let part = path.with_extension("part");
    std::fs::write(&part, bytes).and_then(|()| std::fs::rename(&part, path)).with_context(|| format!("cannot write {}", path.display()))
}

fn csv(rows: &[Row]) -> String {
    let mut text = "ticks,seconds,updates,epsilon,loss,value,exploring_reward,reward,violation,cost,reversal,kills,best\n".to_owned();
    for row in rows {
        let Row { ticks, seconds, updates, epsilon, loss, value, exploring_reward, reward, violation, cost, reversal, kills, best } = row;
        text += &format!(
            "{ticks},{seconds:.1},{updates},{epsilon},{loss},{value},{exploring_reward},{reward},{violation},{cost},{reversal},{kills},{best}\n"
        );
    }
    text
}

fn plot(rows: &[Row], rule: &Rule) -> String {
    let curve = |name: &str, of: &dyn Fn(&Row) -> f64| Curve {
        name: name.to_owned(),
        points: rows.iter().map(|row| (row.ticks as f64 / 1e6, of(row))).collect(),
    };
    let mean = rule.validation.mean;
    let panel = |label: &str, curves: Vec<Curve>| Panel { label: label.to_owned(), curves };
    let name = rule.name();
    let panels = [
        panel("violated, % of ticks", vec![curve("dqn", &|row| row.violation * 100.0), curve(&name, &|_| mean.violation * 100.0)]),
        panel("cost, of the usual", vec![curve("dqn", &|row| row.cost), curve(&name, &|_| mean.cost)]),
        panel(
            "reward a tick",
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
