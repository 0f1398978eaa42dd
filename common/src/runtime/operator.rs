//! Requests of an operator to the actuator: freezes and restores. Owns the edits of the control bucket and the wait for answers; the actuator carries
//! them out.

use std::collections::BTreeSet;

use anyhow::Context as _;
use async_nats::jetstream::kv::Store;

use super::bus::{Bus, Subscription};
use super::kv;
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
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One(function) => function.fmt(f),
            Self::All => f.write_str("all functions"),
        }
    }
}

/// Name of an operator and the reason of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Operator.
    pub by: String,
    /// Reason, shown to other operators; `None` for none, or to keep the one before.
    pub reason: Option<String>,
}

impl Origin {
    fn control(&self, frozen: bool, restore: Option<Timestamp>, now: Timestamp) -> Control {
        let reason = self.reason.clone().unwrap_or_default();
        Control { version: Version::CURRENT, frozen, restore, by: self.by.clone(), reason, at_ms: now, malformed: false }
    }
}

/// Stops the application of decisions to `target`. Returns the freeze that it already has, which is then unchanged.
///
/// # Errors
/// As [`kv::edit`].
pub async fn freeze(store: &Store, target: &Target, origin: &Origin, now: Timestamp) -> anyhow::Result<Option<Control>> {
    let mut before = None;
    let edited = kv::edit(store, &target.key(), |current| {
        before = current.map(Control::from_json);
        Ok(frozen(before.as_ref(), origin, now).map(|control| control.to_json()))
    })
    .await?;
    Ok(before.filter(|_| edited == kv::Edited::Unchanged))
}

/// The control after a freeze; `None` if it is unchanged. A requested restore remains.
fn frozen(before: Option<&Control>, origin: &Origin, now: Timestamp) -> Option<Control> {
    let same = before
        .is_some_and(|before| before.frozen && !before.malformed && origin.reason.as_ref().is_none_or(|reason| before.reason == *reason));
    (!same).then(|| origin.control(true, before.and_then(|before| before.restore), now))
}

/// Applies decisions to `target` again; returns whether it was frozen.
///
/// # Errors
/// As [`kv::edit`].
pub async fn unfreeze(store: &Store, target: &Target, origin: &Origin, now: Timestamp) -> anyhow::Result<bool> {
    let edited = kv::edit(store, &target.key(), |current| {
        let free = current.is_none_or(|value| !Control::from_json(value).frozen);
        Ok((!free).then(|| origin.control(false, None, now).to_json()))
    })
    .await?;
    Ok(edited != kv::Edited::Unchanged)
}

/// Requests the allocation of `target` from before Qscale acted, and freezes it.
///
/// # Errors
/// As [`kv::edit`].
pub async fn restore(store: &Store, target: &Target, origin: &Origin, now: Timestamp) -> anyhow::Result<()> {
    kv::edit(store, &target.key(), |_| Ok(Some(origin.control(true, Some(now), now).to_json()))).await.map(drop)
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
        bus.client().flush().await.context("subscribe to outcomes")?;
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
                Effect::Refused | Effect::Held | Effect::Recorded => RestoreAnswer::Refused(outcome),
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

    const NOW: Timestamp = Timestamp(1_763_880_784_123);

    fn origin(reason: Option<&str>) -> Origin {
        Origin { by: "ada".to_owned(), reason: reason.map(str::to_owned) }
    }

    #[test]
    fn freeze_keeps_a_requested_restore() {
        let before = origin(None).control(false, Some(Timestamp(7)), Timestamp(1));
        let after = frozen(Some(&before), &origin(Some("incident")), NOW).expect("to be written");
        assert_eq!((after.frozen, after.restore, after.reason.as_str()), (true, Some(Timestamp(7)), "incident"));
    }

    #[test]
    fn repeated_freeze_without_a_new_reason_writes_nothing() {
        let before = origin(Some("incident")).control(true, None, Timestamp(1));
        assert_eq!(frozen(Some(&before), &origin(None), NOW), None);
        assert_eq!(frozen(Some(&before), &origin(Some("incident")), NOW), None);
        assert!(frozen(Some(&before), &origin(Some("another")), NOW).is_some());
        assert!(frozen(None, &origin(None), NOW).is_some());
    }
}
