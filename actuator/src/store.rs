//! The actuator's persistent records, in a key-value bucket. Owns keys and values; must not decide when something is stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use qscale_common::contract::subject::ACTUATOR_BUCKET;
use qscale_common::guard::Budget;
use qscale_common::name::{FunctionId, Name};
use qscale_common::policy::WorkloadKind;
use qscale_common::runtime::bus::{Bucket, Bus};
use qscale_common::time::Timestamp;
use qscale_common::units::Allocation;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

/// Allocation of a function before the first change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// Name of the workload, needed when the policy is deleted.
    pub workload: FunctionId,
    /// Kind of the workload.
    #[serde(default)]
    pub kind: WorkloadKind,
    /// The allocation.
    pub allocation: Allocation,
    /// Time at which it was read.
    pub at_ms: Timestamp,
}

/// A record of one function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Allocation before the first change. Written once.
    Baseline(Baseline),
    /// Changes within the last hour.
    Budget(Budget),
    /// Last restore request that was executed.
    Restored(Timestamp),
}

/// Prefix of the key of a baseline.
const BASELINE: &str = "original";

/// A record with its function.
pub(crate) type StoredRecord = (FunctionId, Record);

impl Record {
    fn prefix(&self) -> &'static str {
        match self {
            Self::Baseline(_) => BASELINE,
            Self::Budget(_) => "budget",
            Self::Restored(_) => "restored",
        }
    }

    /// The key of the baseline of `function`.
    #[must_use]
    pub fn baseline_key(function: &FunctionId) -> String {
        format!("{BASELINE}.{}", function.tokens())
    }

    /// The key of this record of `function`: `original.<namespace>.<function>`.
    #[must_use]
    pub fn key(&self, function: &FunctionId) -> String {
        format!("{}.{}", self.prefix(), function.tokens())
    }

    fn value(&self) -> Vec<u8> {
        let written = match self {
            Self::Baseline(baseline) => serde_json::to_vec(baseline),
            Self::Budget(budget) => serde_json::to_vec(budget),
            Self::Restored(request) => serde_json::to_vec(request),
        };
        written.expect("records hold only numbers, names and lists, which JSON can write")
    }
}

/// Decodes one entry of the bucket.
///
/// # Errors
/// Names the key or value at fault.
pub(crate) fn parse(key: &str, value: &[u8]) -> Result<StoredRecord, String> {
    let mut tokens = key.splitn(3, '.');
    let (Some(word), Some(namespace), Some(name)) = (tokens.next(), tokens.next(), tokens.next()) else {
        return Err("the key must be original.<namespace>.<function>, or the same with budget or restored".into());
    };
    let label = |text: &str| Name::new(text).map_err(|error| error.to_string());
    let function = FunctionId::new(label(namespace)?, label(name)?);
    let record = match word {
        BASELINE => serde_json::from_slice(value).map(Record::Baseline),
        "budget" => serde_json::from_slice(value).map(Record::Budget),
        "restored" => serde_json::from_slice(value).map(Record::Restored),
        _ => return Err(format!("prefix `{word}`, must be original, budget or restored")),
    };
    record.map(|record| (function, record)).map_err(|error| error.to_string())
}

/// Watches all records.
pub(crate) fn watch(bus: &Bus, token: CancellationToken) -> Bucket<StoredRecord> {
    bus.watch_bucket(ACTUATOR_BUCKET, parse, token)
}

/// The entries of the bucket by key.
pub(crate) type StoredRecords = BTreeMap<String, Arc<StoredRecord>>;

/// Stores `record` of `function`; returns the stored record, which for a baseline may be an older one.
///
/// # Errors
/// If the bucket cannot be reached.
pub(crate) async fn put(bus: &Bus, function: &FunctionId, record: &Record) -> anyhow::Result<Record> {
    let store = bus.jetstream().get_key_value(ACTUATOR_BUCKET).await?;
    let (key, value) = (record.key(function), record.value());
    let Record::Baseline(_) = record else {
        store.put(&key, value.into()).await?;
        return Ok(record.clone());
    };
    if store.create(&key, value.into()).await.is_ok() {
        return Ok(record.clone());
    }
    match store.get(&key).await? {
        Some(older) => parse(&key, &older).map(|(_, record)| record).map_err(|error| anyhow::anyhow!("{key}: {error}")),
        None => anyhow::bail!("failed to write {key}"),
    }
}

/// Deletes the baseline of `function`.
///
/// # Errors
/// If the bucket cannot be reached.
pub(crate) async fn forget(bus: &Bus, function: &FunctionId) -> anyhow::Result<()> {
    let store = bus.jetstream().get_key_value(ACTUATOR_BUCKET).await?;
    Ok(store.delete(Record::baseline_key(function)).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip() {
        let function: FunctionId = "prod/fib".parse().expect("a name");
        let baseline = Baseline {
            workload: function.clone(),
            kind: WorkloadKind::Local,
            allocation: Allocation::new(2, 500, 256),
            at_ms: Timestamp(7),
        };
        for record in [Record::Baseline(baseline), Record::Budget(Budget::default()), Record::Restored(Timestamp(9))] {
            assert_eq!(parse(&record.key(&function), &record.value()), Ok((function.clone(), record)));
        }
    }

    #[test]
    fn malformed_entries_are_refused() {
        assert!(parse("budget.fib", b"{}").is_err());
        assert!(parse("mood.prod.fib", b"{}").expect_err("unknown").contains("`mood`"));
        assert!(parse("budget.prod.fib", b"7").is_err());
        assert!(parse("budget.prod.f*b", b"{}").is_err());
    }
}
