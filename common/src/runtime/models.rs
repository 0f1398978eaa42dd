//! The model store: numbered versions of trained models and a pointer to the version in use. Owns object names, size limits, the compare-and-set of the
//! pointer, and the record of changes; a model is bytes here and must not be interpreted.
//!
//! Version 3 of model `mine` is the object `mine/3` and is never overwritten. The object `mine/current` is the pointer: it is empty, and its metadata name the
//! version in use and the versions that were in use before it, so one message changes everything. Every writer names the pointer it read: the server refuses the
//! write if the pointer has changed since.
//!
//! A version on trial is in use but not confirmed: once it is replaced, a rollback never returns to it.

mod reader;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_nats::HeaderMap;
use async_nats::header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_ROLLUP};
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::object_store::{InfoErrorKind, ObjectInfo, ObjectMetadata, ObjectStore};
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use futures::StreamExt;
use serde_json::json;
use thiserror::Error;

pub use reader::{ModelReader, PointerChanges};

use super::author::{Author, Made};
use super::bus::Bus;
use super::clock;
use super::signature::{SignatureError, TrustConfig};
use crate::change::{ChangeKind, ChangedValue};
use crate::contract::subject;
use crate::name::Name;
use crate::time::Timestamp;

/// Timeout for listing all objects.
const LIST_TIMEOUT: Duration = Duration::from_secs(10);
/// Earlier versions that the pointer remembers.
const MAX_BEFORE: usize = 50;
/// Attempts to claim a version number while others push at the same time.
const MAX_CLAIMS: u64 = 100;

const CURRENT: &str = "current";
const VERSION: &str = "version";
const VERSIONS_BEFORE: &str = "before";
const ON_TRIAL: &str = "trial";
const FINGERPRINT: &str = "fingerprint";
const SIGNATURE: &str = "signature";

/// The store of models.
#[derive(Clone)]
pub struct ModelStore {
    bus: Bus,
    store: ObjectStore,
    stream: Stream,
    trust: TrustConfig,
}

/// The version of a model that agents use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InUse {
    /// The version.
    pub version: u64,
    /// Versions that were in use before it, latest first; versions that failed or never finished a trial are not among them.
    pub before: Vec<u64>,
    /// Whether it is a candidate on trial.
    pub on_trial: bool,
}

/// The pointer to the version in use, as it was read; a writer names it to say what it replaces.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelPointer {
    /// Sequence number of the message that holds the pointer; 0 if none was ever written.
    pub revision: u64,
    /// The version in use, if any.
    pub in_use: Option<InUse>,
}

/// One version of a model as the store lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredVersion {
    /// Size in bytes.
    pub bytes: usize,
    /// Time of the push, if the store knows it.
    pub pushed: Option<Timestamp>,
    /// Fingerprint that the pushing program computed.
    pub fingerprint: Option<String>,
    /// Public key with which it is signed, as the version says; readers check the signature.
    pub signed_by: Option<String>,
}

/// Everything the store holds of one model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoredModel {
    /// Its versions by number.
    pub versions: BTreeMap<u64, StoredVersion>,
    /// The version in use, if any.
    pub in_use: Option<InUse>,
}

/// Why a version cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The version does not exist.
    #[error("no such version in the model store")]
    Absent,
    /// The version is larger than the limit: size, limit.
    #[error("the model has {0} bytes, must have at most {1}")]
    TooLong(usize, usize),
    /// The bytes differ from those pushed.
    #[error("damaged in the model store: {0}")]
    Damaged(String),
    /// The version is not signed as required.
    #[error(transparent)]
    Untrusted(#[from] SignatureError),
    /// The store does not answer; a later attempt may succeed.
    #[error("the model store does not answer: {0}")]
    Unavailable(String),
}

/// Why the version in use was not changed.
#[derive(Debug, Error)]
pub enum PointerError {
    /// Another writer changed the pointer first.
    #[error(
        "model {name}: {} was expected to be in use, found {}; nothing was changed",
        version_or_none(*expected),
        version_or_none(*found)
    )]
    Superseded {
        /// The model.
        name: Name,
        /// Version that the caller meant to replace.
        expected: Option<u64>,
        /// Version that is in use instead. Equal to `expected` if that version was replaced and put in use again.
        found: Option<u64>,
    },
    /// The version does not exist.
    #[error("no model {name}@{version}; `qscale model list` shows the versions")]
    NoSuchVersion {
        /// The model.
        name: Name,
        /// The missing version.
        version: u64,
    },
    /// No version is in use, so there is nothing to roll back.
    #[error("no version of model {name} is in use; `qscale model list` shows the versions")]
    NoneInUse {
        /// The model.
        name: Name,
    },
    /// No version was in use before the current one.
    #[error("no version was in use before {name}@{version}; `qscale model use {name}@VERSION` chooses one")]
    NoneBefore {
        /// The model.
        name: Name,
        /// The version in use.
        version: u64,
    },
    /// The store does not answer, or the pointer cannot be read.
    #[error("model {name}: {reason}")]
    Unavailable {
        /// The model.
        name: Name,
        /// The error.
        reason: String,
    },
}

