//! The VPA's recommender: requests of a container. Owns samples, peaks, margins and confidence.

use std::time::Duration;

use qscale_common::time::{Timestamp, millis};

use super::histogram::{DecayingHistogram, HistogramBuckets};

/// Settings of the recommender.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recommender {
    /// Half-life of a sample's weight.
    pub half_life: Duration,
    /// Length of the span of which one memory peak counts.
    pub memory_window: Duration,
    /// Percentile of CPU usage that is the target, 0 to 1.
    pub cpu_percentile: f64,
    /// Percentile of memory peaks that is the target, 0 to 1.
    pub memory_percentile: f64,
    /// Share added to every estimate.
    pub margin: f64,
    /// Least CPU of a pod, thousandths of a core.
    pub min_cpu_millicores: i64,
    /// Least memory of a pod, bytes.
    pub min_memory_bytes: i64,
    /// Least addition after an out-of-memory kill, bytes.
    pub oom_min_bump_bytes: i64,
    /// Least factor of memory after an out-of-memory kill.
    pub oom_bump_ratio: f64,
    /// Length of the history at which confidence is 1.
    pub confidence_interval: Duration,
    /// Percentile of the lower bounds, 0 to 1.
    pub lower_percentile: f64,
    /// Percentile of the upper bounds, 0 to 1.
    pub upper_percentile: f64,
}

impl Default for Recommender {
    fn default() -> Self {
        Self {
            half_life: DAY,
            memory_window: DAY,
            cpu_percentile: 0.9,
            memory_percentile: 0.9,
            margin: 0.15,
            min_cpu_millicores: 25,
            min_memory_bytes: 250 * MEBIBYTE,
            oom_min_bump_bytes: 100 * MEBIBYTE,
            oom_bump_ratio: 1.2,
            confidence_interval: DAY,
            lower_percentile: 0.5,
            upper_percentile: 0.95,
        }
    }
}

const DAY: Duration = Duration::from_secs(24 * 3600);
const MEBIBYTE: i64 = 1 << 20;
/// Greatest amount.
const MAX_VALUE: f64 = 1e14;
/// Least weight of a CPU sample; a memory sample weighs 1.
const CPU_WEIGHT: f64 = 0.1;

/// Amounts of both resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amounts {
    /// Thousandths of a core.
    pub cpu_millicores: i64,
    /// Bytes.
    pub memory_bytes: i64,
}

/// Recommendation for a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recommendation {
    /// Target request.
    pub target: Amounts,
    /// Lower bound.
    pub lower: Amounts,
    /// Upper bound.
    pub upper: Amounts,
}

/// History of the containers of one name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Aggregate {
    cpu: DecayingHistogram,
    memory: DecayingHistogram,
    first: Option<Timestamp>,
    last: Timestamp,
    /// Number of CPU samples, with which confidence grows.
    samples: u64,
    peaks: MemoryPeak,
}

/// Memory peak of the current window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct MemoryPeak {
    window_end: Option<Timestamp>,
    last: Timestamp,
    used: i64,
    oom: i64,
}

/// Buckets of CPU, cores.
#[must_use]
pub fn cpu_buckets() -> HistogramBuckets {
    HistogramBuckets::exponential(1000.0, 0.01, 1.05)
}

/// Buckets of memory, bytes.
#[must_use]
pub fn memory_buckets() -> HistogramBuckets {
    HistogramBuckets::exponential(1e12, 1e7, 1.05)
}

/// `amount` times `factor`, rounded down, at most the greatest amount.
#[must_use]
pub fn scaled(amount: i64, factor: f64) -> i64 {
    (amount as f64 * factor).clamp(0.0, MAX_VALUE) as i64
}

impl Aggregate {
    /// Whether there are samples of CPU and of memory. The recommendation for a resource without samples has no meaning.
    #[must_use]
    pub fn measured(&self) -> [bool; 2] {
        [self.samples > 0, !self.memory.is_empty()]
    }

    /// Adds the CPU usage of each container, cores, at `at`. Returns false for a sample that is negative or not newer than the last.
    pub fn add_cpu(&mut self, recommender: &Recommender, cores: impl IntoIterator<Item = f64>, at: Timestamp) -> bool {
        if self.first.is_some() && at <= self.last {
            return false;
        }
        let mut taken = false;
        for cores in cores.into_iter().filter(|cores| *cores >= 0.0) {
            self.cpu.add(&cpu_buckets(), recommender.half_life, cores, CPU_WEIGHT, at);
            self.first.get_or_insert(at);
            self.last = at;
            self.samples = self.samples.saturating_add(1);
            taken = true;
        }
        taken
    }

