//! What policies are worth on worlds that nobody learned in. Owns the ruler of training; the ruler of users is the evaluation.

use std::num::NonZeroUsize;
use std::ops::Range;

use qscale_common::time::Timestamp;
use qscale_dqn::checkpoint::Checkpoint;
use qscale_dqn::domain::{Domain, Part};
use qscale_dqn::policy::{Caution, Dqn, DqnParams};
use qscale_dqn::worth::{Tick, Worth};
use qscale_policies::{Decision, Memory, Policy};
use qscale_rl::device::Device;
use qscale_rl::network::DeviceError;
use qscale_sim::Simulation;
use qscale_sim::rng::{Purpose, stream};
use serde::{Deserialize, Serialize};

use crate::lane::Lane;
use crate::world::draw;

/// What a span of ticks was worth: means over all of them.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Score {
    /// Ticks.
    pub ticks: u64,
    /// Their means.
    pub mean: Tick,
}

impl Score {
    /// Takes in one tick more.
    pub fn add(&mut self, tick: &Tick) {
        self.merge(&Self { ticks: 1, mean: *tick });
    }

    /// Takes in what another span was worth.
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

    /// All of `scores` together.
    #[must_use]
    pub fn of(scores: &[Self]) -> Self {
        let mut all = Self::default();
        scores.iter().for_each(|score| all.merge(score));
        all
    }
}

/// Worlds to judge on.
#[derive(Debug, Clone, PartialEq)]
pub struct Court {
    /// What they are drawn from.
    pub domain: Domain,
    /// What ticks are worth.
    pub worth: Worth,
    /// What a violated tick costs in each of them.
    pub caution: Caution,
    /// Which part of the domain.
    pub part: Part,
    /// Which worlds of it.
    pub worlds: Range<u64>,
    /// On so many threads; it changes nothing of what comes out.
    pub threads: NonZeroUsize,
}

impl Court {
    /// What `model`, which was trained here, is worth in each world, computing on `device`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn model(&self, model: &Checkpoint, device: &Device) -> Result<Vec<Score>, DeviceError> {
        self.network(&Dqn::new(model, DqnParams::default(), device).expect("it was trained here"))
    }

    /// What `policy` is worth in each world, lived through from its beginning to its end without exploring.
    ///
    /// # Errors
    /// When the device fails.
    pub fn network(&self, policy: &Dqn) -> Result<Vec<Score>, DeviceError> {
        self.split(|numbers| {
            let mut worlds: Vec<_> = numbers.map(|number| self.world(number, Some(policy))).collect();
            let mut scores = vec![Score::default(); worlds.len()];
            let mut living: Vec<usize> = (0..worlds.len()).collect();
            let mut seen = Vec::new();
            while !living.is_empty() {
                seen.clear();
                living.iter().for_each(|at| seen.extend_from_slice(worlds[*at].1.observation()));
                let values = policy.values(&seen)?;
                for (at, values) in living.iter().zip(values.chunks_exact(policy.actions().count())) {
                    let (left, lane) = &mut worlds[*at];
                    let choice = policy.pick(lane.state(), lane.menu(), values, self.caution.get());
                    let wanted = choice.and_then(|choice| lane.menu().entry(choice).ok());
                    scores[*at].add(&lane.step(wanted, Some(policy.actions()), &self.worth));
                    *left -= 1;
                }
                living.retain(|at| worlds[*at].0 > 0);
            }
            Ok(scores)
        })
    }

    /// What `policy` is worth in each world, seeing a State of it every tick.
    #[must_use]
    pub fn rule(&self, policy: &dyn Policy) -> Vec<Score> {
        let judged = self.split(|numbers| {
            let live = |number: u64| {
                let (ticks, mut lane) = self.world(number, None);
                let (mut memory, mut score) = (Memory::default(), Score::default());
                let mut rng = stream(number, 0, Purpose::Policy);
                for _ in 0..ticks {
                    let state = lane.state();
                    let at = Timestamp(state.observed_at_ms.0);
                    let wanted = match policy.decide(state, &mut memory, at, &mut rng) {
                        Decision::Want { allocation, .. } => Some(allocation),
                        Decision::Hold { .. } => None,
                    };
                    score.add(&lane.step(wanted, None, &self.worth));
                }
                score
            };
            Ok(numbers.map(live).collect())
        });
        judged.unwrap_or_default()
    }

    fn world(&self, number: u64, policy: Option<&Dqn>) -> (u32, Lane) {
        let world = draw(&self.domain, self.part, number);
        (world.ticks(), Lane::new(Simulation::new(world.setup, number, 1), self.caution.get(), policy.map(Dqn::actions)))
    }

    fn split(&self, judge: impl Fn(Range<u64>) -> Result<Vec<Score>, DeviceError> + Sync) -> Result<Vec<Score>, DeviceError> {
        let Range { start, end } = self.worlds;
        let share = end.saturating_sub(start).div_ceil(self.threads.get() as u64).max(1);
        let starts = (start..end).step_by(share as usize);
        let judge = &judge;
        std::thread::scope(|scope| {
            let judging: Vec<_> = starts.map(|from| scope.spawn(move || judge(from..(from + share).min(end)))).collect();
            let mut scores = Vec::new();
            for judged in judging {
                scores.extend(judged.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            }
            Ok(scores)
        })
    }
}
