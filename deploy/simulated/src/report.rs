//! Load messages and summaries of simulated load, in the format of the load generator. Owns counting between two
//! messages; the simulation must not know about either.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use qscale_common::contract::{Failures, LatencyBucket, Load, Version};
use qscale_common::load::{BUCKET_RATIO, FIRST_BUCKET_US, FunctionLoad, LatencySummary, LoadSummary};
use qscale_common::time::{Timestamp, millis};
use qscale_sim::latency::LatencyHistogram;
use qscale_sim::{Nanos, Totals};

use crate::function::Simulated;

/// Number of buckets of a Load message; the last one is unbounded.
const BUCKETS: usize = 64;
static BOUNDS_US: LazyLock<[u64; BUCKETS]> =
    LazyLock::new(|| std::array::from_fn(|index| (FIRST_BUCKET_US as f64 * BUCKET_RATIO.powi(index as i32)) as u64));

/// Latencies in `histogram`; `None` if it is empty.
fn latency_of(histogram: &LatencyHistogram) -> Option<LatencySummary> {
    let at = |share| histogram.quantile(share, 0).map(|latency| rounded(latency.seconds() * 1_000.0));
    Some(LatencySummary { mean: None, p50: at(0.5)?, p90: at(0.9)?, p95: at(0.95)?, p99: at(0.99)?, p999: at(0.999)?, max: None })
}

impl Simulated {
    /// Load message since the last one; `None` without load.
    pub(crate) fn load(&mut self, run: &str, now: Timestamp) -> Option<Load> {
        self.load_began?;
        self.inputs.load.as_ref()?;
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

    /// Summary of its load with the latency histogram.
    pub(crate) fn line(&mut self) -> (FunctionLoad, LatencyHistogram) {
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

/// Summarises the load of functions.
#[must_use]
pub fn summary(functions: Vec<(FunctionLoad, LatencyHistogram)>, longest: Nanos) -> LoadSummary {
    let mut latency = LatencyHistogram::default();
    let mut counts = [0; 3];
    for (line, of_function) in &functions {
        counts = [counts[0] + line.due, counts[1] + line.succeeded, counts[2] + line.failed];
        latency.include(of_function);
    }
    let functions = functions.into_iter().map(|(line, _)| line).collect();
    let total = line("total".to_owned(), counts, longest, &latency);
    // A simulation always keeps its schedule, so it is never void.
    LoadSummary { version: LoadSummary::VERSION, sending_s: rounded(longest.seconds()), total, functions, ..LoadSummary::default() }
}

fn line(function: String, [due, succeeded, failed]: [u64; 3], loaded: Nanos, latency: &LatencyHistogram) -> FunctionLoad {
    let rate = |count: u64| if loaded > Nanos::ZERO { rounded(count as f64 / loaded.seconds()) } else { 0.0 };
    FunctionLoad {
        function,
        due,
        sent: due,
        succeeded,
        failed,
        censored: due.saturating_sub(succeeded + failed),
        offered_rps: rate(due),
        achieved_rps: rate(succeeded),
        failures: BTreeMap::new(),
        latency_ms: latency_of(latency),
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

fn buckets(histogram: &LatencyHistogram) -> Vec<u64> {
    let mut buckets = vec![0; BUCKETS];
    for (cell, count) in histogram.cells() {
        let bucket = BOUNDS_US.partition_point(|bound| bound * 1_000 < LatencyHistogram::end_of(cell).0).min(BUCKETS - 1);
        buckets[bucket] += count;
    }
    buckets
}

#[cfg(test)]
mod tests {
    use qscale_sim::latency::HistogramPosition;

    use super::*;

    #[test]
    fn every_latency_lies_in_one_bucket() {
        let mut histogram = LatencyHistogram::default();
        for ms in [0, 1, 5, 90, 4_000, 200_000] {
            histogram.add(HistogramPosition::of(Nanos::millis(ms)));
        }
        let buckets = buckets(&histogram);
        assert_eq!(buckets.iter().sum::<u64>(), 6);
        let five = BOUNDS_US.iter().position(|bound| *bound >= 5_000).expect("below the last");
        assert_eq!(buckets[five..=five + 1].iter().sum::<u64>(), 1, "5 ms lies where it is counted, to a cell");
    }

    #[test]
    fn a_summary_adds_up_its_functions() {
        let mut latency = LatencyHistogram::default();
        latency.add(HistogramPosition::of(Nanos::millis(10)));
        let one = || (line("default/f".to_owned(), [5, 3, 1], Nanos::millis(2_000), &latency), latency.clone());
        let summary = summary(vec![one(), one()], Nanos::millis(2_000));
        assert_eq!((summary.total.due, summary.total.succeeded, summary.total.failed, summary.total.censored), (10, 6, 2, 2));
        assert_eq!((summary.functions[0].offered_rps, summary.total.offered_rps), (2.5, 5.0));
        let json = serde_json::to_string(&summary).expect("writes");
        assert_eq!(serde_json::from_str::<LoadSummary>(&json).expect("reads"), summary);
        let p50 = summary.total.latency_ms.expect("two were answered").p50;
        assert!((p50 - 10.0).abs() < 0.4, "{p50}");
    }
}
