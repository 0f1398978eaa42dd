//! Evaluation of policies by the training reward on worlds that are not used for training. Users compare policies with `qscale-evaluate`.

use std::num::NonZeroUsize;
use std::ops::Range;

use qscale_common::policy::ViolationCost;

use qscale_common::time::Timestamp;
use qscale_dqn::checkpoint::Checkpoint;
use qscale_dqn::policy::{Dqn, DqnParams};
use qscale_dqn::reward::{StepReward, TrainingReward};
use qscale_dqn::tasks::{Split, TaskDistribution};
use qscale_policies::{Decision, Memory, Policy};
use qscale_rl::device::Device;
use qscale_rl::network::DeviceError;
use qscale_sim::rng::{Purpose, stream};
use serde::{Deserialize, Serialize};

use crate::env::Env;

/// Means over a number of ticks.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Score {
    /// Number of ticks.
    pub ticks: u64,
    /// Means over the ticks.
    pub mean: StepReward,
}

impl Score {
    /// Adds one tick.
    pub fn add(&mut self, step: &StepReward) {
        self.merge(&Self { ticks: 1, mean: *step });
    }

    /// Adds the ticks of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.ticks += other.ticks;
        if other.ticks == 0 {
            return;
        }
        let part = other.ticks as f64 / self.ticks as f64;
        let mean = |sum: &mut f64, value: f64| *sum += (value - *sum) * part;
        mean(&mut self.mean.reward, other.mean.reward);
        mean(&mut self.mean.violation, other.mean.violation);
        mean(&mut self.mean.cost, other.mean.cost);
        mean(&mut self.mean.reversal, other.mean.reversal);
        mean(&mut self.mean.kills, other.mean.kills);
    }

    /// The score over all ticks of `scores`.
    #[must_use]
    pub fn of(scores: &[Self]) -> Self {
        let mut all = Self::default();
        scores.iter().for_each(|score| all.merge(score));
        all
    }
}

/// Evaluates policies on a fixed set of worlds.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluator {
    /// The distribution of worlds.
    pub tasks: TaskDistribution,
    /// The reward.
    pub reward: TrainingReward,
    /// Violation cost in all worlds.
    pub violation_cost: ViolationCost,
    /// The split.
    pub split: Split,
    /// Numbers of the worlds in the split.
    pub worlds: Range<u64>,
    /// Number of threads; has no effect on the result.
    pub threads: NonZeroUsize,
}

impl Evaluator {
    /// The score of `model` in each world, computed on `device`.
    ///
    /// # Errors
    /// When the device fails.
    ///
    /// # Panics
    /// When `model` does not match this program; pass only models that were trained or checked by it.
    pub fn model(&self, model: &Checkpoint, device: &Device) -> Result<Vec<Score>, DeviceError> {
        self.network(&Dqn::new(model, DqnParams::default(), device).expect("models are checked before they are evaluated"))
    }

    /// The score of the network `policy` in each world, from beginning to end, without exploration.
    ///
    /// # Errors
    /// When the device fails.
    pub fn network(&self, policy: &Dqn) -> Result<Vec<Score>, DeviceError> {
        self.in_parallel(|numbers| {
            let mut worlds: Vec<_> = numbers.map(|number| self.world(number, Some(policy))).collect();
            let mut scores = vec![Score::default(); worlds.len()];
            let mut running: Vec<usize> = (0..worlds.len()).collect();
            let mut observations = Vec::new();
            while !running.is_empty() {
                observations.clear();
                running.iter().for_each(|at| observations.extend_from_slice(worlds[*at].1.observation()));
                let values = policy.values(&observations)?;
                for (at, values) in running.iter().zip(values.chunks_exact(policy.actions().count())) {
                    let (left, env) = &mut worlds[*at];
                    let action = policy.select(env.state(), env.candidates(), values, self.violation_cost.get());
                    let allocation = action.and_then(|action| env.candidates().entry(action).ok());
                    scores[*at].add(&env.step(allocation, Some(policy.actions()), &self.reward));
                    *left -= 1;
                }
                running.retain(|at| worlds[*at].0 > 0);
            }
            Ok(scores)
        })
    }

    /// The score of the rule `policy` in each world; it decides every tick.
    #[must_use]
    pub fn rule(&self, policy: &dyn Policy) -> Vec<Score> {
        let scores = self.in_parallel(|numbers| {
            let run = |number: u64| {
                let (ticks, mut env) = self.world(number, None);
                let (mut memory, mut score) = (Memory::default(), Score::default());
                let mut rng = stream(number, 0, Purpose::Policy);
                for _ in 0..ticks {
                    let state = env.state();
                    let at = Timestamp(state.observed_at_ms.0);
                    let allocation = match policy.decide(state, &mut memory, at, &mut rng) {
                        Decision::Want { allocation, .. } => Some(allocation),
                        Decision::Hold { .. } => None,
                    };
                    score.add(&env.step(allocation, None, &self.reward));
                }
                score
            };
            Ok(numbers.map(run).collect())
        });
        scores.unwrap_or_default()
    }

    fn world(&self, number: u64, policy: Option<&Dqn>) -> (u32, Env) {
        let (env, ticks) = Env::of_world(&self.tasks, self.split, number, Some(self.violation_cost.get()), policy.map(Dqn::actions));
        (ticks, env)
    }

    fn in_parallel(&self, evaluate: impl Fn(Range<u64>) -> Result<Vec<Score>, DeviceError> + Sync) -> Result<Vec<Score>, DeviceError> {
        let Range { start, end } = self.worlds;
        let share = end.saturating_sub(start).div_ceil(self.threads.get() as u64).max(1);
        let starts = (start..end).step_by(share as usize);
        let evaluate = &evaluate;
        std::thread::scope(|scope| {
            let threads: Vec<_> = starts.map(|from| scope.spawn(move || evaluate(from..(from + share).min(end)))).collect();
            let mut scores = Vec::new();
            for thread in threads {
                scores.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            }
            Ok(scores)
        })
    }
}
