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
        /// Amount that it grew by; `None` for a fall.
        by: Option<u64>,
        /// Milliseconds since the last reading.
        ms: u64,
    },
}

impl<B> CounterProgress<B> {
    /// The growth, if there is one.
    pub fn grown(self) -> Option<B> {
        match self {
            Self::Grown { by, .. } => Some(by),
            Self::First | Self::Late | Self::Impossible { .. } => None,
        }
    }
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
    /// Continuity of a counter that fell from `before` to the lower `now`. `restarted` says whether its process was restarted in between, if that is
    /// known; if not, `restart` says what it can show after one.
    pub fn after_fall(before: u64, now: u64, restarted: Option<bool>, restart: AfterRestart) -> Self {
        if restarted.unwrap_or_else(|| restart.can_show(before, now)) { Self::Reset } else { Self::Fell }
    }
}

/// Values that a counter can show after a restart of which only its fall is known. Sums fall, too, when one of their series vanishes, and counters of
/// exporters when they are corrected; their values are then not what was counted since.
#[derive(Debug, Clone, Copy)]
pub(super) struct AfterRestart {
    /// Largest plausible growth since the last reading; `None` if the counter was never seen to grow.
    growth: Option<u64>,
}

impl AfterRestart {
    /// Values up to this one are plausible whatever the counter showed before: taken by mistake, they do little harm.
    const SMALL: u64 = 9;
    /// Part of the last value up to which the new one is plausible.
    const PART: u64 = 2;
    /// The same of a counter that was never seen to grow.
    const PART_OF_UNKNOWN: u64 = 10;
    /// Multiple of its fastest growth of late by which a counter can grow after a restart.
    const PACES: f64 = 4.0;

    /// Whether a counter that showed `before` can show `now`.
    pub fn can_show(self, before: u64, now: u64) -> bool {
        now <= Self::SMALL || now <= self.growth.map_or(before / Self::PART_OF_UNKNOWN, |growth| growth.min(before / Self::PART))
    }
}

/// Growth of a counter from `before` to `now`, of whose restarts nothing is known; after a reset, its new value.
pub(super) fn counter_between(before: u64, now: u64, restart: AfterRestart) -> (u64, Continuity) {
    match now.checked_sub(before) {
        Some(by) => (by, Continuity::Continued),
        None => (now, Continuity::after_fall(before, now, None, restart)),
    }
}

/// How a counter grows.
pub(super) struct Growth<G, A, P> {
    /// Growth from an earlier to a later value, and what an unknown restart can leave.
    pub between: G,
    /// Amount of this growth.
    pub amount: A,
    /// Whether it can grow by this amount within these milliseconds.
    pub possible: P,
    /// Growth per millisecond that is plausible after an unknown restart, however slow the counter grew before; `None` if unknown.
    pub usual: Option<f64>,
    /// Milliseconds below which the time between two readings is too uncertain: the next reading covers it.
    pub shortest_gap: u64,
    /// Milliseconds after which counting starts again.
    pub longest_gap: u64,
}

/// The last reading of a counter.
#[derive(Debug, Clone)]
pub(super) struct Tracked<T> {
    last: Option<(Timestamp, T)>,
    /// A later reading to which the last one cannot have grown.
    suspect: Option<Box<(Timestamp, T)>>,
    /// Fastest growth of late, amount per millisecond; 0 before any.
    pace: f64,
}

impl<T> Default for Tracked<T> {
    fn default() -> Self {
        Self { last: None, suspect: None, pace: 0.0 }
    }
}

impl<T: Clone> Tracked<T> {
    /// Part of the pace that is left after the next growth.
    const PACE_LEFT: f64 = 0.9;

    /// Time of the last reading.
    pub fn at(&self) -> Option<Timestamp> {
        self.last.as_ref().map(|(at, _)| *at)
    }

    /// The last reading.
    pub fn last(&self) -> Option<&T> {
        self.last.as_ref().map(|(_, reading)| reading)
    }

