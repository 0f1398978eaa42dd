//! Training: agents act on many simulated worlds at once, and are judged on worlds that they never acted on. Owns the loop; no files, no clock: what a
//! caller asks for comes back as values.

pub mod domain;

use qscale_common::contract::{State, Terms};
use qscale_common::units::Allocation;
use qscale_policies::{Memory, Policy};
use qscale_sim::{Cell, Setup};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::agent::{Agent, Outcome};
use crate::network::DeviceFailed;
use crate::policy::Dqn;
use crate::replay::Ending;
use domain::{Domain, Part};

/// How training goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What worlds are drawn from.
    pub domain: Domain,
    /// Worlds that are acted on at once, at least 1.
    pub lanes: usize,
    /// Ticks after which a world gives way to the next, at least 2.
    pub ticks: u32,
    /// Seed of the worlds.
    pub seed: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self { domain: Domain::default(), lanes: 64, ticks: 200, seed: 1 }
    }
}

/// What a span of ticks was worth: means over all that were judged.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Score {
    /// Ticks that were judged.
    pub ticks: u64,
    /// The reward.
    pub reward: f64,
    /// 1 - completion x min(1, bound / latency).
    pub violation: f64,
    /// Share of the ticks with any violation above a hundredth.
    pub violated: f64,
    /// Cost over that of the largest allocation.
    pub cost: f64,
    /// Resizes that restart.
    pub resize: f64,
    /// Reversals of direction.
    pub reversal: f64,
    /// Kills for memory and crashes.
    pub kill: f64,
}

impl Score {
    /// Adds one tick, which was worth `value` by `terms`.
    fn add(&mut self, value: f64, terms: &Terms) {
        self.ticks += 1;
        let part = 1.0 / self.ticks as f64;
        let mean = |sum: &mut f64, value: f64| *sum += (value - *sum) * part;
        let violation = terms.violation.value.unwrap_or(0.0);
        mean(&mut self.reward, value);
        mean(&mut self.violation, violation);
        mean(&mut self.violated, f64::from(u8::from(violation > 0.01)));
        mean(&mut self.cost, terms.cost.value.unwrap_or(0.0));
        mean(&mut self.resize, terms.resize.value.unwrap_or(0.0));
        mean(&mut self.reversal, terms.reversal.value.unwrap_or(0.0));
        mean(&mut self.kill, terms.kill.value.unwrap_or(0.0));
    }
}

/// Worlds under an agent that learns.
pub struct Trainer<A> {
    plan: Plan,
    agent: A,
    cells: Vec<Cell>,
    ages: Vec<u32>,
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

impl<A: Agent> Trainer<A> {
    /// Worlds of `plan`, at different ages, so that they do not all give way at once.
    #[must_use]
    pub fn new(plan: Plan, agent: A) -> Self {
        let lanes = plan.lanes.max(1);
        let ages = (0..lanes).map(|lane| (u64::from(plan.ticks) * lane as u64 / lanes as u64) as u32).collect();
        let mut trainer = Self {
            cells: Vec::with_capacity(lanes),
            ages,
            drawn: 0,
            steps: 0,
            score: Score::default(),
            loss: Loss::default(),
            plan,
            agent,
        };
        for _ in 0..lanes {
            let cell = trainer.world();
            trainer.cells.push(cell);
        }
        trainer
    }

    fn world(&mut self) -> Cell {
        let number = self.plan.seed.wrapping_mul(1 << 32).wrapping_add(self.drawn);
        self.drawn += 1;
        Cell::new(self.plan.domain.draw(Part::Training, number), number, 0)
    }

