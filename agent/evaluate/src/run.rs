//! One run: a competitor in a cell with a seed. Owns the loop of State, decision and tick; must not know files or threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use qscale_common::guard::Verdict;
use qscale_common::policy::RewardWeights;
use qscale_common::time::{Span, TickLength};
use qscale_common::units::Allocation;
use qscale_policies::{Memory, Policy, PolicyError};
use qscale_sim::latency::LatencyHistogram;
use qscale_sim::rng::{Purpose, stream};
use qscale_sim::simulation::timestamp;
use qscale_sim::{Setup, Simulation, Totals};
use serde_json::Value;

use crate::cell::{CellFunction, EvaluationCell};
use crate::decision_latency::DecisionLatency;
use crate::measure::{Criteria, RunMeter, RunSums};
use crate::planner::{AllocationPlan, PlanSearcher};
use crate::policy_set::{PolicySet, RunContext};
use crate::results::{Measure, Measures, TimeSeries};
use crate::suite::PlanSearch;

/// The competitor of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunSpec {
    /// Name of the competitor.
    pub name: String,
    /// Name of its policy.
    pub policy: String,
    /// Parameters of the policy.
    pub params: Value,
    /// Tick at which it sees States.
    pub tick: TickLength,
    /// Additional metric lag.
    pub lag: Span,
}

/// Settings common to all runs.
pub struct Conditions<'a> {
    /// Constructs policies.
    pub policy_set: &'a dyn PolicySet,
    /// Weights of the terms of the loss.
    pub weights: RewardWeights,
    /// Time within which an opposite change counts as a reversal.
    pub reversal_within: Duration,
    /// Set to stop runs early.
    pub stop: &'a AtomicBool,
    /// Clock for the latency of decisions; no result depends on it.
    pub clock: Option<&'a (dyn Fn() -> Duration + Sync)>,
}

/// Why a run has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// It was stopped.
    #[error("stopped")]
    Stopped,
    /// The competitor cannot be made.
    #[error(transparent)]
    Competitor(PolicyError),
}

/// Result of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunResult {
    /// Its measures.
    pub measures: Measures,
    /// Latencies of successful requests in the measured part.
    pub latency: LatencyHistogram,
    /// Requests that failed in it.
    pub failed: u64,
    /// Its time series, if requested.
    pub time_series: Option<TimeSeries>,
    /// Latency of decisions.
    pub decision_latency: DecisionLatency,
}

/// Runs of one competitor in one cell, one seed after the other.
pub struct Runner<'a> {
    conditions: &'a Conditions<'a>,
    cell: &'a EvaluationCell,
    spec: &'a RunSpec,
    /// The simulation of the last run, reset if the next run has the same setup.
    simulation: Option<Simulation>,
    interval: Totals,
    /// Allocation of each tick of the last simulated function.
    allocations: Vec<Allocation>,
}

impl<'a> Runner<'a> {
    /// Runs of `spec` in `cell`.
    #[must_use]
    pub fn new(conditions: &'a Conditions<'a>, cell: &'a EvaluationCell, spec: &'a RunSpec) -> Self {
        Self { conditions, cell, spec, simulation: None, interval: Totals::default(), allocations: Vec::new() }
    }

    /// Runs `seed`; calls `simulated` after each function.
    ///
    /// # Errors
    /// If it is stopped, or the competitor cannot be made.
    pub fn run(&mut self, seed: u64, with_series: bool, mut simulated: impl FnMut()) -> Result<RunResult, RunError> {
        let (mut sums, mut time_series, mut decision_latency) = (RunSums::default(), None, DecisionLatency::default());
        let cell = self.cell;
        for world in &cell.functions {
            let setup = self.setup(world, seed);
            let policy = self.policy(world, &setup, seed)?;
            let (one, its_series) = self.simulate(world, setup, policy.as_ref(), seed, with_series, &mut decision_latency)?;
            sums.include(&one);
            time_series = TimeSeries::together(time_series, its_series);
            simulated();
        }
        Ok(self.result(sums, time_series, decision_latency))
    }

