//! When a revision goes to zero, as Knative's reconciler decides it. Owns whether a revision is active and since when.
//!
//! Whether the activator stands in the path is told. Here the gateway always does, so that a probe of it succeeds.

use std::time::Duration;

use qscale_common::time::Timestamp;

/// What the reconciler is told about zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZeroSpec {
    /// Whether zero is allowed.
    pub enabled: bool,
    /// So long a revision is active at least.
    pub stable_window: Duration,
    /// So long the activator stands in the path before the last pod goes.
    pub grace: Duration,
    /// So long the last pod is kept at least.
    pub retention: Duration,
    /// So long a revision may take to become active before it is given up.
    pub activation_timeout: Duration,
    /// Whether a probe finds the activator in the path; nothing goes to zero without. Where any burst is to be absorbed none is needed.
    pub backed: bool,
}

/// Pods that the reconciler compares with what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Pods that are ready.
    pub ready: u32,
    /// So many make a revision active, at least 1.
    pub needed: u32,
}

/// Whether a revision takes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// It should, and has no ready pod yet.
    Activating,
    /// It does.
    Active,
    /// It need not.
    Inactive,
}

/// A revision's condition, and whether requests go through the activator, each since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activity {
    condition: Condition,
    since: Timestamp,
    proxy_since: Option<Timestamp>,
}

/// What the reconciler does with a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It asks for so many pods.
    Scale(u32),
    /// It keeps what there is.
    Keep,
}

impl Activity {
    /// A revision that was just found with so many ready pods.
    #[must_use]
    pub fn found(ready: u32, current: u32, now: Timestamp) -> Self {
        let condition = match (ready, current) {
            (0, 0) => Condition::Inactive,
            (0, _) => Condition::Activating,
            _ => Condition::Active,
        };
        Self { condition, since: now, proxy_since: (condition != Condition::Active).then_some(now) }
    }

    /// A revision in `condition` and with requests through the activator, each since then.
    #[must_use]
    pub fn since(condition: Condition, since: Timestamp, proxy_since: Option<Timestamp>) -> Self {
        Self { condition, since, proxy_since }
    }

    /// Whether the revision takes requests.
    #[must_use]
    pub fn condition(&self) -> Condition {
        self.condition
    }

    /// What becomes of `desired` pods, and of the condition. Nothing of the former where there are no metrics yet. `excess` is the excess burst capacity;
    /// below zero the activator stays in the path.
    pub fn reconcile(&mut self, spec: &ZeroSpec, desired: Option<u32>, pods: Counted, excess: i32, now: Timestamp) -> Applied {
        let (applied, want) = match desired {
            Some(desired) => self.judge_zero(spec, desired, now),
            None => (Applied::Keep, None),
        };
        self.settle(want, pods, now);
        let proxied = want.is_none_or(|want| want == 0) || excess < 0;
        self.proxy_since = proxied.then(|| self.proxy_since.unwrap_or(now));
        applied
    }

    /// The condition that follows from what is wanted and what is there.
    pub fn settle(&mut self, want: Option<u32>, Counted { ready, needed }: Counted, now: Timestamp) {
        let enough = ready >= needed;
        match (want, self.condition) {
            (Some(0), _) => self.turn(Condition::Inactive, now),
            (None, Condition::Inactive) => {}
            _ => self.turn(if enough { Condition::Active } else { Condition::Activating }, now),
        }
    }

    /// What is asked for, and what is wanted in the end; nothing of the latter where it is not known.
    fn judge_zero(&self, spec: &ZeroSpec, desired: u32, now: Timestamp) -> (Applied, Option<u32>) {
        let passed = now.since(self.since);
        if desired > 0 {
            return (Applied::Scale(desired), Some(desired));
        }
        if !spec.enabled {
            return (Applied::Scale(1), Some(1));
        }
        match self.condition {
            Condition::Activating if passed > spec.activation_timeout => (Applied::Scale(0), Some(0)),
            Condition::Activating => (Applied::Keep, None),
            Condition::Active if passed >= spec.stable_window => (Applied::Keep, Some(0)),
            Condition::Active => (Applied::Scale(1), Some(1)),
            Condition::Inactive if !spec.backed => (Applied::Keep, Some(0)),
            Condition::Inactive => {
                let proxied = self.proxy_since.map_or(Duration::ZERO, |since| now.since(since));
                let slow = passed >= spec.grace.max(spec.retention);
                let fast = passed >= spec.retention && proxied >= spec.grace;
                (if slow || fast { Applied::Scale(0) } else { Applied::Keep }, Some(0))
            }
        }
    }

    fn turn(&mut self, condition: Condition, now: Timestamp) {
        if self.condition != condition {
            (self.condition, self.since) = (condition, now);
        }
    }
}

#[cfg(test)]
mod tests;
