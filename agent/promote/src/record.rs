//! Entries of the promotion bucket: the record of each model, and the request of operators. Owns keys and
//! compare-and-set of the record; must not decide.

use anyhow::Context as _;
use async_nats::jetstream::kv::{Operation, Store, UpdateErrorKind};
use qscale_common::change::ChangeKind;
use qscale_common::contract::subject;
use qscale_common::name::Name;
use qscale_common::runtime::author::Author;
use qscale_common::runtime::bus::Bus;
use qscale_common::runtime::{clock, kv};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::promotion::Promotion;
use crate::settings::{PromotionRequest, PromotionSettings, RoundRequest};

/// An entry of the bucket, without its model.
#[derive(Debug, Clone, PartialEq)]
pub enum BucketEntry {
    /// State of the promotion, key `<model>`. Only the promoter writes it.
    Promotion,
    /// Request of operators, key `request.<model>`. Only operators write it.
    Request(Box<PromotionRequest>),
}

/// Key of the request for `model`.
#[must_use]
pub fn request_key(model: &Name) -> String {
    format!("{}.{model}", subject::PROMOTION_REQUEST)
}

/// The model and the entry of `key`.
///
/// # Errors
/// Names what is wrong with key or value.
pub fn parse(key: &str, value: &[u8]) -> Result<(Name, BucketEntry), String> {
    let name = |text: &str| Name::new(text).map_err(|error| error.to_string());
    match key.split_once('.') {
        None => Ok((name(key)?, BucketEntry::Promotion)),
        Some((subject::PROMOTION_REQUEST, model)) => {
            let request = serde_json::from_slice(value).map_err(|error| error.to_string())?;
            Ok((name(model)?, BucketEntry::Request(Box::new(request))))
        }
        Some((prefix, _)) => Err(format!("unknown prefix `{prefix}`")),
    }
}

/// Another process wrote the record, or the pointer to the version in use, in the meantime.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the record of model {0} was changed by another promoter; reading it again")]
pub struct RecordChanged(pub Name);

/// The stored promotion of one model.
pub struct PromotionRecord {
    store: Store,
    model: Name,
    revision: u64,
    /// The promotion.
    pub promotion: Promotion,
}

impl PromotionRecord {
    /// Reads the record of `model`; the default if there is none.
    ///
    /// # Errors
    /// If the bucket cannot be read or the record cannot be decoded.
    pub async fn read(bus: &Bus, model: &Name) -> anyhow::Result<Self> {
        let store = kv::open(bus, subject::FINETUNE_BUCKET).await?;
        let (promotion, revision) = get(&store, model.as_str()).await?;
        Ok(Self { store, model: model.clone(), revision, promotion: promotion.unwrap_or_default() })
    }

    /// Writes the record.
    ///
    /// # Errors
    /// [`RecordChanged`] if another process wrote it; or if the server does not answer.
    pub async fn write(&mut self) -> anyhow::Result<()> {
        let value = encode(&self.promotion)?;
        match self.store.update(self.model.as_str(), value.into(), self.revision).await {
            Ok(revision) => {
                self.revision = revision;
                Ok(())
            }
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Err(RecordChanged(self.model.clone()).into()),
            Err(error) => Err(error).with_context(|| format!("failed to write {} of bucket {}", self.model, self.store.name)),
        }
    }
}

/// The request for `model`; the default if there is none.
///
/// # Errors
/// If the bucket cannot be read or the request cannot be decoded.
pub async fn read_request(bus: &Bus, model: &Name) -> anyhow::Result<PromotionRequest> {
    let store = kv::open(bus, subject::FINETUNE_BUCKET).await?;
    Ok(get(&store, &request_key(model)).await?.0.unwrap_or_default())
}

/// Changes the request for `model` by compare-and-set and records the change; `change` runs again after a concurrent write. Returns the request that was
/// written.
///
/// # Errors
/// If the bucket cannot be read or written.
pub async fn edit_request(
    author: &Author,
    model: &Name,
    mut change: impl FnMut(&mut PromotionRequest),
) -> anyhow::Result<PromotionRequest> {
    let store = kv::open(author.bus(), subject::FINETUNE_BUCKET).await?;
    let (mut before, mut written) = (None, PromotionRequest::default());
    kv::edit(&store, &request_key(model), |value| {
        let mut request: PromotionRequest = value.map(decode).transpose()?.unwrap_or_default();
        before = value.map(|_| serde_json::to_value(&request)).transpose()?;
        change(&mut request);
        let value = encode(&request)?;
        written = request;
        Ok(Some(value))
    })
    .await?;
    let after = Some(serde_json::to_value(&written)?);
    author.record_change(ChangeKind::FinetuneRequested, model.as_str(), before, after, clock::now()).await;
    Ok(written)
}

/// Requests a round of `model`; its number follows that of every round that was requested or, by `promotion`, accepted
/// before. Returns the number.
///
/// # Errors
/// As [`edit_request`].
pub async fn request_round(
    author: &Author,
    model: &Name,
    promotion: &Promotion,
    settings: &PromotionSettings,
    candidate: Option<u64>,
) -> anyhow::Result<u64> {
    let accepted = promotion.round.as_ref().map_or(0, |status| status.id);
    let request = edit_request(author, model, |request| {
        let id = request.round.as_ref().map_or(0, |round| round.id).max(accepted) + 1;
        request.round = Some(RoundRequest { id, settings: settings.clone(), candidate });
    });
    Ok(request.await?.round.map_or(0, |round| round.id))
}

async fn get<T: DeserializeOwned>(store: &Store, key: &str) -> anyhow::Result<(Option<T>, u64)> {
    let entry = store.entry(key).await.with_context(|| format!("failed to read {key} of bucket {}", store.name))?;
    let revision = entry.as_ref().map_or(0, |entry| entry.revision);
    let Some(entry) = entry.filter(|entry| entry.operation == Operation::Put) else { return Ok((None, revision)) };
    let decoded =
        decode(&entry.value).with_context(|| format!("decode {key} of bucket {0}; `nats kv del {0} {key}` deletes it", store.name))?;
    Ok((Some(decoded), revision))
}

fn decode<T: DeserializeOwned>(value: &[u8]) -> anyhow::Result<T> {
    Ok(serde_json::from_slice(value)?)
}

fn encode<T: Serialize>(value: &T) -> anyhow::Result<Vec<u8>> {
    Ok(serde_json::to_vec(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_the_model_and_the_kind_of_entry() {
        let model = Name::new("mine").expect("valid");
        assert_eq!(parse("mine", b"anything"), Ok((model.clone(), BucketEntry::Promotion)));
        let request = BucketEntry::Request(Box::default());
        assert_eq!(parse(&request_key(&model), b"{}"), Ok((model, request)));
        assert!(parse("other.mine", b"{}").is_err() && parse("Mine", b"{}").is_err() && parse("request.mine", b"[").is_err());
    }
}
