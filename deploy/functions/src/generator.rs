//! The inputs that vSwarm's relay chooses in place of the caller. Owns their order; must not do any work with them.

use std::sync::{Mutex, PoisonError};

use clap::{Args, ValueEnum};
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Where `helloworld.Greeter` takes its inputs from: it ignores the caller's name, as vSwarm's relay does.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Inputs of helloworld.Greeter, as vSwarm's relay chooses them")]
pub struct GeneratorArgs {
    /// How inputs follow each other: always --value, counting up through the bounds, or at random within them.
    #[arg(long, value_enum, default_value_t = Order::Unique)]
    pub generator: Order,
    /// The input of the generator `unique`.
    #[arg(long)]
    pub value: Option<String>,
    /// Smallest input of `linear` and `random`.
    #[arg(long = "lowerBound", alias = "lower-bound", default_value_t = 1)]
    pub lower_bound: u32,
    /// Largest input of `linear`; `random` stays below it, unless both bounds are equal.
    #[arg(long = "upperBound", alias = "upper-bound", default_value_t = 10)]
    pub upper_bound: u32,
    /// Seed of the random inputs; without it every process draws its own.
    #[arg(long)]
    pub seed: Option<u64>,
}

/// How inputs follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// The same input every time.
    Unique,
    /// From the lower bound to the upper bound, and again.
    Linear,
    /// At random from the lower bound up to, and without, the upper bound.
    Random,
}

/// A source of numbers within bounds, shared by all requests.
#[derive(Debug)]
pub struct Numbers {
    order: Order,
    lower: u32,
    upper: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next: u32,
    rng: StdRng,
}

impl Numbers {
    /// The numbers that `args` describes, none above `largest`.
    ///
    /// # Errors
    /// When the bounds are in the wrong order or reach beyond `largest`.
    pub fn new(args: &GeneratorArgs, largest: u32) -> anyhow::Result<Self> {
        let (lower, upper) = (args.lower_bound, args.upper_bound);
        anyhow::ensure!(lower <= upper, "--lowerBound = {lower}, must be at most --upperBound = {upper}");
        anyhow::ensure!(upper <= largest, "--upperBound = {upper}, must be at most {largest}");
        let seed = args.seed.unwrap_or_else(|| u64::from(std::process::id()));
        Ok(Self { order: args.generator, lower, upper, state: Mutex::new(State { next: lower, rng: StdRng::seed_from_u64(seed) }) })
    }

    /// The next number; `None` where the input is always the same.
    pub fn next(&self) -> Option<u32> {
        match self.order {
            Order::Unique => None,
            Order::Linear => Some(self.count()),
            Order::Random => Some(self.draw()),
        }
    }

    /// `length` letters at random.
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

    fn args(generator: Order, lower_bound: u32, upper_bound: u32) -> GeneratorArgs {
        GeneratorArgs { generator, value: None, lower_bound, upper_bound, seed: Some(7) }
    }

    #[test]
    fn linear_counts_through_its_bounds_and_again() {
        let numbers = Numbers::new(&args(Order::Linear, 3, 5), 100).expect("valid bounds");
        let seen: Vec<_> = (0..5).filter_map(|_| numbers.next()).collect();
        assert_eq!(seen, [3, 4, 5, 3, 4]);
    }

    #[test]
    fn random_stays_within_its_bounds_and_repeats_with_its_seed() {
        let draw = || {
            let numbers = Numbers::new(&args(Order::Random, 10, 20), 100).expect("valid bounds");
            (0..200).filter_map(|_| numbers.next()).collect::<Vec<_>>()
        };
        let seen = draw();
        assert!(seen.iter().all(|number| (10..20).contains(number)));
        assert_eq!(seen, draw());
    }

    #[test]
    fn bounds_that_cannot_hold_are_refused_with_their_values() {
        let reversed = Numbers::new(&args(Order::Random, 9, 5), 100).expect_err("reversed");
        assert!(reversed.to_string().contains("--lowerBound = 9"), "{reversed}");
        assert!(Numbers::new(&args(Order::Linear, 1, 101), 100).is_err());
        assert_eq!(Numbers::new(&args(Order::Random, u32::MAX, u32::MAX), u32::MAX).expect("one number").next(), Some(u32::MAX));
    }
}
