//! The training loop: an agent acts on many simulated worlds in parallel and learns from the steps before at the same time.

use std::num::NonZeroUsize;

use qscale_dqn::actions::Actions;
use qscale_dqn::reward::{StepReward, TrainingReward};
use qscale_dqn::tasks::{Split, TaskDistribution};
use qscale_rl::network::DeviceError;
use qscale_rl::replay::StepEnd;

use crate::agent::{Actor, Agent, EnvAction, EnvStep};
use crate::env::Env;
use crate::evaluate::Score;
use crate::world::world_number;

/// Configuration of the loop.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainerConfig {
    /// The distribution of worlds.
    pub tasks: TaskDistribution,
    /// The reward.
    pub reward: TrainingReward,
    /// Worlds simulated in parallel, at least 1.
    pub worlds: usize,
    /// Threads that simulate, while another one learns; has no effect on the result.
    pub threads: NonZeroUsize,
    /// Seed of the worlds.
    pub seed: u64,
    /// Number of the first of them.
    pub first_world: u64,
}

impl Default for TrainerConfig {
    fn default() -> Self {
        Self {
            tasks: TaskDistribution::default(),
            reward: TrainingReward::default(),
            worlds: 256,
            threads: NonZeroUsize::MIN,
            seed: 1,
            first_world: 0,
        }
    }
}

/// Worlds controlled by an agent that learns.
pub struct Trainer<A> {
    config: TrainerConfig,
    agent: A,
    envs: Vec<Env>,
    /// Remaining ticks of each world.
    left: Vec<u32>,
    drawn: u64,
    steps: u64,
    score: Score,
    updates: UpdateMeans,
}

/// Means over updates.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct UpdateMeans {
    /// Number of updates.
    pub updates: u64,
    /// Loss.
    pub loss: f64,
    /// Value of the actions in the batches.
    pub value: f64,
}

impl<A: Agent + Send> Trainer<A> {
    /// A loop for `agent`.
    #[must_use]
    pub fn new(config: TrainerConfig, agent: A) -> Self {
        let (score, updates) = (Score::default(), UpdateMeans::default());
        let worlds = config.worlds.max(1);
        let mut trainer = Self { envs: Vec::new(), left: Vec::new(), drawn: config.first_world, steps: 0, score, updates, config, agent };
        for _ in 0..worlds {
            let (env, ticks) = trainer.next_world();
            trainer.envs.push(env);
            trainer.left.push(ticks);
        }
        trainer
    }

    /// The next world and its length in ticks.
    fn next_world(&mut self) -> (Env, u32) {
        let number = world_number(self.config.seed, self.drawn);
        self.drawn += 1;
        Env::of_world(&self.config.tasks, Split::Training, number, None, self.agent.actions())
    }

    /// Simulates one tick of every world and learns from the steps before, in parallel.
    ///
    /// # Errors
    /// When the device fails.
    pub fn tick(&mut self) -> Result<(), DeviceError> {
        let actor = self.agent.actor();
        let actions = self.agent.actions().cloned();
        let (envs, reward, agent) = (&mut self.envs, &self.config.reward, &mut self.agent);
        let functions = envs.len();
        let share = functions.div_ceil(self.config.threads.get()).max(1);
        let (simulated, update) = std::thread::scope(|scope| {
            let (actor, actions) = (&actor, actions.as_ref());
            let chunks = envs.chunks_mut(share).enumerate();
            let threads: Vec<_> =
                chunks.map(|(chunk, envs)| scope.spawn(move || simulate(actor, chunk * share, envs, actions, reward))).collect();
            let update = agent.learn(functions);
            (threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect::<Vec<_>>(), update)
        });
        let mut ticks = Vec::with_capacity(functions);
        for chunk in simulated {
            ticks.extend(chunk.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        if let Some(update) = update? {
            self.updates.updates += 1;
            let part = 1.0 / self.updates.updates as f64;
            self.updates.loss += (f64::from(update.loss) - self.updates.loss) * part;
            self.updates.value += (f64::from(update.value) - self.updates.value) * part;
        }
        let step = |((action, tick), left): (&(EnvAction, StepReward), &mut u32)| {
            *left -= 1;
            // A world ends by its length only, which is a truncation.
            let end = if *left == 0 { StepEnd::Truncated } else { StepEnd::Continues };
            EnvStep { action: *action, reward: Some(tick.reward), end }
        };
        let steps: Vec<EnvStep> = ticks.iter().zip(&mut self.left).map(step).collect();
        ticks.iter().for_each(|(_, tick)| self.score.add(tick));
        self.agent.observe(&self.envs, &steps);
        self.steps += self.envs.len() as u64;
        for number in 0..self.left.len() {
            if self.left[number] == 0 {
                (self.envs[number], self.left[number]) = self.next_world();
            }
        }
        Ok(())
    }

    /// Takes the score while exploring and the means over updates since the previous call.
    pub fn take(&mut self) -> (Score, UpdateMeans) {
        (std::mem::take(&mut self.score), std::mem::take(&mut self.updates))
    }

    /// Simulated ticks of all worlds.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The agent.
    #[must_use]
    pub fn agent(&self) -> &A {
        &self.agent
    }
}

/// Acts on `envs` and simulates a tick of each.
fn simulate(
    actor: &impl Actor,
    first: usize,
    envs: &mut [Env],
    actions: Option<&Actions>,
    reward: &TrainingReward,
) -> Result<Vec<(EnvAction, StepReward)>, DeviceError> {
    let acts = actor.act(first, envs)?;
    let steps = envs.iter_mut().zip(acts).map(|(env, action)| (action, env.step(action.requested, actions, reward)));
    Ok(steps.collect())
}

#[cfg(test)]
mod tests;
