//! Histograms of latency: the contract's buckets for Scrapes, and finer cells for evaluation. Owns the mapping of a
//! latency to its bucket. Not `hdrhistogram`: both indices come from one table look-up, which is on the path of every
//! request.

use qscale_common::scrape::{LATENCY_BOUNDS_MS, LATENCY_BUCKETS};

use crate::nanos::Nanos;

/// Cells an octave: neighbours differ by at most 3.2 %.
const CELLS: usize = 32;
/// The first octave ends at 2^15 ns, 33 us; shorter latencies share its cells.
const FIRST_OCTAVE: u32 = 14;
/// The last one ends at 2^36 ns, 69 s; longer latencies share its last cell.
const OCTAVES: usize = 22;
const COUNT: usize = CELLS * OCTAVES;
/// Fine cells in a coarse one, which holds at most one bound of the contract's buckets.
const COARSE: usize = 8;

const BOUNDS: [u64; LATENCY_BUCKETS - 1] = {
    let mut bounds = [0; LATENCY_BUCKETS - 1];
    let mut index = 0;
    while index < bounds.len() {
        bounds[index] = (LATENCY_BOUNDS_MS[index] * 1e6) as u64;
        index += 1;
    }
    bounds
};

/// For each coarse cell, the bucket of its smallest latency and that bucket's bound.
static BUCKET_OF: [(usize, u64); COUNT / COARSE] = {
    let mut buckets = [(0, u64::MAX); COUNT / COARSE];
    let mut bucket = 0;
    let mut cell = 0;
    while cell < buckets.len() {
        while bucket < BOUNDS.len() && BOUNDS[bucket] < least(cell * COARSE) {
            bucket += 1;
        }
        buckets[cell] = (bucket, if bucket < BOUNDS.len() { BOUNDS[bucket] } else { u64::MAX });
        cell += 1;
    }
    buckets
};

/// Bucket and cell of a latency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistogramPosition {
    /// Index of the contract's bucket.
    pub bucket: usize,
    cell: usize,
}

impl HistogramPosition {
    /// The place of `latency`.
    #[inline]
    #[must_use]
    pub fn of(latency: Nanos) -> Self {
        let nanos = latency.0.max(1 << FIRST_OCTAVE);
        let octave = 63 - nanos.leading_zeros();
        let within = (nanos >> (octave - CELLS.trailing_zeros())) as usize & (CELLS - 1);
        let cell = ((octave - FIRST_OCTAVE) as usize * CELLS + within).min(COUNT - 1);
        let (bucket, bound) = BUCKET_OF[cell / COARSE];
        Self { bucket: bucket + usize::from(latency.0 > bound), cell }
    }
}

/// The smallest latency of a fine cell.
const fn least(cell: usize) -> u64 {
    let octave = FIRST_OCTAVE + (cell / CELLS) as u32;
    (1 << octave) + (((cell % CELLS) as u64) << (octave - CELLS.trailing_zeros()))
}

/// Latencies counted to 3 %, from 33 us to 69 s. 5.6 KB.
#[derive(Clone, PartialEq, Eq)]
pub struct LatencyHistogram(Box<[u64; COUNT]>);

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self(Box::new([0; COUNT]))
    }
}

impl std::fmt::Debug for LatencyHistogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Histogram of {} latencies", self.count())
    }
}

impl LatencyHistogram {
    /// Bytes on the heap.
    pub const BYTES: usize = COUNT * size_of::<u64>();

    /// Counts one latency.
    #[inline]
    pub fn add(&mut self, place: HistogramPosition) {
        self.0[place.cell] += 1;
    }

    /// Adds the counts of another histogram.
    pub fn include(&mut self, other: &LatencyHistogram) {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(sum, count)| *sum += count);
    }

    /// Resets all counts.
    pub fn clear(&mut self) {
        self.0.fill(0);
    }

    /// Number of latencies up to `bound`, with linear interpolation within its cell.
    #[must_use]
    pub fn within(&self, bound: Nanos) -> f64 {
        let cell = HistogramPosition::of(bound).cell;
        let part = bound.since(Nanos(least(cell))).0 as f64 / (least(cell + 1) - least(cell)) as f64;
        self.0[..cell].iter().sum::<u64>() as f64 + self.0[cell] as f64 * part.min(1.0)
    }

    /// Non-empty fine cells in rising order: index and count.
    pub fn cells(&self) -> impl Iterator<Item = (usize, u64)> {
        self.0.iter().copied().enumerate().filter(|(_, count)| *count > 0)
    }

    /// Upper bound of a fine cell; the last one also holds longer latencies.
    #[must_use]
    pub const fn end_of(cell: usize) -> Nanos {
        Nanos(least(cell + 1))
    }

    /// Number of latencies.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Quantile `share` (0 to 1) of the latencies and `failed` requests that count as slower than any; `None` if that
    /// is a failed one, or without requests.
    #[must_use]
    pub fn quantile(&self, share: f64, failed: u64) -> Option<Nanos> {
        let rank = (self.count() + failed) as f64 * share;
        let mut below = 0.0;
        for (cell, &count) in self.0.iter().enumerate().filter(|(_, count)| **count > 0) {
            let count = count as f64;
            if below + count >= rank {
                let width = (least(cell + 1) - least(cell)) as f64;
                return Some(Nanos(least(cell) + (width * ((rank - below) / count).clamp(0.0, 1.0)) as u64));
            }
            below += count;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(nanos: u64) {
        let expected = BOUNDS.iter().position(|bound| nanos <= *bound).unwrap_or(BOUNDS.len());
        assert_eq!(HistogramPosition::of(Nanos(nanos)).bucket, expected, "{nanos}");
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        check(0);
        check(u64::MAX);
        BOUNDS.into_iter().for_each(|bound| [bound - 1, bound, bound + 1].into_iter().for_each(check));
    }

    proptest! {
        #[test]
        fn every_latency_has_the_bucket_that_the_bounds_give(bits in 0u32..40, nanos in 0u64..1 << 40) {
            check(nanos >> bits);
        }

        #[test]
        fn a_quantile_is_near_what_was_counted(nanos in 1u64 << 15..1 << 35) {
            let mut histogram = LatencyHistogram::default();
            histogram.add(HistogramPosition::of(Nanos(nanos)));
            let found = histogram.quantile(0.5, 0).expect("one was counted").0 as f64;
            prop_assert!((found / nanos as f64 - 1.0).abs() < 0.032);
        }
    }

    #[test]
    fn counts_within_a_bound_match() {
        let mut histogram = LatencyHistogram::default();
        (1..=1000).for_each(|ms| histogram.add(HistogramPosition::of(Nanos::millis(ms))));
        for bound in [1, 10, 100, 500, 900] {
            let within = histogram.within(Nanos::millis(bound));
            assert!((within - bound as f64).abs() <= 1.0 + 0.032 * bound as f64, "{within} within {bound} ms");
        }
        assert_eq!((histogram.within(Nanos::ZERO), histogram.within(Nanos::NEVER)), (0.0, 1000.0));
        histogram.clear();
        assert_eq!(histogram, LatencyHistogram::default());
    }

    #[test]
    fn failures_are_slower_than_any() {
        let mut histogram = LatencyHistogram::default();
        (0..90).for_each(|_| histogram.add(HistogramPosition::of(Nanos::millis(1))));
        assert!(histogram.quantile(0.89, 10).is_some());
        assert_eq!(histogram.quantile(0.95, 10), None);
        assert_eq!(LatencyHistogram::default().quantile(0.5, 0), None);
    }
}
