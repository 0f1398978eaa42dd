//! The store of trained models: versions that count up, and which of them is in use. Owns what objects are called and the bounds within which they are read; a
//! model is bytes here and is never understood.
//!
//! Version 3 of the model `mine` is the object `mine/3` and is never written again. The object `mine/current` is empty; its metadata name the version in use and
//! those that were in use before it, so that one message says all of it.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::HeaderMap;
use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::object_store::{GetErrorKind, InfoErrorKind, ObjectInfo, ObjectMetadata, ObjectStore, Watch};
use futures::StreamExt;
use thiserror::Error;
use tokio::io::AsyncReadExt;

use super::bus::Bus;
use super::clock;
use crate::contract::subject;
use crate::name::Name;
use crate::time::Timestamp;

/// How long the list of all objects, and how long one object, is awaited.
const LISTED_WITHIN: Duration = Duration::from_secs(10);
const READ_WITHIN: Duration = Duration::from_secs(30);
/// Versions before the one in use that are remembered.
const BEFORE: usize = 50;
/// How often the next number is tried where others push at the same moment.
const CLAIMS: u64 = 100;

const CURRENT: &str = "current";
const VERSION: &str = "version";
const VERSIONS_BEFORE: &str = "before";
const FINGERPRINT: &str = "fingerprint";

/// The store of models.
#[derive(Clone)]
pub struct ModelStore {
    bus: Bus,
    store: ObjectStore,
}

/// Which version of a model is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InUse {
    /// The version.
    pub version: u64,
    /// Those that were in use before it, the last one first.
    pub before: Vec<u64>,
}

/// One version of a model, as the store tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its size.
    pub bytes: usize,
    /// When it was pushed, where the store knows.
    pub pushed: Option<Timestamp>,
    /// The fingerprint that whoever pushed it read from it.
    pub fingerprint: Option<String>,
}

/// All that the store holds of one model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Model {
    /// Its versions.
    pub versions: BTreeMap<u64, Stored>,
    /// Which is in use; `None` where none is.
    pub in_use: Option<InUse>,
}

/// Why a version cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// It is not there.
    #[error("the store holds no such version")]
    Absent,
    /// It is longer than what is read.
    #[error("{0} bytes, at most {1} are read")]
    TooLong(usize, usize),
    /// What came is not what was pushed.
    #[error("the store holds it damaged: {0}")]
    Damaged(String),
    /// The store does not answer; it may later.
    #[error("the store does not answer: {0}")]
    Silent(String),
}

impl ModelStore {
    /// Opens the store.
    ///
    /// # Errors
    /// When it is not there or the server does not answer.
    pub async fn open(bus: &Bus) -> anyhow::Result<Self> {
        let store = bus.jetstream().get_object_store(subject::MODEL_STORE).await;
        let store = store.with_context(|| format!("object store {}; `qscale up` makes what is missing", subject::MODEL_STORE))?;
        Ok(Self { bus: bus.clone(), store })
    }

    /// Every model by name. An object that is none of a model is passed over.
    ///
    /// # Errors
    /// When the server does not tell to the end.
    pub async fn all(&self) -> anyhow::Result<BTreeMap<Name, Model>> {
        let listed = async {
            let mut models: BTreeMap<Name, Model> = BTreeMap::new();
            let mut objects = self.store.list().await.context("list the models")?;
            while let Some(info) = objects.next().await {
                let info = info.context("list the models")?;
                let Some((Ok(name), which)) = info.name.rsplit_once('/').map(|(name, which)| (Name::new(name), which)) else { continue };
                match (which, which.parse()) {
                    (CURRENT, _) => models.entry(name).or_default().in_use = InUse::of(&info).ok(),
                    (_, Ok(version)) => drop(models.entry(name).or_default().versions.insert(version, Stored::of(&info))),
                    _ => {}
                }
            }
            Ok(models)
        };
        tokio::time::timeout(LISTED_WITHIN, listed).await.context("the model store stopped answering")?
    }