    /// Searches for a plan of `seed` that is better than the policy, and runs it. If there is none, the run of the policy is returned. Calls `simulated` for
    /// each function.
    ///
    /// # Errors
    /// If it is stopped, or the competitor cannot be made.
    pub fn plan(&mut self, seed: u64, search: PlanSearch, with_series: bool, mut simulated: impl FnMut()) -> Result<RunResult, RunError> {
        let (conditions, cell) = (self.conditions, self.cell);
        let (mut plans, mut sums, mut time_series) = (Vec::new(), RunSums::default(), None);
        for world in &cell.functions {
            let setup = self.setup(world, seed);
            let policy = self.policy(world, &setup, seed)?;
            let (one, its_series) = self.simulate(world, setup, policy.as_ref(), seed, with_series, &mut DecisionLatency::default())?;
            plans.push(AllocationPlan::new(self.spec.tick, std::mem::take(&mut self.allocations)));
            sums.include(&one);
            time_series = TimeSeries::together(time_series, its_series);
        }
        let shares = sums.loss_shares(&conditions.weights);
        let start = self.result(sums, time_series, DecisionLatency::default());
        let (mut sums, mut time_series) = (RunSums::default(), None);
        for (world, plan) in cell.functions.iter().zip(&mut plans) {
            let setup = self.setup(world, seed);
            let criteria = Criteria::new(&setup, cell.measurement, conditions.reversal_within);
            let searcher = PlanSearcher { criteria: &criteria, shares, stop: conditions.stop };
            if !searcher.improve(plan, &Simulation::new(setup.clone(), seed, world.index), search.passes) {
                return Err(RunError::Stopped);
            }
            let (one, its_series) = self.simulate(world, setup, plan, seed, with_series, &mut DecisionLatency::default())?;
            sums.include(&one);
            time_series = TimeSeries::together(time_series, its_series);
            simulated();
        }
        let planned = self.result(sums, time_series, DecisionLatency::default());
        let loss = |result: &RunResult| result.measures.get(Measure::Loss).unwrap_or(f64::INFINITY);
        Ok(if loss(&start) <= loss(&planned) { start } else { planned })
    }

    fn setup(&self, world: &CellFunction, seed: u64) -> Setup {
        world.setup(self.spec.tick, self.spec.lag, seed, self.cell.measurement.length())
    }

    fn policy(&self, world: &CellFunction, setup: &Setup, seed: u64) -> Result<Box<dyn Policy>, RunError> {
        let context = RunContext { setup, seed, index: world.index, length: self.cell.measurement.length() };
        self.conditions.policy_set.policy(&self.spec.policy, &self.spec.params, Some(&context)).map_err(RunError::Competitor)
    }

    /// Ticks in an interval.
    fn ticks(&self) -> usize {
        (self.cell.measurement.interval.as_nanos() / self.spec.tick.duration().as_nanos()) as usize
    }

    fn result(&self, sums: RunSums, time_series: Option<TimeSeries>, decision_latency: DecisionLatency) -> RunResult {
        let time_series = time_series.map(|time_series| time_series.averaged(self.cell.functions.len()));
        let failed = sums.totals.unanswered();
        RunResult { measures: sums.measures(&self.conditions.weights), latency: sums.totals.latency, failed, time_series, decision_latency }
    }

    fn simulate(
        &mut self,
        world: &CellFunction,
        setup: Setup,
        policy: &dyn Policy,
        seed: u64,
        with_series: bool,
        decision_latency: &mut DecisionLatency,
    ) -> Result<(RunSums, Option<TimeSeries>), RunError> {
        let (conditions, measurement) = (self.conditions, self.cell.measurement);
        let criteria = Criteria::new(&setup, measurement, conditions.reversal_within);
        let mut meter = RunMeter::new(&criteria, &world.disturbed, with_series);
        let alike = self.cell.functions.len() == 1 && !world.varies();
        let mut simulation = match self.simulation.take().filter(|_| alike) {
            Some(mut simulation) => {
                simulation.reset(seed);
                simulation
            }
            None => Simulation::new(setup, seed, world.index),
        };
        let (mut memory, mut rng) = (Memory::default(), stream(seed, world.index, Purpose::Policy));
        self.allocations.clear();
        for _ in 0..measurement.intervals() {
            for _ in 0..self.ticks() {
                if conditions.stop.load(Ordering::Relaxed) {
                    return Err(RunError::Stopped);
                }
                tick(&mut simulation, policy, &mut memory, &mut rng, &mut meter, decision_latency, conditions.clock);
                self.allocations.push(simulation.function().allocation());
            }
            simulation.take_interval(&mut self.interval);
            let (replicas, waiting) = (simulation.function().allocation().replicas.0, simulation.function().queued());
            meter.interval(&self.interval, replicas, waiting);
        }
        self.simulation = Some(simulation);
        Ok(meter.finish())
    }
}

/// Decides once and advances by a tick.
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
        && let Some(direction) = simulation.setup().policy.prices.direction(before, *allocation)
    {
        meter.acted(now.into(), direction);
    }
}
