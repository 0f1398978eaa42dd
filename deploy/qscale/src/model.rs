//! `qscale model`: trained models in the store of a running system. Owns arguments and output; agents check a model themselves before they use it.

mod card;
mod distil;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use qscale_common::name::Name;
use qscale_common::runtime::author::Author;
use qscale_common::runtime::clock;
use qscale_common::runtime::models::{ModelStore, StoredModel, StoredVersion};
use qscale_dqn::Checkpoint;
use qscale_dqn::checkpoint::MAX_BYTES;
use qscale_dqn::pretrained::pretrained;
use qscale_replay::policy::load_model;
use serde_json::{Value, json};

use self::card::{NamedModel, size};
use self::distil::DistilArgs;
use crate::author::{AuthorArgs, SignerArgs};
use crate::output::{self, Table, TableCell, Tone};
use crate::system::Locate;

/// Name of the bundled model.
const PRETRAINED: &str = "pretrained";

/// Actions on models.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  qscale model list
  qscale model show pretrained
  qscale model push mine .qscale/training/model.dqn --use
  qscale model rollback mine
  qscale model distil --depth 5 --out mine.tree")]
pub enum ModelCommand {
    /// List the stored models with their versions
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show how a model was trained and evaluated
    #[command(after_help = "Examples:
  qscale model show pretrained                 the bundled model
  qscale model show mine                       the version in use
  qscale model show mine@2
  qscale model show .qscale/training/model.dqn a file; needs no running system")]
    Show {
        /// A stored model, a file (a path with / or .), or pretrained
        #[arg(value_name = "NAME[@VERSION]|FILE|pretrained", value_hint = clap::ValueHint::FilePath)]
        model: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Store a file as the next version of a model
    ///
    /// A file that is not a checkpoint, or has other features or actions than this version, is refused.
    #[command(after_help = "Examples:
  qscale model push mine .qscale/training/model.dqn --use
  qscale model push dqn better.dqn             the agent of `qscale up` uses the model dqn")]
    Push {
        /// Name of the model
        #[arg(value_name = "NAME")]
        name: Name,
        /// Checkpoint
        #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
        file: PathBuf,
        /// Put it in use immediately
        #[arg(long = "use")]
        put_in_use: bool,
        #[command(flatten)]
        signer: SignerArgs,
    },
    /// Put a version in use: agents configured with model = store:NAME switch to it
    #[command(after_help = "Examples:
  qscale model use mine@2")]
    Use {
        /// Version
        #[arg(value_name = "NAME@VERSION")]
        model: Reference,
        #[command(flatten)]
        author: AuthorArgs,
    },
    /// Put the previous version in use again
    #[command(after_help = "Examples:
  qscale model rollback mine")]
    Rollback {
        /// Name of the model
        #[arg(value_name = "NAME")]
        name: Name,
        #[command(flatten)]
        author: AuthorArgs,
    },
    /// Join two models: a specialist for functions that always keep a replica, and one for the others
    #[command(after_help = "Examples:
  qscale train --out all
  qscale train --functions steady --out steady
  qscale model join all/model.dqn steady/model.dqn joined.dqn")]
    Join {
        /// Model for functions that may scale to zero
        #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
        model: PathBuf,
        /// Model for functions that always keep a replica
        #[arg(value_name = "SPECIALIST", value_hint = clap::ValueHint::FilePath)]
        specialist: PathBuf,
        /// File to write; must not exist
        #[arg(value_name = "JOINED", value_hint = clap::ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Turn a model into a decision tree of readable rules, which is an agent, too
    ///
    /// The tree imitates the model on simulated functions: first in the states that the model visits, then in those that the tree itself visits. Printed are its
    /// fidelity, the share of decisions with the same allocation in states that were not used to grow it, and its loss in a suite.
    #[command(after_help = "Examples:
  qscale model distil --depth 5 --out mine.tree
  qscale model distil --model .qscale/training/model.dqn --violation-cost 100 --out safe.tree
  qscale evaluate --quick --policy tree:file=mine.tree --policy dqn
  qscale up --agent tree --model mine.tree")]
    Distil(DistilArgs),
    /// Write a version to a file
    #[command(after_help = "Examples:
  qscale model pull mine@2 mine-2.dqn")]
    Pull {
        /// Version; by default the one in use
        #[arg(value_name = "NAME[@VERSION]")]
        model: Reference,
        /// File to write; must not exist
        #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
        file: PathBuf,
    },
}

/// A stored model, with or without a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    name: Name,
    version: Option<u64>,
}

impl FromStr for Reference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, version) = match text.split_once('@') {
            None => (text, None),
            Some((name, version)) => {
                let number = version.parse().ok().filter(|number| *number > 0);
                (name, Some(number.ok_or_else(|| format!("`{version}` is not a version; write a number from 1 on, as in mine@2"))?))
            }
        };
        Ok(Self { name: Name::new(name).map_err(|error| error.to_string())?, version })
    }
}

