//! Compares a GPU with the CPU: whether it computes the same, and how fast. The clock is an argument.

use std::fmt;
use std::time::Duration;

use qscale_rl::learner::{Hyperparameters, Learner, LearnerError};
use qscale_rl::replay::{StepEnd, Transition};
use qscale_rl::{Device, Mask, cpu};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

/// Largest accepted difference between values of a GPU and of the CPU, relative to the largest value: 32-bit sums of a
/// hundred products in another order.
pub const TOLERANCE: f32 = 1e-3;

/// Result of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Duration of an update on the CPU, milliseconds.
    pub cpu_ms: f64,
    /// Duration of an update on the GPU, milliseconds.
    pub gpu_ms: f64,
    /// Largest difference between values, relative to the largest value, before the first and after some updates.
    pub difference: f32,
}

impl Probe {
    /// Why the GPU must not be used; `None` if it may.
    #[must_use]
    pub fn objection(&self) -> Option<String> {
        // NaN is an objection too.
        let near = self.difference <= TOLERANCE;
        (!near).then(|| {
            format!(
                "values of the GPU differ from those of the CPU by {:.2e} of the largest value; at most {TOLERANCE:.0e} is accepted",
                self.difference
            )
        })
    }

    /// Whether the GPU computes the same and takes less time.
    #[must_use]
    pub fn gpu_is_faster(&self) -> bool {
        self.objection().is_none() && self.gpu_ms < self.cpu_ms
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "an update takes {:.2} ms on the GPU and {:.2} ms on one CPU core; values differ by {:.1e}",
            self.gpu_ms, self.cpu_ms, self.difference
        )
    }
}

/// Sizes of the observation and the action set: those of the bundled model.
const INPUTS: usize = 85;
const ACTIONS: usize = 20;

/// Updates that are timed.
const UPDATES: usize = 20;

/// Compares the first GPU with the CPU. `clock` returns the time since a fixed instant.
///
/// # Errors
/// When there is no GPU, or it fails.
pub fn probe(clock: &dyn Fn() -> Duration) -> Result<Probe, String> {
    let gpu = crate::gpu().map_err(|error| error.to_string())?;
    compare(&cpu(), &gpu, clock).map_err(|error| error.to_string())
}

/// Trains the same default network on the same data on `cpu` and `gpu`.
///
/// # Errors
/// When a device fails.
pub fn compare(cpu: &Device, gpu: &Device, clock: &dyn Fn() -> Duration) -> Result<Probe, LearnerError> {
    let hyperparameters = Hyperparameters { capacity: 2000, warm_up: 1000, ..Hyperparameters::plain() };
    let shown: Vec<f32> = noise(INPUTS * 64, 3);
    let mut results = Vec::new();
    for device in [cpu, gpu] {
        let mut learner = Learner::new(hyperparameters.clone(), INPUTS, ACTIONS, 1, device)?;
        let before = learner.network().values(&shown)?;
        let seen = noise(INPUTS * 2001, 7);
        for (step, pair) in seen.windows(INPUTS * 2).step_by(INPUTS).enumerate() {
            let (observation, next) = pair.split_at(INPUTS);
            let (mask, action, end) = (Mask::all(ACTIONS), (step % ACTIONS) as u8, StepEnd::Continues);
            learner.observe(0, &Transition { observation, mask, action, reward: observation[0], next, next_mask: mask, end });
        }
        for _ in 0..UPDATES / 4 {
            learner.update()?;
        }
        let after = learner.network().values(&shown)?;
        let began = clock();
        for _ in 0..UPDATES {
            learner.update()?;
        }
        // Reading values waits for the work queued on a GPU.
        learner.network().values(&shown)?;
        results.push((before, after, (clock().saturating_sub(began)).as_secs_f64() * 1000.0 / UPDATES as f64));
    }
    let [(cpu_before, cpu_after, cpu_ms), (gpu_before, gpu_after, gpu_ms)] = &results[..] else { unreachable!("two devices") };
    let difference = difference(cpu_before, gpu_before).max(difference(cpu_after, gpu_after));
    Ok(Probe { cpu_ms: *cpu_ms, gpu_ms: *gpu_ms, difference })
}

fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = SmallRng::seed_from_u64(seed);
    (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// Largest difference relative to the largest value; NaN if a value is NaN.
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
    fn burn_on_the_cpu_passes_and_a_wrong_device_is_rejected() {
        let ticks = std::cell::Cell::new(0);
        let clock = || {
            ticks.set(ticks.get() + 1);
            Duration::from_millis(ticks.get())
        };
        let probe = compare(&cpu(), &crate::flex(), &clock).expect("the CPU does not fail");
        assert_eq!(probe.objection(), None, "{probe:?}");
        assert!(probe.difference > 0.0, "sums in another order differ slightly: {probe:?}");
        for difference in [0.01, f32::NAN, f32::INFINITY] {
            assert!(Probe { difference, ..probe }.objection().is_some());
        }
        assert!(
            Probe { cpu_ms: 2.0, gpu_ms: 1.0, difference: 0.0 }.gpu_is_faster()
                && !Probe { cpu_ms: 1.0, gpu_ms: 2.0, difference: 0.0 }.gpu_is_faster()
        );
    }
}
