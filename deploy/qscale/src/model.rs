//! `qscale model`: trained models in the store of a running system. Owns what is pushed, put in use and shown; agents decide for themselves whether they take it.

mod card;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use qscale_common::name::Name;
use qscale_common::runtime::clock;
use qscale_common::runtime::models::{Model, ModelStore};
use qscale_dqn::Checkpoint;
use qscale_dqn::checkpoint::MOST_BYTES;
use qscale_dqn::pretrained::pretrained;
use serde_json::{Value, json};

use self::card::{Card, size};
use crate::show::{self, Cell, Table, Tone};
use crate::system::Locate;
use crate::train;

/// What the model that comes along is called.
const PRETRAINED: &str = "pretrained";

/// What to do with models.
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// List the models of the store: which versions there are, and which is in use
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what a model is: how it was trained and on what, how it was judged and beside which rule
    #[command(after_help = "Examples:
  qscale model show pretrained                 the model that comes along
  qscale model show mine                       the version of mine that is in use
  qscale model show mine@2
  qscale model show .qscale/training/model.dqn a file, which needs no system")]
    Show {
        /// A model of the store, a file (with a / or a . in its path), or pretrained
        #[arg(value_name = "NAME[@VERSION]|FILE|pretrained", value_hint = clap::ValueHint::FilePath)]
        model: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Store a file as the next version of a model
    ///
    /// What is no checkpoint, or was trained for other features or choices than this program has, is refused.
    #[command(after_help = "Examples:
  qscale model push mine .qscale/training/model.dqn --use
  qscale model push dqn better.dqn             the agent of `qscale up` follows the model called dqn")]
    Push {
        /// What the model is called
        #[arg(value_name = "NAME")]
        name: Name,
        /// The checkpoint
        #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
        file: PathBuf,
        /// Put it in use at once
        #[arg(long = "use")]
        put_in_use: bool,
    },
    /// Have agents decide by a version from now on: those whose configuration says model = store:NAME
    Use {
        /// Which version
        #[arg(value_name = "NAME@VERSION")]
        model: Reference,
    },
    /// Have agents decide by the version again that was in use before
    Rollback {
        /// What the model is called
        #[arg(value_name = "NAME")]
        name: Name,
    },
    /// Write a model that decides by a specialist for functions that always keep a replica, and by another model for the rest
    #[command(after_help = "Examples:
  qscale train --out all
  qscale train --functions steady --out steady
  qscale model join all/model.dqn steady/model.dqn joined.dqn")]
    Join {
        /// The model for what may be scaled to zero
        #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
        model: PathBuf,
        /// The model for what always keeps a replica
        #[arg(value_name = "SPECIALIST", value_hint = clap::ValueHint::FilePath)]
        specialist: PathBuf,
        /// The file to write, which must not be there
        #[arg(value_name = "JOINED", value_hint = clap::ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Write a version to a file
    Pull {
        /// Which version; the one in use where none is named
        #[arg(value_name = "NAME[@VERSION]")]
        model: Reference,
        /// The file, which must not be there
        #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
        file: PathBuf,
    },
}

/// A model of the store, and which version of it.
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
                (name, Some(number.ok_or_else(|| format!("`{version}` is no version; versions are numbers from 1 on, as in mine@2"))?))
            }
        };
        Ok(Self { name: Name::new(name).map_err(|error| error.to_string())?, version })
    }
}

/// Does what was asked.
pub async fn run(locate: &Locate, command: ModelCommand) -> anyhow::Result<()> {
    match command {
        ModelCommand::List { json } => list(locate, json).await,
        ModelCommand::Show { model, json } => show(locate, &model, json).await,
        ModelCommand::Push { name, file, put_in_use } => push(locate, &name, &file, put_in_use).await,
        ModelCommand::Use { model } => use_version(locate, &model).await,
        ModelCommand::Rollback { name } => roll_back(locate, &name).await,
        ModelCommand::Join { model, specialist, file } => join(&model, &specialist, &file),
        ModelCommand::Pull { model, file } => pull(locate, &model, &file).await,
    }
}

async fn store(locate: &Locate) -> anyhow::Result<ModelStore> {
    ModelStore::open(&locate.bus().await?).await
}

async fn list(locate: &Locate, json: bool) -> anyhow::Result<()> {
    let models = store(locate).await?.all().await?;
    if json {
        let listed: Vec<Value> = models.iter().flat_map(|(name, model)| rows(name, model)).map(|row| row.as_json()).collect();
        return show::json(&listed);
    }
    if models.values().all(|model| model.versions.is_empty()) {
        return show::line("the store holds no model; `qscale model push NAME FILE` stores one, `qscale train` makes one");
    }
    let now = clock::now();
    let mut table = Table::new(&["MODEL", "IN USE", "SIZE", "PUSHED", "FINGERPRINT"]);
    for row in models.iter().flat_map(|(name, model)| rows(name, model)) {
        let tone = if row.in_use { Tone::Good } else { Tone::Plain };
        let pushed = row.stored.pushed.map_or("?".to_owned(), |at| format!("{} ago", show::age(now.since(at))));
        table.row([
            Cell::new(format_args!("{}@{}", row.name, row.version), tone),
            Cell::new(if row.in_use { "yes" } else { "-" }, tone),
            size(row.stored.bytes).into(),
            pushed.into(),
            Cell::new(show::clean(row.stored.fingerprint.as_deref().unwrap_or("?")), Tone::Dim),
        ]);
    }
    table.print()
}

