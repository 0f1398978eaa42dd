//! Facts from the training part of a trace about a function: its class and the replicas that it needs at most. Must not see later minutes.

use std::collections::BTreeMap;

use qscale_common::workload::trace::Trace;
use strum::{IntoStaticStr, VariantArray};

use super::usual;

/// Class of a function by its invocations in the training part; the first that fits counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum ActivityClass {
    /// More than one invocation is in progress, in the mean over its busiest minute.
    Busy,
    /// Invoked in at least 90 % of the minutes.
    Steady,
    /// Invoked at equal distances: the gaps between minutes with invocations vary by at most a quarter (coefficient of variation).
    Periodic,
    /// Invoked at least once an hour, in the mean.
    Sporadic,
    /// Invoked less often, or never.
    Rare,
}

/// Least share of minutes with invocations of a steady function.
const STEADY_SHARE: f64 = 0.9;
/// Greatest coefficient of variation of the gaps of a periodic function, and least number of gaps that show it.
const PERIODIC_VARIATION: f64 = 0.25;
const PERIODIC_GAPS: usize = 3;

/// Invocations of one function in the training part.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct FunctionActivity {
    minutes: u32,
    /// Invocations and their total duration in seconds, by minute.
    active: BTreeMap<u32, (u64, f64)>,
}

impl FunctionActivity {
    /// Activity of function `number` in the first `minutes`.
    pub(super) fn of(trace: &Trace, number: usize, minutes: u32) -> Self {
        let mut active: BTreeMap<u32, (u64, f64)> = BTreeMap::new();
        let mut add = |minute: u32, count: u32, ms: u32| {
            if minute < minutes && count > 0 {
                let (invocations, seconds) = active.entry(minute).or_default();
                *invocations += u64::from(count);
                *seconds += f64::from(count) * f64::from(ms) / 1000.0;
            }
        };
        match trace {
            Trace::Minutes(trace) => {
                let function = &trace.functions[number];
                let [median_ms, ..] = usual(&function.demand);
                function.counts.iter().for_each(|count| add(count.bin, count.count, median_ms));
            }
            Trace::Rows(trace) => {
                let rows = trace.rows.iter().filter(|row| row.function as usize == number);
                rows.for_each(|row| add(row.minute(), 1, row.duration_ms));
            }
        }
        Self { minutes, active }
    }

    /// Invocations in progress, in the mean over the busiest minute.
    pub(super) fn peak_concurrency(&self) -> f64 {
        self.active.values().map(|(_, seconds)| seconds / 60.0).fold(0.0, f64::max)
    }

    pub(super) fn class(&self) -> ActivityClass {
        let invocations: u64 = self.active.values().map(|(invocations, _)| invocations).sum();
        let minutes = f64::from(self.minutes.max(1));
        if self.peak_concurrency() > 1.0 {
            ActivityClass::Busy
        } else if self.active.len() as f64 >= STEADY_SHARE * minutes {
            ActivityClass::Steady
        } else if self.is_periodic() {
            ActivityClass::Periodic
        } else if invocations as f64 >= minutes / 60.0 {
            ActivityClass::Sporadic
        } else {
            ActivityClass::Rare
        }
    }

    fn is_periodic(&self) -> bool {
        let minutes: Vec<f64> = self.active.keys().map(|minute| f64::from(*minute)).collect();
        let gaps: Vec<f64> = minutes.windows(2).map(|pair| pair[1] - pair[0]).collect();
        if gaps.len() < PERIODIC_GAPS {
            return false;
        }
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean) * (gap - mean)).sum::<f64>() / gaps.len() as f64;
        variance.sqrt() <= PERIODIC_VARIATION * mean
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use qscale_common::workload::trace::{RowTrace, TracedInvocation};

    use super::*;

    /// One function invoked at these minutes for this time each.
    fn activity(minutes: &[u32], duration_ms: u32, of: u32) -> FunctionActivity {
        let row = |minute: &u32| TracedInvocation { start_us: u64::from(*minute) * 60_000_000, function: 0, duration_ms };
        let rows: Arc<[TracedInvocation]> = minutes.iter().map(row).collect();
        FunctionActivity::of(&Trace::Rows(RowTrace { functions: vec!["f".into()], rows }), 0, of)
    }

    #[test]
    fn the_class_follows_from_the_training_part_alone() {
        let all: Vec<u32> = (0..600).collect();
        for (minutes, duration_ms, class) in [
            (&[0, 0, 0][..], 30_000, ActivityClass::Busy),
            (&all[..], 100, ActivityClass::Steady),
            (&[5, 65, 125, 185, 245], 100, ActivityClass::Periodic),
            (&[1, 2, 3, 9, 80, 81, 82, 200, 205, 340, 500], 100, ActivityClass::Sporadic),
            (&[3, 4, 590], 100, ActivityClass::Rare),
            (&[], 100, ActivityClass::Rare),
            (&[700; 100], 60_000, ActivityClass::Rare),
        ] {
            assert_eq!(activity(minutes, duration_ms, 600).class(), class, "{minutes:?}");
        }
    }

    #[test]
    fn concurrency_is_the_time_in_progress_in_a_minute() {
        assert_eq!(activity(&[0, 7, 7, 7], 40_000, 60).peak_concurrency(), 2.0);
        assert_eq!(activity(&[], 40_000, 60).peak_concurrency(), 0.0);
    }
}
