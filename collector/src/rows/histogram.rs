//! Conversion of cumulative buckets with any bounds to the buckets of the contract.

use qscale_common::scrape::{LATENCY_BOUNDS_MS, LATENCY_BUCKETS};

/// Maximum number of bounds; further ones are ignored. Exporters have dozens.
const MOST_BOUNDS: usize = 512;

/// A cumulative histogram, summed over series.
#[derive(Debug, Clone, Default)]
pub(super) struct CumulativeHistogram {
    /// Upper bound, milliseconds, and number of requests up to it, in order of arrival.
    bounds: Vec<(f64, f64)>,
    /// Where the next bound is expected: series arrive in ascending order.
    expected: usize,
    /// Whether the count of a bucket is unknown.
    incomplete: bool,
}

impl CumulativeHistogram {
    /// Adds `count` requests of at most `bound_seconds`; NaN for an unknown number.
    pub(super) fn add(&mut self, bound_seconds: f64, count: f64) {
        let bound = bound_seconds * 1000.0;
        self.incomplete |= count.is_nan();
        // A bound beyond all numbers of milliseconds says the same as the last bucket, which has none.
        let overflows = bound.is_infinite() && bound_seconds.is_finite();
        if bound.is_nan() || bound < 0.0 || count.is_nan() || overflows {
            return;
        }
        let same = |other: f64| other == bound || (other - bound).abs() <= bound.min(f64::MAX) * 1e-9;
        let index = match self.bounds.get(self.expected) {
            Some(&(other, _)) if same(other) => self.expected,
            _ => match self.bounds.iter().position(|&(other, _)| same(other)) {
                Some(index) => index,
                None if self.bounds.len() == MOST_BOUNDS => return,
                None => {
                    self.bounds.push((bound, 0.0));
                    self.bounds.len() - 1
                }
            },
        };
        self.bounds[index].1 += count;
        self.expected = if index + 1 < self.bounds.len() || bound.is_finite() { index + 1 } else { 0 };
    }

    /// Whether there is no bucket.
    pub(super) fn is_empty(&self) -> bool {
        self.bounds.is_empty() && !self.incomplete
    }

    /// Number of requests in each bucket of the contract, of which there are `all`: where a source shows no bucket without bound, the others do not
    /// say how many. Requests are assumed to be spread evenly within a source bucket; those beyond the last finite bound count as just above it.
    /// `None` if the count of a bucket is unknown.
    pub(super) fn buckets(&self, all: f64) -> Option<[u64; LATENCY_BUCKETS]> {
        if self.incomplete {
            return None;
        }
        let mut bounds = self.bounds.clone();
        bounds.sort_by(|one, other| one.0.total_cmp(&other.0));
        // Series of one replica may have different bounds; a cumulative count must not decrease.
        let mut highest = 0.0;
        for (_, count) in &mut bounds {
            highest = f64::max(highest, *count);
            *count = highest;
        }
        let unbounded = bounds.last().is_some_and(|(bound, _)| bound.is_infinite());
        let total = if unbounded { highest } else { highest.max(all) };
        bounds.retain(|(bound, _)| bound.is_finite());
        let mut buckets = [0; LATENCY_BUCKETS];
        if bounds.is_empty() {
            // A count alone has no latency.
            return Some(buckets);
        }
        let mut below = 0;
        for (bucket, &bound) in buckets.iter_mut().zip(&LATENCY_BOUNDS_MS) {
            let up_to = at_most(&bounds, bound, total).round() as u64;
            *bucket = up_to.saturating_sub(below);
            below = below.max(up_to);
        }
        buckets[LATENCY_BUCKETS - 1] = (total.round() as u64).saturating_sub(below);
        Some(buckets)
    }
}

