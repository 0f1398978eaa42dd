//! A counter from reading to reading. Owns what a reading says of the time since the last one, and when it cannot be
//! true; must not know what is counted.

use crate::time::Timestamp;

/// A reading of a counter, compared with the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CounterProgress<B> {
    /// Counting starts here.
    First,
    /// Growth within `ms`, more than 0.
    Grown {
        /// Growth.
        by: B,
        /// Milliseconds since the last reading.
        ms: u64,
        /// Whether the counter was reset in between.
        continuity: Continuity,
    },
    /// Not newer than the last reading.
    Late,
    /// Growth beyond what is possible, or a fall without a restart.
    Impossible {
        /// Growth; `None` for a fall.
        by: Option<B>,
        /// Milliseconds since the last reading.
        ms: u64,
    },
}

/// Whether a counter continued. Of the parts of a sum, the one that is listed last determines the sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Continuity {
    Continued,
    /// It was reset because its process was restarted.
    Reset,
    /// It fell although its process was not restarted.
    Fell,
    /// It is another counter.
    Replaced,
}

impl Continuity {
    /// Part of its last value by which a counter must fall to be taken as reset, if nothing is known of a restart.
    /// Errors of exporters are smaller.
    const RESET_PART: u64 = 10;

    /// Continuity of a counter that fell from `before` to the lower `now`; `restarted` says whether its process was
    /// restarted in between, if that is known.
    pub fn after_fall(before: u64, now: u64, restarted: Option<bool>) -> Self {
        if restarted.unwrap_or(before - now >= before / Self::RESET_PART) { Self::Reset } else { Self::Fell }
    }
}

/// How a counter grows.
pub(super) struct Growth<G, P> {
    /// Growth from an earlier to a later value.
    pub between: G,
    /// Whether it can grow by this much within these milliseconds.
    pub possible: P,
    /// Milliseconds after which counting starts again.
    pub longest_gap: u64,
}

/// The last reading of a counter.
#[derive(Debug, Clone)]
pub(super) struct Tracked<T> {
    last: Option<(Timestamp, T)>,
    /// A later reading to which the last one cannot have grown.
    suspect: Option<Box<(Timestamp, T)>>,
}

impl<T> Default for Tracked<T> {
    fn default() -> Self {
        Self { last: None, suspect: None }
    }
}

impl<T: Clone> Tracked<T> {
    /// Time of the last reading.
    pub fn at(&self) -> Option<Timestamp> {
        self.last.as_ref().map(|(at, _)| *at)
    }

    /// The last reading.
    pub fn last(&self) -> Option<&T> {
        self.last.as_ref().map(|(_, reading)| reading)
    }

    /// Takes the reading `now`, taken `at`. Without an earlier one the counter had the value `begin`, if that is known.
    /// An impossible reading is dropped, unless the previous one was too and both agree: then counting starts again.
    pub fn read<B, G, P>(&mut self, at: Timestamp, now: &T, begin: Option<(Timestamp, T)>, growth: &Growth<G, P>) -> CounterProgress<B>
    where
        G: Fn(&T, &T) -> (B, Continuity),
        P: Fn(&B, u64) -> bool,
    {
        let mut progress = growth.progress(self.last.as_ref().or(begin.as_ref()), at, now);
        if let CounterProgress::Impossible { .. } = progress {
            let since_suspect = growth.progress(self.suspect.as_deref(), at, now);
            if !matches!(since_suspect, CounterProgress::Grown { continuity: Continuity::Continued, .. }) {
                self.suspect = Some(Box::new((at, now.clone())));
                return progress;
            }
            progress = CounterProgress::First;
        }
        if !matches!(progress, CounterProgress::Late) {
            *self = Self { last: Some((at, now.clone())), suspect: None };
        }
        progress
    }
}

impl<G, P> Growth<G, P> {
    fn progress<T, B>(&self, before: Option<&(Timestamp, T)>, at: Timestamp, now: &T) -> CounterProgress<B>
    where
        G: Fn(&T, &T) -> (B, Continuity),
        P: Fn(&B, u64) -> bool,
    {
        let Some((since, before)) = before else { return CounterProgress::First };
        match at.0.checked_sub(since.0) {
            None | Some(0) => CounterProgress::Late,
            Some(ms) if ms > self.longest_gap => CounterProgress::First,
            Some(ms) => {
                let (by, continuity) = (self.between)(before, now);
                match continuity {
                    Continuity::Replaced => CounterProgress::First,
                    Continuity::Fell => CounterProgress::Impossible { by: None, ms },
                    Continuity::Continued | Continuity::Reset if (self.possible)(&by, ms) => CounterProgress::Grown { by, ms, continuity },
                    Continuity::Continued | Continuity::Reset => CounterProgress::Impossible { by: Some(by), ms },
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads values at consecutive seconds of a counter that grows by at most 10 a second; returns the growth where there is one.
    #[track_caller]
    fn check(values: &[u64], expected: &[Option<u64>]) {
        let growth = Growth {
            between: |before: &u64, now: &u64| match now.checked_sub(*before) {
                Some(by) => (by, Continuity::Continued),
                None => (*now, Continuity::after_fall(*before, *now, None)),
            },
            possible: |by: &u64, ms: u64| *by <= ms / 100,
            longest_gap: 60_000,
        };
        let mut counter = Tracked::default();
        let grown = values.iter().zip(1..).map(|(&value, second)| match counter.read(Timestamp(second * 1000), &value, None, &growth) {
            CounterProgress::Grown { by, .. } => Some(by),
            _ => None,
        });
        assert_eq!(grown.collect::<Vec<_>>(), expected, "{values:?}");
    }

    #[test]
    fn an_impossible_reading_is_dropped_and_the_next_one_covers_it() {
        check(&[5, 10, 1 << 40, 20, 25], &[None, Some(5), None, Some(10), Some(5)]);
        check(&[5, 10, 1 << 40, 1 << 50, 25, 30], &[None, Some(5), None, None, Some(15), Some(5)]);
    }

    #[test]
    fn counting_starts_where_two_impossible_readings_agree() {
        check(&[5, 10, 1000, 1005, 1010], &[None, Some(5), None, None, Some(5)]);
    }

    #[test]
    fn a_counter_that_fell_a_little_was_not_reset() {
        check(&[20, 25, 24, 26], &[None, Some(5), None, Some(1)]);
        check(&[1000, 1000, 901, 903, 904], &[None, Some(0), None, None, Some(1)]);
        check(&[10, 10, 9, 10], &[None, Some(0), Some(9), Some(1)]);
    }

    #[test]
    fn a_reset_counts_from_zero_where_that_is_possible() {
        check(&[500, 505, 7, 9], &[None, Some(5), Some(7), Some(2)]);
        check(&[500, 505, 60, 63, 66], &[None, Some(5), None, None, Some(3)]);
    }
}
