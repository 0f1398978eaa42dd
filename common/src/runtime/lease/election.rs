//! The election rules as one candidate applies them. Owns when to renew, to take over and to stop leading; must not do I/O or read a clock.
//!
//! The lease is one entry of a bucket, written by compare-and-set. A candidate takes it over once it has read the same entry
//! for the lease's TTL on the candidate's own clock, so clocks of different machines are never compared. A candidate that
//! has read nothing for that time, because it was paused, reads first: a bucket that was lost and created again repeats revisions. Every
//! new holder gets a higher fencing token. A system that checks the token refuses requests that a leader sent before it
//! learned that it had been replaced.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::contract::Version;
use crate::time::Timestamp;

/// The lease as stored in the bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Version of this value.
    #[serde(default)]
    pub version: Version,
    /// Name of the leader; empty if the last leader released the lease.
    pub holder: String,
    /// Fencing token of the holder.
    pub token: u64,
}

/// The lease and the revision of its entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseEntry {
    /// The lease.
    pub lease: Lease,
    /// Revision of the entry.
    pub revision: u64,
}

/// Role of a candidate. Durations count from the start of its own monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaderStatus {
    /// Another process leads, or none does.
    Following,
    /// This process leads.
    Leading {
        /// Its fencing token.
        token: u64,
        /// Time at which it must stop acting unless the lease was renewed.
        until: Duration,
    },
    /// This process led, could not renew, and cannot reach the bus to learn whether another one leads.
    Disconnected {
        /// Its fencing token, refused by a platform that has seen a newer one.
        token: u64,
    },
}

impl LeaderStatus {
    /// This role, read at `now`: a lead that was not renewed in time has ended.
    #[must_use]
    pub fn at(self, now: Duration) -> Self {
        match self {
            Self::Leading { until, .. } if now >= until => Self::Following,
            status => status,
        }
    }

    /// The fencing token of a process that leads or that led until it was disconnected.
    #[must_use]
    pub fn token(self) -> Option<u64> {
        match self {
            Self::Leading { token, .. } | Self::Disconnected { token } => Some(token),
            Self::Following => None,
        }
    }
}

/// The next request to the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ElectionStep {
    /// Read the entry.
    Read,
    /// Write the lease if the entry still has the expected revision.
    Write {
        /// Lease to write.
        lease: Lease,
        /// Expected revision of the entry; zero if there is none.
        expected: u64,
    },
}

/// Result of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The entry, or `None` if the bucket has none.
    Found(Option<LeaseEntry>),
    /// The lease was written with this revision.
    Written(u64),
    /// Another candidate wrote in between.
    Conflict,
    /// The bucket did not answer.
    Unreachable,
}

/// The election as one candidate sees it.
#[derive(Debug, Clone)]
pub struct Election {
    holder: String,
    ttl: Duration,
    held: Option<Held>,
    observed: Option<Observed>,
    reachable: bool,
    /// Highest token that another system has shown.
    highest_seen: u64,
}

#[derive(Debug, Clone)]
struct Held {
    token: u64,
    revision: u64,
    /// Send time of the last successful renewal: no other candidate saw the entry change before that.
    renewed: Duration,
    /// Send time of the last request that showed the entry to be that of this candidate.
    confirmed: Duration,
    /// Whether another candidate may have written since.
    uncertain: bool,
}

#[derive(Debug, Clone)]
struct Observed {
    entry: Option<LeaseEntry>,
    /// Time at which this revision was first seen.
    since: Duration,
    /// Send time of the last request that showed it.
    confirmed: Duration,
}

impl Election {
    /// The election for the candidate `holder` with leases of `ttl`. `holder` must be unique among the candidates.
    #[must_use]
    pub fn new(holder: String, ttl: Duration) -> Self {
        Self { holder, ttl, held: None, observed: None, reachable: true, highest_seen: 0 }
    }

    /// Time without renewal after which another candidate takes over.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Role of this candidate at `now`.
    #[must_use]
    pub fn status(&self, now: Duration) -> LeaderStatus {
        match &self.held {
            Some(held) if now < self.fence(held) => LeaderStatus::Leading { token: held.token, until: self.fence(held) },
            Some(held) if !self.reachable => LeaderStatus::Disconnected { token: held.token },
            Some(_) | None => LeaderStatus::Following,
        }
    }

