//! Gaps between requests. Owns their lengths in slots and the probabilities derived from them; must not decide.

use super::{History, Level, SLOTS};

/// Prior of a probability: one additional gap that ended this often, so that an event never observed is not impossible.
const PRIOR: f64 = 0.2;

/// Statistics of the gaps.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct GapStatistics {
    /// Closed slots since the last one with a request.
    pub idle_slots: u32,
    /// Probability of a request in a slot right after one with a request.
    pub stay_chance: f64,
    /// Probability of a request in the current slot, and in the next one if the current one has none: the share that
    /// ended then, of the gaps that were as long.
    pub wake_chances: [f64; 2],
    /// Share of the observed slots among the last 60 that have a request.
    pub active_60: f64,
    /// Number of observed slots.
    pub seen: u32,
}

impl GapStatistics {
    pub(super) fn of(history: &History, slot: u64) -> Self {
        let reach = (SLOTS as u64 - 1).min(slot);
        let peaks = |back: u64| [history.rate.at(slot - back).1, history.concurrency.at(slot - back).1];
        let known = |back: u64| peaks(back).into_iter().any(|peak| peak > Level::default());
        let active = |back: u64| peaks(back).into_iter().any(|peak| peak > Level::ZERO);
        let idle_slots = (1..=reach).find(|back| active(*back)).map_or(reach, |back| back - 1) as u32;
        let mut gaps: Vec<u32> = Vec::new();
        let (mut seen, mut seen_60, mut active_60) = (0, 0u32, 0u32);
        // Slots without a request since one with a request; `None` if a slot since then was not observed.
        let mut gap = None;
        for back in (1..=reach).rev() {
            if !known(back) {
                gap = None;
                continue;
            }
            seen += 1;
            seen_60 += u32::from(back <= 60);
            if active(back) {
                active_60 += u32::from(back <= 60);
                gaps.extend(gap);
                gap = Some(0);
            } else {
                gap = gap.map(|slots| slots + 1);
            }
        }
        let chance = |after: u32| {
            let as_long = gaps.iter().filter(|gap| **gap >= after).count() as f64;
            let ended = gaps.iter().filter(|gap| **gap == after).count() as f64;
            // The longer the current gap exceeds all others, the less likely its end.
            (ended + PRIOR / f64::from(after + 1)) / (as_long + 1.0)
        };
        Self {
            idle_slots,
            stay_chance: chance(0),
            wake_chances: [chance(idle_slots), chance(idle_slots + 1)],
            active_60: if seen_60 == 0 { 0.0 } else { f64::from(active_60) / f64::from(seen_60) },
            seen,
        }
    }
}