/// Runs the command.
pub async fn run(locate: &Locate, command: ModelCommand) -> anyhow::Result<()> {
    match command {
        ModelCommand::List { json } => list(locate, json).await,
        ModelCommand::Show { model, json } => show(locate, &model, json).await,
        ModelCommand::Push { name, file, put_in_use, signer } => push(locate, &name, &file, put_in_use, signer).await,
        ModelCommand::Use { model, author } => use_version(locate, &model, author).await,
        ModelCommand::Rollback { name, author } => roll_back(locate, &name, author).await,
        ModelCommand::Join { model, specialist, file } => join(&model, &specialist, &file),
        ModelCommand::Distil(arguments) => distil::run(locate, arguments).await,
        ModelCommand::Pull { model, file } => pull(locate, &model, &file).await,
    }
}

async fn store(locate: &Locate) -> anyhow::Result<ModelStore> {
    ModelStore::open(&locate.bus().await?).await
}

async fn writable(locate: &Locate, author: AuthorArgs) -> anyhow::Result<(ModelStore, Author)> {
    let bus = locate.bus().await?;
    Ok((ModelStore::open(&bus).await?.trusting(&locate.trust()?.models), author.author(&bus)))
}

async fn list(locate: &Locate, json: bool) -> anyhow::Result<()> {
    let models = store(locate).await?.all().await?;
    if json {
        let listed: Vec<Value> = models.iter().flat_map(|(name, model)| rows(name, model)).map(|row| row.as_json()).collect();
        return output::json(&listed);
    }
    if models.values().all(|model| model.versions.is_empty()) {
        return output::line("no stored models; `qscale model push NAME FILE` stores one, `qscale train` trains one");
    }
    let now = clock::now();
    let mut table = Table::new(&["MODEL", "IN USE", "SIZE", "PUSHED", "FINGERPRINT"]);
    for row in models.iter().flat_map(|(name, model)| rows(name, model)) {
        let tone = if row.in_use { Tone::Good } else { Tone::Plain };
        let pushed = row.stored.pushed.map_or("?".to_owned(), |at| format!("{} ago", output::age(now.since(at))));
        table.row([
            TableCell::new(format_args!("{}@{}", row.name, row.version), tone),
            TableCell::new(if row.in_use { "yes" } else { "-" }, tone),
            size(row.stored.bytes).into(),
            pushed.into(),
            TableCell::new(output::clean(row.stored.fingerprint.as_deref().unwrap_or("?")), Tone::Dim),
        ]);
    }
    table.print()
}

/// One version in the list.
struct Row<'a> {
    name: &'a Name,
    version: u64,
    in_use: bool,
    stored: &'a StoredVersion,
}

/// Versions of a model, newest first.
fn rows<'a>(name: &'a Name, model: &'a StoredModel) -> impl Iterator<Item = Row<'a>> {
    let current = model.in_use.as_ref().map(|in_use| in_use.version);
    model.versions.iter().rev().map(move |(version, stored)| Row { name, version: *version, in_use: current == Some(*version), stored })
}

impl Row<'_> {
    fn as_json(&self) -> Value {
        json!({
            "name": self.name,
            "version": self.version,
            "in_use": self.in_use,
            "bytes": self.stored.bytes,
            "pushed": self.stored.pushed.map(|at| at.to_string()),
            "fingerprint": self.stored.fingerprint,
            "signed_by": self.stored.signed_by,
        })
    }
}

async fn show(locate: &Locate, model: &str, json: bool) -> anyhow::Result<()> {
    let loaded;
    let (name, checkpoint) = if model == PRETRAINED {
        (PRETRAINED.to_owned(), pretrained())
    } else if model.contains(['/', '.']) {
        loaded = load_model(Path::new(model))?;
        (model.to_owned(), &loaded)
    } else {
        let reference: Reference =
            model.parse().map_err(|error| anyhow::anyhow!("{error}; write a file as a path with / or ., such as ./{model}"))?;
        let store = store(locate).await?;
        let version = version(&store, &reference).await?;
        loaded = checkpoint(&read(&store, &reference.name, version).await?)?;
        (format!("{}@{version}", reference.name), &loaded)
    };
    let card = NamedModel::new(name, checkpoint);
    if json { output::json(&card.as_json()) } else { card.print() }
}

/// The given version, or else the one in use.
async fn version(store: &ModelStore, reference: &Reference) -> anyhow::Result<u64> {
    if let Some(version) = reference.version {
        return Ok(version);
    }
    let name = &reference.name;
    match store.in_use(name).await? {
        Some(in_use) => Ok(in_use.version),
        None => bail!("no version of model {name} is in use; specify one, as in {name}@1; `qscale model list` lists them"),
    }
}

