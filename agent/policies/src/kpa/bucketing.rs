//! Averages over a window of seconds, as Knative's autoscaler keeps them. Owns what counts where data begins late or ends early.

use serde::{Deserialize, Serialize};

/// One value for each of the last seconds.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Buckets {
    /// First and last second that was written; nothing where there is none.
    written: Option<(u64, u64)>,
    /// The values; the one of second `s` at `s` modulo their number.
    values: Vec<f64>,
}

impl Buckets {
    /// Adds `value` to second `at`, in a window of `window` seconds, which is at least 1. What lies a window before the last is passed over.
    pub fn record(&mut self, at: u64, value: f64, window: usize) {
        if self.values.len() != window {
            (self.values, self.written) = (vec![0.0; window], None);
        }
        let size = window as u64;
        match self.written {
            Some((_, last)) if at.saturating_add(size) <= last => return,
            Some((first, last)) if at <= last => self.written = Some((first.min(at), last)),
            Some((first, last)) if at - last < size => {
                (last + 1..=at).for_each(|second| self.values[(second % size) as usize] = 0.0);
                self.written = Some((first, at));
            }
            _ => {
                self.values.fill(0.0);
                self.written = Some((at, at));
            }
        }
        self.values[(at % size) as usize] += value;
    }

    /// Whether nothing was written within the window that ends with second `now`.
    #[must_use]
    pub fn is_empty(&self, now: u64) -> bool {
        self.written.is_none_or(|(_, last)| now.saturating_sub(last) > self.values.len() as u64)
    }

    /// Mean of the window that ends with second `now`, cut to six digits: over the seconds since the first that was written, without those after the last.
    #[must_use]
    pub fn window_average(&self, now: u64) -> f64 {
        let Some((first, last)) = self.written else { return 0.0 };
        let (size, gap) = (self.values.len() as u64, now.saturating_sub(last));
        if gap >= size {
            return 0.0;
        }
        let begin = (last + 1).saturating_sub(size - gap);
        let sum: f64 = (begin..=last).map(|second| self.values[(second % size) as usize]).sum();
        let seconds = (last - first + 1).min(size - gap);
        (sum / seconds as f64 * 1e6).floor() / 1e6
    }
}

/// The highest value of a window of slots: what delays scaling down.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Highest {
    /// Slots with their values, each lower than the one before it.
    slots: Vec<(u64, u32)>,
}

impl Highest {
    /// Takes in `value` at `slot` and gives the highest of the `window` slots that end with it.
    pub fn record(&mut self, slot: u64, value: u32, window: u64) -> u32 {
        self.slots.retain(|(at, known)| at.saturating_add(window) > slot && *at <= slot && *known > value);
        self.slots.push((slot, value));
        self.slots[0].1
    }

    /// The highest of the `window` slots that end with `slot`.
    #[must_use]
    pub fn at(&self, slot: u64, window: u64) -> Option<u32> {
        self.slots.iter().find(|(at, _)| at.saturating_add(window) > slot && *at <= slot).map(|(_, value)| *value)
    }
}
