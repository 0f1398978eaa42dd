//! Read access to the model store with the few rights of an agent: no JetStream API, only direct gets and notices of changes. Owns the reading of objects and
//! the check of their integrity and signature; must not write.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::Subscriber;
use async_nats::jetstream::object_store::ObjectInfo;
use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use futures::StreamExt;
use sha2::{Digest, Sha256};

use super::{InUse, PointerError, ReadError, SIGNATURE, object_subject, parse_pointer, pointer_object};
use crate::contract::subject;
use crate::name::Name;
use crate::runtime::bus::{Bus, RetainedMessage, Start};
use crate::runtime::signature::TrustConfig;

/// Timeout for reading one object.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads models.
#[derive(Debug, Clone)]
pub struct ModelReader {
    bus: Bus,
    trust: TrustConfig,
}

impl ModelReader {
    /// A reader over `bus` of the versions that are signed as `trust` requires.
    #[must_use]
    pub fn new(bus: &Bus, trust: &TrustConfig) -> Self {
        Self { bus: bus.clone(), trust: trust.clone() }
    }

    /// The version of `name` in use, if any.
    ///
    /// # Errors
    /// If the server does not answer or the pointer is malformed.
    pub async fn in_use(&self, name: &Name) -> Result<Option<InUse>, PointerError> {
        let found = self.bus.last_in(&subject::model_stream(), &object_subject(&pointer_object(name))).await;
        let unavailable = |error: anyhow::Error| PointerError::Unavailable {
            name: name.clone(),
            reason: format!("failed to read the version in use: {error:#}"),
        };
        match found.map_err(unavailable)? {
            Some(message) => parse_pointer(name, &message.payload),
            None => Ok(None),
        }
    }

    /// The bytes of a version of `name`, at most `max_bytes`.
    ///
    /// # Errors
    /// Distinguishes whether another attempt may succeed.
    pub async fn read(&self, name: &Name, version: u64, max_bytes: usize) -> Result<Vec<u8>, ReadError> {
        let timeout = || ReadError::Unavailable(format!("timeout after {READ_TIMEOUT:?}"));
        let object = format!("{name}/{version}");
        let read = self.read_object(&object, max_bytes);
        let (info, bytes) = tokio::time::timeout(READ_TIMEOUT, read).await.unwrap_or_else(|_| Err(timeout()))?;
        self.trust.check_model(name, version, &bytes, info.metadata.get(SIGNATURE).map(String::as_str))?;
        Ok(bytes)
    }

    async fn read_object(&self, object: &str, max_bytes: usize) -> Result<(ObjectInfo, Vec<u8>), ReadError> {
        let unavailable = |error: anyhow::Error| ReadError::Unavailable(format!("{error:#}"));
        let found =
            self.bus.last_in(&subject::model_stream(), &object_subject(object)).await.map_err(unavailable)?.ok_or(ReadError::Absent)?;
        let info: ObjectInfo = serde_json::from_slice(&found.payload).map_err(|error| ReadError::Damaged(error.to_string()))?;
        if info.deleted {
            return Err(ReadError::Absent);
        }
        if info.size > max_bytes {
            return Err(ReadError::TooLong(info.size, max_bytes));
        }
        let mut bytes = Vec::new();
        if info.size > 0 {
            let chunks = format!("$O.{}.C.{}", subject::MODEL_STORE, info.nuid);
            let add = |chunk: RetainedMessage| {
                bytes.extend_from_slice(&chunk.payload);
                bytes.len() < info.size
            };
            self.bus.read_retained(&subject::model_stream(), &chunks, Start::Sequence(1), add).await.map_err(unavailable)?;
        }
        check(&info, &bytes)?;
        Ok((info, bytes))
    }

    /// Notices of changes of the version of `name` in use. Those during an interruption of the connection are lost.
    ///
    /// # Errors
    /// If the connection is closed.
    pub async fn changes(&self, name: &Name) -> anyhow::Result<PointerChanges> {
        let subject = object_subject(&pointer_object(name));
        let notices = self.bus.client().subscribe(subject.clone()).await.with_context(|| format!("subscribe to {subject}"))?;
        Ok(PointerChanges { notices })
    }
}

/// Notices of changes of the version of a model in use.
#[derive(Debug)]
pub struct PointerChanges {
    notices: Subscriber,
}

impl PointerChanges {
    /// Waits for the next change.
    ///
    /// # Errors
    /// If the connection is closed.
    pub async fn next(&mut self) -> anyhow::Result<()> {
        self.notices.next().await.context("the connection is closed").map(drop)
    }
}

/// Compares `bytes` with the size and the digest of `info`.
fn check(info: &ObjectInfo, bytes: &[u8]) -> Result<(), ReadError> {
    if bytes.len() != info.size {
        return Err(ReadError::Damaged(format!("expected {} bytes, read {}", info.size, bytes.len())));
    }
    let digest = info.digest.as_deref().unwrap_or_default();
    let expected = digest.strip_prefix("SHA-256=").map(|digest| URL_SAFE.decode(digest).or_else(|_| URL_SAFE_NO_PAD.decode(digest)));
    match expected {
        Some(Ok(expected)) if expected == Sha256::digest(bytes).as_slice() => Ok(()),
        _ => Err(ReadError::Damaged(format!("the bytes do not have the digest `{digest}`"))),
    }
}
