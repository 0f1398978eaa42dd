//! What the load of a simulated function came to: Load messages while it lasts, a summary whenever it is asked for, in the words of the load generator.
//! Owns the counting between two messages; the simulation knows nothing of either.

use std::sync::LazyLock;

use qscale_common::contract::{Failures, LatencyBucket, Load, Version};
use qscale_common::time::{Timestamp, millis};
use qscale_sim::latency::Histogram;
use qscale_sim::{Nanos, Totals};
use serde::Serialize;

use crate::function::Simulated;

/// Buckets of a Load message: from 100 us on, each a quarter wider than the one before, as the load generator has them; the last takes all above 100 s.
const BUCKETS: usize = 64;
static BOUNDS_US: LazyLock<[u64; BUCKETS]> = LazyLock::new(|| std::array::from_fn(|index| (100.0 * 1.25f64.powi(index as i32)) as u64));

/// A line of a summary, as the load generator writes it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// `namespace/name`.
    pub function: String,
    /// Requests that arrived.
    pub due: u64,
    /// The same: a simulation sends whatever is due.
    pub sent: u64,
    /// Requests answered well.
    pub succeeded: u64,
    /// Requests that were refused, took too long, or were lost with their replica.
    pub failed: u64,
    /// Requests that are under way.
    pub censored: u64,
    /// Requests that arrived, a second.
    pub offered_rps: f64,
    /// Requests answered well, a second.
    pub achieved_rps: f64,
    /// Latencies of those, milliseconds; absent where there are none.
    pub latency_ms: Option<Latency>,
}

/// Percentiles of latency, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    /// Half are faster.
    pub p50: f64,
    /// 95 in 100 are faster.
    pub p95: f64,
    /// 99 in 100 are faster.
    pub p99: f64,
}

impl Latency {
    fn of(histogram: &Histogram) -> Option<Self> {
        let at = |share| histogram.quantile(share, 0).map(|latency| rounded(latency.seconds() * 1_000.0));
        Some(Self { p50: at(0.5)?, p95: at(0.95)?, p99: at(0.99)? })
    }
}

/// The load of all functions since it began.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Always false: a simulation never falls behind its own schedule.
    pub void: bool,
    /// All functions together.
    pub total: Line,
    /// Each function.
    pub functions: Vec<Line>,
}

impl Simulated {
    /// What was offered and answered since the last message; `None` where there is no load.
    pub(crate) fn load(&mut self, run: &str, now: Timestamp) -> Option<Load> {
        self.load_began?;
        self.wanted.load.as_ref()?;
        let interval = now.since(self.published.at);
        if interval.is_zero() {
            return None;
        }
        let totals = self.totals();
        let Totals { arrived, completed, refused, timed_out, failed: lost, .. } = *totals;
        let buckets = buckets(&totals.latency);
        let published = &mut self.published;
        let before = std::mem::replace(&mut published.buckets, buckets.clone());
        let latency = buckets
            .iter()
            .enumerate()
            .map(|(index, count)| LatencyBucket { le_us: BOUNDS_US[index], count: count - before.get(index).copied().unwrap_or(0) });
        let seconds = interval.as_secs_f64();
        let load = Load {
            version: Version::CURRENT,
            namespace: self.id.namespace.clone(),
            function: self.id.name.clone(),
            run: run.to_owned(),
            at_ms: now,
            interval_ms: millis(interval).max(1),
            offered_rps: (arrived - published.arrived) as f64 / seconds,
            achieved_rps: (completed - published.completed) as f64 / seconds,
            in_flight: arrived.saturating_sub(completed + refused + timed_out + lost),
            failures: Failures {
                timeout: timed_out - published.timed_out,
                status: refused - published.refused + lost - published.lost,
                ..Failures::default()
            },
            latency: latency.filter(|bucket| bucket.count > 0).collect(),
            send_lag_p99_us: None,
        };
        (published.at, published.arrived, published.completed) = (now, arrived, completed);
        (published.refused, published.timed_out, published.lost) = (refused, timed_out, lost);
        Some(load)
    }

    /// What its load came to, and the latencies behind that.
    pub(crate) fn line(&mut self) -> (Line, Histogram) {
        let mut latency = self.published.before.latency.clone();
        let loaded = self.loaded_for();
        let totals = self.totals();
        latency.include(&totals.latency);
        let (arrived, completed, failed) = (totals.arrived, totals.completed, totals.unanswered());
        let before = &self.published.before;
        let (arrived, completed) = (arrived + before.arrived, completed + before.completed);
        let failed = failed + before.refused + before.timed_out + before.lost;
        (line(self.id.to_string(), [arrived, completed, failed], loaded, &latency), latency)
    }
}

/// Sums up the load of functions.
#[must_use]
pub fn summary(functions: Vec<(Line, Histogram)>, longest: Nanos) -> Summary {
    let mut latency = Histogram::default();
    let mut counts = [0; 3];
    for (line, of_function) in &functions {
        counts = [counts[0] + line.due, counts[1] + line.succeeded, counts[2] + line.failed];
        latency.include(of_function);
    }
    let functions = functions.into_iter().map(|(line, _)| line).collect();
    Summary { void: false, total: line("total".to_owned(), counts, longest, &latency), functions }
}

fn line(function: String, [due, succeeded, failed]: [u64; 3], loaded: Nanos, latency: &Histogram) -> Line {
    let rate = |count: u64| if loaded > Nanos::ZERO { rounded(count as f64 / loaded.seconds()) } else { 0.0 };
    Line {
        function,
        due,
        sent: due,
        succeeded,
        failed,
        censored: due.saturating_sub(succeeded + failed),
        offered_rps: rate(due),
        achieved_rps: rate(succeeded),
        latency_ms: Latency::of(latency),
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

fn buckets(histogram: &Histogram) -> Vec<u64> {
    let mut buckets = vec![0; BUCKETS];
    for (cell, count) in histogram.cells() {
        let bucket = BOUNDS_US.partition_point(|bound| bound * 1_000 < Histogram::end_of(cell).0).min(BUCKETS - 1);
        buckets[bucket] += count;
    }
    buckets
}

#[cfg(test)]
mod tests {
    use qscale_sim::latency::Place;

    use super::*;

    #[test]
    fn every_latency_lies_in_one_bucket() {
        let mut histogram = Histogram::default();
        for ms in [0, 1, 5, 90, 4_000, 200_000] {
            histogram.add(Place::of(Nanos::millis(ms)));
        }
        let buckets = buckets(&histogram);
        assert_eq!(buckets.iter().sum::<u64>(), 6);
        let five = BOUNDS_US.iter().position(|bound| *bound >= 5_000).expect("below the last");
        assert_eq!(buckets[five..=five + 1].iter().sum::<u64>(), 1, "5 ms lies where it is counted, to a cell");
    }

    #[test]
    fn a_summary_adds_up_its_functions() {
        let mut latency = Histogram::default();
        latency.add(Place::of(Nanos::millis(10)));
        let one = || (line("default/f".to_owned(), [5, 3, 1], Nanos::millis(2_000), &latency), latency.clone());
        let summary = summary(vec![one(), one()], Nanos::millis(2_000));
        assert_eq!((summary.total.due, summary.total.succeeded, summary.total.failed, summary.total.censored), (10, 6, 2, 2));
        assert_eq!((summary.functions[0].offered_rps, summary.total.offered_rps), (2.5, 5.0));
        let p50 = summary.total.latency_ms.expect("two were answered").p50;
        assert!((p50 - 10.0).abs() < 0.4, "{p50}");
    }
}
