//! Runs of worlds in which the network labels states, and the network or a tree acts. Owns the samples and their losses.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use qscale_common::policy::ViolationCost;

use qscale_dqn::actions::{ActionCandidates, Actions};
use qscale_dqn::observation::COUNT;
use qscale_dqn::policy::{Dqn, default_violation_cost};
use qscale_dqn::reward::TrainingReward;
use qscale_dqn::tasks::{Split, TaskDistribution};
use qscale_dqn::tree::DecisionTree;
use serde::Serialize;

use super::DistilError;
use crate::env::Env;
use crate::evaluate::Score;
use crate::world::world_number;

/// Most samples of a world, evenly spaced: the functions that are invoked rarely have ten times the ticks of the others.
const MAX_SAMPLES: u32 = 160;
/// Worlds that run side by side on a thread.
const SIDE_BY_SIDE: u64 = 32;

/// The policy that acts.
#[derive(Debug, Clone, Copy)]
pub(super) enum ActingPolicy<'a> {
    Network,
    Tree(&'a DecisionTree),
}

/// A state with the network's decision.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LabelledState {
    pub(super) observation: Vec<f32>,
    /// Loss of each action: 0 if it gives the allocation that the network chose, otherwise the difference of the Q-values, which may be 0 or less than
    /// that of others.
    pub(super) losses: Vec<f32>,
    /// Actions that give the allocation that the network chose, a bit each.
    pub(super) equal: u64,
    /// Whether the rules decide: not under a steady load.
    pub(super) is_ruled: bool,
    /// Whether the network chose the default action.
    pub(super) is_default: bool,
}

/// Share of decisions in which a tree requested the same allocation as the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Agreement {
    /// Number of decisions, at most 160 evenly spaced ones of each world.
    pub decisions: u64,
    /// Number of those with the same allocation.
    pub equal: u64,
}

impl Agreement {
    /// The share, 0 to 1; `None` without decisions.
    #[must_use]
    pub fn share(&self) -> Option<f64> {
        (self.decisions > 0).then(|| self.equal as f64 / self.decisions as f64)
    }

    /// Agreement of the default action alone in the states of `samples`.
    pub(super) fn of_default(samples: &[LabelledState]) -> Self {
        Self { decisions: samples.len() as u64, equal: samples.iter().filter(|sample| sample.is_default).count() as u64 }
    }

    /// Agreement of `tree` in the states of `samples`.
    pub(super) fn of(samples: &[LabelledState], tree: &DecisionTree) -> Self {
        // Under a steady load both take the default action.
        let agrees = |sample: &&LabelledState| !sample.is_ruled || sample.equal >> tree.leaf(&sample.observation).action & 1 == 1;
        Self { decisions: samples.len() as u64, equal: samples.iter().filter(agrees).count() as u64 }
    }
}

/// Results of runs.
#[derive(Debug, Default)]
pub(super) struct RolloutResult {
    pub(super) samples: Vec<LabelledState>,
    /// Agreement of the acting tree; of the network with itself if that acts.
    pub(super) agreement: Agreement,
    pub(super) score: Score,
}

/// A range of worlds of a split.
pub(super) struct WorldRange {
    pub(super) split: Split,
    pub(super) first: u64,
    pub(super) worlds: u64,
    pub(super) seed: u64,
}

/// Settings of all runs.
pub(super) struct Rollouts<'a> {
    pub(super) network: &'a Dqn,
    pub(super) tasks: TaskDistribution,
    pub(super) reward: TrainingReward,
    pub(super) violation_cost: Option<ViolationCost>,
    pub(super) threads: NonZeroUsize,
    /// Ends the runs early.
    pub(super) stop: &'a AtomicBool,
}

/// A world that runs.
struct RunningWorld {
    env: Env,
    violation_cost: f64,
    tick: u32,
    ticks: u32,
    /// A sample is taken every this many ticks.
    every: u32,
    found: RolloutResult,
}