fn version_or_none(version: Option<u64>) -> String {
    version.map_or_else(|| "no version".to_owned(), |version| format!("version {version}"))
}

impl ModelPointer {
    /// The version in use, if any.
    #[must_use]
    pub fn version(&self) -> Option<u64> {
        self.in_use.as_ref().map(|in_use| in_use.version)
    }

    /// The version in use as the record of changes holds it.
    fn as_changed(&self) -> Option<ChangedValue> {
        let in_use = self.in_use.as_ref()?;
        Some(ChangedValue::new(Some(self.revision), json!({ VERSION: in_use.version, "on_trial": in_use.on_trial })))
    }

    /// History of a version that replaces the current one. A version on trial is left out: it was never confirmed.
    fn history(&self, next: u64) -> Vec<u64> {
        let Some(in_use) = &self.in_use else { return Vec::new() };
        let current = (!in_use.on_trial).then_some(in_use.version);
        current.into_iter().chain(in_use.before.iter().copied()).skip_while(|version| *version == next).take(MAX_BEFORE).collect()
    }
}

impl ModelStore {
    /// Opens the store.
    ///
    /// # Errors
    /// If the store does not exist or the server does not answer.
    pub async fn open(bus: &Bus) -> anyhow::Result<Self> {
        let named = || format!("object store {}; `qscale up` creates it", subject::MODEL_STORE);
        let store = bus.jetstream().get_object_store(subject::MODEL_STORE).await.with_context(named)?;
        let stream = bus.jetstream().get_stream(subject::model_stream()).await.with_context(named)?;
        Ok(Self { bus: bus.clone(), store, stream, trust: TrustConfig::default() })
    }

    /// The same store; versions that are not signed as `trust` requires cannot be read.
    #[must_use]
    pub fn trusting(self, trust: &TrustConfig) -> Self {
        Self { trust: trust.clone(), ..self }
    }

    /// All models by name. Objects that belong to no model are ignored.
    ///
    /// # Errors
    /// If the server does not answer in time.
    pub async fn all(&self) -> anyhow::Result<BTreeMap<Name, StoredModel>> {
        let listed = async {
            let mut models: BTreeMap<Name, StoredModel> = BTreeMap::new();
            let mut objects = self.store.list().await.context("failed to list the models")?;
            while let Some(info) = objects.next().await {
                let info = info.context("failed to list the models")?;
                let Some((Ok(name), which)) = info.name.rsplit_once('/').map(|(name, which)| (Name::new(name), which)) else { continue };
                match (which, which.parse()) {
                    (CURRENT, _) => models.entry(name).or_default().in_use = InUse::of(&info).ok(),
                    (_, Ok(version)) => drop(models.entry(name).or_default().versions.insert(version, StoredVersion::of(&info))),
                    _ => {}
                }
            }
            Ok(models)
        };
        tokio::time::timeout(LIST_TIMEOUT, listed).await.context("the model store stopped answering")?
    }

    /// Read access with fewer rights.
    #[must_use]
    pub fn reader(&self) -> ModelReader {
        ModelReader::new(&self.bus, &self.trust)
    }

    /// The version of `name` in use, if any.
    ///
    /// # Errors
    /// If the server does not answer or the pointer is malformed.
    pub async fn in_use(&self, name: &Name) -> Result<Option<InUse>, PointerError> {
        Ok(self.pointer(name).await?.in_use)
    }

    /// The pointer of `name`; revision 0 if none was written. Read from the leader of the stream, so it is never older than the last acknowledged write.
    ///
    /// # Errors
    /// If the server does not answer or the pointer is malformed.
    pub async fn pointer(&self, name: &Name) -> Result<ModelPointer, PointerError> {
        let unavailable = |reason: String| PointerError::Unavailable { name: name.clone(), reason };
        let message = match self.stream.get_last_raw_message_by_subject(&object_subject(&pointer_object(name))).await {
            Ok(message) => message,
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok(ModelPointer::default()),
            Err(error) => return Err(unavailable(format!("failed to read the version in use: {error}"))),
        };
        let in_use = parse_pointer(name, &message.payload)?;
        Ok(ModelPointer { revision: message.sequence, in_use })
    }

