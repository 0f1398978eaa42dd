//! The training loop: agents act on many simulated worlds at once, while what was lived through before is learned from.

use std::num::NonZeroUsize;

use qscale_dqn::actions::Actions;
use qscale_dqn::domain::{Domain, Part};
use qscale_dqn::worth::{Tick, Worth};
use qscale_rl::network::DeviceError;
use qscale_rl::replay::StepEnd;
use qscale_sim::Simulation;

use crate::agent::{Act, Actor, Agent, Outcome};
use crate::judge::Score;
use crate::lane::Lane;
use crate::world::draw;

/// How training goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What worlds are drawn from.
    pub domain: Domain,
    /// What ticks are worth.
    pub worth: Worth,
    /// Worlds that are acted on at once, at least 1.
    pub worlds: usize,
    /// On so many threads they are lived through, while another one learns; it changes nothing of what comes out.
    pub threads: NonZeroUsize,
    /// Seed of the worlds.
    pub seed: u64,
    /// Number of the first of them.
    pub first_world: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self { domain: Domain::default(), worth: Worth::default(), worlds: 256, threads: NonZeroUsize::MIN, seed: 1, first_world: 0 }
    }
}

/// Worlds under an agent that learns.
pub struct Trainer<A> {
    plan: Plan,
    agent: A,
    lanes: Vec<Lane>,
    /// Ticks that are left of each world.
    left: Vec<u32>,
    drawn: u64,
    steps: u64,
    score: Score,
    loss: Loss,
}

/// Means since the last time somebody asked.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Loss {
    /// Updates.
    pub updates: u64,
    /// The loss.
    pub loss: f64,
    /// Value of the choices that were learned from.
    pub value: f64,
}

impl<A: Agent + Send> Trainer<A> {
    /// Worlds of `plan`.
    #[must_use]
    pub fn new(plan: Plan, agent: A) -> Self {
        let (score, loss) = (Score::default(), Loss::default());
        let worlds = plan.worlds.max(1);
        let mut trainer = Self { lanes: Vec::new(), left: Vec::new(), drawn: plan.first_world, steps: 0, score, loss, plan, agent };
        for _ in 0..worlds {
            let (lane, ticks) = trainer.world();
            trainer.lanes.push(lane);
            trainer.left.push(ticks);
        }
        trainer
    }

    /// The next world, and how many ticks it is lived through.
    fn world(&mut self) -> (Lane, u32) {
        let number = self.plan.seed.wrapping_mul(1 << 32).wrapping_add(self.drawn);
        self.drawn += 1;
        let world = draw(&self.plan.domain, Part::Training, number);
        let ticks = world.ticks();
        (Lane::new(Simulation::new(world.setup, number, 0), world.caution, self.agent.actions()), ticks)
    }

    /// Lives through one tick of every world, and learns from what was lived through before, both at once.
    ///
    /// # Errors
    /// When the device fails.
    pub fn tick(&mut self) -> Result<(), DeviceError> {
        let actor = self.agent.actor();
        let actions = self.agent.actions().cloned();
        let (lanes, worth, agent) = (&mut self.lanes, &self.plan.worth, &mut self.agent);
        let functions = lanes.len();
        let share = functions.div_ceil(self.plan.threads.get()).max(1);
        let (lived, update) = std::thread::scope(|scope| {
            let (actor, actions) = (&actor, actions.as_ref());
            let chunks = lanes.chunks_mut(share).enumerate();
            let living: Vec<_> =
                chunks.map(|(chunk, lanes)| scope.spawn(move || live(actor, chunk * share, lanes, actions, worth))).collect();
            let update = agent.study(functions);
            (living.into_iter().map(std::thread::ScopedJoinHandle::join).collect::<Vec<_>>(), update)
        });
        let mut ticks = Vec::with_capacity(functions);
        for lived in lived {
            ticks.extend(lived.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        if let Some(update) = update? {
            self.loss.updates += 1;
            let part = 1.0 / self.loss.updates as f64;
            self.loss.loss += (f64::from(update.loss) - self.loss.loss) * part;
            self.loss.value += (f64::from(update.value) - self.loss.value) * part;
        }
        let outcome = |((act, tick), left): (&(Act, Tick), &mut u32)| {
            *left -= 1;
            // Worlds go on; an end by time is a truncation.
            let ending = if *left == 0 { StepEnd::Truncated } else { StepEnd::Continues };
            Outcome { act: *act, reward: Some(tick.reward), ending }
        };
        let outcomes: Vec<Outcome> = ticks.iter().zip(&mut self.left).map(outcome).collect();
        ticks.iter().for_each(|(_, tick)| self.score.add(tick));
        self.agent.remember(&self.lanes, &outcomes);
        self.steps += self.lanes.len() as u64;
        for number in 0..self.left.len() {
            if self.left[number] == 0 {
                (self.lanes[number], self.left[number]) = self.world();
            }
        }
        Ok(())
    }

    /// What was earned while exploring, and what updates said, since the last time somebody asked.
    pub fn take(&mut self) -> (Score, Loss) {
        (std::mem::take(&mut self.score), std::mem::take(&mut self.loss))
    }

    /// Ticks of single worlds lived through.
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

/// Acts on some worlds and lives through a tick of each.
fn live(
    actor: &impl Actor,
    first: usize,
    lanes: &mut [Lane],
    actions: Option<&Actions>,
    worth: &Worth,
) -> Result<Vec<(Act, Tick)>, DeviceError> {
    let acts = actor.act(first, lanes)?;
    let lived = lanes.iter_mut().zip(acts).map(|(lane, act)| (act, lane.step(act.wanted, actions, worth)));
    Ok(lived.collect())
}

#[cfg(test)]
mod tests;