    /// Adds the memory usage of a container at `at`. Returns whether the sample was accepted.
    pub fn add_memory(&mut self, recommender: &Recommender, bytes: i64, at: Timestamp) -> bool {
        self.peak(recommender, bytes, at, false)
    }

    /// Adds an out-of-memory kill at `at` of a container that requested `requested` bytes: it needs more than its
    /// request and its peak. Returns false for a kill in a window before the newest sample.
    pub fn add_oom(&mut self, recommender: &Recommender, requested: i64, at: Timestamp) -> bool {
        let outdated = self.peaks.window_end.is_some() && at < self.peaks.last.minus(recommender.memory_window);
        !outdated && self.peak(recommender, oom_need(recommender, requested, self.peaks.used), at, true)
    }

    /// The peak of a window counts once, at the window's end.
    fn peak(&mut self, recommender: &Recommender, bytes: i64, at: Timestamp, oom: bool) -> bool {
        if bytes < 0 || (!oom && at < self.peaks.last) {
            return false;
        }
        self.peaks.last = at;
        let (buckets, half_life) = (memory_buckets(), recommender.half_life);
        let mut end = *self.peaks.window_end.get_or_insert(at);
        if at < end {
            let known = self.peaks.used.max(self.peaks.oom);
            if known == 0 || bytes <= known {
                return true;
            }
            self.memory.subtract(&buckets, half_life, known as f64, 1.0, end);
        } else {
            let window = millis(recommender.memory_window).max(1);
            let windows = (at.0 - end.0) / window + 1;
            end = Timestamp(end.0.saturating_add(windows.saturating_mul(window)));
            self.peaks = MemoryPeak { window_end: Some(end), used: 0, oom: 0, ..self.peaks };
        }
        self.memory.add(&buckets, half_life, bytes as f64, 1.0, end);
        if oom {
            self.peaks.oom = bytes
        } else {
            self.peaks.used = bytes
        }
        true
    }

    /// Confidence: length of the history in `interval`s, at most the number that one sample a minute would fill.
    #[must_use]
    pub fn confidence(&self, interval: Duration) -> f64 {
        let lifespan = self.last.since(self.first.unwrap_or(self.last));
        let interval = interval.as_secs_f64().max(1.0);
        (lifespan.as_secs_f64() / interval).min(self.samples as f64 / (interval / 60.0))
    }

    /// Recommendation for a container in a pod of `containers`; the least amounts for a resource without samples.
    #[must_use]
    pub fn recommend(&self, recommender: &Recommender, containers: u32) -> Recommendation {
        let at = |cpu, memory| Amounts {
            cpu_millicores: (self.cpu.percentile(&cpu_buckets(), cpu) * 1000.0) as i64,
            memory_bytes: self.memory.percentile(&memory_buckets(), memory) as i64,
        };
        let finish = |amounts: Amounts, multiplier: f64, exponent: f64| {
            let factor = confidence_factor(multiplier, exponent, self.confidence(recommender.confidence_interval));
            let least = 1.0 / f64::from(containers.max(1));
            let one = |amount: i64, min: i64| scaled(amount + scaled(amount, recommender.margin), factor).max(scaled(min, least));
            Amounts {
                cpu_millicores: one(amounts.cpu_millicores, recommender.min_cpu_millicores),
                memory_bytes: one(amounts.memory_bytes, recommender.min_memory_bytes),
            }
        };
        Recommendation {
            target: finish(at(recommender.cpu_percentile, recommender.memory_percentile), 0.0, 1.0),
            lower: finish(at(recommender.lower_percentile, recommender.lower_percentile), 0.001, -2.0),
            upper: finish(at(recommender.upper_percentile, recommender.upper_percentile), 1.0, 1.0),
        }
    }
}

/// Factor of an estimate at a given confidence; 1 if `multiplier` is 0.
#[must_use]
pub fn confidence_factor(multiplier: f64, exponent: f64, confidence: f64) -> f64 {
    if multiplier == 0.0 { 1.0 } else { (1.0 + multiplier / confidence).powf(exponent) }
}

/// Memory need of a container that was killed with `requested` and `peak` bytes.
#[must_use]
pub fn oom_need(recommender: &Recommender, requested: i64, peak: i64) -> i64 {
    let had = requested.max(peak);
    had.saturating_add(recommender.oom_min_bump_bytes).max(scaled(had, recommender.oom_bump_ratio))
}
