//! One run: a competitor in an simulation under a seed. Owns the loop of State, decision and tick; knows neither files nor threads.

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

use crate::cell::{CellFunction, EvaluationCell};
use crate::decision_latency::DecisionLatency;
use crate::measure::{Criteria, RunMeter, RunSums};
use crate::policy_set::{PolicySet, RunContext};
use crate::results::{Measures, TimeSeries};

/// A competitor as it comes to a run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunSpec {
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
    pub policy_set: &'a dyn PolicySet,
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
pub struct RunResult {
    /// Its measures.
    pub measures: Measures,
    /// Latencies of what was answered well in the measured part.
    pub latency: Histogram,
    /// Requests that failed in it.
    pub failed: u64,
    /// Its course, where that was wanted.
    pub course: Option<TimeSeries>,
    /// How long decisions took.
    pub decision_latency: DecisionLatency,
}

/// Runs of one competitor in one simulation, one seed after the other.
pub struct Runner<'a> {
    conditions: &'a Conditions<'a>,
    simulation: &'a EvaluationCell,
    spec: &'a RunSpec,
    /// The simulated function of the last run, begun anew where the next one is of the same world.
    simulation: Option<Simulation>,
    interval: Totals,
}

impl<'a> Runner<'a> {
    /// Runs of `spec` in `simulation`.
    #[must_use]
    pub fn new(conditions: &'a Conditions<'a>, simulation: &'a EvaluationCell, spec: &'a RunSpec) -> Self {
        Self { conditions, simulation, spec, simulation: None, interval: Totals::default() }
    }

    /// The run of `seed`; `lived` is called after each function.
    ///
    /// # Errors
    /// When it is stopped, or the competitor cannot be made.
    pub fn run(&mut self, seed: u64, with_course: bool, mut lived: impl FnMut()) -> Result<RunResult, RunError> {
        let (mut sums, mut course, mut decision_latency) = (RunSums::default(), None, DecisionLatency::default());
        let simulation = self.simulation;
        for world in &simulation.functions {
            let (one, its_course) = self.live(world, seed, with_course, &mut decision_latency)?;
            sums.include(&one);
            course = TimeSeries::together(course, its_course);
            lived();
        }
        let course = course.map(|course| course.averaged(simulation.functions.len()));
        let failed = sums.totals.unanswered();
        Ok(RunResult { measures: sums.measures(&self.conditions.weights), latency: sums.totals.latency, failed, course, decision_latency })
    }

    fn live(
        &mut self,
        world: &CellFunction,
        seed: u64,
        with_course: bool,
        decision_latency: &mut DecisionLatency,
    ) -> Result<(RunSums, Option<TimeSeries>), RunError> {
        let (conditions, measurement) = (self.conditions, self.simulation.measurement);
        let setup = world.setup(self.spec.tick, self.spec.lag, seed, measurement.length());
        let context = RunContext { setup: &setup, seed, index: world.index, length: measurement.length() };
        let made = conditions.policy_set.policy(&self.spec.policy, &self.spec.params, Some(&context));
        let policy = made.map_err(RunError::Competitor)?;
        let criteria = Criteria::new(&setup, measurement, conditions.reversal_within);
        let mut meter = RunMeter::new(&criteria, &world.disturbed, with_course);
        let alike = self.simulation.functions.len() == 1 && !world.varies();
        let mut simulation = match self.simulation.take().filter(|_| alike) {
            Some(mut simulation) => {
                simulation.reset(seed);
                simulation
            }
            None => Simulation::new(setup, seed, world.index),
        };
        let (mut memory, mut rng) = (Memory::default(), stream(seed, world.index, Purpose::Policy));
        let ticks = (measurement.interval.as_nanos() / self.spec.tick.duration().as_nanos()) as u32;
        for _ in 0..measurement.warm_up + measurement.measured {
            for _ in 0..ticks {
                if conditions.stop.load(Ordering::Relaxed) {
                    return Err(RunError::Stopped);
                }
                tick(&mut simulation, policy.as_ref(), &mut memory, &mut rng, &mut meter, decision_latency, conditions.clock);
            }
            simulation.take_interval(&mut self.interval);
            let (replicas, waiting) = (simulation.function().allocation().replicas.0, simulation.function().queued());
            meter.interval(&self.interval, replicas, waiting);
        }
        self.simulation = Some(simulation);
        Ok(meter.finish())
    }
}

/// Decides once and lives through a tick.
fn tick(
    simulation: &mut Simulation,
    policy: &dyn Policy,
    memory: &mut Memory,
    rng: &mut qscale_common::workload::WorkloadRng,
    meter: &mut RunMeter<'_>,
    decision_latency: &mut DecisionLatency,
    clock: Option<&(dyn Fn() -> Duration + Sync)>,
) {
    let now = simulation.now();
    let decision = decision_latency.time(clock, || policy.decide(simulation.state(), memory, timestamp(now), rng));
    let before = simulation.function().allocation();
    simulation.step(decision.wanted());
    if let Some(Verdict::Apply { allocation, .. }) = simulation.verdict()
        && let Some(direction) = direction(&simulation.setup().policy.prices, before, *allocation)
    {
        meter.acted(now.into(), direction);
    }
}
