//! Seasonality of a series and its forecast. Owns the search for a period; must not decide.
//!
//! The period is the lag of 2 to 119 slots at which the series, on a logarithmic scale, is most similar to itself over
//! the last slots. The trust is the share of the variation around the mean that the lag explains. The forecast is the
//! value one period ago.

use super::{SLOTS, Track};

/// Longest period, slots: it must fit twice into the history.
const LONGEST: usize = SLOTS / 2 - 1;
/// Fewest slots in a comparison.
const FEWEST: usize = 8;
/// Trust from which a forecast is made.
const TRUSTED: f64 = 0.5;

/// Season of a series.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Season {
    /// Length in slots; 0 without a season.
    pub period: usize,
    /// Share of the variation that it explains, 0 to 1.
    pub trust: f64,
    /// Peak one period before the current slot or before the next, whichever is higher.
    pub peak: f64,
}

impl Season {
    pub(super) fn of(track: &Track, slot: u64) -> Self {
        // The newest first; a slot without a measurement ends the series.
        let series: Vec<f32> = track.closed(slot, SLOTS).map_while(|(mean, _)| mean.get()).map(|mean| (mean + 0.01).ln() as f32).collect();
        let mut best = (0, 0.0f32);
        for period in 2..=LONGEST {
            let window = period.max(FEWEST);
            if series.len() < period + window {
                break;
            }
            let trust = similarity(&series, period, window);
            // A multiple of a period explains as much as the period; the shorter one has more repetitions.
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

    pub(super) fn forecast(&self) -> Option<f64> {
        (self.period > 0 && self.trust >= TRUSTED).then_some(self.peak)
    }
}

/// Share of the variation in the last `window` slots that the slots one period before explain: 1 minus the ratio of
/// differences, at least 0.
fn similarity(series: &[f32], period: usize, window: usize) -> f32 {
    let (recent, before) = (&series[..window], &series[period..period + window]);
    let mean = recent.iter().sum::<f32>() / window as f32;
    let apart: f32 = recent.iter().zip(before).map(|(one, other)| (one - other).abs()).sum();
    let spread: f32 = recent.iter().map(|value| (value - mean).abs()).sum();
    // A series that hardly varies has no season.
    if spread < 0.1 * window as f32 { 0.0 } else { (1.0 - apart / spread).max(0.0) }
}
