//! Requests of an operator to the actuator: freezes and restores. Owns the edits of the control bucket, their record, and the wait for answers; the actuator
//! carries them out.

use std::collections::BTreeSet;

use anyhow::Context as _;

use super::author::{Author, Made};
use super::bus::{Bus, Subscription};
use super::kv::{self, Edited};
use crate::change::{ChangeKind, ChangedValue};
use crate::contract::{DecisionSource, Effect, EventType, Outcome, Version, subject};
use crate::control::{self, Control};
use crate::name::FunctionId;
use crate::time::Timestamp;

/// Functions of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One function.
    One(FunctionId),
    /// All functions, including future ones.
    All,
}

impl Target {
    fn key(&self) -> String {
        match self {
            Self::One(function) => Control::key(function),
            Self::All => control::ALL.to_owned(),
        }
    }

    /// Its name in the record of changes.
    fn recorded(&self) -> String {
        match self {
            Self::One(function) => function.to_string(),
            Self::All => control::ALL.to_owned(),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One(function) => function.fmt(f),
            Self::All => f.write_str("all functions"),
        }
    }
}

/// The request of `author`; without a reason it keeps none.
fn control(author: &Author, frozen: bool, restore: Option<Timestamp>, now: Timestamp) -> Control {
    let (by, reason) = (author.name().to_owned(), author.reason().unwrap_or_default().to_owned());
    Control { version: Version::CURRENT, frozen, restore, by, reason, at_ms: now, malformed: false }
}

/// Stops the application of decisions to `target`. Returns the freeze that it already has, which is then unchanged.
///
/// # Errors
/// As [`kv::edit`].
pub async fn freeze(author: &Author, target: &Target, now: Timestamp) -> anyhow::Result<Option<Control>> {
    let change = |before: Option<&Control>| {
        is_new(before, author.reason()).then(|| {
            // A requested restore remains.
            control(author, true, before.and_then(|before| before.restore), now)
        })
    };
    let edit = edit(author, target, ChangeKind::Frozen, change, now).await?;
    Ok(edit.before.filter(|_| !edit.written))
}

/// Whether a freeze for `reason` changes the control `before`. Without a reason a freeze keeps the one before.
fn is_new(before: Option<&Control>, reason: Option<&str>) -> bool {
    !before.is_some_and(|before| before.frozen && !before.malformed && reason.is_none_or(|reason| before.reason == reason))
}

/// Applies decisions to `target` again; returns whether it was frozen.
///
/// # Errors
/// As [`kv::edit`].
pub async fn unfreeze(author: &Author, target: &Target, now: Timestamp) -> anyhow::Result<bool> {
    let change = |before: Option<&Control>| before.is_some_and(|before| before.frozen).then(|| control(author, false, None, now));
    Ok(edit(author, target, ChangeKind::Unfrozen, change, now).await?.written)
}

/// Requests the allocation of `target` from before Qscale acted, and freezes it.
///
/// # Errors
/// As [`kv::edit`].
pub async fn restore(author: &Author, target: &Target, now: Timestamp) -> anyhow::Result<()> {
    let request = |before: Option<&Control>| Some(control(author, true, Some(restore_time(before, now)), now));
    edit(author, target, ChangeKind::RestoreRequested, request, now).await.map(drop)
}

/// A control before an edit, and whether it was written.
struct ControlEdit {
    before: Option<Control>,
    written: bool,
}

/// Requests the allocation of `function` from before Qscale acted, and freezes nothing: its policy was deleted.
///
/// # Errors
/// As [`kv::edit`].
pub async fn restore_after_deletion(author: &Author, function: &FunctionId, now: Timestamp) -> anyhow::Result<()> {
    let frozen = |before: Option<&Control>| before.is_some_and(|before| before.frozen);
    let request = |before: Option<&Control>| Some(control(author, frozen(before), Some(restore_time(before, now)), now));
    edit(author, &Target::One(function.clone()), ChangeKind::RestoreRequested, request, now).await.map(drop)
}

/// Replaces the control of `target` by the result of `change`, unless that is `None`, and records it.
async fn edit(
    author: &Author,
    target: &Target,
    kind: ChangeKind,
    change: impl Fn(Option<&Control>) -> Option<Control>,
    now: Timestamp,
) -> anyhow::Result<ControlEdit> {
    let store = kv::open(author.bus(), subject::CONTROL_BUCKET).await?;
    let (mut before, mut after) = (None, None);
    let edited = kv::edit(&store, &target.key(), |current| {
        before = current.map(Control::from_json);
        after = change(before.as_ref());
        Ok(after.as_ref().map(Control::to_json))
    })
    .await?;
    let (revision_before, revision) = match edited {
        Edited::Created { after } => (None, after),
        Edited::Changed { before, after } => (Some(before), after),
        Edited::Unchanged => return Ok(ControlEdit { before, written: false }),
    };
    let value =
        |control: Option<&Control>| control.filter(|control| !control.malformed).and_then(|control| serde_json::to_value(control).ok());
    let changed = |revision, control| ChangedValue { revision: Some(revision), value: value(control) };
    let made = Made {
        kind,
        target: target.recorded(),
        before: revision_before.map(|revision| changed(revision, before.as_ref())),
        after: Some(changed(revision, after.as_ref())),
    };
    author.record(made, now).await;
    Ok(ControlEdit { before, written: true })
}

