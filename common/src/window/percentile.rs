//! Percentiles of a latency histogram.

use crate::scrape::{LATENCY_BOUNDS_MS, LATENCY_BUCKETS};

/// The `percentiles` (0 to 100) of the latencies that `buckets` count, milliseconds, each interpolated within its bucket as Prometheus'
/// `histogram_quantile` does; the last bound for one that lies beyond it; `None` if nothing was counted.
#[must_use]
pub fn latency_percentiles<const N: usize>(buckets: &[u64; LATENCY_BUCKETS], percentiles: [f64; N]) -> Option<[f64; N]> {
    let total = buckets.iter().fold(0u64, |total, &count| total.saturating_add(count));
    (total > 0).then(|| percentiles.map(|percentile| locate(buckets, total as f64 * (percentile / 100.0).clamp(0.0, 1.0))))
}

fn locate(buckets: &[u64; LATENCY_BUCKETS], rank: f64) -> f64 {
    let mut below = 0.0;
    let mut lower = 0.0;
    for (&count, &upper) in buckets.iter().zip(&LATENCY_BOUNDS_MS) {
        let count = count as f64;
        if count > 0.0 && below + count >= rank {
            return lower + (upper - lower) * ((rank - below) / count).clamp(0.0, 1.0);
        }
        below += count;
        lower = upper;
    }
    lower
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(counts: &[(usize, u64)], percentile: f64, expected: Option<f64>) {
        let mut buckets = [0; LATENCY_BUCKETS];
        counts.iter().for_each(|&(index, count)| buckets[index] = count);
        match (latency_percentiles(&buckets, [percentile]).map(|[value]| value), expected) {
            (Some(found), Some(expected)) => assert!((found - expected).abs() < 1e-9, "{found}, expected {expected}"),
            (found, expected) => assert_eq!(found, expected),
        }
    }

    #[test]
    fn interpolates_within_the_bucket() {
        // Bucket 0 is 0 to 1 ms, bucket 11 is 75 to 100 ms.
        check(&[(0, 10)], 50.0, Some(0.5));
        check(&[(11, 4)], 25.0, Some(81.25));
        check(&[(0, 90), (11, 10)], 95.0, Some(87.5));
        check(&[(0, 90), (11, 10)], 90.0, Some(1.0));
    }

    #[test]
    fn beyond_the_last_bound_is_the_last_bound() {
        check(&[(LATENCY_BUCKETS - 1, 3)], 50.0, Some(30_000.0));
    }

    #[test]
    fn nothing_counted_has_no_percentile() {
        check(&[], 50.0, None);
    }

    proptest! {
        #[test]
        fn percentiles_are_finite_ordered_and_within_the_bounds(counts in prop::collection::vec(0u64..u64::MAX, LATENCY_BUCKETS), p in 0.0f64..100.0) {
            let buckets: [u64; LATENCY_BUCKETS] = counts.try_into().expect("as many as there are");
            if let Some([low, high]) = latency_percentiles(&buckets, [p * 0.9, p]) {
                prop_assert!((0.0..=30_000.0).contains(&low) && low <= high && high <= 30_000.0);
            }
        }
    }
}
