//! The record of changes, read from its stream. Must not write it.

use super::bus::{Bus, Start};
use super::clock;
use crate::change::ChangeRecord;
use crate::contract::subject;
use crate::document::DocumentError;
use crate::time::Timestamp;

/// An entry of the record of changes, as the server stored it.
#[derive(Debug, Clone)]
pub struct StoredChange {
    /// Number of the entry.
    pub sequence: u64,
    /// Time at which the server stored it.
    pub at: Timestamp,
    /// User whose credential published it, as checked by the server.
    pub user: String,
    /// The entry, or why it cannot be read.
    pub record: Result<ChangeRecord, DocumentError>,
}

/// The changes since `since`, oldest first.
///
/// # Errors
/// If the stream cannot be read.
pub async fn since(bus: &Bus, since: Timestamp) -> anyhow::Result<Vec<StoredChange>> {
    let mut changes = Vec::new();
    let add = |message: super::bus::RetainedMessage| {
        let user = subject::author_of(&message.subject).unwrap_or_default().to_owned();
        let record = ChangeRecord::from_json(&message.payload);
        changes.push(StoredChange { sequence: message.sequence, at: message.at, user, record });
        true
    };
    // The stream stores wall-clock times.
    bus.read_retained(subject::CHANGE_STREAM, &subject::all_changes(), Start::At(clock::to_wall(since)), add).await?;
    Ok(changes)
}