    /// Stores `bytes` as the next version of `name`, signed if the author signs, and returns its number. [`ModelStore::put_in_use`] has agents use it.
    ///
    /// # Errors
    /// If the server refuses it or does not answer.
    pub async fn push(&self, author: &Author, name: &Name, bytes: &[u8], fingerprint: &str) -> anyhow::Result<u64> {
        let models = self.all().await?;
        let last = models.get(name).and_then(|model| model.versions.keys().next_back().copied()).unwrap_or(0);
        let version = self.claim(name, last + 1).await?;
        let mut metadata = HashMap::from([(FINGERPRINT.to_owned(), fingerprint.to_owned())]);
        if let Some(key) = author.key() {
            metadata.insert(SIGNATURE.to_owned(), key.sign_model(name, version, bytes));
        }
        let object = ObjectMetadata { name: format!("{name}/{version}"), metadata, ..Default::default() };
        self.store.put(object, &mut &*bytes).await.with_context(|| format!("failed to store model {name}@{version}"))?;
        let pushed = json!({ VERSION: version, "bytes": bytes.len(), FINGERPRINT: fingerprint });
        let (target, after) = (name.to_string(), Some(ChangedValue::new(None, pushed)));
        author.record(Made { kind: ChangeKind::ModelPushed, target, before: None, after }, clock::now()).await;
        Ok(version)
    }

    /// Claims the first free number from `first` on, so that concurrent pushes get different versions.
    async fn claim(&self, name: &Name, first: u64) -> anyhow::Result<u64> {
        for version in first..first.saturating_add(MAX_CLAIMS) {
            // A chunk that belongs to no object: the store keeps it and lists it nowhere.
            let subject = format!("$O.{}.C.claim.{name}.{version}", subject::MODEL_STORE);
            let sent = self.bus.jetstream().publish_with_headers(subject, expecting(0), Default::default()).await;
            match sent.with_context(|| format!("failed to store model {name}"))?.await {
                Ok(_) => return Ok(version),
                Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {}
                Err(error) => return Err(error).with_context(|| format!("failed to store model {name}")),
            }
        }
        bail!("{MAX_CLAIMS} version numbers from {name}@{first} on are taken; try again")
    }

    /// Puts `version` of `name` in use if the pointer still is `expected`. Writes nothing if that version is in use already.
    ///
    /// # Errors
    /// [`PointerError::Superseded`] if another writer was faster; otherwise if the version does not exist or the server does not answer.
    pub async fn put_in_use(
        &self,
        author: &Author,
        name: &Name,
        version: u64,
        expected: &ModelPointer,
    ) -> Result<ModelPointer, PointerError> {
        if expected.version() == Some(version) {
            return Ok(expected.clone());
        }
        let next = InUse { version, before: expected.history(version), on_trial: false };
        self.point(author, ChangeKind::ModelUsed, name, next, expected).await
    }

    /// Puts the candidate `version` in use on trial, to replace `base`, if the pointer still is `expected`.
    ///
    /// # Errors
    /// As [`ModelStore::put_in_use`].
    pub async fn start_trial(
        &self,
        author: &Author,
        name: &Name,
        version: u64,
        base: u64,
        expected: &ModelPointer,
    ) -> Result<ModelPointer, PointerError> {
        let earlier = expected.history(base);
        let before = std::iter::once(base).chain(earlier).filter(|before| *before != version).take(MAX_BEFORE).collect();
        self.point(author, ChangeKind::TrialStarted, name, InUse { version, before, on_trial: true }, expected).await
    }

    /// Ends the trial of `version` well: it stays in use and a later rollback may return to it.
    ///
    /// # Errors
    /// As [`ModelStore::put_in_use`].
    pub async fn confirm_trial(&self, author: &Author, name: &Name, version: u64) -> Result<ModelPointer, PointerError> {
        let pointer = self.expect_version(name, version).await?;
        match &pointer.in_use {
            Some(in_use) if in_use.on_trial => {
                self.point(author, ChangeKind::TrialConfirmed, name, InUse { on_trial: false, ..in_use.clone() }, &pointer).await
            }
            _ => Ok(pointer),
        }
    }

