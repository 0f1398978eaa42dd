//! Training of the competitors in worlds of the experiment. Owns the hyperparameters and the training loop; must not evaluate.

use qscale_dqn::actions::{ActionSet, Actions};
use qscale_dqn::checkpoint::Checkpoint;
use qscale_dqn::reward::TrainingReward;
use qscale_dqn::tabular::{Tabular, TabularParameters};
use qscale_policies::{Memory, Policy};
use qscale_rl::Hyperparameters;
use qscale_rl::device::cpu;
use qscale_rl::explore::EpsilonSchedule;
use qscale_rl::replay::StepEnd;
use qscale_sim::Simulation;
use qscale_sim::rng::{Purpose, stream};
use qscale_train::agent::{Actor, Agent, DqnAgent, EnvStep};
use qscale_train::env::Env;
use serde::Serialize;

use super::experiment::{EPISODE, Experiment, ExperimentKind};
use super::run::TickCounter;

/// Cost of a violated tick in training: the default of [`qscale_dqn::policy::ViolationCost`].
const VIOLATION_COST: f64 = 100.0;

/// Amount of training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TrainingBudget {
    /// Episodes of 24 ticks.
    pub episodes: u32,
    /// Parallel worlds of the network; a table learns in one, as in the study.
    pub worlds: usize,
}

impl TrainingBudget {
    /// Ticks of all `worlds` together.
    pub fn ticks(self, worlds: usize) -> u64 {
        u64::from(self.episodes * EPISODE) * worlds as u64
    }
}

/// Mean reward a tick of a competitor by episode of its training; one value if it does not learn here.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LearningCurve {
    /// The competitor.
    pub competitor: &'static str,
    /// The seed.
    pub seed: u64,
    /// Mean training reward a tick, by episode.
    pub reward: Vec<f64>,
}

/// Trains a table; returns it with its mean reward a tick by episode.
///
/// # Errors
/// [`super::run::Stopped`] when stopped.
pub fn table(
    experiment: Experiment,
    step: u32,
    budget: TrainingBudget,
    seed: u64,
    counter: &TickCounter<'_>,
) -> anyhow::Result<(Tabular, Vec<f64>)> {
    let parameters = TabularParameters { step, scope: experiment.kind.scope(), ..TabularParameters::default() };
    let mut agent = Tabular::new(parameters, seed);
    let earned = run_episodes(&mut agent, experiment, budget.episodes, 1, EPISODE, seed, counter)?;
    Ok((agent, earned))
}

/// Trains a network with the action set `step`; returns its model with its mean reward a tick by episode.
///
/// # Errors
/// [`super::run::Stopped`] when stopped.
pub fn network(
    experiment: Experiment,
    budget: TrainingBudget,
    seed: u64,
    counter: &TickCounter<'_>,
) -> anyhow::Result<(Checkpoint, Vec<f64>)> {
    let actions = Actions::new(ActionSet::Step, experiment.kind.scope());
    let mut agent = DqnAgent::new(hyperparameters(experiment.kind, budget), actions, REPLAY_RATIO, seed, &cpu())?;
    // Worlds are as long as evaluation runs, so that the network sees histories of the same length.
    let earned = run_episodes(&mut agent, experiment, budget.episodes, budget.worlds, experiment.ticks(), seed, counter)?;
    Ok((agent.checkpoint(Some(TrainingReward::default()), "qscale reproduce")?.model(None), earned))
}

/// Updates per tick of a function.
const REPLAY_RATIO: f64 = 0.05;

/// Layers, exploration and target rate are those of the study; the rest is that of `qscale train --trainer means`, with
/// fewer and smaller updates.
fn hyperparameters(kind: ExperimentKind, budget: TrainingBudget) -> Hyperparameters {
    let ticks = budget.ticks(budget.worlds);
    Hyperparameters {
        hidden: match kind {
            ExperimentKind::Horizontal => vec![128, 128],
            ExperimentKind::Vertical => vec![64, 64],
        },
        batch: 256,
        warm_up: (ticks / 20) as usize,
        decay_over: (ticks as f64 * REPLAY_RATIO) as u64,
        exploration: EpsilonSchedule { from: 0.9, to: 0.05, over: ticks / 2 },
        target_rate: 5e-3,
        ..Hyperparameters::plain()
    }
}

