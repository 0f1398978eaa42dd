//! Invocations of one function from counts per minute. Owns their placement within the minute: InVitro's rules and a
//! conditioned Poisson process.

use rand::RngExt;
use rand_distr::Exp1;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, VariantNames};

use super::WorkloadRng;

/// Placement of `n` invocations within a minute. The count is exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Display, EnumString, VariantNames)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", parse_err_ty = String, parse_err_fn = unknown_iat)]
pub enum Iat {
    /// A Poisson process conditioned on its count: `n` independent uniform instants.
    #[default]
    Conditioned,
    /// InVitro: `n` exponential gaps rescaled to fill the minute, the first invocation at its start.
    Exponential,
    /// InVitro: the same, rotated by a random offset, so that functions do not all fire at the start of the minute.
    ExponentialShift,
    /// InVitro: `n` uniform gaps rescaled to fill the minute, the first invocation at its start.
    Uniform,
    /// InVitro: the same, rotated by a random offset.
    UniformShift,
    /// InVitro: equal gaps, the first invocation at the start of the minute.
    Equidistant,
}

fn unknown_iat(text: &str) -> String {
    format!("`{text}` is not a rule for gaps within a minute: write one of {}", Iat::VARIANTS.join(", "))
}

/// Invocations in one bin of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MinuteCount {
    /// Index of the bin.
    pub bin: u32,
    /// Number of invocations.
    pub count: u32,
}

/// The instants of one function's invocations, in order, as bins since the start (1.5 is the middle of the second bin).
///
/// Constant memory: gaps that must be summed before the first is known are drawn twice from a
/// copy of the generator rather than kept.
#[derive(Debug, Clone)]
pub struct MinuteArrivals<C> {
    counts: C,
    iat: Iat,
    rate: f64,
    rng: WorkloadRng,
    bin: u32,
    within: Within,
}

impl<C: Iterator<Item = MinuteCount>> MinuteArrivals<C> {
    /// Arrivals of `counts`, with rising bins; each count is scaled by `rate` and rounded at random, which keeps the mean.
    #[must_use]
    pub fn new(counts: C, iat: Iat, rate: f64, rng: WorkloadRng) -> Self {
        Self { counts, iat, rate, rng, bin: 0, within: Within::Empty }
    }

    /// The generator, for further draws per arrival.
    pub fn rng(&mut self) -> &mut WorkloadRng {
        &mut self.rng
    }

    fn scaled(&mut self, count: u32) -> u64 {
        if self.rate == 1.0 {
            return u64::from(count);
        }
        let scaled = f64::from(count) * self.rate;
        scaled as u64 + u64::from(self.rng.random::<f64>() < scaled.fract())
    }
}

impl<C: Iterator<Item = MinuteCount>> Iterator for MinuteArrivals<C> {
    type Item = f64;

    fn next(&mut self) -> Option<f64> {
        loop {
            if let Some(place) = self.within.next() {
                // The last representable place before the end keeps an arrival inside its bin.
                return Some(f64::from(self.bin) + place.clamp(0.0, 1.0 - 1e-9));
            }
            let MinuteCount { bin, count } = self.counts.next()?;
            let count = self.scaled(count);
            self.bin = bin;
            self.within = Within::new(self.iat, count, &mut self.rng);
        }
    }
}

/// Places of the invocations of one bin, 0 to 1, rising.
#[derive(Debug, Clone)]
enum Within {
    Empty,
    /// The order statistics of uniform draws: sums of exponential gaps over the sum of one gap more than there are
    /// draws (Devroye, Non-Uniform Random Variate Generation, V.3.1), which takes no logarithm or power.
    Conditioned {
        left: u64,
        sum: f64,
        total: f64,
        gaps: WorkloadRng,
    },
    Equidistant {
        next: u64,
        count: u64,
    },
    Spaced(Spaced),
}

