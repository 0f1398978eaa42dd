//! Whether a GPU computes what the CPU computes, and how fast. Owns what is tried; reads no clock of its own.

use std::fmt;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::device::{self, Device, Kind};
use crate::learner::{Hyperparameters, Learner, LearnerError};
use crate::mask::Mask;
use crate::replay::Ending;

/// Values of a GPU and of the CPU may differ by so much, in parts of the largest value: 32-bit sums of a hundred products in another order.
pub const TOLERANCE: f32 = 1e-3;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Milliseconds of an update on the CPU.
    pub cpu_ms: f64,
    /// Milliseconds of an update on the GPU.
    pub gpu_ms: f64,
    /// Greatest difference between values, in parts of the largest value, before anything was learned and after some updates.
    pub difference: f32,
}

impl Probe {
    /// Why the GPU is not to be trusted, if it is not.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        // One that is no number is refused, too.
        let near = self.difference <= TOLERANCE;
        (!near).then(|| {
            format!(
                "the GPU computes values that differ from those of the CPU by {:.2e} of the largest, at most {TOLERANCE:.0e} is trusted",
                self.difference
            )
        })
    }

    /// Whether it is worth using.
    #[must_use]
    pub fn gpu_is_faster(&self) -> bool {
        self.refusal().is_none() && self.gpu_ms < self.cpu_ms
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "an update takes {:.2} ms there and {:.2} ms on one core, values differ by {:.1e}",
            self.gpu_ms, self.cpu_ms, self.difference
        )
    }
}

/// Numbers of an observation and choices that are tried: those of the model that comes along.
const INPUTS: usize = 85;
const ACTIONS: usize = 20;

/// Updates that are made before values are compared, and that are timed.
const UPDATES: usize = 20;

/// Lets a GPU and the CPU learn the same from the default network and batch. `clock` tells time since some instant.
///
/// # Errors
/// When there is no GPU, or it fails.
pub fn probe(clock: &dyn Fn() -> Duration) -> Result<Probe, String> {
    let gpu = device::open(Kind::Gpu).map_err(|error| error.to_string())?;
    compare(&device::cpu(), &gpu, clock).map_err(|error| error.to_string())
}

/// Lets two devices learn the same, the second one being taken for the GPU.
///
/// # Errors
/// When one fails.
pub fn compare(cpu: &Device, gpu: &Device, clock: &dyn Fn() -> Duration) -> Result<Probe, LearnerError> {
    let hyperparameters = Hyperparameters { capacity: 2000, warm_up: 1000, ..Hyperparameters::plain() };
    let shown: Vec<f32> = noise(INPUTS * 64, 3);
    let mut told = Vec::new();
    for device in [cpu, gpu] {
        let mut learner = Learner::new(hyperparameters.clone(), INPUTS, ACTIONS, 1, device)?;
        let before = learner.network().values(&shown)?;
        let seen = noise(INPUTS * 2001, 7);
        for (step, pair) in seen.windows(INPUTS * 2).step_by(INPUTS).enumerate() {
            let (observation, next) = pair.split_at(INPUTS);
            learner.remember(
                0,
                (observation, Mask::all(ACTIONS)),
                step % ACTIONS,
                observation[0],
                (next, Mask::all(ACTIONS)),
                Ending::None,
            );
        }
        for _ in 0..UPDATES / 4 {
            learner.update()?;
        }
        let after = learner.network().values(&shown)?;
        let began = clock();
        for _ in 0..UPDATES {
            learner.update()?;
        }
        // What is queued on a GPU is done once its values are read.
        learner.network().values(&shown)?;
        told.push((before, after, (clock().saturating_sub(began)).as_secs_f64() * 1000.0 / UPDATES as f64));
    }
    let [(cpu_before, cpu_after, cpu_ms), (gpu_before, gpu_after, gpu_ms)] = &told[..] else { unreachable!("two devices") };
    let difference = difference(cpu_before, gpu_before).max(difference(cpu_after, gpu_after));
    Ok(Probe { cpu_ms: *cpu_ms, gpu_ms: *gpu_ms, difference })
}

fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = SmallRng::seed_from_u64(seed);
    (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// Greatest difference in parts of the largest value; not a number where one value is none.
fn difference(one: &[f32], other: &[f32]) -> f32 {
    let largest = one.iter().fold(1e-6f32, |largest, value| largest.max(value.abs()));
    let greatest = |greatest: f32, (one, other): (&f32, &f32)| {
        let difference = (one - other).abs() / largest;
        if difference.is_nan() || greatest.is_nan() { f32::NAN } else { greatest.max(difference) }
    };
    if one.len() == other.len() { one.iter().zip(other).fold(0.0, greatest) } else { f32::NAN }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burn_on_the_cpu_learns_what_the_loops_learn_and_what_is_wrong_is_refused() {
        let ticks = std::cell::Cell::new(0);
        let clock = || {
            ticks.set(ticks.get() + 1);
            Duration::from_millis(ticks.get())
        };
        let probe = compare(&device::cpu(), &device::flex(), &clock).expect("the CPU does not fail");
        assert_eq!(probe.refusal(), None, "{probe:?}");
        assert!(probe.difference > 0.0, "sums in another order differ by a little: {probe:?}");
        for difference in [0.01, f32::NAN, f32::INFINITY] {
            assert!(Probe { difference, ..probe }.refusal().is_some());
        }
        assert!(
            Probe { cpu_ms: 2.0, gpu_ms: 1.0, difference: 0.0 }.gpu_is_faster()
                && !Probe { cpu_ms: 1.0, gpu_ms: 2.0, difference: 0.0 }.gpu_is_faster()
        );
    }
}
