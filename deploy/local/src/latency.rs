//! Latency histograms by outcome of the request. Owns the assignment to buckets; must not read a clock.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

pub use qscale_common::platform::metrics::RequestResult;
use qscale_common::platform::metrics::{BUCKETS, LAST_BOUND_MS, Series};
use qscale_common::scrape::LATENCY_BOUNDS_MS;

/// Latencies of one replica, or of the gateway.
#[derive(Debug, Default)]
pub struct LatencyHistograms(Mutex<Vec<Series>>);

impl LatencyHistograms {
    /// Counts a request with this ending and duration.
    pub fn record(&self, ending: RequestResult, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = LATENCY_BOUNDS_MS.partition_point(|bound| *bound < seconds * 1_000.0);
        let bucket = bucket + usize::from(seconds * 1_000.0 > LAST_BOUND_MS);
        let mut series = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let index = series.iter().position(|series| series.ending == ending).unwrap_or_else(|| {
            series.push(Series { ending, counts: [0; BUCKETS], sum: 0.0 });
            series.len() - 1
        });
        series[index].counts[bucket] += 1;
        series[index].sum += seconds;
    }

    /// All series.
    #[must_use]
    pub fn series(&self) -> Vec<Series> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use qscale_common::platform::metrics::bounds;

    use super::*;

    #[track_caller]
    fn check(millis: u64, bucket: usize) {
        let latency = LatencyHistograms::default();
        latency.record(RequestResult { http: 200, grpc: None }, Duration::from_millis(millis));
        let series = latency.series();
        assert_eq!(series[0].counts.iter().position(|count| *count == 1), Some(bucket));
    }

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        check(0, 0);
        check(1, 0);
        check(2, 1);
        check(4, 3);
        check(30_000, 26);
        check(30_001, 27);
        check(60_000, 27);
        check(60_001, 28);
        assert_eq!(bounds().count(), BUCKETS - 1);
        assert_eq!(bounds().nth(4), Some(0.0075));
    }
}