    /// Time at which this candidate must stop acting: a sixth of the TTL before another one may take over, to let requests in flight end.
    fn fence(&self, held: &Held) -> Duration {
        held.renewed + self.ttl * 5 / 6
    }

    /// The next request at `now`; `wall` is the time of day.
    #[must_use]
    pub fn next_step(&self, now: Duration, wall: Timestamp) -> ElectionStep {
        match (&self.held, &self.observed) {
            (Some(held), _) if !held.uncertain && now.saturating_sub(held.confirmed) < self.ttl => self.write(held.token, held.revision),
            (None, Some(observed)) if now.saturating_sub(observed.confirmed) < self.ttl && self.is_free(observed) => {
                // The previous token keeps tokens growing between machines with different clocks; the time of day keeps them growing if the
                // bucket was lost, and the highest token that was seen does if the time of day was wrong.
                let previous = observed.entry.as_ref().map_or(0, |entry| entry.lease.token).max(self.highest_seen);
                let token = previous.saturating_add(u64::from(previous > 0)).max(wall.0);
                self.write(token, observed.entry.as_ref().map_or(0, |entry| entry.revision))
            }
            _ => ElectionStep::Read,
        }
    }

    fn write(&self, token: u64, expected: u64) -> ElectionStep {
        ElectionStep::Write { lease: Lease { version: Version::CURRENT, holder: self.holder.clone(), token }, expected }
    }

    fn is_free(&self, observed: &Observed) -> bool {
        let Some(entry) = &observed.entry else { return true };
        let holder = &entry.lease.holder;
        holder.is_empty() || *holder == self.holder || observed.confirmed.saturating_sub(observed.since) >= self.ttl
    }

    /// Pause before the next step.
    #[must_use]
    pub fn delay(&self) -> Duration {
        match &self.held {
            Some(held) if self.reachable && !held.uncertain && held.confirmed == held.renewed => self.ttl / 3,
            _ => self.ttl / 12,
        }
    }

    /// Processes the `reply` to `step`, which was sent at `sent`.
    pub fn on_reply(&mut self, step: &ElectionStep, reply: Reply, sent: Duration, now: Duration) {
        self.reachable = reply != Reply::Unreachable;
        match (reply, step) {
            (Reply::Written(revision), ElectionStep::Write { lease, .. }) => {
                self.held = Some(Held { token: lease.token, revision, renewed: sent, confirmed: sent, uncertain: false });
                self.observed = None;
            }
            (Reply::Conflict, _) => {
                self.observed = None;
                if let Some(held) = &mut self.held {
                    held.uncertain = true;
                }
            }
            (Reply::Found(entry), _) => self.on_entry(entry, sent, now),
            (Reply::Unreachable | Reply::Written(_), _) => {}
        }
    }

    fn on_entry(&mut self, entry: Option<LeaseEntry>, sent: Duration, now: Duration) {
        match (&mut self.held, &entry) {
            // A renewal succeeded but its reply was lost.
            (Some(held), Some(entry)) if entry.lease.holder == self.holder && entry.lease.token == held.token => {
                (held.revision, held.confirmed, held.uncertain) = (entry.revision, sent, false);
                return;
            }
            (Some(_), _) => self.held = None,
            (None, _) => {}
        }
        let since = self.observed.take().filter(|observed| observed.entry == entry).map_or(now, |observed| observed.since);
        self.observed = Some(Observed { entry, since, confirmed: sent });
    }

    /// Stops leading because the token `highest` was seen elsewhere, 0 if it is unknown. The next token of this candidate is higher.
    pub fn step_down(&mut self, highest: u64) {
        self.highest_seen = self.highest_seen.max(highest);
        self.held = None;
        self.observed = None;
    }

    /// The write that releases the lease, so that the next leader need not wait for the TTL; `None` if it is not held.
    #[must_use]
    pub fn release(&self) -> Option<ElectionStep> {
        let held = self.held.as_ref()?;
        Some(ElectionStep::Write {
            lease: Lease { version: Version::CURRENT, holder: String::new(), token: held.token },
            expected: held.revision,
        })
    }
}

#[cfg(test)]
mod tests;