/// Time of a new request to restore, by which the actuator distinguishes it from earlier ones: `now`, unless the clock was set back since the request `before`.
fn restore_time(before: Option<&Control>, now: Timestamp) -> Timestamp {
    let last = before.map_or(Timestamp(0), |before| before.restore.map_or(before.at_ms, |restore| restore.max(before.at_ms)));
    now.max(Timestamp(last.0.saturating_add(1)))
}

/// Answers of the actuator to a restore.
#[derive(Debug)]
pub struct RestoreAnswers {
    outcomes: Subscription<Outcome>,
    waiting: BTreeSet<FunctionId>,
    failed: BTreeSet<FunctionId>,
}

/// Final answer of the actuator for one function.
#[derive(Debug, Clone)]
pub enum RestoreAnswer {
    /// The function has the allocation from before Qscale.
    Restored(Outcome),
    /// The actuator does not restore it.
    Refused(Outcome),
}

impl RestoreAnswers {
    /// Subscribes to the answers for `functions`. To be called before the request, so that no answer is missed.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn subscribe(bus: &Bus, functions: BTreeSet<FunctionId>) -> anyhow::Result<Self> {
        let outcomes = bus.subscribe(subject::all(EventType::Outcome), None).await?;
        bus.client().flush().await.context("failed to subscribe to outcomes")?;
        Ok(Self { outcomes, waiting: functions, failed: BTreeSet::new() })
    }

    /// The next final answer; `None` once every function has one. Waits for ever if an answer does not come.
    ///
    /// # Errors
    /// When the connection was closed.
    pub async fn next(&mut self) -> anyhow::Result<Option<(FunctionId, RestoreAnswer)>> {
        while !self.waiting.is_empty() {
            let outcome = self.outcomes.next().await.context("the connection was closed")?.message;
            let function = FunctionId::new(outcome.namespace.clone(), outcome.function.clone());
            // Repairs of the bounds have the source Operator, too.
            if outcome.source != DecisionSource::Operator || outcome.agent.as_str() != control::RESTORE || !self.waiting.contains(&function)
            {
                continue;
            }
            let answer = match outcome.effect {
                Effect::Failed => {
                    self.failed.insert(function);
                    continue;
                }
                Effect::Refused | Effect::Held | Effect::Recorded | Effect::Other => RestoreAnswer::Refused(outcome),
                Effect::Applied | Effect::Changed | Effect::Unchanged => RestoreAnswer::Restored(outcome),
            };
            self.waiting.remove(&function);
            return Ok(Some((function, answer)));
        }
        Ok(None)
    }

    /// Functions without a final answer, and whether the platform failed to apply their restore so far.
    pub fn unanswered(&self) -> impl Iterator<Item = (&FunctionId, bool)> {
        self.waiting.iter().map(|function| (function, self.failed.contains(function)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_freeze_without_a_new_reason_is_not_new() {
        let before = Control { frozen: true, reason: "incident".into(), ..Control::default() };
        assert!(!is_new(Some(&before), None) && !is_new(Some(&before), Some("incident")));
        assert!(is_new(Some(&before), Some("another")) && is_new(None, None));
        assert!(is_new(Some(&Control { frozen: false, ..before }), None));
        assert!(is_new(Some(&Control::from_json(b"broken")), None));
    }

    #[test]
    fn a_restore_is_newer_than_the_last_one_whatever_the_clock() {
        const NOW: Timestamp = Timestamp(1_763_880_784_123);
        assert_eq!(restore_time(None, NOW), NOW);
        let later = Timestamp(NOW.0 + 3_600_000);
        let before = Control { restore: Some(later), at_ms: NOW, ..Control::default() };
        assert_eq!(restore_time(Some(&before), NOW), Timestamp(later.0 + 1));
        let lifted = Control { at_ms: later, ..Control::default() };
        assert_eq!(restore_time(Some(&lifted), NOW), Timestamp(later.0 + 1));
        assert_eq!(restore_time(Some(&lifted), Timestamp(later.0 + 9)), Timestamp(later.0 + 9));
    }
}
