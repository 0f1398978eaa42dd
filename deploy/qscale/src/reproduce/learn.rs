//! How contestants learn: an agent acts on worlds of the experiment, and what it earns meanwhile is kept. Owns what the learners are told; must not judge.

use qscale_dqn::actions::{ActionSet, Actions};
use qscale_dqn::checkpoint::Checkpoint;
use qscale_dqn::tabular::{Tabular, TabularParameters};
use qscale_dqn::worth::Worth;
use qscale_policies::{Memory, Policy};
use qscale_rl::Hyperparameters;
use qscale_rl::device::cpu;
use qscale_rl::explore::EpsilonSchedule;
use qscale_rl::replay::StepEnd;
use qscale_sim::Simulation;
use qscale_sim::rng::{Purpose, stream};
use qscale_train::agent::{Actor, Agent, DqnAgent, Outcome};
use qscale_train::lane::Lane;
use serde::Serialize;

use super::experiment::{EPISODE, Experiment, Which};
use super::live::Watch;

/// What a violated tick costs wherever agents learn: [`qscale_dqn::policy::Caution`]'s default.
const CAUTION: f64 = 100.0;

/// How long agents learn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Effort {
    /// Episodes of 24 ticks, one after the other.
    pub episodes: u32,
    /// Functions that the network learns from at once; a table learns from one, as in the study.
    pub worlds: usize,
}

impl Effort {
    /// Ticks that so many functions live through together.
    pub fn ticks(self, worlds: usize) -> u64 {
        u64::from(self.episodes * EPISODE) * worlds as u64
    }
}

/// Teaches a table; gives it with what it earned a tick in each episode.
pub fn table(experiment: Experiment, step: u32, effort: Effort, seed: u64, watch: &Watch<'_>) -> anyhow::Result<(Tabular, Vec<f64>)> {
    let parameters = TabularParameters { step, scope: experiment.which.scope(), ..TabularParameters::default() };
    let mut agent = Tabular::new(parameters, seed);
    let earned = live(&mut agent, experiment, effort.episodes, 1, EPISODE, seed, watch)?;
    Ok((agent, earned))
}

/// Teaches a network that takes steps; gives its model with what it earned a tick in each episode.
pub fn network(experiment: Experiment, effort: Effort, seed: u64, watch: &Watch<'_>) -> anyhow::Result<(Checkpoint, Vec<f64>)> {
    let actions = Actions::new(ActionSet::Step, experiment.which.scope());
    let mut agent = DqnAgent::new(hyperparameters(experiment.which, effort), actions, REPLAY_RATIO, seed, &cpu())?;
    // Worlds last as long as runs, so that the network sees a history as long.
    let earned = live(&mut agent, experiment, effort.episodes, effort.worlds, experiment.ticks(), seed, watch)?;
    Ok((agent.checkpoint(Some(Worth::default()), "qscale reproduce")?.model(None), earned))
}

/// Updates for each tick of a function.
const REPLAY_RATIO: f64 = 0.05;

/// Widths of layers, exploration and the target's rate are the study's; all else is what `qscale train --trainer means` has, in fewer and smaller updates.
fn hyperparameters(which: Which, effort: Effort) -> Hyperparameters {
    let ticks = effort.ticks(effort.worlds);
    Hyperparameters {
        hidden: match which {
            Which::Horizontal => vec![128, 128],
            Which::Vertical => vec![64, 64],
        },
        batch: 256,
        warm_up: (ticks / 20) as usize,
        decay_over: (ticks as f64 * REPLAY_RATIO) as u64,
        exploration: EpsilonSchedule { from: 0.9, to: 0.05, over: ticks / 2 },
        target_rate: 5e-3,
        ..Hyperparameters::plain()
    }
}

/// What `policy` earns a tick in worlds that a network of this seed learns in first: a level to hold learning curves against.
pub fn earned(experiment: Experiment, policy: &dyn Policy, worlds: usize, seed: u64, watch: &Watch<'_>) -> anyhow::Result<f64> {
    let worth = Worth::default();
    let mut sum = 0.0;
    for number in 0..worlds as u64 {
        let number = world_number(seed, number);
        let mut lane = Lane::new(Simulation::new(experiment.world(number, experiment.ticks()), number, 0), CAUTION, None);
        let (mut memory, mut rng) = (Memory::default(), stream(number, 0, Purpose::Policy));
        for _ in 0..experiment.ticks() {
            watch.tick(1)?;
            let state = lane.state();
            let wanted = policy.decide(state, &mut memory, state.observed_at_ms, &mut rng).wanted();
            sum += lane.step(wanted, None, &worth).reward;
        }
    }
    Ok(sum / f64::from(experiment.ticks()) / worlds as f64)
}

