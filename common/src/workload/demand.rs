//! Demand of an invocation. Owns drawing durations and memory from the percentiles of a trace, as InVitro does.

use rand::RngExt;
use thiserror::Error;

use super::WorkloadRng;

/// Percentiles of a function's durations, milliseconds: 0, 1, 25, 50, 75, 99 and 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DurationQuantiles([u32; 7]);

/// Percentiles of a function's memory, MiB: 1, 5, 25, 50, 75, 95, 99 and 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryQuantiles([u32; 8]);

/// A percentile lies below a lower one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{value} is below the percentile before it, which is {before}")]
pub struct NotSorted {
    /// Which of the percentiles, counted from 0.
    pub index: usize,
    /// Its value.
    pub value: u32,
    /// The value before it.
    pub before: u32,
}

fn sorted<const N: usize>(values: [u32; N]) -> Result<[u32; N], NotSorted> {
    match (1..N).find(|index| values[*index] < values[index - 1]) {
        None => Ok(values),
        Some(index) => Err(NotSorted { index, value: values[index], before: values[index - 1] }),
    }
}

impl DurationQuantiles {
    /// The percentiles, as shares of one.
    pub const LEVELS: [f64; 7] = [0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0];
    /// InVitro's minimum duration, milliseconds.
    pub const SHORTEST_MS: u32 = 1;
    /// InVitro's maximum duration, milliseconds.
    pub const LONGEST_MS: u32 = 60_000;

    /// Percentiles in milliseconds, in the order of [`DurationQuantiles::LEVELS`].
    ///
    /// # Errors
    /// If the values do not rise.
    pub fn new(values: [u32; 7]) -> Result<Self, NotSorted> {
        sorted(values).map(Self)
    }

    /// The percentiles in milliseconds, in the order of [`DurationQuantiles::LEVELS`].
    #[must_use]
    pub fn values(&self) -> [u32; 7] {
        self.0
    }
}

impl MemoryQuantiles {
    /// The percentiles, as shares of one.
    pub const LEVELS: [f64; 8] = [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0];
    /// InVitro's minimum memory, MiB.
    pub const LEAST_MIB: u32 = 1;
    /// InVitro's maximum memory, MiB.
    pub const MOST_MIB: u32 = 10_240;

    /// Percentiles in MiB, in the order of [`MemoryQuantiles::LEVELS`].
    ///
    /// # Errors
    /// If the values do not rise.
    pub fn new(values: [u32; 8]) -> Result<Self, NotSorted> {
        sorted(values).map(Self)
    }

    /// The percentiles in MiB, in the order of [`MemoryQuantiles::LEVELS`].
    #[must_use]
    pub fn values(&self) -> [u32; 8] {
        self.0
    }
}

/// Durations and memory of the invocations of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// The same values for every invocation.
    Fixed {
        /// Milliseconds.
        duration_ms: u32,
        /// MiB.
        memory_mib: u32,
    },
    /// Drawn as InVitro does: a uniform share picks the bucket between two percentiles, and a whole number uniform inside it
    /// (the upper end left out) is the value; duration and memory are independent.
    Quantiles {
        /// Durations.
        duration: DurationQuantiles,
        /// Memory.
        memory: MemoryQuantiles,
    },
    /// Durations from percentiles, memory always the same: for traces without memory.
    QuantilesOfDuration {
        /// Durations.
        duration: DurationQuantiles,
        /// MiB.
        memory_mib: u32,
    },
}

impl Demand {
    /// Duration in milliseconds and memory in MiB of one invocation.
    pub fn draw(&self, rng: &mut WorkloadRng) -> (u32, u32) {
        match self {
            Demand::Fixed { duration_ms, memory_mib } => (*duration_ms, *memory_mib),
            Demand::Quantiles { duration, memory } => {
                let (share, memory_share) = (rng.random(), rng.random());
                (draw_duration(duration, share, rng), draw_memory(memory, memory_share, rng))
            }
            Demand::QuantilesOfDuration { duration, memory_mib } => {
                let share = rng.random();
                (draw_duration(duration, share, rng), *memory_mib)
            }
        }
    }
}

fn draw_duration(quantiles: &DurationQuantiles, share: f64, rng: &mut WorkloadRng) -> u32 {
    let drawn = within(&DurationQuantiles::LEVELS, &quantiles.0, share, rng);
    drawn.clamp(DurationQuantiles::SHORTEST_MS, DurationQuantiles::LONGEST_MS)
}

fn draw_memory(quantiles: &MemoryQuantiles, share: f64, rng: &mut WorkloadRng) -> u32 {
    let drawn = within(&MemoryQuantiles::LEVELS, &quantiles.0, share, rng);
    drawn.clamp(MemoryQuantiles::LEAST_MIB, MemoryQuantiles::MOST_MIB)
}

fn within(levels: &[f64], values: &[u32], share: f64, rng: &mut WorkloadRng) -> u32 {
    let upper = levels.iter().position(|level| share <= *level).unwrap_or(levels.len() - 1);
    let (low, high) = (values[upper.saturating_sub(1)], values[upper]);
    if upper == 0 || low == high { high } else { rng.random_range(low..high) }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn draws(demand: &Demand) -> Vec<(u32, u32)> {
        let mut rng = WorkloadRng::seed_from_u64(1);
        (0..100_000).map(|_| demand.draw(&mut rng)).collect()
    }

    #[test]
    fn buckets_are_hit_as_often_as_their_percentiles_say() {
        let duration = DurationQuantiles::new([10, 20, 30, 40, 50, 60, 70]).expect("rising");
        let drawn = draws(&Demand::QuantilesOfDuration { duration, memory_mib: 5 });
        let share = |from: u32, to: u32| drawn.iter().filter(|d| (from..to).contains(&d.0)).count() as f64 / drawn.len() as f64;
        for (from, expected) in [(10, 0.01), (20, 0.24), (30, 0.25), (40, 0.25), (50, 0.24), (60, 0.01)] {
            assert!((share(from, from + 10) - expected).abs() < 0.01, "{from}: {}", share(from, from + 10));
        }
        assert!(drawn.iter().all(|d| d.1 == 5));
    }

    #[test]
    fn values_stay_within_the_ranges_of_invitro() {
        let duration = DurationQuantiles::new([0, 0, 0, 0, 0, 100_000, 200_000]).expect("rising");
        let memory = MemoryQuantiles::new([0, 0, 0, 0, 0, 20_000, 20_000, 20_000]).expect("rising");
        let drawn = draws(&Demand::Quantiles { duration, memory });
        assert!(drawn.iter().all(|d| (1..=60_000).contains(&d.0) && (1..=10_240).contains(&d.1)));
        assert!(drawn.iter().any(|d| d.0 == 60_000) && drawn.iter().any(|d| d.1 == 10_240));
    }

    #[test]
    fn falling_percentiles_are_refused_with_their_values() {
        let error = DurationQuantiles::new([1, 2, 3, 2, 5, 6, 7]).expect_err("falls");
        assert_eq!(error, NotSorted { index: 3, value: 2, before: 3 });
    }
}