    /// The version of `name` in use; `None` where none is.
    ///
    /// # Errors
    /// When the server does not answer, or what names the version cannot be read.
    pub async fn in_use(&self, name: &Name) -> anyhow::Result<Option<InUse>> {
        match self.store.info(format!("{name}/{CURRENT}")).await {
            Ok(info) if info.deleted => Ok(None),
            Ok(info) => InUse::of(&info).map(Some).map_err(|reason| anyhow::anyhow!("which version of model {name} is in use: {reason}")),
            Err(error) if error.kind() == InfoErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("which version of model {name} is in use")),
        }
    }

    /// A version of `name`, of which at most `most` bytes are read.
    ///
    /// # Errors
    /// Says whether another attempt may help.
    pub async fn read(&self, name: &Name, version: u64, most: usize) -> Result<Vec<u8>, ReadError> {
        let read = async {
            let object = self.store.get(format!("{name}/{version}")).await.map_err(|error| match error.kind() {
                GetErrorKind::NotFound => ReadError::Absent,
                GetErrorKind::BucketLink | GetErrorKind::InvalidName => ReadError::Damaged(error.to_string()),
                _ => ReadError::Silent(error.to_string()),
            })?;
            let told = object.info.size;
            if told > most {
                return Err(ReadError::TooLong(told, most));
            }
            let mut bytes = Vec::new();
            let read = object.take(most as u64 + 1).read_to_end(&mut bytes).await;
            read.map_err(|error| match error.kind() {
                std::io::ErrorKind::InvalidData => ReadError::Damaged(error.to_string()),
                _ => ReadError::Silent(error.to_string()),
            })?;
            if bytes.len() == told { Ok(bytes) } else { Err(ReadError::Damaged(format!("{told} bytes are told, {} came", bytes.len()))) }
        };
        tokio::time::timeout(READ_WITHIN, read).await.unwrap_or_else(|_| Err(ReadError::Silent(format!("not read within {READ_WITHIN:?}"))))
    }

    /// Stores `bytes` as the next version of `name`, and says which that is. Nothing uses it before [`ModelStore::put_in_use`].
    ///
    /// # Errors
    /// When the server does not take it.
    pub async fn push(&self, name: &Name, bytes: &[u8], fingerprint: &str) -> anyhow::Result<u64> {
        let models = self.all().await?;
        let last = models.get(name).and_then(|model| model.versions.keys().next_back().copied()).unwrap_or(0);
        let version = self.claim(name, last + 1).await?;
        let metadata = HashMap::from([(FINGERPRINT.to_owned(), fingerprint.to_owned())]);
        let object = ObjectMetadata { name: format!("{name}/{version}"), metadata, ..Default::default() };
        self.store.put(object, &mut &*bytes).await.with_context(|| format!("store model {name}@{version}"))?;
        Ok(version)
    }

    /// The first number from `first` on that nobody has: of two who push at the same moment each gets its own.
    async fn claim(&self, name: &Name, first: u64) -> anyhow::Result<u64> {
        for version in first..first.saturating_add(CLAIMS) {
            let mut headers = HeaderMap::new();
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
            // A chunk of no object: the store keeps it and shows it to nobody.
            let subject = format!("$O.{}.C.claim.{name}.{version}", subject::MODEL_STORE);
            let sent = self.bus.jetstream().publish_with_headers(subject, headers, Default::default()).await;
            match sent.with_context(|| format!("store model {name}"))?.await {
                Ok(_) => return Ok(version),
                Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {}
                Err(error) => return Err(error).with_context(|| format!("store model {name}")),
            }
        }
        bail!("{CLAIMS} numbers from {name}@{first} on are taken; try again")
    }

    /// Has `version` of `name` used from now on; says what was used before.
    ///
    /// # Errors
    /// When there is no such version, or the server does not take it.
    pub async fn put_in_use(&self, name: &Name, version: u64) -> anyhow::Result<Option<InUse>> {
        self.must_have(name, version).await?;
        let before = self.in_use(name).await?;
        if before.as_ref().is_none_or(|before| before.version != version) {
            let earlier = before.iter().flat_map(|before| std::iter::once(before.version).chain(before.before.iter().copied()));
            self.point(name, &InUse { version, before: earlier.take(BEFORE).collect() }).await?;
        }
        Ok(before)
    }

    /// Has the version of `name` used again that was used before; says which.
    ///
    /// # Errors
    /// When there was none, or the server does not take it.
    pub async fn roll_back(&self, name: &Name) -> anyhow::Result<InUse> {
        let Some(in_use) = self.in_use(name).await? else {
            bail!("no version of model {name} is in use; `qscale model list` shows which there are")
        };
        let Some((version, before)) = in_use.before.split_first() else {
            bail!("before {name}@{} no version was in use; `qscale model use {name}@VERSION` chooses one", in_use.version)
        };
        self.must_have(name, *version).await?;
        let earlier = InUse { version: *version, before: before.to_vec() };
        self.point(name, &earlier).await?;
        Ok(earlier)
    }

    async fn must_have(&self, name: &Name, version: u64) -> anyhow::Result<()> {
        match self.store.info(format!("{name}/{version}")).await {
            Ok(info) if !info.deleted => Ok(()),
            Err(error) if error.kind() != InfoErrorKind::NotFound => Err(error).with_context(|| format!("model {name}@{version}")),
            _ => bail!("there is no model {name}@{version}; `qscale model list` shows which there are"),
        }
    }

    async fn point(&self, name: &Name, in_use: &InUse) -> anyhow::Result<()> {
        let before: Vec<String> = in_use.before.iter().map(ToString::to_string).collect();
        let metadata = HashMap::from([(VERSION.to_owned(), in_use.version.to_string()), (VERSIONS_BEFORE.to_owned(), before.join(" "))]);
        let object = ObjectMetadata { name: format!("{name}/{CURRENT}"), metadata, ..Default::default() };
        self.store.put(object, &mut tokio::io::empty()).await.with_context(|| format!("put {name}@{} in use", in_use.version))?;
        Ok(())
    }

    /// Tells from now on whenever another version of `name` is put in use.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn watch(&self, name: &Name) -> anyhow::Result<Changes> {
        let watch = self.store.watch().await.with_context(|| format!("watch model {name}"))?;
        Ok(Changes { object: format!("{name}/{CURRENT}"), watch })
    }
}