impl Rollouts<'_> {
    /// Runs `worlds` with `actor`. The results are in the order of the worlds.
    pub(super) fn run(&self, actor: ActingPolicy<'_>, worlds: &WorldRange) -> Result<RolloutResult, DistilError> {
        let starts: Vec<u64> = (worlds.first..worlds.first + worlds.worlds).step_by(SIDE_BY_SIDE as usize).collect();
        let end = worlds.first + worlds.worlds;
        let next = AtomicUsize::new(0);
        let work = || {
            let mut done = Vec::new();
            while let Some(start) = starts.get(next.fetch_add(1, Ordering::Relaxed)) {
                done.push((*start, self.batch(actor, worlds, *start..(*start + SIDE_BY_SIDE).min(end))?));
            }
            Ok::<_, DistilError>(done)
        };
        let mut batches = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads.get()).map(|_| scope.spawn(work)).collect();
            let mut batches = Vec::new();
            for thread in threads {
                batches.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            }
            Ok::<_, DistilError>(batches)
        })?;
        batches.sort_by_key(|(start, _)| *start);
        let mut all = RolloutResult::default();
        for found in batches.into_iter().flat_map(|(_, batch)| batch) {
            all.samples.extend(found.samples);
            all.agreement.decisions += found.agreement.decisions;
            all.agreement.equal += found.agreement.equal;
            all.score.merge(&found.score);
        }
        Ok(all)
    }

    fn batch(&self, actor: ActingPolicy<'_>, worlds: &WorldRange, numbers: Range<u64>) -> Result<Vec<RolloutResult>, DistilError> {
        let mut running: Vec<RunningWorld> = numbers.map(|number| self.begin(worlds, number)).collect();
        let mut left: Vec<usize> = (0..running.len()).collect();
        while !left.is_empty() {
            if self.stop.load(Ordering::Relaxed) {
                return Err(DistilError::Stopped);
            }
            let asks = |world: &RunningWorld| matches!(actor, ActingPolicy::Network) || world.tick.is_multiple_of(world.every);
            let asked: Vec<usize> = left.iter().copied().filter(|at| asks(&running[*at])).collect();
            let observations: Vec<f32> = asked.iter().flat_map(|at| running[*at].env.observation().iter().copied()).collect();
            let values = if asked.is_empty() { Vec::new() } else { self.network.values(&observations)? };
            let mut values = values.chunks_exact(self.network.actions().count());
            for at in &left {
                let world = &mut running[*at];
                let values = if asks(world) { values.next() } else { None };
                self.step(actor, world, values);
            }
            left.retain(|at| running[*at].tick < running[*at].ticks);
        }
        Ok(running.into_iter().map(|world| world.found).collect())
    }

    fn begin(&self, worlds: &WorldRange, number: u64) -> RunningWorld {
        let number = world_number(worlds.seed, number);
        let actions = self.network.actions();
        // The default depends on the bounds of the world's function.
        let (drawn, _) = Env::of_world(&self.tasks, worlds.split, number, None, None);
        let violation_cost = self.violation_cost.map_or_else(|| default_violation_cost(drawn.state()), ViolationCost::get);
        let (env, ticks) = Env::of_world(&self.tasks, worlds.split, number, Some(violation_cost), Some(actions));
        RunningWorld { env, violation_cost, tick: 0, ticks, every: ticks.div_ceil(MAX_SAMPLES), found: RolloutResult::default() }
    }

    /// Simulates a tick of `world`; with the Q-`values` of its state the network decides, too.
    fn step(&self, actor: ActingPolicy<'_>, world: &mut RunningWorld, values: Option<&[f32]>) {
        let actions = self.network.actions();
        let RunningWorld { env, violation_cost, tick, every, found, .. } = world;
        let chosen = values.and_then(|values| self.network.select(env.state(), env.candidates(), values, *violation_cost));
        let taken = match actor {
            ActingPolicy::Network => chosen,
            ActingPolicy::Tree(tree) => tree.select(actions, env.observation(), env.candidates()),
        };
        if let (Some(values), Some(chosen), true) = (values, chosen, tick.is_multiple_of(*every)) {
            let sample = sample(actions, env, values, chosen);
            found.agreement.decisions += 1;
            found.agreement.equal += u64::from(taken.is_some_and(|taken| sample.equal >> taken & 1 == 1));
            found.samples.push(sample);
        }
        let allocation = taken.and_then(|action| env.candidates().entry(action).ok());
        found.score.add(&env.step(allocation, Some(actions), &self.reward));
        *tick += 1;
    }
}

/// The sample of the latest state of `env`, in which the network with these Q-`values` chose the action `chosen`.
fn sample(actions: &Actions, env: &Env, values: &[f32], chosen: usize) -> LabelledState {
    let candidates: &ActionCandidates = env.candidates();
    let (mut losses, mut equal) = (vec![0.0; actions.count()], 0);
    for (action, loss) in losses.iter_mut().enumerate() {
        let instead = actions.resolve(action, candidates).unwrap_or(chosen);
        if candidates.entry(instead) == candidates.entry(chosen) {
            equal |= 1 << action;
        } else {
            *loss = (values[chosen] - values[instead]).max(0.0);
        }
    }
    debug_assert_eq!(env.observation().len(), COUNT);
    let is_default = actions.default_action(candidates).is_some_and(|action| candidates.entry(action) == candidates.entry(chosen));
    LabelledState { observation: env.observation().to_vec(), losses, equal, is_ruled: !candidates.is_steady(), is_default }
}
