//! Knative's reconciler: scaling to zero. Owns the activity of a revision and its transitions.
//!
//! The gateway takes the role of the activator and is always in the path, so probes of it succeed.

use std::time::Duration;

use qscale_common::time::Timestamp;

/// Settings of scaling to zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZeroSpec {
    /// Whether zero pods are allowed.
    pub enabled: bool,
    /// Least time for which a revision is active.
    pub stable_window: Duration,
    /// Time for which the activator is in the path before the last pod is removed.
    pub grace: Duration,
    /// Least time for which the last pod is kept.
    pub retention: Duration,
    /// Time a revision may take to become active before it is given up.
    pub activation_timeout: Duration,
    /// Whether a probe finds the activator in the path, which scaling to zero requires.
    pub backed: bool,
}

/// Pods of a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodCounts {
    /// Ready pods.
    pub ready: u32,
    /// Ready pods that make a revision active, at least 1.
    pub needed: u32,
}

/// Activity of a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevisionCondition {
    /// Pods are wanted, and none is ready yet.
    Activating,
    /// Serves requests.
    Active,
    /// No pods are wanted.
    Inactive,
}

/// A revision's condition, and whether requests go through the activator, each with the time of its last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activity {
    condition: RevisionCondition,
    since: Timestamp,
    proxy_since: Option<Timestamp>,
}

/// Decision of the reconciler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// Request this number of pods.
    Scale(u32),
    /// Keep the current pods.
    Keep,
}

impl Activity {
    /// A revision first seen with `ready` pods.
    #[must_use]
    pub fn found(ready: u32, current: u32, now: Timestamp) -> Self {
        let condition = match (ready, current) {
            (0, 0) => RevisionCondition::Inactive,
            (0, _) => RevisionCondition::Activating,
            _ => RevisionCondition::Active,
        };
        Self { condition, since: now, proxy_since: (condition != RevisionCondition::Active).then_some(now) }
    }

    /// A revision in `condition` since `since`, with requests through the activator since `proxy_since`.
    #[must_use]
    pub fn since(condition: RevisionCondition, since: Timestamp, proxy_since: Option<Timestamp>) -> Self {
        Self { condition, since, proxy_since }
    }

    /// Whether the revision takes requests.
    #[must_use]
    pub fn condition(&self) -> RevisionCondition {
        self.condition
    }

    /// Decides on `desired` pods (`None` without metrics) and updates the condition. `excess` is the excess burst
    /// capacity; below zero the activator stays in the path.
    pub fn reconcile(&mut self, spec: &ZeroSpec, desired: Option<u32>, pods: PodCounts, excess: i32, now: Timestamp) -> Applied {
        let (applied, want) = match desired {
            Some(desired) => self.decide_zero(spec, desired, now),
            None => (Applied::Keep, None),
        };
        self.settle(want, pods, now);
        let proxied = want.is_none_or(|want| want == 0) || excess < 0;
        self.proxy_since = proxied.then(|| self.proxy_since.unwrap_or(now));
        applied
    }

    /// Updates the condition from wanted and ready pods.
    pub fn settle(&mut self, want: Option<u32>, PodCounts { ready, needed }: PodCounts, now: Timestamp) {
        let enough = ready >= needed;
        match (want, self.condition) {
            (Some(0), _) => self.turn(RevisionCondition::Inactive, now),
            (None, RevisionCondition::Inactive) => {}
            _ => self.turn(if enough { RevisionCondition::Active } else { RevisionCondition::Activating }, now),
        }
    }

    /// Requested pods, and the pods wanted in the end, if known.
    fn decide_zero(&self, spec: &ZeroSpec, desired: u32, now: Timestamp) -> (Applied, Option<u32>) {
        let passed = now.since(self.since);
        if desired > 0 {
            return (Applied::Scale(desired), Some(desired));
        }
        if !spec.enabled {
            return (Applied::Scale(1), Some(1));
        }
        match self.condition {
            RevisionCondition::Activating if passed > spec.activation_timeout => (Applied::Scale(0), Some(0)),
            RevisionCondition::Activating => (Applied::Keep, None),
            RevisionCondition::Active if passed >= spec.stable_window => (Applied::Keep, Some(0)),
            RevisionCondition::Active => (Applied::Scale(1), Some(1)),
            RevisionCondition::Inactive if !spec.backed => (Applied::Keep, Some(0)),
            RevisionCondition::Inactive => {
                let proxied = self.proxy_since.map_or(Duration::ZERO, |since| now.since(since));
                let slow = passed >= spec.grace.max(spec.retention);
                let fast = passed >= spec.retention && proxied >= spec.grace;
                (if slow || fast { Applied::Scale(0) } else { Applied::Keep }, Some(0))
            }
        }
    }

    fn turn(&mut self, condition: RevisionCondition, now: Timestamp) {
        if self.condition != condition {
            (self.condition, self.since) = (condition, now);
        }
    }
}

#[cfg(test)]
mod tests;