    /// Ends the trial of `version` badly: puts `base` in use, the version before the trial, unless another version is in use by now.
    ///
    /// # Errors
    /// As [`ModelStore::put_in_use`].
    pub async fn roll_back_trial(&self, author: &Author, name: &Name, version: u64, base: u64) -> Result<ModelPointer, PointerError> {
        let pointer = self.expect_version(name, version).await?;
        let before = pointer.history(base).into_iter().filter(|before| *before != version).skip_while(|before| *before == base);
        let next = InUse { version: base, before: before.collect(), on_trial: false };
        self.point(author, ChangeKind::TrialRolledBack, name, next, &pointer).await
    }

    /// Puts the version in use again that was in use before the current one, if the pointer still is `expected`.
    ///
    /// # Errors
    /// As [`ModelStore::put_in_use`]; if there is no earlier version.
    pub async fn roll_back(&self, author: &Author, name: &Name, expected: &ModelPointer) -> Result<ModelPointer, PointerError> {
        let Some(in_use) = &expected.in_use else { return Err(PointerError::NoneInUse { name: name.clone() }) };
        let Some((version, before)) = in_use.before.split_first() else {
            return Err(PointerError::NoneBefore { name: name.clone(), version: in_use.version });
        };
        let next = InUse { version: *version, before: before.to_vec(), on_trial: false };
        self.point(author, ChangeKind::ModelRolledBack, name, next, expected).await
    }

    async fn expect_version(&self, name: &Name, version: u64) -> Result<ModelPointer, PointerError> {
        let pointer = self.pointer(name).await?;
        if pointer.version() == Some(version) {
            return Ok(pointer);
        }
        Err(PointerError::Superseded { name: name.clone(), expected: Some(version), found: pointer.version() })
    }

    async fn require(&self, name: &Name, version: u64) -> Result<(), PointerError> {
        match self.store.info(format!("{name}/{version}")).await {
            Ok(info) if !info.deleted => Ok(()),
            Err(error) if error.kind() != InfoErrorKind::NotFound => {
                Err(PointerError::Unavailable { name: name.clone(), reason: format!("failed to look up version {version}: {error}") })
            }
            _ => Err(PointerError::NoSuchVersion { name: name.clone(), version }),
        }
    }

    /// Writes the pointer if its revision still is that of `expected`, and records it.
    async fn point(
        &self,
        author: &Author,
        kind: ChangeKind,
        name: &Name,
        next: InUse,
        expected: &ModelPointer,
    ) -> Result<ModelPointer, PointerError> {
        self.require(name, next.version).await?;
        let unavailable = |error: String| {
            let reason = format!("failed to put version {} in use: {error}", next.version);
            PointerError::Unavailable { name: name.clone(), reason }
        };
        let mut headers = expecting(expected.revision);
        headers.insert(NATS_ROLLUP, "sub");
        let value = serde_json::to_vec(&next.as_object(name)).map_err(|error| unavailable(error.to_string()))?;
        let sent = self.bus.jetstream().publish_with_headers(object_subject(&pointer_object(name)), headers, value.into()).await;
        match sent.map_err(|error| unavailable(error.to_string()))?.await {
            Ok(ack) => {
                let pointer = ModelPointer { revision: ack.sequence, in_use: Some(next) };
                let made = Made { kind, target: name.to_string(), before: expected.as_changed(), after: pointer.as_changed() };
                author.record(made, clock::now()).await;
                Ok(pointer)
            }
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
                let found = self.pointer(name).await?.version();
                Err(PointerError::Superseded { name: name.clone(), expected: expected.version(), found })
            }
            Err(error) => Err(unavailable(error.to_string())),
        }
    }
}

fn pointer_object(name: &Name) -> String {
    format!("{name}/{CURRENT}")
}

/// Subject of the message that describes an object, as the object store defines it.
fn object_subject(object: &str) -> String {
    format!("$O.{}.M.{}", subject::MODEL_STORE, URL_SAFE.encode(object))
}

/// The version in use that the pointer of `name` holds.
fn parse_pointer(name: &Name, payload: &[u8]) -> Result<Option<InUse>, PointerError> {
    let malformed = |reason: String| PointerError::Unavailable {
        name: name.clone(),
        reason: format!("the pointer to the version in use is malformed: {reason}"),
    };
    let info: ObjectInfo = serde_json::from_slice(payload).map_err(|error| malformed(error.to_string()))?;
    if info.deleted { Ok(None) } else { InUse::of(&info).map(Some).map_err(malformed) }
}

