//! The VPA's decaying histograms. Owns buckets, weights and percentiles.

use std::time::Duration;

use qscale_common::time::{Timestamp, millis};

/// Buckets of a histogram.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HistogramBuckets {
    /// All of one width.
    Linear {
        /// The width, more than 0.
        width: f64,
        /// Number of buckets.
        count: usize,
    },
    /// Each `ratio` times as wide as the one before it.
    Exponential {
        /// Width of the first, more than 0.
        first: f64,
        /// More than 1.
        ratio: f64,
        /// Number of buckets.
        count: usize,
    },
}

impl HistogramBuckets {
    /// Buckets each `ratio` times as wide as the one before it, the first `first` wide, the last beginning at `max` or above.
    #[must_use]
    pub fn exponential(max: f64, first: f64, ratio: f64) -> Self {
        let count = (max * (ratio - 1.0) / first + 1.0).log(ratio).ceil() as usize + 1;
        Self::Exponential { first, ratio, count }
    }

    /// Buckets of `width` up to `max`.
    #[must_use]
    pub fn linear(max: f64, width: f64) -> Self {
        Self::Linear { width, count: (max / width).ceil() as usize + 1 }
    }

    /// Number of buckets, at least 1.
    #[must_use]
    pub fn count(&self) -> usize {
        match *self {
            Self::Linear { count, .. } | Self::Exponential { count, .. } => count.max(1),
        }
    }

    /// The bucket of `value`; the last holds all greater values.
    #[must_use]
    pub fn find(&self, value: f64) -> usize {
        let bucket = match *self {
            Self::Linear { width, .. } => value / width,
            Self::Exponential { first, .. } if value < first => 0.0,
            Self::Exponential { first, ratio, .. } => (value * (ratio - 1.0) / first + 1.0).ln() / ratio.ln(),
        };
        (bucket as usize).min(self.count() - 1)
    }

    /// Start of `bucket`.
    #[must_use]
    pub fn start(&self, bucket: usize) -> f64 {
        match *self {
            Self::Linear { width, .. } => width * bucket as f64,
            Self::Exponential { .. } if bucket == 0 => 0.0,
            Self::Exponential { first, ratio, .. } => first * (ratio.powf(bucket as f64) - 1.0) / (ratio - 1.0),
        }
    }
}

/// A histogram whose samples lose half of their weight in a half-life.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DecayingHistogram {
    weights: Vec<f64>,
    total: f64,
    reference: Timestamp,
}

impl DecayingHistogram {
    /// Smaller weights count as zero.
    pub const EPSILON: f64 = 1e-4;
    /// Half-lives after which weights are rescaled, so that they stay finite.
    const MAX_EXPONENT: f64 = 100.0;

    /// Adds `value`, measured at `at`, with `weight`.
    pub fn add(&mut self, buckets: &HistogramBuckets, half_life: Duration, value: f64, weight: f64, at: Timestamp) {
        let (bucket, weight) = self.place(buckets, half_life, value, weight, at);
        self.weights[bucket] += weight;
        self.total += weight;
    }

    /// Removes an added sample.
    pub fn subtract(&mut self, buckets: &HistogramBuckets, half_life: Duration, value: f64, weight: f64, at: Timestamp) {
        let without = |of: f64, weight: f64| if of - weight < Self::EPSILON { 0.0 } else { of - weight };
        let (bucket, weight) = self.place(buckets, half_life, value, weight, at);
        self.weights[bucket] = without(self.weights[bucket], weight);
        self.total = without(self.total, weight);
    }

    /// The bucket and the weight of a sample, scaled to the reference.
    fn place(&mut self, buckets: &HistogramBuckets, half_life: Duration, value: f64, weight: f64, at: Timestamp) -> (usize, f64) {
        self.weights.resize(buckets.count(), 0.0);
        let half_life = millis(half_life).max(1);
        if self.exponent(at, half_life) > Self::MAX_EXPONENT {
            self.refer(at, half_life);
        }
        (buckets.find(value), weight * self.exponent(at, half_life).exp2())
    }

    fn exponent(&self, at: Timestamp, half_life: u64) -> f64 {
        let passed = if at >= self.reference { (at.0 - self.reference.0) as f64 } else { -((self.reference.0 - at.0) as f64) };
        passed / half_life as f64
    }

    /// Moves the reference to the whole half-life nearest to `at`.
    fn refer(&mut self, at: Timestamp, half_life: u64) {
        let reference = Timestamp(at.0.saturating_add(half_life / 2) / half_life * half_life);
        let factor = (-self.exponent(reference, half_life).round()).exp2();
        self.weights.iter_mut().for_each(|weight| *weight *= factor);
        self.total *= factor;
        self.reference = reference;
    }

    fn first(&self) -> Option<usize> {
        self.weights.iter().position(|weight| *weight >= Self::EPSILON)
    }

    /// Whether all weights are zero.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first().is_none()
    }

    /// End of the bucket below which the share `percentile` of the weight lies; for the last bucket its start; zero without samples.
    #[must_use]
    pub fn percentile(&self, buckets: &HistogramBuckets, percentile: f64) -> f64 {
        let Some(first) = self.first() else { return 0.0 };
        let last = self.weights.iter().rposition(|weight| *weight >= Self::EPSILON).unwrap_or(first);
        let (threshold, mut sum) = (percentile * self.total, 0.0);
        let reached = self.weights[first..last].iter().position(|weight| {
            sum += weight;
            sum >= threshold
        });
        let bucket = reached.map_or(last, |beyond| first + beyond);
        buckets.start(if bucket + 1 < buckets.count() { bucket + 1 } else { bucket })
    }
}
