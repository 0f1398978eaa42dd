//! Inputs of `helloworld.Greeter`, generated like in vSwarm's relay instead of taken from the caller. Owns their order.

use std::sync::{Mutex, PoisonError};

use clap::{Args, ValueEnum};
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Options of the generator.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Inputs of helloworld.Greeter, generated like in vSwarm's relay")]
pub struct GeneratorArgs {
    /// Order of the inputs: always --value, counting up through the bounds, or random within them.
    #[arg(long, value_enum, default_value_t = InputOrder::Unique)]
    pub generator: InputOrder,
    /// Input of the generator `unique`.
    #[arg(long)]
    pub value: Option<String>,
    /// Smallest input of `linear` and `random`.
    #[arg(long = "lowerBound", alias = "lower-bound", default_value_t = 1)]
    pub lower_bound: u32,
    /// Largest input of `linear`; exclusive for `random`, unless both bounds are equal.
    #[arg(long = "upperBound", alias = "upper-bound", default_value_t = 10)]
    pub upper_bound: u32,
    /// Seed of the random inputs; default: the process id.
    #[arg(long)]
    pub seed: Option<u64>,
}

/// Order of the inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum InputOrder {
    /// The same input every time.
    Unique,
    /// From the lower to the upper bound, repeatedly.
    Linear,
    /// Random, from the lower bound to below the upper bound.
    Random,
}

/// Generator of numbers within bounds, shared by all requests.
#[derive(Debug)]
pub struct NumberGenerator {
    order: InputOrder,
    lower: u32,
    upper: u32,
    state: Mutex<GeneratorState>,
}

#[derive(Debug)]
struct GeneratorState {
    next: u32,
    rng: StdRng,
}

impl NumberGenerator {
    /// Generator for `args`, with numbers of at most `largest`.
    ///
    /// # Errors
    /// When the bounds are in the wrong order or exceed `largest`.
    pub fn new(args: &GeneratorArgs, largest: u32) -> anyhow::Result<Self> {
        let (lower, upper) = (args.lower_bound, args.upper_bound);
        anyhow::ensure!(lower <= upper, "--lowerBound = {lower}, must be at most --upperBound = {upper}");
        anyhow::ensure!(upper <= largest, "--upperBound = {upper}, must be at most {largest}");
        let seed = args.seed.unwrap_or_else(|| u64::from(std::process::id()));
        Ok(Self {
            order: args.generator,
            lower,
            upper,
            state: Mutex::new(GeneratorState { next: lower, rng: StdRng::seed_from_u64(seed) }),
        })
    }

    /// Next number; `None` if the input is always the same.
    pub fn next(&self) -> Option<u32> {
        match self.order {
            InputOrder::Unique => None,
            InputOrder::Linear => Some(self.count()),
            InputOrder::Random => Some(self.draw()),
        }
    }

    /// `length` random letters.
    pub fn letters(&self, length: u32) -> String {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (0..length).map(|_| char::from(state.rng.random_range(b'a'..=b'z'))).collect()
    }

    fn count(&self) -> u32 {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let number = state.next;
        state.next = if number >= self.upper { self.lower } else { number + 1 };
        number
    }

    fn draw(&self) -> u32 {
        if self.lower == self.upper {
            return self.lower;
        }
        self.state.lock().unwrap_or_else(PoisonError::into_inner).rng.random_range(self.lower..self.upper)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(generator: InputOrder, lower_bound: u32, upper_bound: u32) -> GeneratorArgs {
        GeneratorArgs { generator, value: None, lower_bound, upper_bound, seed: Some(7) }
    }

    #[test]
    fn linear_counts_through_its_bounds_and_again() {
        let numbers = NumberGenerator::new(&args(InputOrder::Linear, 3, 5), 100).expect("valid bounds");
        let seen: Vec<_> = (0..5).filter_map(|_| numbers.next()).collect();
        assert_eq!(seen, [3, 4, 5, 3, 4]);
    }

    #[test]
    fn random_stays_within_its_bounds_and_repeats_with_its_seed() {
        let draw = || {
            let numbers = NumberGenerator::new(&args(InputOrder::Random, 10, 20), 100).expect("valid bounds");
            (0..200).filter_map(|_| numbers.next()).collect::<Vec<_>>()
        };
        let seen = draw();
        assert!(seen.iter().all(|number| (10..20).contains(number)));
        assert_eq!(seen, draw());
    }

    #[test]
    fn invalid_bounds_are_refused_with_their_values() {
        let reversed = NumberGenerator::new(&args(InputOrder::Random, 9, 5), 100).expect_err("reversed");
        assert!(reversed.to_string().contains("--lowerBound = 9"), "{reversed}");
        assert!(NumberGenerator::new(&args(InputOrder::Linear, 1, 101), 100).is_err());
        assert_eq!(
            NumberGenerator::new(&args(InputOrder::Random, u32::MAX, u32::MAX), u32::MAX).expect("one number").next(),
            Some(u32::MAX)
        );
    }
}
