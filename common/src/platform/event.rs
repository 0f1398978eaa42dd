//! Events and log lines of a platform.

use serde::{Deserialize, Serialize};

use crate::name::Name;
use crate::time::Timestamp;

/// Kind of a platform event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A function was added.
    FunctionAdded,
    /// The file of a function was replaced.
    FunctionReplaced,
    /// A function was deleted.
    FunctionDeleted,
    /// The desired allocation was changed.
    AllocationSet,
    /// A request started a function that had no replica.
    StartedFromZero,
    /// A replica was started.
    ReplicaStarted,
    /// A replica became ready.
    ReplicaReady,
    /// A replica exited by itself.
    ReplicaCrashed,
    /// A replica was OOM-killed.
    ReplicaOomKilled,
    /// A replica could not be started.
    ReplicaStartFailed,
    /// A replica accepts no more requests.
    ReplicaDraining,
    /// A replica was stopped.
    ReplicaStopped,
    /// Limits of a running replica were changed.
    ReplicaResized,
    /// Limits of a running replica could not be changed.
    ResizeRefused,
    /// A write with an old lease was refused.
    StaleLease,
}

/// A platform event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformEvent {
    /// Sequence number; increases by one, also across restarts of the platform.
    pub seq: u64,
    /// Time of the event.
    pub time: Timestamp,
    /// Namespace of the function.
    pub namespace: Name,
    /// The function.
    pub function: Name,
    /// The replica, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<String>,
    /// Kind of the event.
    pub kind: EventKind,
    /// Description with values, for people.
    pub message: String,
}

/// Reply of `GET /v1/events`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EventPage {
    /// Events after the requested number, oldest first.
    pub events: Vec<PlatformEvent>,
    /// Number of the oldest retained event. If it exceeds the requested number by more than one, events are lost.
    pub oldest: u64,
    /// Number of the newest event, for the next request.
    pub newest: u64,
}

/// A line of output of a replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Time at which the platform read it.
    pub time: Timestamp,
    /// The replica.
    pub replica: String,
    /// The line, truncated to 4,096 bytes.
    pub line: String,
}