/// The header that has the server refuse a message unless `revision` is the last one on its subject.
fn expecting(revision: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, revision.to_string().as_str());
    headers
}

impl InUse {
    fn of(info: &ObjectInfo) -> Result<Self, String> {
        let text = |key: &str| info.metadata.get(key).map(String::as_str).unwrap_or_default();
        let version = |text: &str| text.parse().map_err(|_| format!("`{}` is not a version", text.chars().take(50).collect::<String>()));
        let before = text(VERSIONS_BEFORE).split_whitespace().take(MAX_BEFORE).map(version).collect::<Result<_, _>>()?;
        Ok(Self { version: version(text(VERSION))?, before, on_trial: !text(ON_TRIAL).is_empty() })
    }

    /// The empty object whose metadata hold the pointer.
    fn as_object(&self, name: &Name) -> ObjectInfo {
        let before: Vec<String> = self.before.iter().map(ToString::to_string).collect();
        let mut metadata = HashMap::from([(VERSION.to_owned(), self.version.to_string()), (VERSIONS_BEFORE.to_owned(), before.join(" "))]);
        if self.on_trial {
            metadata.insert(ON_TRIAL.to_owned(), self.version.to_string());
        }
        ObjectInfo {
            name: pointer_object(name),
            description: None,
            metadata,
            headers: None,
            options: None,
            bucket: subject::MODEL_STORE.to_owned(),
            // Names the chunks of the object, of which it has none.
            nuid: "pointer".to_owned(),
            size: 0,
            chunks: 0,
            modified: None,
            digest: Some(EMPTY_DIGEST.to_owned()),
            deleted: false,
        }
    }
}

/// Digest of an object without bytes, as the object store writes it.
const EMPTY_DIGEST: &str = "SHA-256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU=";

impl StoredVersion {
    fn of(info: &ObjectInfo) -> Self {
        let pushed = info.modified.and_then(|at| u64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok());
        Self {
            bytes: info.size,
            pushed: pushed.map(|at| clock::of_wall(Timestamp(at))),
            fingerprint: info.metadata.get(FINGERPRINT).cloned(),
            signed_by: info.metadata.get(SIGNATURE).and_then(|signature| signature.split('.').next()).map(str::to_owned),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(version: &str, before: &str) -> Result<InUse, String> {
        let metadata = HashMap::from([(VERSION.to_owned(), version.to_owned()), (VERSIONS_BEFORE.to_owned(), before.to_owned())]);
        let info = serde_json::json!({ "name": "mine/current", "bucket": "b", "metadata": metadata });
        InUse::of(&serde_json::from_value(info).expect("an object"))
    }

    fn pointer(version: u64, before: &[u64], on_trial: bool) -> ModelPointer {
        ModelPointer { revision: 1, in_use: Some(InUse { version, before: before.to_vec(), on_trial }) }
    }

    #[test]
    fn a_pointer_written_by_an_earlier_release_is_read() {
        assert_eq!(read("3", "2 1"), Ok(InUse { version: 3, before: vec![2, 1], on_trial: false }));
        assert_eq!(read("1", ""), Ok(InUse { version: 1, before: Vec::new(), on_trial: false }));
    }

    #[test]
    fn a_pointer_is_read_as_it_was_written() {
        let name = Name::new("mine").expect("valid");
        for on_trial in [false, true] {
            let in_use = InUse { version: 3, before: vec![2, 1], on_trial };
            let text = serde_json::to_string(&in_use.as_object(&name)).expect("an object");
            assert_eq!(InUse::of(&serde_json::from_str(&text).expect("an object")), Ok(in_use));
        }
    }

    #[test]
    fn a_pointer_without_a_valid_version_is_refused() {
        for (version, before) in [("", ""), ("three", ""), ("-1", ""), ("3", "2 x"), ("99999999999999999999999", "")] {
            assert!(read(version, before).is_err(), "{version} {before}");
        }
        assert_eq!(read("1", &"2 ".repeat(1000)).expect("many").before.len(), MAX_BEFORE);
    }

    #[test]
    fn the_history_leaves_out_versions_on_trial() {
        assert_eq!(pointer(3, &[2, 1], false).history(4), [3, 2, 1]);
        assert_eq!(pointer(3, &[2, 1], true).history(4), [2, 1]);
        assert_eq!(pointer(3, &[2, 1], true).history(2), [1]);
        assert_eq!(ModelPointer::default().history(1), [0; 0]);
    }
}
