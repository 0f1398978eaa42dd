//! Who leads. Owns the election: whoever holds the lease writes, whoever cannot renew it stops writing before another may take it.
//!
//! The lease is one entry of a bucket, written by compare-and-swap. Another takes it over after the entry has not changed for the lease's time
//! on the other's own clock, so clocks of different machines are never compared. Every new holder bears a higher token, which the platform
//! checks: what a leader sent before it knew that it was replaced is refused there.

mod keeper;

pub use keeper::{Keeper, keep};

use std::time::Duration;

use qscale_common::contract::Version;
use qscale_common::time::Timestamp;
use serde::{Deserialize, Serialize};

/// The lease as the bucket holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Version of this value.
    #[serde(default)]
    pub version: Version,
    /// Who leads; empty where the last leader gave the lease back.
    pub holder: String,
    /// What the holder shows the platform.
    pub token: u64,
}

/// The lease and the revision of its entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The lease.
    pub lease: Lease,
    /// Revision of the entry.
    pub revision: u64,
}

/// Where an actuator stands. Times are those of its own monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Another leads, or nobody does.
    Following,
    /// It leads.
    Leading {
        /// What it shows the platform.
        token: u64,
        /// When it must stop writing unless the lease was renewed.
        until: Duration,
    },
    /// It led, could not renew, and cannot reach the bus to learn whether another leads.
    Cut {
        /// What it shows the platform, which refuses it as soon as another leader has written.
        token: u64,
    },
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Read the entry.
    Look,
    /// Write `lease` over the entry of this revision, zero where there is none.
    Write {
        /// What to write.
        lease: Lease,
        /// The revision that must be the last.
        over: u64,
    },
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The entry was read; `None` where there is none.
    Found(Option<Entry>),
    /// The lease was written with this revision.
    Written(u64),
    /// Somebody else wrote in between.
    Refused,
    /// The bucket did not answer.
    Unreachable,
}

/// The election as one actuator sees it.
#[derive(Debug, Clone)]
pub struct Election {
    holder: String,
    ttl: Duration,
    held: Option<Held>,
    seen: Option<Seen>,
    reachable: bool,
}

#[derive(Debug, Clone)]
struct Held {
    token: u64,
    revision: u64,
    /// When the last renewal that went through was sent: nobody saw the entry change before that.
    since: Duration,
    /// Whether another may have written.
    doubtful: bool,
}

#[derive(Debug, Clone)]
struct Seen {
    entry: Option<Entry>,
    /// When this revision was first seen.
    since: Duration,
}

impl Election {
    /// The election as `holder` sees it, with leases of `ttl`. `holder` is unlike that of any other actuator.
    #[must_use]
    pub fn new(holder: String, ttl: Duration) -> Self {
        Self { holder, ttl, held: None, seen: None, reachable: true }
    }

    /// Where this actuator stands at `now`.
    #[must_use]
    pub fn standing(&self, now: Duration) -> Standing {
        match &self.held {
            Some(held) if now < self.fence(held) => Standing::Leading { token: held.token, until: self.fence(held) },
            Some(held) if !self.reachable => Standing::Cut { token: held.token },
            Some(_) | None => Standing::Following,
        }
    }

    /// When writing must stop: a sixth of the time earlier than another may take the lease, for what is under way then.
    fn fence(&self, held: &Held) -> Duration {
        held.since + self.ttl * 5 / 6
    }

    /// What to do at `now`; `wall` is the time of day.
    #[must_use]
    pub fn step(&self, now: Duration, wall: Timestamp) -> Step {
        match (&self.held, &self.seen) {
            (Some(held), _) if !held.doubtful => self.write(held.token, held.revision),
            (None, Some(seen)) if self.is_free(seen, now) => {
                // The time of day keeps tokens growing where the bucket was lost; the one before keeps them growing where clocks differ.
                let token = seen.entry.as_ref().map_or(0, |entry| entry.lease.token.saturating_add(1)).max(wall.0);
                self.write(token, seen.entry.as_ref().map_or(0, |entry| entry.revision))
            }
            _ => Step::Look,
        }
    }

    fn write(&self, token: u64, over: u64) -> Step {
        Step::Write { lease: Lease { version: Version::CURRENT, holder: self.holder.clone(), token }, over }
    }

    fn is_free(&self, seen: &Seen, now: Duration) -> bool {
        let Some(entry) = &seen.entry else { return true };
        let holder = &entry.lease.holder;
        holder.is_empty() || *holder == self.holder || now.saturating_sub(seen.since) >= self.ttl
    }

    /// How long to wait before the next step.
    #[must_use]
    pub fn pause(&self) -> Duration {
        match &self.held {
            Some(held) if self.reachable && !held.doubtful => self.ttl / 3,
            _ => self.ttl / 12,
        }
    }

    /// Takes in what became of `step`, which was sent at `sent`.
    pub fn answer(&mut self, step: &Step, answer: Answer, sent: Duration, now: Duration) {
        self.reachable = answer != Answer::Unreachable;
        match (answer, step) {
            (Answer::Written(revision), Step::Write { lease, .. }) => {
                self.held = Some(Held { token: lease.token, revision, since: sent, doubtful: false });
                self.seen = None;
            }
            (Answer::Refused, _) => {
                self.seen = None;
                if let Some(held) = &mut self.held {
                    held.doubtful = true;
                }
            }
            (Answer::Found(entry), _) => self.found(entry, now),
            (Answer::Unreachable | Answer::Written(_), _) => {}
        }
    }

    fn found(&mut self, entry: Option<Entry>, now: Duration) {
        match (&mut self.held, &entry) {
            // A renewal went through whose answer was lost.
            (Some(held), Some(entry)) if entry.lease.holder == self.holder && entry.lease.token == held.token => {
                held.revision = entry.revision;
                held.doubtful = false;
                return;
            }
            (Some(_), _) => self.held = None,
            (None, _) => {}
        }
        let unchanged = self.seen.as_ref().is_some_and(|seen| seen.entry == entry);
        if !unchanged {
            self.seen = Some(Seen { entry, since: now });
        }
    }

    /// Stops leading because the platform has seen a higher token. Another leads, or this actuator will under a higher one.
    pub fn step_down(&mut self) {
        self.held = None;
        self.seen = None;
    }

    /// What gives the lease back, so that another need not wait; `None` where it is not held.
    #[must_use]
    pub fn release(&self) -> Option<Step> {
        let held = self.held.as_ref()?;
        Some(Step::Write { lease: Lease { version: Version::CURRENT, holder: String::new(), token: held.token }, over: held.revision })
    }
}

#[cfg(test)]
mod tests;