impl Within {
    fn new(iat: Iat, count: u64, rng: &mut WorkloadRng) -> Self {
        match (iat, count) {
            (_, 0) => Within::Empty,
            (Iat::Conditioned, _) => {
                let gaps = rng.clone();
                let total = (0..=count).map(|_| Gap::Exponential.draw(rng)).sum::<f64>();
                Within::Conditioned { left: count, sum: 0.0, total: total.max(f64::MIN_POSITIVE), gaps }
            }
            (Iat::Equidistant, _) => Within::Equidistant { next: 0, count },
            (Iat::Exponential, _) => Within::Spaced(Spaced::new(Gap::Exponential, false, count, rng)),
            (Iat::ExponentialShift, _) => Within::Spaced(Spaced::new(Gap::Exponential, true, count, rng)),
            (Iat::Uniform, _) => Within::Spaced(Spaced::new(Gap::Uniform, false, count, rng)),
            (Iat::UniformShift, _) => Within::Spaced(Spaced::new(Gap::Uniform, true, count, rng)),
        }
    }

    #[inline]
    fn next(&mut self) -> Option<f64> {
        match self {
            Within::Empty => None,
            Within::Conditioned { left: 0, .. } => None,
            Within::Conditioned { left, sum, total, gaps } => {
                *sum += Gap::Exponential.draw(gaps);
                *left -= 1;
                Some(*sum / *total)
            }
            Within::Equidistant { next, count } => {
                let place = *next as f64 / *count as f64;
                *next += 1;
                (*next <= *count).then_some(place)
            }
            Within::Spaced(spaced) => spaced.next(),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Gap {
    Exponential,
    Uniform,
}

impl Gap {
    #[inline]
    fn draw(self, rng: &mut WorkloadRng) -> f64 {
        match self {
            Gap::Exponential => rng.sample(Exp1),
            Gap::Uniform => rng.random(),
        }
    }
}

/// Gaps rescaled to fill the bin; the invocation before gap `k` lies at the sum of the gaps before it.
///
/// Shifted, the bin is cut at `split` and its halves change places, so an invocation at `s` moves to `s - split`, wrapped.
#[derive(Debug, Clone)]
struct Spaced {
    gap: Gap,
    /// State at which the gaps restart.
    start: WorkloadRng,
    rng: WorkloadRng,
    total: f64,
    split: f64,
    count: u64,
    sum: f64,
    /// The next invocation, counted from the start of the uncut bin.
    index: u64,
    wrapped: bool,
    emitted: u64,
}

impl Spaced {
    fn new(gap: Gap, shifted: bool, count: u64, rng: &mut WorkloadRng) -> Self {
        let start = rng.clone();
        let total = (0..count).map(|_| gap.draw(rng)).sum::<f64>();
        let split = if shifted { rng.random::<f64>() } else { 0.0 };
        let total = if total > 0.0 { total } else { 1.0 };
        let mut spaced = Self { gap, rng: start.clone(), start, total, split, count, sum: 0.0, index: 0, wrapped: false, emitted: 0 };
        if shifted {
            spaced.step();
            while spaced.index < count && spaced.place() <= split {
                spaced.step();
            }
        }
        spaced
    }

    fn step(&mut self) {
        self.sum += self.gap.draw(&mut self.rng);
        self.index += 1;
    }

    /// Position of invocation `index` in the uncut bin; one past the last is the end.
    fn place(&self) -> f64 {
        if self.index >= self.count { 1.0 } else { self.sum / self.total }
    }

    fn next(&mut self) -> Option<f64> {
        if self.emitted == self.count {
            return None;
        }
        self.emitted += 1;
        let place = self.place() - self.split + if self.wrapped { 1.0 } else { 0.0 };
        if self.index == self.count {
            // The end of the uncut bin is the first invocation of the half that moved to the end.
            (self.rng, self.sum, self.index, self.wrapped) = (self.start.clone(), 0.0, 0, true);
        }
        self.step();
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;

    fn arrivals(iat: Iat, counts: &[(u32, u32)], rate: f64, seed: u64) -> Vec<f64> {
        let counts: Vec<_> = counts.iter().map(|(bin, count)| MinuteCount { bin: *bin, count: *count }).collect();
        MinuteArrivals::new(counts.into_iter(), iat, rate, WorkloadRng::seed_from_u64(seed)).collect()
    }

    #[test]
    fn equidistant_begins_at_the_minute_and_divides_it() {
        assert_eq!(arrivals(Iat::Equidistant, &[(0, 4), (2, 2)], 1.0, 1), [0.0, 0.25, 0.5, 0.75, 2.0, 2.5]);
    }

    #[test]
    fn unshifted_rules_begin_at_the_minute_and_shifted_ones_do_not() {
        for iat in [Iat::Exponential, Iat::Uniform] {
            assert_eq!(arrivals(iat, &[(3, 5)], 1.0, 1)[0], 3.0);
        }
        for iat in [Iat::ExponentialShift, Iat::UniformShift, Iat::Conditioned] {
            assert!(arrivals(iat, &[(3, 5)], 1.0, 1)[0] > 3.0);
        }
    }

    #[test]
    fn a_shift_turns_the_minute_and_keeps_its_gaps() {
        for (plain, shifted) in [(Iat::Exponential, Iat::ExponentialShift), (Iat::Uniform, Iat::UniformShift)] {
            for seed in 0..200 {
                let around = |places: Vec<f64>| {
                    let mut gaps: Vec<f64> =
                        (0..places.len()).map(|i| (places[(i + 1) % places.len()] - places[i]).rem_euclid(1.0)).collect();
                    gaps.sort_by(f64::total_cmp);
                    gaps
                };
                let (a, b) = (around(arrivals(plain, &[(0, 7)], 1.0, seed)), around(arrivals(shifted, &[(0, 7)], 1.0, seed)));
                assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-8), "seed {seed}: {a:?} {b:?}");
            }
        }
    }

    #[test]
    fn a_shifted_single_invocation_is_uniform_over_the_minute() {
        let mean = (0..10_000).map(|seed| arrivals(Iat::ExponentialShift, &[(0, 1)], 1.0, seed)[0]).sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
    }

    #[test]
    fn conditioned_instants_are_uniform() {
        let all: Vec<f64> = (0..2_000).flat_map(|seed| arrivals(Iat::Conditioned, &[(0, 10)], 1.0, seed)).collect();
        for tenth in 0..10 {
            let low = f64::from(tenth) / 10.0;
            let share = all.iter().filter(|place| (low..low + 0.1).contains(*place)).count() as f64 / all.len() as f64;
            assert!((share - 0.1).abs() < 0.01, "{low}: {share}");
        }
    }

    #[test]
    fn scaled_counts_keep_their_mean() {
        let total: usize = (0..10_000).map(|seed| arrivals(Iat::Conditioned, &[(0, 3)], 0.5, seed).len()).sum();
        assert!((14_500..15_500).contains(&total), "{total}");
    }

    proptest! {
        #[test]
        fn counts_are_exact_and_instants_rise_within_their_minute(
            counts in prop::collection::vec(0u32..60, 0..8), rule in 0usize..6, seed: u64,
        ) {
            let bins: Vec<(u32, u32)> = counts.iter().enumerate().map(|(bin, count)| (bin as u32 * 2, *count)).collect();
            let iat: Iat = Iat::VARIANTS[rule].parse().expect("a rule");
            let places = arrivals(iat, &bins, 1.0, seed);
            prop_assert!(places.windows(2).all(|pair| pair[0] <= pair[1]), "{:?}", places);
            for (bin, count) in bins {
                let inside = places.iter().filter(|place| place.floor() == f64::from(bin)).count();
                prop_assert_eq!(inside, count as usize);
            }
        }

        #[test]
        fn rules_are_read_as_written(rule in 0usize..6) {
            let name = Iat::VARIANTS[rule];
            prop_assert_eq!(name.parse::<Iat>().map(|iat| iat.to_string()), Ok(name.to_owned()));
        }
    }
}