async fn read(store: &ModelStore, name: &Name, version: u64) -> anyhow::Result<Vec<u8>> {
    let read = store.reader().read(name, version, MAX_BYTES).await;
    read.with_context(|| format!("model {name}@{version}; `qscale model list` lists the stored versions"))
}

fn checkpoint(bytes: &[u8]) -> anyhow::Result<Checkpoint> {
    Ok(Checkpoint::from_bytes(bytes)?)
}

async fn push(locate: &Locate, name: &Name, file: &Path, put_in_use: bool, signer: SignerArgs) -> anyhow::Result<()> {
    let checkpoint = load_model(file)?;
    checkpoint.check().with_context(|| format!("model {}", file.display()))?;
    if checkpoint.training.is_some() {
        output::warn(format_args!("{} contains the training state; agents need only model.dqn in the same folder", file.display()));
    }
    let bus = locate.bus().await?;
    let (store, author) = (ModelStore::open(&bus).await?, signer.author(locate, &bus, &locate.trust()?.models)?);
    let version = store.push(&author, name, &checkpoint.to_bytes(), &checkpoint.fingerprint()).await?;
    NamedModel::new(format!("{name}@{version}"), &checkpoint).print()?;
    if put_in_use {
        let pointer = store.pointer(name).await?;
        store.put_in_use(&author, name, version, &pointer).await?;
        return output::line(format_args!("stored {name}@{version} and put it in use; undo with `qscale model rollback {name}`"));
    }
    output::line(format_args!("stored {name}@{version}; put it in use with `qscale model use {name}@{version}`"))
}

async fn use_version(locate: &Locate, model: &Reference, author: AuthorArgs) -> anyhow::Result<()> {
    let name = &model.name;
    let Some(version) = model.version else {
        bail!("{name} has no version; specify one, as in {name}@1; `qscale model list` lists them");
    };
    let (store, author) = writable(locate, author).await?;
    // Agents would refuse it too, but only in their logs.
    let checked = checkpoint(&read(&store, name, version).await?).and_then(|checkpoint| Ok(checkpoint.check()?));
    checked.with_context(|| format!("model {name}@{version} cannot be put in use"))?;
    let pointer = store.pointer(name).await?;
    store.put_in_use(&author, name, version, &pointer).await?;
    match pointer.in_use {
        Some(before) if before.version == version && before.on_trial => {
            output::line(format_args!("{name}@{version} is already in use, on trial"))
        }
        Some(before) if before.version == version => output::line(format_args!("{name}@{version} is already in use")),
        Some(before) => output::line(format_args!("{name}@{version} is in use instead of {name}@{}", before.version)),
        None => output::line(format_args!("{name}@{version} is in use")),
    }
}

async fn roll_back(locate: &Locate, name: &Name, author: AuthorArgs) -> anyhow::Result<()> {
    let (store, author) = writable(locate, author).await?;
    let pointer = store.pointer(name).await?;
    let version = store.roll_back(&author, name, &pointer).await?.version().context("a version is in use after a rollback")?;
    output::line(format_args!("{name}@{version} is in use again"))
}

async fn pull(locate: &Locate, model: &Reference, file: &Path) -> anyhow::Result<()> {
    let store = store(locate).await?;
    let version = version(&store, model).await?;
    let bytes = read(&store, &model.name, version).await?;
    write(file, &bytes)?;
    output::line(format_args!("wrote {}@{version} to {} ({})", model.name, file.display(), size(bytes.len())))
}

fn join(model: &Path, specialist: &Path, file: &Path) -> anyhow::Result<()> {
    let steady = load_model(specialist)?;
    let joined = load_model(model)?.join(&steady);
    let joined = joined.with_context(|| format!("{} and {} cannot be joined", model.display(), specialist.display()))?;
    write(file, &joined.to_bytes())?;
    NamedModel::new(file.display().to_string(), &joined).print()
}

/// Writes a new file.
fn write(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let written = std::fs::OpenOptions::new().write(true).create_new(true).open(file).and_then(|mut file| file.write_all(bytes));
    written.with_context(|| format!("failed to write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reference_has_a_name_and_an_optional_version() {
        let parsed = |text: &str| text.parse::<Reference>().map(|reference| (reference.name.to_string(), reference.version));
        assert_eq!(parsed("mine"), Ok(("mine".into(), None)));
        assert_eq!(parsed("mine@12"), Ok(("mine".into(), Some(12))));
        for (text, value) in [("mine@", "``"), ("mine@0", "`0`"), ("mine@v1", "`v1`"), ("Mine@1", "`Mine`")] {
            assert!(parsed(text).expect_err(text).contains(value), "{text}");
        }
    }
}
