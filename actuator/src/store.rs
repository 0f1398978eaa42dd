//! What the actuator must not forget, in a key-value bucket. Owns keys and values; must not decide when something is stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use qscale_common::contract::subject::ACTUATOR_BUCKET;
use qscale_common::guard::Budget;
use qscale_common::name::{FunctionId, Name};
use qscale_common::runtime::bus::{Bucket, Bus};
use qscale_common::time::Timestamp;
use qscale_common::units::Allocation;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

/// What a function had before Qscale first acted on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Original {
    /// The workload, which a policy that is gone can no longer name.
    pub workload: FunctionId,
    /// What it had.
    pub allocation: Allocation,
    /// When that was read.
    pub at_ms: Timestamp,
}

/// One thing to remember of one function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// What it had before Qscale first acted. Written once, never again.
    Original(Original),
    /// What was changed within the last hour.
    Budget(Budget),
    /// The last request to restore it that was carried out.
    Restored(Timestamp),
}

/// A record and the function that it belongs to.
pub type Remembered = (FunctionId, Record);

impl Record {
    fn word(&self) -> &'static str {
        match self {
            Self::Original(_) => "original",
            Self::Budget(_) => "budget",
            Self::Restored(_) => "restored",
        }
    }

    /// The key of this record of `function`: `original.<namespace>.<function>`.
    #[must_use]
    pub fn key(&self, function: &FunctionId) -> String {
        format!("{}.{}", self.word(), function.tokens())
    }

    fn value(&self) -> Vec<u8> {
        let written = match self {
            Self::Original(original) => serde_json::to_vec(original),
            Self::Budget(budget) => serde_json::to_vec(budget),
            Self::Restored(request) => serde_json::to_vec(request),
        };
        written.expect("records hold only numbers, names and lists, which JSON can write")
    }
}

/// Reads one entry of the bucket.
///
/// # Errors
/// Says what is wrong with key or value.
pub fn parse(key: &str, value: &[u8]) -> Result<Remembered, String> {
    let mut tokens = key.splitn(3, '.');
    let (Some(word), Some(namespace), Some(name)) = (tokens.next(), tokens.next(), tokens.next()) else {
        return Err("the key is not of the form original.<namespace>.<function>".into());
    };
    let label = |text: &str| Name::new(text).map_err(|error| error.to_string());
    let function = FunctionId::new(label(namespace)?, label(name)?);
    let record = match word {
        "original" => serde_json::from_slice(value).map(Record::Original),
        "budget" => serde_json::from_slice(value).map(Record::Budget),
        "restored" => serde_json::from_slice(value).map(Record::Restored),
        _ => return Err(format!("`{word}` is none of original, budget and restored")),
    };
    record.map(|record| (function, record)).map_err(|error| error.to_string())
}

/// Everything that is remembered, kept current.
pub fn watch(bus: &Bus, token: CancellationToken) -> Bucket<Remembered> {
    bus.watch_bucket(ACTUATOR_BUCKET, parse, token)
}

/// The entries of the bucket as the watch tells them.
pub type Entries = BTreeMap<String, Arc<Remembered>>;

/// Stores `record` of `function`; returns what is stored afterwards, which for an original may be an older one.
///
/// # Errors
/// When the bucket cannot be reached.
pub async fn put(bus: &Bus, function: &FunctionId, record: &Record) -> anyhow::Result<Record> {
    let store = bus.jetstream().get_key_value(ACTUATOR_BUCKET).await?;
    let (key, value) = (record.key(function), record.value());
    let Record::Original(_) = record else {
        store.put(&key, value.into()).await?;
        return Ok(record.clone());
    };
    if store.create(&key, value.into()).await.is_ok() {
        return Ok(record.clone());
    }
    match store.get(&key).await? {
        Some(older) => parse(&key, &older).map(|(_, record)| record).map_err(|error| anyhow::anyhow!("{key}: {error}")),
        None => anyhow::bail!("{key}: could not be written"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_what_they_write() {
        let function: FunctionId = "prod/fib".parse().expect("a name");
        let original = Original { workload: function.clone(), allocation: Allocation::new(2, 500, 256), at_ms: Timestamp(7) };
        for record in [Record::Original(original), Record::Budget(Budget::default()), Record::Restored(Timestamp(9))] {
            assert_eq!(parse(&record.key(&function), &record.value()), Ok((function.clone(), record)));
        }
    }

    #[test]
    fn foreign_entries_are_refused_with_a_reason() {
        assert!(parse("budget.fib", b"{}").is_err());
        assert!(parse("mood.prod.fib", b"{}").expect_err("unknown").contains("`mood`"));
        assert!(parse("budget.prod.fib", b"7").is_err());
        assert!(parse("budget.prod.f*b", b"{}").is_err());
    }
}
