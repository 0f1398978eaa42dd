//! One run: a competitor in an arena under a seed. Owns the loop of State, decision and tick; knows neither files nor threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use qscale_common::guard::{Verdict, direction};
use qscale_common::policy::RewardWeights;
use qscale_common::time::{Span, TickLength};
use qscale_policies::{Memory, Policy};
use qscale_sim::latency::Histogram;
use qscale_sim::rng::{Purpose, stream};
use qscale_sim::simulation::timestamp;
use qscale_sim::{Simulation, Totals};
use serde_json::Value;

use crate::arena::{Arena, World};
use crate::measure::{Meter, Tally, Yardstick};
use crate::pace::Pace;
use crate::results::{Course, Measures};
use crate::roster::{Fate, Roster};

/// A competitor as it comes to a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Contestant {
    /// What it is called.
    pub name: String,
    /// Its policy.
    pub policy: String,
    /// What that is told.
    pub params: Value,
    /// How often it sees a State.
    pub tick: TickLength,
    /// How old its measurements are at least.
    pub lag: Span,
}

/// What runs share.
pub struct Conditions<'a> {
    /// Makes policies.
    pub roster: &'a dyn Roster,
    /// What the terms of the loss weigh.
    pub weights: RewardWeights,
    /// Within what time a change is a reversal of the one before.
    pub reversal_within: Duration,
    /// Set by whoever wants runs to end early.
    pub stop: &'a AtomicBool,
    /// Tells the time for measuring how long decisions take; it has no part in any result.
    pub clock: Option<&'a (dyn Fn() -> Duration + Sync)>,
}

/// Why there is no result of a run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// Somebody wanted it to end.
    #[error("stopped")]
    Stopped,
    /// There is no such competitor.
    #[error("{0}")]
    Competitor(String),
}

/// What a run gives.
#[derive(Debug, Clone, PartialEq)]
pub struct Lived {
    /// Its measures.
    pub measures: Measures,
    /// Latencies of what was answered well in the measured part.
    pub latency: Histogram,
    /// Requests that failed in it.
    pub failed: u64,
    /// Its course, where that was wanted.
    pub course: Option<Course>,
    /// How long decisions took.
    pub pace: Pace,
}

/// Runs of one competitor in one arena, one seed after the other.
pub struct Runner<'a> {
    conditions: &'a Conditions<'a>,
    arena: &'a Arena,
    contestant: &'a Contestant,
    /// The simulated function of the last run, begun anew where the next one is of the same world.
    cell: Option<Simulation>,
    interval: Totals,
}

impl<'a> Runner<'a> {
    /// Runs of `contestant` in `arena`.
    #[must_use]
    pub fn new(conditions: &'a Conditions<'a>, arena: &'a Arena, contestant: &'a Contestant) -> Self {
        Self { conditions, arena, contestant, cell: None, interval: Totals::default() }
    }

    /// The run of `seed`; `lived` is called after each function.
    ///
    /// # Errors
    /// When it is stopped, or the competitor cannot be made.
    pub fn run(&mut self, seed: u64, with_course: bool, mut lived: impl FnMut()) -> Result<Lived, RunError> {
        let (mut tally, mut course, mut pace) = (Tally::default(), None, Pace::default());
        let arena = self.arena;
        for world in &arena.worlds {
            let (one, its_course) = self.live(world, seed, with_course, &mut pace)?;
            tally.include(&one);
            course = Course::together(course, its_course);
            lived();
        }
        let course = course.map(|course| course.averaged(arena.worlds.len()));
        let failed = tally.totals.unanswered();
        Ok(Lived { measures: tally.measures(&self.conditions.weights), latency: tally.totals.latency, failed, course, pace })
    }

    fn live(&mut self, world: &World, seed: u64, with_course: bool, pace: &mut Pace) -> Result<(Tally, Option<Course>), RunError> {
        let (conditions, stretch) = (self.conditions, self.arena.stretch);
        let setup = world.setup(self.contestant.tick, self.contestant.lag, seed, stretch.length());
        let fate = Fate { setup: &setup, seed, index: world.index, length: stretch.length() };
        let made = conditions.roster.policy(&self.contestant.policy, &self.contestant.params, Some(&fate));
        let policy = made.map_err(RunError::Competitor)?;
        let yardstick = Yardstick::new(&setup, stretch, conditions.reversal_within);
        let mut meter = Meter::new(&yardstick, &world.disturbed, with_course);
        let alike = self.arena.worlds.len() == 1 && !world.varies();
        let mut cell = match self.cell.take().filter(|_| alike) {
            Some(mut cell) => {
                cell.reset(seed);
                cell
            }
            None => Simulation::new(setup, seed, world.index),
        };
        let (mut memory, mut rng) = (Memory::default(), stream(seed, world.index, Purpose::Policy));
        let ticks = (stretch.interval.as_nanos() / self.contestant.tick.duration().as_nanos()) as u32;
        for _ in 0..stretch.warm_up + stretch.measured {
            for _ in 0..ticks {
                if conditions.stop.load(Ordering::Relaxed) {
                    return Err(RunError::Stopped);
                }
                tick(&mut cell, policy.as_ref(), &mut memory, &mut rng, &mut meter, pace, conditions.clock);
            }
            cell.take_interval(&mut self.interval);
            let (replicas, waiting) = (cell.function().allocation().replicas.0, cell.function().queued());
            meter.interval(&self.interval, replicas, waiting);
        }
        self.cell = Some(cell);
        Ok(meter.finish())
    }
}

/// Decides once and lives through a tick.
fn tick(
    cell: &mut Simulation,
    policy: &dyn Policy,
    memory: &mut Memory,
    rng: &mut qscale_common::workload::WorkloadRng,
    meter: &mut Meter<'_>,
    pace: &mut Pace,
    clock: Option<&(dyn Fn() -> Duration + Sync)>,
) {
    let now = cell.now();
    let decision = pace.time(clock, || policy.decide(cell.state(), memory, timestamp(now), rng));
    let before = cell.function().allocation();
    cell.step(decision.wanted());
    if let Some(Verdict::Apply { allocation, .. }) = cell.verdict()
        && let Some(direction) = direction(&cell.setup().policy.prices, before, *allocation)
    {
        meter.acted(now.into(), direction);
    }
}
