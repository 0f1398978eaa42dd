//! Whether a course repeats itself, and what that foretells. Owns the search for a period; must not decide.
//!
//! The period is the one of 2 to 119 slots after which the course, on a logarithmic scale, is most like itself over the last slots; it is trusted by how much
//! smaller the differences are than those from the mean. What comes is what came a period ago.

use super::{SLOTS, Track};

/// Longest period that is looked for, slots: it has to be seen twice.
const LONGEST: usize = SLOTS / 2 - 1;
/// Fewest slots over which courses are compared.
const FEWEST: usize = 8;
/// A period must explain so much to foretell anything.
const TRUSTED: f64 = 0.5;

/// What the season says.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Season {
    /// Its length in slots; 0 where there is none.
    pub period: usize,
    /// How much of the course it explains, 0 to 1.
    pub trust: f64,
    /// Peak a period before the slot that is open and before the next, the higher of both.
    pub peak: f64,
}

impl Season {
    pub(super) fn of(track: &Track, slot: u64) -> Self {
        // The newest first; what was not measured breaks the course off.
        let course: Vec<f32> = track.closed(slot, SLOTS).map_while(|(mean, _)| mean.get()).map(|mean| (mean + 0.01).ln() as f32).collect();
        let mut best = (0, 0.0f32);
        for period in 2..=LONGEST {
            let window = period.max(FEWEST);
            if course.len() < period + window {
                break;
            }
            let trust = likeness(&course, period, window);
            // A multiple of a period is as good as the period; the shorter one has seen more of itself.
            if trust > best.1 + 0.02 {
                best = (period, trust);
            }
        }
        let (period, trust) = best;
        if period == 0 {
            return Self::default();
        }
        let back = |ahead: u64| track.at(slot + ahead - period as u64).1.get().unwrap_or(0.0);
        Self { period, trust: f64::from(trust), peak: back(0).max(if period > 1 { back(1) } else { 0.0 }) }
    }

    pub(super) fn foretold(&self) -> Option<f64> {
        (self.period > 0 && self.trust >= TRUSTED).then_some(self.peak)
    }
}

/// How much of the last `window` slots is explained by those a period before: 1 less the ratio of differences, at least 0.
fn likeness(course: &[f32], period: usize, window: usize) -> f32 {
    let (recent, before) = (&course[..window], &course[period..period + window]);
    let mean = recent.iter().sum::<f32>() / window as f32;
    let apart: f32 = recent.iter().zip(before).map(|(one, other)| (one - other).abs()).sum();
    let spread: f32 = recent.iter().map(|value| (value - mean).abs()).sum();
    // A course that hardly changes has no season.
    if spread < 0.1 * window as f32 { 0.0 } else { (1.0 - apart / spread).max(0.0) }
}
