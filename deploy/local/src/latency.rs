//! How long requests took, by how they ended. Owns the buckets; does not read a clock.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use qscale_common::scrape::LATENCY_BOUNDS_MS;

/// Bound of the one bucket that the platform has beyond those of the contract, milliseconds: a minute, twice the default timeout.
const LAST_BOUND_MS: f64 = 60_000.0;
/// Buckets, the one without bound included.
pub const BUCKETS: usize = LATENCY_BOUNDS_MS.len() + 2;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// HTTP status; 499 where the client left before there was one.
    pub http: u16,
    /// gRPC status, 0 to 16, where the request was one of gRPC.
    pub grpc: Option<u8>,
}

/// Latencies of one replica, or of the gateway.
#[derive(Debug, Default)]
pub struct Latency(Mutex<Vec<Series>>);

/// Latencies of the requests that ended in one way.
#[derive(Debug, Clone)]
pub struct Series {
    /// The way.
    pub ending: Ending,
    /// Requests in each bucket, not cumulative.
    pub counts: [u64; BUCKETS],
    /// Sum of their durations, seconds.
    pub sum: f64,
}

/// Upper bounds of the buckets but the last, seconds.
pub fn bounds() -> impl Iterator<Item = f64> {
    LATENCY_BOUNDS_MS.into_iter().chain([LAST_BOUND_MS]).map(|bound| bound / 1_000.0)
}

impl Latency {
    /// Counts a request that took `duration`.
    pub fn record(&self, ending: Ending, duration: Duration) {
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
    use super::*;

    #[track_caller]
    fn check(millis: u64, bucket: usize) {
        let latency = Latency::default();
        latency.record(Ending { http: 200, grpc: None }, Duration::from_millis(millis));
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