/// Mean reward a tick of `policy` in the first training worlds of this seed: a level to compare learning curves with.
///
/// # Errors
/// [`super::run::Stopped`] when stopped.
pub fn earned(experiment: Experiment, policy: &dyn Policy, worlds: usize, seed: u64, counter: &TickCounter<'_>) -> anyhow::Result<f64> {
    let training_reward = TrainingReward::default();
    let mut sum = 0.0;
    for number in 0..worlds as u64 {
        let number = world_number(seed, number);
        let mut env = Env::new(Simulation::new(experiment.world(number, experiment.ticks()), number, 0), VIOLATION_COST, None);
        let (mut memory, mut rng) = (Memory::default(), stream(number, 0, Purpose::Policy));
        for _ in 0..experiment.ticks() {
            counter.tick(1)?;
            let state = env.state();
            let wanted = policy.decide(state, &mut memory, state.observed_at_ms, &mut rng).wanted();
            sum += env.step(wanted, None, &training_reward).reward;
        }
    }
    Ok(sum / f64::from(experiment.ticks()) / worlds as f64)
}

/// Trains `agent` for `episodes` in `worlds` parallel worlds of `lasts` ticks each; returns the mean reward a tick by episode.
fn run_episodes<A: Agent>(
    agent: &mut A,
    experiment: Experiment,
    episodes: u32,
    worlds: usize,
    lasts: u32,
    seed: u64,
    counter: &TickCounter<'_>,
) -> anyhow::Result<Vec<f64>> {
    let training_reward = TrainingReward::default();
    let actions = agent.actions().cloned();
    let world = |drawn: u64| {
        let number = world_number(seed, drawn);
        Env::new(Simulation::new(experiment.world(number, lasts), number, 0), VIOLATION_COST, actions.as_ref())
    };
    let mut envs: Vec<Env> = (0..worlds as u64).map(world).collect();
    // Worlds end at different times, so that no episode consists of starts only.
    let mut left: Vec<u32> = (0..worlds).map(|env| lasts - (env as u32 * lasts / worlds as u32) / EPISODE * EPISODE).collect();
    let mut drawn = worlds as u64;
    let mut earned = Vec::with_capacity(episodes as usize);
    for _ in 0..episodes {
        let mut sum = 0.0;
        for _ in 0..EPISODE {
            counter.tick(worlds as u64)?;
            let acts = agent.actor().act(0, &envs)?;
            agent.learn(worlds)?;
            let mut outcomes = Vec::with_capacity(worlds);
            for ((env, act), left) in envs.iter_mut().zip(acts).zip(&mut left) {
                let reward = env.step(act.requested, actions.as_ref(), &training_reward).reward;
                sum += reward;
                *left -= 1;
                // Functions do not end; the end of a world is a truncation.
                let ending = if *left == 0 { StepEnd::Truncated } else { StepEnd::Continues };
                outcomes.push(EnvStep { action: act, reward: Some(reward), end: ending });
            }
            agent.observe(&envs, &outcomes);
            for (env, left) in envs.iter_mut().zip(&mut left).filter(|(_, left)| **left == 0) {
                (*env, *left) = (world(drawn), lasts);
                drawn += 1;
            }
        }
        earned.push(sum / f64::from(EPISODE) / worlds as f64);
    }
    Ok(earned)
}

/// Number of a world; different seeds and the evaluation runs have different worlds.
fn world_number(seed: u64, drawn: u64) -> u64 {
    seed.wrapping_add(1).wrapping_mul(1 << 32).wrapping_add(drawn)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::super::experiment::Site;
    use super::*;

    const EFFORT: TrainingBudget = TrainingBudget { episodes: 2, worlds: 6 };

    #[test]
    fn the_same_seed_trains_the_same_network() {
        let stop = AtomicBool::new(false);
        let counter = TickCounter::new(&stop);
        for kind in [ExperimentKind::Horizontal, ExperimentKind::Vertical] {
            let experiment = Experiment { kind, site: Site::Simulator };
            let learn = |seed| network(experiment, EFFORT, seed, &counter).expect("it learns");
            let (one, other) = (learn(1), learn(1));
            assert_eq!(one.0.to_bytes(), other.0.to_bytes());
            assert_eq!((one.1.len(), &one.1), (2, &other.1));
            assert!(one.1.iter().all(|earned| *earned < 0.0));
            assert_ne!(one.1, learn(2).1);
            let (table, earned) = table(experiment, 30, EFFORT, 1, &counter).expect("it learns");
            assert_eq!((table.steps, earned.len()), (48, 2));
            assert!(table.table.iter().flatten().any(|value| *value != 0.0));
        }
    }

    #[test]
    fn a_stopped_training_ends_at_once() {
        let stop = AtomicBool::new(true);
        let counter = TickCounter::new(&stop);
        let experiment = Experiment { kind: ExperimentKind::Vertical, site: Site::Simulator };
        let error = table(experiment, 30, EFFORT, 1, &counter).expect_err("it was stopped");
        assert!(error.is::<super::super::run::Stopped>(), "{error:#}");
    }
}
