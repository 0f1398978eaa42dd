//! Changes within the last hour. Owns counting changes and reversals in bounded memory; must not evaluate anything else.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::contract::{Direction, GuardRule};
use crate::policy::Guardrails;
use crate::time::Timestamp;

const MINUTE_MS: u64 = 60_000;
const HOUR_MINUTES: u64 = 60;

/// Changes and reversals of the last hour, counted per minute, so that its size is bounded. A change counts until the last minute
/// within an hour of it has passed, so the count is never below the true number.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Budget {
    /// Minutes with changes, oldest first; at most 61.
    #[serde(default)]
    minutes: Vec<Minute>,
    /// Time and direction of the last change.
    #[serde(default)]
    last: Option<(Timestamp, Direction)>,
}

/// Minute since 1970, changes and reversals within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Minute(u64, u32, u32);

impl Budget {
    /// Records a change at `now`.
    pub fn charge(&mut self, direction: Direction, now: Timestamp) {
        let minute = now.0 / MINUTE_MS;
        let reversal = u32::from(self.reverses(direction, now));
        // After a clock was set back, the budget must recover within an hour.
        self.minutes.iter_mut().for_each(|entry| entry.0 = entry.0.min(minute));
        self.minutes.retain(|entry| minute - entry.0 <= HOUR_MINUTES);
        self.minutes.push(Minute(minute, 1, reversal));
        self.minutes.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                *earlier = Minute(earlier.0, earlier.1.saturating_add(later.1), earlier.2.saturating_add(later.2));
            }
            same
        });
        self.last = Some((now, direction));
    }

    /// Adds what another actuator counted: of each minute the larger numbers, since both may have counted the same changes.
    pub fn join(&mut self, other: &Self) {
        let mut minutes: BTreeMap<u64, Minute> = self.minutes.iter().map(|entry| (entry.0, *entry)).collect();
        for entry in &other.minutes {
            let joined = minutes.entry(entry.0).or_insert(*entry);
            *joined = Minute(entry.0, joined.1.max(entry.1), joined.2.max(entry.2));
        }
        self.minutes = minutes.into_values().collect();
        self.last = [self.last, other.last].into_iter().flatten().max_by_key(|(at, _)| *at);
    }

    /// Changes and reversals that count at `now`.
    #[must_use]
    pub fn spent(&self, now: Timestamp) -> (u32, u32) {
        let minute = now.0 / MINUTE_MS;
        let counts = self.minutes.iter().filter(|entry| minute.saturating_sub(entry.0) <= HOUR_MINUTES);
        counts.fold((0, 0), |(changes, reversals), entry| (changes.saturating_add(entry.1), reversals.saturating_add(entry.2)))
    }

    /// Why a change in `direction` is refused at `now`; `None` if it is allowed.
    ///
    /// A step down must leave one change and one reversal for the way up, so that flapping never traps a function at a small size. So the
    /// reversal budget refuses no step up, and a budget of 0 allows no step down. (A budget of one change per hour reserves none.)
    #[must_use]
    pub fn refusal(&self, direction: Direction, rails: &Guardrails, now: Timestamp) -> Option<(GuardRule, String)> {
        let (changes, reversals) = self.spent(now);
        let limit = rails.changes_per_hour.get();
        let kept = u32::from(direction == Direction::Down && limit > 1);
        if changes.saturating_add(1 + kept) > limit {
            return Some((GuardRule::ActionBudget, spent_text(changes, limit, "changes", kept)));
        }
        let limit = rails.reversals_per_hour;
        let (needed, kept) = (u32::from(self.reverses(direction, now)), u32::from(direction == Direction::Down));
        if needed + kept > 0 && reversals.saturating_add(needed + kept) > limit {
            return Some((GuardRule::ReversalBudget, spent_text(reversals, limit, "reversals", kept)));
        }
        None
    }

    fn reverses(&self, direction: Direction, now: Timestamp) -> bool {
        self.last.is_some_and(|(at, last)| last != direction && now.0.saturating_sub(at.0) <= HOUR_MINUTES * MINUTE_MS)
    }
}

fn spent_text(spent: u32, limit: u32, what: &str, kept: u32) -> String {
    let way_up = if kept > 0 { "; the last one is reserved for a step up" } else { "" };
    format!("{spent} of {limit} {what} per hour used{way_up}")
}