/// One version, as it is listed.
struct Row<'a> {
    name: &'a Name,
    version: u64,
    in_use: bool,
    stored: &'a qscale_common::runtime::models::Stored,
}

/// The versions of a model, the newest first.
fn rows<'a>(name: &'a Name, model: &'a Model) -> impl Iterator<Item = Row<'a>> {
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
        })
    }
}

async fn show(locate: &Locate, model: &str, json: bool) -> anyhow::Result<()> {
    let made;
    let (called, checkpoint) = if model == PRETRAINED {
        (PRETRAINED.to_owned(), pretrained())
    } else if model.contains(['/', '.']) {
        made = train::load(Path::new(model))?;
        (model.to_owned(), &made)
    } else {
        let reference: Reference =
            model.parse().map_err(|error| anyhow::anyhow!("{error}; a file is named with a / or a . in its path, such as ./{model}"))?;
        let store = store(locate).await?;
        let version = version(&store, &reference).await?;
        made = checkpoint(&read(&store, &reference.name, version).await?)?;
        (format!("{}@{version}", reference.name), &made)
    };
    let card = Card::new(called, checkpoint);
    if json { show::json(&card.as_json()) } else { card.print() }
}

/// The version that is named, or the one in use.
async fn version(store: &ModelStore, reference: &Reference) -> anyhow::Result<u64> {
    if let Some(version) = reference.version {
        return Ok(version);
    }
    let name = &reference.name;
    match store.in_use(name).await? {
        Some(in_use) => Ok(in_use.version),
        None => bail!("no version of model {name} is in use; name one, as in {name}@1: `qscale model list` shows which there are"),
    }
}

async fn read(store: &ModelStore, name: &Name, version: u64) -> anyhow::Result<Vec<u8>> {
    let read = store.read(name, version, MOST_BYTES).await;
    read.with_context(|| format!("model {name}@{version}; `qscale model list` shows which there are"))
}

fn checkpoint(bytes: &[u8]) -> anyhow::Result<Checkpoint> {
    Ok(Checkpoint::from_bytes(bytes)?)
}

async fn push(locate: &Locate, name: &Name, file: &Path, put_in_use: bool) -> anyhow::Result<()> {
    let checkpoint = train::load(file)?;
    checkpoint.check().with_context(|| format!("model {}", file.display()))?;
    if checkpoint.progress.is_some() {
        show::warn(format_args!("{} holds what is needed to go on training; agents need only the model.dqn beside it", file.display()));
    }
    let store = store(locate).await?;
    let version = store.push(name, &checkpoint.to_bytes(), &checkpoint.fingerprint()).await?;
    Card::new(format!("{name}@{version}"), &checkpoint).print()?;
    if put_in_use {
        store.put_in_use(name, version).await?;
        return show::line(format_args!("{name}@{version} is pushed and in use; `qscale model rollback {name}` takes that back"));
    }
    show::line(format_args!("{name}@{version} is pushed; `qscale model use {name}@{version}` has agents decide by it"))
}

async fn use_version(locate: &Locate, model: &Reference) -> anyhow::Result<()> {
    let name = &model.name;
    let Some(version) = model.version else {
        bail!("which version of {name}? Name it, as in {name}@1: `qscale model list` shows which there are");
    };
    let store = store(locate).await?;
    // What agents would refuse is refused here, where somebody reads it.
    let judged = checkpoint(&read(&store, name, version).await?).and_then(|checkpoint| Ok(checkpoint.check()?));
    judged.with_context(|| format!("model {name}@{version} is not put in use"))?;
    match store.put_in_use(name, version).await? {
        Some(before) if before.version == version => show::line(format_args!("{name}@{version} is in use already")),
        Some(before) => show::line(format_args!("{name}@{version} is in use instead of {name}@{}", before.version)),
        None => show::line(format_args!("{name}@{version} is in use")),
    }
}

async fn roll_back(locate: &Locate, name: &Name) -> anyhow::Result<()> {
    let in_use = store(locate).await?.roll_back(name).await?;
    show::line(format_args!("{name}@{} is in use again", in_use.version))
}

async fn pull(locate: &Locate, model: &Reference, file: &Path) -> anyhow::Result<()> {
    let store = store(locate).await?;
    let version = version(&store, model).await?;
    let bytes = read(&store, &model.name, version).await?;
    write(file, &bytes)?;
    show::line(format_args!("{}@{version} is in {} ({})", model.name, file.display(), size(bytes.len())))
}

fn join(model: &Path, specialist: &Path, file: &Path) -> anyhow::Result<()> {
    let beside = train::load(specialist)?;
    let joined = train::load(model)?.join(&beside);
    let joined = joined.with_context(|| format!("{} and {} cannot be joined", model.display(), specialist.display()))?;
    write(file, &joined.to_bytes())?;
    Card::new(file.display().to_string(), &joined).print()
}

/// Writes a file that is not there yet.
fn write(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let written = std::fs::OpenOptions::new().write(true).create_new(true).open(file).and_then(|mut file| file.write_all(bytes));
    written.with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_a_name_with_or_without_a_version() {
        let parsed = |text: &str| text.parse::<Reference>().map(|reference| (reference.name.to_string(), reference.version));
        assert_eq!(parsed("mine"), Ok(("mine".into(), None)));
        assert_eq!(parsed("mine@12"), Ok(("mine".into(), Some(12))));
        for (text, told) in
            [("mine@", "`` is no version"), ("mine@0", "`0` is no version"), ("mine@v1", "`v1`"), ("Mine@1", "`Mine` is not")]
        {
            assert!(parsed(text).expect_err(text).contains(told), "{text}");
        }
    }
}
