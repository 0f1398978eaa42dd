//! The author of changes: who makes them, and the record of changes, to which each one is appended after it was made. Must not make changes itself.

use std::sync::Arc;

use anyhow::Context as _;
use serde_json::Value;

use super::bus::Bus;
use super::nats_accounts::User;
use super::signature::SigningKey;
use crate::change::{ChangeKind, ChangeRecord, ChangedValue};
use crate::contract::{Version, subject};
use crate::time::Timestamp;

/// Name of the user who runs this process, as the environment has it; `operator` if it has none.
#[must_use]
pub fn user_name() -> String {
    std::env::var("USER").ok().filter(|user| !user.is_empty()).unwrap_or_else(|| "operator".to_owned())
}

/// An operator or a service that changes ScalingPolicies, freezes or models.
#[derive(Debug, Clone)]
pub struct Author {
    bus: Bus,
    user: User,
    by: Arc<str>,
    reason: Option<String>,
    key: Option<SigningKey>,
    unrecorded: fn(&str),
}

/// A change that was made, without its author.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub kind: ChangeKind,
    pub target: String,
    pub before: Option<ChangedValue>,
    pub after: Option<ChangedValue>,
}

impl Author {
    /// The author `by`, who is connected over `bus` with the credential of `user`. A change that cannot be recorded is logged.
    #[must_use]
    pub fn new(bus: &Bus, user: User, by: &str) -> Self {
        Self { bus: bus.clone(), user, by: by.into(), reason: None, key: None, unrecorded: |error| tracing::warn!("{error}") }
    }

    /// The same author, with the reason of the next changes.
    #[must_use]
    pub fn because(self, reason: Option<String>) -> Self {
        Self { reason, ..self }
    }

    /// The same author, who signs policies and models with `key`.
    #[must_use]
    pub fn signing(self, key: Option<SigningKey>) -> Self {
        Self { key, ..self }
    }

    /// The same author; `report` gets the error if a change was made but not recorded.
    #[must_use]
    pub fn reporting(self, report: fn(&str)) -> Self {
        Self { unrecorded: report, ..self }
    }

    /// Connection of the author.
    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Name of the author.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.by
    }

    /// Reason of the changes, if the author gave one.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// User whose credential the author has.
    pub(super) fn user(&self) -> &User {
        &self.user
    }

    /// Key with which the author signs.
    pub(super) fn key(&self) -> Option<&SigningKey> {
        self.key.as_ref()
    }

    /// Appends a change of a value without revisions to the record of changes; it was made at `now`. Returns whether it is recorded; a failure is reported.
    pub async fn record_change(&self, kind: ChangeKind, target: &str, before: Option<Value>, after: Option<Value>, now: Timestamp) -> bool {
        let changed = |value: Option<Value>| value.map(|value| ChangedValue::new(None, value));
        self.record(Made { kind, target: target.to_owned(), before: changed(before), after: changed(after) }, now).await
    }

    /// Appends a change that was made at `now` to the record of changes. Returns whether it is recorded; a failure does not undo the change, and is reported.
    pub(super) async fn record(&self, made: Made, now: Timestamp) -> bool {
        let Made { kind, target, before, after } = made;
        let what = format!("{}: {target}", kind.word());
        let record = ChangeRecord {
            version: Version::CURRENT,
            at_ms: now,
            by: self.by.to_string(),
            kind,
            target,
            before,
            after,
            reason: self.reason.clone().unwrap_or_default(),
        };
        let appended = self.append(record.to_json()).await;
        if let Err(error) = &appended {
            (self.unrecorded)(&format!("the change is made but not recorded ({what}): {error:#}; `qscale doctor` checks the streams"));
        }
        appended.is_ok()
    }

    async fn append(&self, record: Vec<u8>) -> anyhow::Result<()> {
        let stream = || format!("stream {}", subject::CHANGE_STREAM);
        let append = async {
            let sent = self.bus.jetstream().publish(subject::changes_of(&self.user.name()), record.into()).await.with_context(stream)?;
            sent.await.map(drop).with_context(stream)
        };
        tokio::time::timeout(super::bus::REQUEST_WITHIN, append).await.with_context(|| format!("{} does not answer", stream()))?
    }
}