/// Number of requests of at most `bound`.
fn at_most(bounds: &[(f64, f64)], bound: f64, total: f64) -> f64 {
    // A bound written in seconds may differ in the last digit.
    let after = bounds.partition_point(|(other, _)| *other < bound * (1.0 - 1e-9));
    let (lower, below) = after.checked_sub(1).map_or((0.0, 0.0), |index| bounds[index]);
    match bounds.get(after) {
        Some(&(upper, count)) if upper <= bound * (1.0 + 1e-9) => count,
        Some(&(upper, count)) => below + (count - below) * (bound - lower) / (upper - lower),
        None => total,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(cumulative: &[(f64, f64)], expected: &[(f64, u64)]) {
        let mut histogram = CumulativeHistogram::default();
        cumulative.iter().for_each(|&(bound, count)| histogram.add(bound, count));
        let mut buckets = [0; LATENCY_BUCKETS];
        for &(bound_ms, count) in expected {
            buckets[LATENCY_BOUNDS_MS.iter().position(|bound| *bound == bound_ms).unwrap_or(LATENCY_BUCKETS - 1)] = count;
        }
        assert_eq!(histogram.buckets(0.0), Some(buckets));
    }

    #[test]
    fn the_contracts_bounds_pass_unchanged() {
        let mut histogram = CumulativeHistogram::default();
        let expected: [u64; LATENCY_BUCKETS] = std::array::from_fn(|index| index as u64 * 3 + 1);
        for _series in 0..2 {
            let mut below = 0;
            for (count, bound) in expected.iter().zip(LATENCY_BOUNDS_MS.map(|bound| bound / 1000.0).into_iter().chain([f64::INFINITY])) {
                below += count;
                histogram.add(bound, below as f64);
            }
        }
        assert_eq!(histogram.buckets(0.0), Some(expected.map(|count| count * 2)));
        assert_eq!(histogram.bounds.len(), LATENCY_BUCKETS);
    }

    #[test]
    fn other_bounds_are_interpolated() {
        // 100 requests between 0 and 10 ms, 100 between 10 and 20 ms.
        let expected = [(1.0, 10), (2.0, 10), (3.0, 10), (5.0, 20), (7.5, 25), (10.0, 25), (15.0, 50), (20.0, 50)];
        check(&[(0.01, 100.0), (0.02, 200.0), (f64::INFINITY, 200.0)], &expected);
    }

    #[test]
    fn requests_beyond_the_last_bound_count_as_just_above_it() {
        check(&[(0.001, 1.0), (10.0, 1.0), (f64::INFINITY, 4.0)], &[(1.0, 1), (15_000.0, 3)]);
        check(&[(0.001, 1.0), (60.0, 1.0), (f64::INFINITY, 4.0)], &[(1.0, 1), (0.0, 3)]);
        check(&[(0.001, 1.0), (f64::MAX, 4.0), (f64::INFINITY, 4.0)], &[(1.0, 1), (2.0, 3)]);
    }

    #[test]
    fn without_a_bucket_without_bound_the_count_says_how_many_are_beyond_the_last_one() {
        let mut histogram = CumulativeHistogram::default();
        [(0.1, 60.0), (0.2, 80.0)].iter().for_each(|&(bound, count)| histogram.add(bound, count));
        let beyond_200_ms = |histogram: &CumulativeHistogram, all| histogram.buckets(all).map(|buckets| buckets[14..].iter().sum::<u64>());
        assert_eq!(LATENCY_BOUNDS_MS[13], 200.0);
        assert_eq!(beyond_200_ms(&histogram, 100.0), Some(20));
        assert_eq!(beyond_200_ms(&histogram, 70.0), Some(0), "the count was read before the buckets");
        histogram.add(f64::INFINITY, 81.0);
        assert_eq!(beyond_200_ms(&histogram, 100.0), Some(1), "the bucket belongs to the others");
    }

    #[test]
    fn without_a_finite_bound_there_are_no_latencies() {
        check(&[], &[]);
        check(&[(f64::INFINITY, 4.0)], &[]);
    }

    #[test]
    fn a_histogram_with_an_unknown_count_has_no_latencies() {
        let mut histogram = CumulativeHistogram::default();
        [(0.1, 3.0), (0.5, f64::NAN), (f64::INFINITY, 9.0)].iter().for_each(|&(bound, count)| histogram.add(bound, count));
        assert_eq!(histogram.buckets(9.0), None);
    }

    proptest! {
        #[test]
        fn the_number_of_requests_is_preserved(entries in prop::collection::vec((0.0f64..100.0, 0u32..1000), 1..40), infinite: bool) {
            let mut histogram = CumulativeHistogram::default();
            entries.iter().for_each(|&(bound, count)| histogram.add(bound, f64::from(count)));
            if infinite {
                histogram.add(f64::INFINITY, 1000.0);
            }
            let highest = histogram.bounds.iter().fold(0.0, |most: f64, (_, count)| most.max(*count));
            prop_assert_eq!(histogram.buckets(0.0).expect("all counts are known").iter().sum::<u64>(), highest as u64);
        }

        #[test]
        fn any_numbers_are_accepted(entries in prop::collection::vec((any::<f64>(), any::<f64>()), 0..40)) {
            let mut histogram = CumulativeHistogram::default();
            entries.iter().for_each(|&(bound, count)| histogram.add(bound, count));
            let _any = histogram.buckets(f64::NAN);
        }
    }
}
