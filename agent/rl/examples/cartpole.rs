//! The learner on CartPole: CPU seconds per seed until a hundred greedy episodes last 475 steps on average.
//! `cargo run --release -p qscale-rl --example cartpole [seeds]`.
//!
//! The physics are the published equations (Barto, Sutton and Anderson, IEEE Transactions on Systems, Man and
//! Cybernetics 1983) without friction, integrated by Euler's method at 20 ms, with the limits of the usual benchmark:
//! 12 degrees, 2.4 m, 500 steps; the time limit is a truncation.

mod support;

use std::f32::consts::PI;

use qscale_rl::explore::EpsilonSchedule;
use qscale_rl::learner::{Hyperparameters, Learner};
use qscale_rl::network::Network;
use qscale_rl::replay::{Sampling, StepEnd, Transition};
use qscale_rl::{Mask, cpu};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use support::cpu_seconds;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const GRAVITY: f32 = 9.8;
const CART: f32 = 1.0;
const POLE: f32 = 0.1;
const HALF_LENGTH: f32 = 0.5;
const FORCE: f32 = 10.0;
const SECONDS: f32 = 0.02;
const LONGEST: u32 = 500;
const SOLVED: f64 = 475.0;
/// Parallel environments.
const LANES: usize = 8;
/// Steps of all environments together after which a seed counts as failed.
const MOST_STEPS: u32 = 400_000;

#[derive(Clone, Copy)]
struct CartPole {
    /// Place, speed, angle, angular speed.
    state: [f32; 4],
    steps: u32,
}

impl CartPole {
    fn begin(rng: &mut SmallRng) -> Self {
        Self { state: std::array::from_fn(|_| rng.random_range(-0.05..0.05)), steps: 0 }
    }

    /// Scaled so that the limits are near 1.
    fn seen(&self) -> [f32; 4] {
        let [place, speed, angle, turning] = self.state;
        [place / 2.4, speed / 3.0, angle / 0.21, turning / 3.0]
    }

    fn step(&mut self, choice: usize) -> StepEnd {
        let [place, speed, angle, turning] = self.state;
        let force = if choice == 1 { FORCE } else { -FORCE };
        let (sin, cos) = angle.sin_cos();
        let push = (force + POLE * HALF_LENGTH * turning * turning * sin) / (CART + POLE);
        let turn = (GRAVITY * sin - cos * push) / (HALF_LENGTH * (4.0 / 3.0 - POLE * cos * cos / (CART + POLE)));
        let pull = push - POLE * HALF_LENGTH * turn * cos / (CART + POLE);
        self.state = [place + SECONDS * speed, speed + SECONDS * pull, angle + SECONDS * turning, turning + SECONDS * turn];
        self.steps += 1;
        let [place, _, angle, _] = self.state;
        if place.abs() > 2.4 || angle.abs() > 12.0 * PI / 180.0 {
            StepEnd::Terminated
        } else if self.steps >= LONGEST {
            StepEnd::Truncated
        } else {
            StepEnd::Continues
        }
    }
}

fn hyperparameters() -> Hyperparameters {
    Hyperparameters {
        hidden: vec![64, 64],
        layer_norm: false,
        discount: 0.99,
        steps: 3,
        batch: 64,
        learning_rate: 1e-3,
        adam_epsilon: 1e-8,
        target_rate: 0.01,
        capacity: 50_000,
        warm_up: 500,
        sampling: Sampling::Uniform,
        exploration: EpsilonSchedule { from: 1.0, to: 0.04, over: 10_000 },
        ..Hyperparameters::plain()
    }
}

/// Mean length of `episodes` greedy episodes.
fn evaluate(network: &dyn Network, episodes: usize, seed: u64) -> f64 {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut poles: Vec<CartPole> = (0..episodes).map(|_| CartPole::begin(&mut rng)).collect();
    let mut steps = 0u64;
    while !poles.is_empty() {
        let seen: Vec<f32> = poles.iter().flat_map(CartPole::seen).collect();
        let values = network.values(&seen).expect("the CPU does not fail");
        steps += poles.len() as u64;
        let mut rows = values.chunks_exact(2);
        poles.retain_mut(|pole| rows.next().is_some_and(|values| pole.step(usize::from(values[1] > values[0])) == StepEnd::Continues));
    }
    steps as f64 / episodes as f64
}

/// Environment steps, updates, CPU seconds, and the mean of a hundred greedy episodes at the end.
fn solve(seed: u64) -> (u32, u64, f64, f64) {
    let begin = cpu_seconds();
    let mut learner = Learner::new(hyperparameters(), 4, 2, seed, &cpu()).expect("hyperparameters within their ranges");
    let mut rng = SmallRng::seed_from_u64(seed ^ 0xC0FFEE);
    let mut poles: [CartPole; LANES] = std::array::from_fn(|_| CartPole::begin(&mut rng));
    let (mut steps, mut mean) = (0, 0.0);
    while steps < MOST_STEPS {
        let seen: Vec<f32> = poles.iter().flat_map(CartPole::seen).collect();
        let choices = learner.select(&seen, &[Mask::all(2); LANES]).expect("the CPU does not fail");
        for (lane, (pole, choice)) in poles.iter_mut().zip(choices).enumerate() {
            let choice = choice.expect("both are allowed");
            let end = pole.step(choice);
            let (observation, next, mask) = (&seen[4 * lane..4 * lane + 4], &pole.seen(), Mask::all(2));
            learner.observe(lane, &Transition { observation, mask, action: choice as u8, reward: 1.0, next, next_mask: mask, end });
            if end != StepEnd::Continues {
                *pole = CartPole::begin(&mut rng);
            }
        }
        steps += LANES as u32;
        // One update for two steps of an environment.
        for _ in 0..LANES / 2 {
            learner.update().expect("the CPU does not fail");
        }
        // Ten episodes every 2,000 steps, a hundred if they last long enough.
        if steps % 2_000 == 0 && steps >= 8_000 && evaluate(learner.network(), 10, seed + 1) >= SOLVED {
            mean = evaluate(learner.network(), 100, seed + 2);
            if mean >= SOLVED {
                break;
            }
        }
    }
    (steps, learner.updates(), cpu_seconds() - begin, mean)
}

fn main() {
    let seeds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(10);
    println!("seed   steps updates CPU s  mean of 100 greedy episodes");
    let mut all: Vec<f64> = Vec::new();
    for seed in 0..seeds {
        let (steps, updates, seconds, mean) = solve(seed);
        println!("{seed:4} {steps:7} {updates:7} {seconds:5.1}  {mean:5.1}");
        if mean >= SOLVED {
            all.push(seconds);
        }
    }
    all.sort_by(f64::total_cmp);
    println!(
        "{} of {seeds} seeds solved; CPU seconds: median {:.1}, worst {:.1}",
        all.len(),
        all.get(all.len() / 2).unwrap_or(&f64::NAN),
        all.last().unwrap_or(&f64::NAN)
    );
}