/// Changes of which version of a model is in use.
pub struct Changes {
    object: String,
    watch: Watch,
}

impl Changes {
    /// Waits for the next one.
    ///
    /// # Errors
    /// When the watch ended: then what is in use is to be read anew.
    pub async fn next(&mut self) -> anyhow::Result<()> {
        loop {
            let info = self.watch.next().await.context("the watch ended")?.context("watch the model store")?;
            if info.name == self.object {
                return Ok(());
            }
        }
    }
}

impl InUse {
    fn of(info: &ObjectInfo) -> Result<Self, String> {
        let text = |key: &str| info.metadata.get(key).map(String::as_str).unwrap_or_default();
        let version = |text: &str| text.parse().map_err(|_| format!("`{}` is no version", text.chars().take(50).collect::<String>()));
        let before = text(VERSIONS_BEFORE).split_whitespace().take(BEFORE).map(version).collect::<Result<_, _>>()?;
        Ok(Self { version: version(text(VERSION))?, before })
    }
}

impl Stored {
    fn of(info: &ObjectInfo) -> Self {
        let pushed = info.modified.and_then(|at| u64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok());
        Self {
            bytes: info.size,
            pushed: pushed.map(|at| clock::of_wall(Timestamp(at))),
            fingerprint: info.metadata.get(FINGERPRINT).cloned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(version: &str, before: &str) -> Result<InUse, String> {
        let metadata = HashMap::from([(VERSION.to_owned(), version.to_owned()), (VERSIONS_BEFORE.to_owned(), before.to_owned())]);
        let info = serde_json::json!({ "name": "mine/current", "bucket": "b", "metadata": metadata });
        InUse::of(&serde_json::from_value(info).expect("an object"))
    }

    #[test]
    fn the_version_in_use_is_read_with_those_before_it() {
        assert_eq!(told("3", "2 1"), Ok(InUse { version: 3, before: vec![2, 1] }));
        assert_eq!(told("1", ""), Ok(InUse { version: 1, before: Vec::new() }));
    }

    #[test]
    fn what_names_no_version_is_refused() {
        for (version, before) in [("", ""), ("three", ""), ("-1", ""), ("3", "2 x"), ("99999999999999999999999", "")] {
            assert!(told(version, before).expect_err("no version").ends_with("is no version"), "{version} {before}");
        }
        assert_eq!(told("1", &"2 ".repeat(1000)).expect("many").before.len(), BEFORE);
    }
}
