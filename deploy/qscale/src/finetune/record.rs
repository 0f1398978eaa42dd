//! Where fine-tuning of a model stands, in a bucket of the system. Owns reading and writing it without losing what another process wrote; decides nothing.

use anyhow::Context as _;
use async_nats::jetstream::kv::{Operation, Store, UpdateErrorKind};
use qscale_common::contract::subject;
use qscale_common::name::Name;
use qscale_common::runtime::bus::Bus;
use qscale_promote::Gates;
use thiserror::Error;

use crate::store;

/// What is written down of one model.
pub struct Record {
    store: Store,
    model: Name,
    revision: u64,
    /// Where it stands.
    pub gates: Gates,
}

/// Somebody else wrote meanwhile.
#[derive(Debug, Error)]
#[error("another `qscale finetune {0}` is at work on this system; let only one run")]
pub struct Taken(Name);

impl Record {
    /// What is written down of `model`; the beginning where nothing is.
    pub async fn read(bus: &Bus, model: &Name) -> anyhow::Result<Self> {
        let store = store::open(bus, subject::FINETUNE_BUCKET).await?;
        let entry = store.entry(model.as_str()).await.with_context(|| format!("read {model} of bucket {}", store.name))?;
        let revision = entry.as_ref().map_or(0, |entry| entry.revision);
        let gates = match entry.filter(|entry| entry.operation == Operation::Put) {
            Some(entry) => serde_json::from_slice(&entry.value).with_context(|| {
                format!("{model} of bucket {0} was not written by this program; `nats kv del {0} {model}` begins anew", store.name)
            })?,
            None => Gates::default(),
        };
        Ok(Self { store, model: model.clone(), revision, gates })
    }

    /// Writes down where it stands now.
    pub async fn write(&mut self) -> anyhow::Result<()> {
        let value = serde_json::to_vec(&self.gates).context("where fine-tuning stands")?;
        match self.store.update(self.model.as_str(), value.into(), self.revision).await {
            Ok(revision) => {
                self.revision = revision;
                Ok(())
            }
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Err(Taken(self.model.clone()).into()),
            Err(error) => Err(error).with_context(|| format!("write {} of bucket {}", self.model, self.store.name)),
        }
    }
}