    /// Lives through one tick of every world.
    ///
    /// # Errors
    /// When the device fails.
    pub fn tick(&mut self) -> Result<(), DeviceFailed> {
        let wanted = self.agent.act(&self.cells.iter().map(Cell::state).collect::<Vec<_>>())?;
        for (cell, wanted) in self.cells.iter_mut().zip(wanted) {
            cell.step(wanted);
        }
        let length = self.plan.ticks;
        let outcomes: Vec<Outcome<'_>> = self
            .cells
            .iter()
            .zip(&mut self.ages)
            .map(|(cell, age)| {
                *age += 1;
                // Worlds go on; an end by time is a truncation.
                let ending = if *age >= length { Ending::Truncated } else { Ending::None };
                Outcome { reward: cell.reward().value, state: cell.state(), ending }
            })
            .collect();
        for (cell, outcome) in self.cells.iter().zip(&outcomes) {
            if let Some(reward) = outcome.reward {
                self.score.add(reward, &cell.reward().terms);
            }
        }
        if let Some(update) = self.agent.learn(&outcomes)? {
            self.loss.updates += 1;
            let part = 1.0 / self.loss.updates as f64;
            self.loss.loss += (f64::from(update.loss) - self.loss.loss) * part;
            self.loss.value += (f64::from(update.value) - self.loss.value) * part;
        }
        self.steps += self.cells.len() as u64;
        for lane in 0..self.cells.len() {
            if self.ages[lane] >= length {
                self.ages[lane] = 0;
                self.cells[lane] = self.world();
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

/// Whoever decides for many functions at once.
pub trait Decides {
    /// What each of `states` should be given; `None` wants nothing else than there is. Function number n is always at place n.
    ///
    /// # Errors
    /// When a device fails.
    fn decide(&mut self, states: &[&State]) -> Result<Vec<Option<Allocation>>, DeviceFailed>;
}

/// A policy with a memory for each function.
pub struct WithMemory<'a> {
    policy: &'a dyn Policy,
    memories: Vec<Memory>,
    rng: SmallRng,
}

impl<'a> WithMemory<'a> {
    /// `policy`, which remembers nothing yet.
    #[must_use]
    pub fn new(policy: &'a dyn Policy) -> Self {
        Self { policy, memories: Vec::new(), rng: SmallRng::seed_from_u64(0) }
    }
}

impl Decides for WithMemory<'_> {
    fn decide(&mut self, states: &[&State]) -> Result<Vec<Option<Allocation>>, DeviceFailed> {
        self.memories.resize(states.len(), Memory::None);
        let each = states.iter().zip(&mut self.memories);
        Ok(each.map(|(state, memory)| self.policy.decide(state, memory, state.observed_at_ms, &mut self.rng).wanted()).collect())
    }
}

impl Decides for &Dqn {
    fn decide(&mut self, states: &[&State]) -> Result<Vec<Option<Allocation>>, DeviceFailed> {
        let valued = self.value(states)?;
        Ok(valued.into_iter().map(|valued| valued.best.and_then(|best| valued.menu.entry(best).ok())).collect())
    }
}

/// What `decides` is worth on worlds `numbers` of `part`, each from its beginning over the plan's ticks; the first `skip` ticks are not judged.
///
/// # Errors
/// When a device fails.
pub fn judge(decides: &mut dyn Decides, plan: &Plan, part: Part, numbers: std::ops::Range<u64>, skip: u32) -> Result<Score, DeviceFailed> {
    let setups = numbers.map(|number| (number, plan.domain.draw(part, number)));
    judge_on(decides, setups, plan.ticks, skip)
}

/// The same on given worlds, each with the seed before it.
///
/// # Errors
/// When a device fails.
pub fn judge_on(
    decides: &mut dyn Decides,
    worlds: impl IntoIterator<Item = (u64, Setup)>,
    ticks: u32,
    skip: u32,
) -> Result<Score, DeviceFailed> {
    let mut cells: Vec<Cell> = worlds.into_iter().map(|(seed, setup)| Cell::new(setup, seed, 1)).collect();
    let mut score = Score::default();
    for tick in 0..ticks {
        let wanted = decides.decide(&cells.iter().map(Cell::state).collect::<Vec<_>>())?;
        for (cell, wanted) in cells.iter_mut().zip(wanted) {
            cell.step(wanted);
            if let Some(reward) = cell.reward().value.filter(|_| tick >= skip) {
                score.add(reward, &cell.reward().terms);
            }
        }
    }
    Ok(score)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actions::{ActionSet, Actions, Scope};
    use crate::agent::DqnAgent;
    use crate::device::cpu;
    use crate::learner::Hyperparameters;
    use crate::tabular::{Tabular, TabularParameters};

    fn plan() -> Plan {
        let domain = Domain { most_rps: 10.0, ..Domain::default() };
        Plan { domain, lanes: 4, ticks: 20, seed: 3 }
    }

    fn agent() -> DqnAgent {
        let hyperparameters = Hyperparameters { hidden: vec![16], batch: 16, warm_up: 40, ..Hyperparameters::default() };
        DqnAgent::new(hyperparameters, Actions::new(ActionSet::Headroom, Scope::Joint), 0.25, 5, &cpu()).expect("valid")
    }

    #[test]
    fn training_twice_from_one_seed_gives_one_network_and_one_score() {
        let run = || {
            let mut trainer = Trainer::new(plan(), agent());
            (0..50).for_each(|_| trainer.tick().expect("the CPU does not fail"));
            let checkpoint = trainer.agent().checkpoint(None, "").expect("the CPU does not fail");
            (trainer.take(), checkpoint)
        };
        let ((score, loss), checkpoint) = run();
        assert_eq!(run(), ((score, loss), checkpoint));
        assert!(score.ticks > 150 && score.reward < 0.0 && loss.updates > 20, "{score:?} {loss:?}");
    }

    #[test]
    fn a_checkpoint_in_the_middle_goes_on_exploring_where_it_was() {
        let mut trainer = Trainer::new(plan(), agent());
        (0..40).for_each(|_| trainer.tick().expect("the CPU does not fail"));
        let bytes = trainer.agent().checkpoint(None, "").expect("the CPU does not fail").to_bytes();
        let read = crate::Checkpoint::from_bytes(&bytes).expect("it was just written");
        let header = &read.header;
        let learner = crate::Learner::resume(header.hyperparameters.clone(), &read.weights, read.progress.as_ref(), header.seed, &cpu());
        let mut resumed = DqnAgent::with(learner.expect("they belong together"), read.check().expect("it matches"), 0.25);
        let worlds: Vec<Cell> = (0..30).map(|number| Cell::new(plan().domain.draw(Part::Test, number), number, 0)).collect();
        let states: Vec<&State> = worlds.iter().map(Cell::state).collect();
        assert_eq!(resumed.learner().choices(), 160);
        assert_eq!(resumed.act(&states), trainer.agent.act(&states));
    }

    #[test]
    fn rules_tables_and_networks_are_judged_on_the_same_worlds() {
        let rule = qscale_policies::by_name("static", &serde_json::Value::Null).expect("a rule of that name");
        let score = |decides: &mut dyn Decides| judge(decides, &plan(), Part::Validation, 0..6, 5).expect("the CPU does not fail");
        let held = score(&mut WithMemory::new(&*rule));
        assert!((60..=90).contains(&held.ticks) && held.reversal == 0.0 && held.cost > 0.0, "{held:?}");
        let mut table = Trainer::new(plan(), Tabular::new(TabularParameters { step: 1, ..TabularParameters::default() }, 1));
        (0..30).for_each(|_| table.tick().expect("a table does not fail"));
        assert_ne!(score(&mut WithMemory::new(table.agent())), held);
        let dqn = Dqn::new(&agent().checkpoint(None, "").expect("the CPU does not fail"), &cpu()).expect("it matches");
        assert_ne!(score(&mut &dqn), held);
    }
}