/// Lets `agent` live through `episodes` in so many worlds at once, each of which lasts so many ticks; what it earned a tick in each episode.
fn live<A: Agent>(
    agent: &mut A,
    experiment: Experiment,
    episodes: u32,
    worlds: usize,
    lasts: u32,
    seed: u64,
    watch: &Watch<'_>,
) -> anyhow::Result<Vec<f64>> {
    let worth = Worth::default();
    let actions = agent.actions().cloned();
    let world = |drawn: u64| {
        let number = world_number(seed, drawn);
        Lane::new(Simulation::new(experiment.world(number, lasts), number, 0), CAUTION, actions.as_ref())
    };
    let mut lanes: Vec<Lane> = (0..worlds as u64).map(world).collect();
    // Worlds end one after the other, so that no episode is all beginnings.
    let mut left: Vec<u32> = (0..worlds).map(|lane| lasts - (lane as u32 * lasts / worlds as u32) / EPISODE * EPISODE).collect();
    let mut drawn = worlds as u64;
    let mut earned = Vec::with_capacity(episodes as usize);
    for _ in 0..episodes {
        let mut sum = 0.0;
        for _ in 0..EPISODE {
            watch.tick(worlds as u64)?;
            let acts = agent.actor().act(0, &lanes)?;
            agent.study(worlds)?;
            let mut outcomes = Vec::with_capacity(worlds);
            for ((lane, act), left) in lanes.iter_mut().zip(acts).zip(&mut left) {
                let reward = lane.step(act.wanted, actions.as_ref(), &worth).reward;
                sum += reward;
                *left -= 1;
                // Functions go on; an end by time is a truncation.
                let ending = if *left == 0 { StepEnd::Truncated } else { StepEnd::Continues };
                outcomes.push(Outcome { act, reward: Some(reward), ending });
            }
            agent.remember(&lanes, &outcomes);
            for (lane, left) in lanes.iter_mut().zip(&mut left).filter(|(_, left)| **left == 0) {
                (*lane, *left) = (world(drawn), lasts);
                drawn += 1;
            }
        }
        earned.push(sum / f64::from(EPISODE) / worlds as f64);
    }
    Ok(earned)
}

/// Worlds of different seeds, and those that are judged, are different worlds.
fn world_number(seed: u64, drawn: u64) -> u64 {
    seed.wrapping_add(1).wrapping_mul(1 << 32).wrapping_add(drawn)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::super::experiment::Place;
    use super::*;

    const EFFORT: Effort = Effort { episodes: 2, worlds: 6 };

    #[test]
    fn the_same_seed_learns_the_same_and_each_episode_has_its_return() {
        let stop = AtomicBool::new(false);
        let watch = Watch::new(&stop);
        for which in [Which::Horizontal, Which::Vertical] {
            let experiment = Experiment { which, place: Place::Simulator };
            let learn = |seed| network(experiment, EFFORT, seed, &watch).expect("it learns");
            let (one, other) = (learn(1), learn(1));
            assert_eq!(one.0.to_bytes(), other.0.to_bytes());
            assert_eq!((one.1.len(), &one.1), (2, &other.1));
            assert!(one.1.iter().all(|earned| *earned < 0.0));
            assert_ne!(one.1, learn(2).1);
            let (table, earned) = table(experiment, 30, EFFORT, 1, &watch).expect("it learns");
            assert_eq!((table.steps, earned.len()), (48, 2));
            assert!(table.table.iter().flatten().any(|value| *value != 0.0));
        }
    }

    #[test]
    fn whoever_wants_it_to_end_need_not_wait() {
        let stop = AtomicBool::new(true);
        let watch = Watch::new(&stop);
        let experiment = Experiment { which: Which::Vertical, place: Place::Simulator };
        let error = table(experiment, 30, EFFORT, 1, &watch).expect_err("it was stopped");
        assert!(error.is::<super::super::live::Stopped>(), "{error:#}");
    }
}
