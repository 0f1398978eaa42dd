//! Knative's averages over a window of seconds. Owns the treatment of data that begins late or ends early.

/// One value for each of the last seconds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TimedBuckets {
    /// First and last second that was written.
    written: Option<(u64, u64)>,
    /// Ring of values; second `s` is at `s` modulo its length.
    values: Vec<f64>,
}

impl TimedBuckets {
    /// Adds `value` to second `at` in a window of `window` seconds, at least 1. Ignores seconds older than the window.
    pub fn record(&mut self, at: u64, value: f64, window: usize) {
        self.resize(window);
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

    /// Resizes the window to `window` seconds and keeps the newest values.
    fn resize(&mut self, window: usize) {
        let old = self.values.len();
        if old == window {
            return;
        }
        let mut values = vec![0.0; window];
        if let Some((first, last)) = self.written {
            for second in (last + 1).saturating_sub(old.min(window) as u64)..=last {
                values[second as usize % window] = self.values[second as usize % old];
            }
            self.written = Some((first.max((last + 1).saturating_sub(old as u64)), last));
        }
        self.values = values;
    }

    /// Whether nothing was written within the window that ends with second `now`.
    #[must_use]
    pub fn is_empty(&self, now: u64) -> bool {
        self.written.is_none_or(|(_, last)| now.saturating_sub(last) > self.values.len() as u64)
    }

    /// Mean of the window that ends with second `now`, rounded to six digits: over the seconds since the first that was
    /// written, without those after the last.
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
        rounded(6, sum / seconds as f64)
    }

    /// Exponentially weighted mean of the window that ends with second `now`; seconds before the first written one count as zero.
    #[must_use]
    pub fn weighted_average(&self, now: u64) -> f64 {
        let Some((_, last)) = self.written.filter(|_| !self.is_empty(now)) else { return 0.0 };
        let (size, coefficient) = (self.values.len() as u64, smoothing(self.values.len()));
        let gap = now.saturating_sub(last);
        let first = (last + 1).saturating_sub(size.saturating_sub(gap));
        let mut weight = coefficient * (1.0 - coefficient).powi(gap.min(size) as i32);
        let weighted = (first..=last).rev().map(|second| {
            let value = self.values[(second % size) as usize] * weight;
            weight *= 1.0 - coefficient;
            value
        });
        weighted.sum()
    }
}

/// Weight of the newest of `values` values, so that all weigh 0.9999 together, at least 0.2.
#[must_use]
pub fn smoothing(values: usize) -> f64 {
    (1.0 - (1.0f64 - 0.9999).powf(1.0 / values as f64)).max(0.2)
}

/// Rounds `value` to a number of decimal places.
fn rounded(digits: i32, value: f64) -> f64 {
    let factor = 10f64.powi(digits);
    (value * factor).round() / factor
}

/// Greatest value of a window of slots; delays scaling down.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Highest {
    /// Slots with decreasing values.
    slots: Vec<(u64, u32)>,
}

impl Highest {
    /// Records `value` at `slot` and returns the greatest value of the `window` slots that end with it.
    pub fn record(&mut self, slot: u64, value: u32, window: u64) -> u32 {
        self.slots.retain(|(at, known)| at.saturating_add(window) > slot && *at <= slot && *known > value);
        // The greatest value of a slot counts.
        if self.slots.last().is_none_or(|(at, _)| *at != slot) {
            self.slots.push((slot, value));
        }
        self.slots[0].1
    }

    /// Greatest value of the `window` slots that end with `slot`.
    #[must_use]
    pub fn at(&self, slot: u64, window: u64) -> Option<u32> {
        self.slots.iter().find(|(at, _)| at.saturating_add(window) > slot && *at <= slot).map(|(_, value)| *value)
    }
}

#[cfg(test)]
mod tests;