    /// Takes the reading `now`, taken `at`. Without an earlier one the counter had the value `begin`, if that is known.
    /// An impossible reading is dropped, unless the previous one was too and both agree: then counting starts again. It takes the shortest gap to know.
    pub fn read<B, G, A, P>(
        &mut self,
        at: Timestamp,
        now: &T,
        begin: Option<(Timestamp, T)>,
        growth: &Growth<G, A, P>,
    ) -> CounterProgress<B>
    where
        G: Fn(&T, &T, AfterRestart) -> (B, Continuity),
        A: Fn(&B) -> u64,
        P: Fn(u64, u64) -> bool,
    {
        let mut progress = growth.progress(self.last.as_ref().or(begin.as_ref()), at, now, self.pace);
        match &progress {
            CounterProgress::Late => return progress,
            CounterProgress::Impossible { .. } => {
                let since_suspect = growth.progress(self.suspect.as_deref(), at, now, self.pace);
                let is_later = self.suspect.as_ref().is_some_and(|suspect| suspect.0 < at);
                if is_later && matches!(since_suspect, CounterProgress::Late) {
                    return since_suspect;
                }
                if !matches!(since_suspect, CounterProgress::Grown { continuity: Continuity::Continued, .. }) {
                    self.suspect = Some(Box::new((at, now.clone())));
                    return progress;
                }
                progress = CounterProgress::First;
            }
            CounterProgress::Grown { by, ms, .. } => {
                let amount = (growth.amount)(by);
                // Nothing is learned while nothing is counted.
                if amount > 0 {
                    self.pace = (amount as f64 / *ms as f64).max(self.pace * Self::PACE_LEFT);
                }
            }
            CounterProgress::First => {}
        }
        (self.last, self.suspect) = (Some((at, now.clone())), None);
        progress
    }

    /// Takes a reading of counters of rare events. Many events at once after a fall are not plausible.
    pub fn read_events<B>(
        &mut self,
        at: Timestamp,
        now: &T,
        begin: Option<(Timestamp, T)>,
        longest_gap: u64,
        between: impl Fn(&T, &T, AfterRestart) -> (B, Continuity),
    ) -> CounterProgress<B> {
        let growth = Growth { between, amount: |_: &B| 0, possible: |_, _| true, usual: Some(0.0), shortest_gap: 0, longest_gap };
        self.read(at, now, begin, &growth)
    }
}

impl<G, A, P> Growth<G, A, P> {
    fn progress<T, B>(&self, before: Option<&(Timestamp, T)>, at: Timestamp, now: &T, pace: f64) -> CounterProgress<B>
    where
        G: Fn(&T, &T, AfterRestart) -> (B, Continuity),
        A: Fn(&B) -> u64,
        P: Fn(u64, u64) -> bool,
    {
        let Some((since, before)) = before else { return CounterProgress::First };
        match at.0.checked_sub(since.0) {
            None | Some(0) => CounterProgress::Late,
            Some(ms) if ms < self.shortest_gap => CounterProgress::Late,
            Some(ms) if ms > self.longest_gap => CounterProgress::First,
            Some(ms) => {
                let (by, continuity) = (self.between)(before, now, self.after_restart(pace, ms));
                let amount = (self.amount)(&by);
                match continuity {
                    Continuity::Replaced => CounterProgress::First,
                    Continuity::Fell => CounterProgress::Impossible { by: None, ms },
                    Continuity::Continued | Continuity::Reset if (self.possible)(amount, ms) => {
                        CounterProgress::Grown { by, ms, continuity }
                    }
                    Continuity::Continued | Continuity::Reset => CounterProgress::Impossible { by: Some(amount), ms },
                }
            }
        }
    }

    fn after_restart(&self, pace: f64, ms: u64) -> AfterRestart {
        let seen = (pace > 0.0).then_some(pace * AfterRestart::PACES);
        let fastest = seen.into_iter().chain(self.usual).reduce(f64::max);
        AfterRestart { growth: fastest.map(|fastest| (fastest * ms as f64) as u64) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads values at consecutive seconds of a counter that grows by at most 10 a second; returns the growth where there is one.
    #[track_caller]
    fn check(values: &[u64], expected: &[Option<u64>]) {
        assert_eq!(grown(values, 0), expected, "{values:?}");
    }

    fn grown(values: &[u64], shortest_gap: u64) -> Vec<Option<u64>> {
        let growth = Growth {
            between: |before: &u64, now: &u64, restart| counter_between(*before, *now, restart),
            amount: |by: &u64| *by,
            possible: |by: u64, ms: u64| by <= ms / 100,
            usual: None,
            shortest_gap,
            longest_gap: 60_000,
        };
        let mut counter = Tracked::default();
        let grown = values.iter().zip(1..).map(|(&value, second)| match counter.read(Timestamp(second * 1000), &value, None, &growth) {
            CounterProgress::Grown { by, .. } => Some(by),
            _ => None,
        });
        grown.collect()
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
    fn readings_that_follow_too_soon_do_not_put_off_the_agreement() {
        // A reset after the third second; every second one of the readings is long enough after the one before.
        assert_eq!(grown(&[500, 505, 60, 61, 62, 63, 64], 2000), [None, None, None, None, None, None, Some(2)]);
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
