//! Simulation of one function under control: load, Scrapes, windows, State, guard and reward. Owns the order of a tick; must not decide.
//!
//! A tick: the wanted allocation passes the guard and applies at once; time advances by the tick, with the events of
//! the perturbation; measurements are read, late or lost as the perturbation says, while the platform's own part is
//! never late; the windows close, and State and reward follow from the collector's own code.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use qscale_common::contract::{Epoch, Headroom, State, StateId, Terms};
use qscale_common::guard::{Budget, DecisionKind, GuardInput, Verdict, evaluate};
use qscale_common::policy::{Mode, ScalingPolicy};
use qscale_common::reward::{MeasuredReward, measure};
use qscale_common::time::{Tick, Timestamp};
use qscale_common::units::Allocation;
use qscale_common::window::{FunctionWindows, assemble};
use qscale_common::workload::WorkloadRng;
use rand::RngExt;

use crate::function::{Function, ScrapeBuffer};
use crate::load::{LoadSource, SimulatedLoad};
use crate::nanos::Nanos;
use crate::node::Nodes;
use crate::perturbation::{Perturbation, PerturbationEvent};
use crate::profile::{FunctionProfile, Gateway};
use crate::rng::{Purpose, stream};
use crate::totals::Totals;

/// Start of every simulation: a Monday at midnight UTC, so that the time of day is meaningful.
pub const BEGIN: Timestamp = Timestamp(1_735_516_800_000);

/// Setup of a simulation.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The function.
    pub profile: Arc<FunctionProfile>,
    /// Gateway limits.
    pub gateway: Gateway,
    /// Objective, bounds, prices, weights, guardrails and tick. Its mode is treated as `active`.
    pub policy: ScalingPolicy,
    /// Initial allocation, ready at the start; clamped to the bounds.
    pub allocation: Allocation,
    /// Load.
    pub load: SimulatedLoad,
    /// Disturbances.
    pub perturbation: Perturbation,
    /// Nodes for this function alone; `None` without limit.
    pub nodes: Option<Nodes>,
}

/// A simulated function under control.
#[derive(Debug, Clone)]
pub struct Simulation {
    setup: Setup,
    index: u64,
    function: Function,
    source: LoadSource,
    now: Nanos,
    /// Events of the perturbation in order of time, and the number of those that have happened.
    events: (Vec<(Nanos, PerturbationEvent)>, usize),
    scrape_rng: WorkloadRng,
    headroom: Option<Headroom>,
    /// Readings that are not delivered yet, oldest first.
    late: VecDeque<ScrapeBuffer>,
    spare: Vec<ScrapeBuffer>,
    reading: ScrapeBuffer,
    windows: FunctionWindows,
    budget: Budget,
    state: State,
    reward: MeasuredReward,
    verdict: Option<Verdict>,
}

impl Simulation {
    /// Function `index` of a run of `seed`, at its start.
    #[must_use]
    pub fn new(setup: Setup, seed: u64, index: u64) -> Self {
        let mut setup = setup;
        setup.policy.mode = Mode::Active;
        let windows = FunctionWindows::new(setup.policy.tick);
        let state = assemble(&setup.policy, state_id(BEGIN, &setup.policy), BEGIN, &windows, None);
        let mut simulation = Self {
            function: function(&setup, seed, index),
            source: setup.load.source(stream(seed, index, Purpose::Arrivals)),
            now: Nanos::ZERO,
            events: (setup.perturbation.events(), 0),
            scrape_rng: stream(seed, index, Purpose::Scrapes),
            headroom: None,
            late: VecDeque::new(),
            spare: Vec::new(),
            reading: ScrapeBuffer::default(),
            windows,
            budget: Budget::default(),
            state,
            reward: NOT_MEASURED_YET,
            verdict: None,
            index,
            setup,
        };
        simulation.begin();
        simulation
    }

    /// Restarts as a run of `seed`, reusing memory.
    pub fn reset(&mut self, seed: u64) {
        self.function.reset(seed, self.index);
        self.setup.load.reset(&mut self.source, stream(seed, self.index, Purpose::Arrivals));
        self.scrape_rng = stream(seed, self.index, Purpose::Scrapes);
        self.now = Nanos::ZERO;
        self.spare.extend(self.late.drain(..));
        self.windows.clear();
        self.budget = Budget::default();
        (self.reward, self.verdict) = (NOT_MEASURED_YET, None);
        self.begin();
    }

    fn begin(&mut self) {
        self.events.1 = 0;
        self.function.set_scale(self.setup.perturbation.scale_at(Nanos::ZERO));
        self.function.warm(self.setup.policy.bounds.clamp(self.setup.allocation), Nanos::ZERO);
        // Counters before the first tick are the baseline.
        self.function.scrape(Nanos::ZERO, BEGIN, &mut self.reading);
        self.ingest();
        self.close(BEGIN);
    }

    /// Advances by one tick with a wanted allocation, as far as the guard permits; `None` keeps the current one.
    pub fn step(&mut self, wanted: Option<Allocation>) {
        self.verdict = wanted.map(|wanted| self.decided(wanted));
        let tick = Nanos::from(self.setup.policy.tick.duration());
        let lag = Nanos::from(self.setup.perturbation.metric_lag.0).min(Nanos::LONGEST);
        let end = self.now + tick;
        let (late_ticks, late_within) = (lag.0 / tick.0, Nanos(lag.0 % tick.0));
        self.advance(end - late_within);
        self.read();
        self.advance(end);
        if self.deliver(late_ticks as usize) {
            self.function.read_platform(timestamp(end), &mut self.reading);
            self.ingest_unless_lost();
        }
        self.close(timestamp(end));
    }

    fn decided(&mut self, wanted: Allocation) -> Verdict {
        let now = timestamp(self.now);
        let current = Some(self.function.allocation());
        let (policy, budget, state) = (&self.setup.policy, &self.budget, Some(&self.state));
        let case = GuardInput { wanted, current, kind: DecisionKind::Named, policy, state, frozen: None, vertical: true, budget, now };
        let verdict = evaluate(&case);
        if let Verdict::Apply { allocation, charge, .. } = &verdict {
            charge.iter().for_each(|direction| self.budget.charge(*direction, now));
            self.function.allocate(*allocation, self.now);
        }
        verdict
    }

    /// Advances to `until`, with the events of the perturbation before it.
    fn advance(&mut self, until: Nanos) {
        while let Some((at, event)) = self.events.0.get(self.events.1).copied().filter(|(at, _)| *at < until) {
            self.source.feed(&mut self.function, at);
            match event {
                PerturbationEvent::Scale => self.function.set_scale(self.setup.perturbation.scale_at(at)),
                PerturbationEvent::NodeLost(node) => self.function.lose_node(node, at),
                PerturbationEvent::NodeReturned(node) => self.function.return_node(node, at),
            }
            self.events.1 += 1;
        }
        self.source.feed(&mut self.function, until);
        self.function.advance(until);
        self.now = until;
    }

    fn read(&mut self) {
        self.function.scrape(self.now, timestamp(self.now), &mut self.reading);
    }

    /// Delivers the reading of `late_ticks` ticks ago; returns whether there is one.
    fn deliver(&mut self, late_ticks: usize) -> bool {
        if late_ticks == 0 {
            return true;
        }
        let oldest = if self.late.len() < late_ticks { None } else { self.late.pop_front() };
        let arrived = oldest.is_some();
        let next = oldest.or_else(|| self.spare.pop()).unwrap_or_default();
        self.late.push_back(std::mem::replace(&mut self.reading, next));
        arrived
    }

    /// Ingests the delivered reading, unless it is lost.
    fn ingest_unless_lost(&mut self) {
        // Always drawn, so that a loss does not change later draws.
        let lost = self.scrape_rng.random::<f64>() < self.setup.perturbation.lost_scrapes;
        if !lost {
            self.ingest();
        }
    }

    fn ingest(&mut self) {
        self.windows.record(&self.reading.scrape);
        self.headroom = self.reading.headroom;
    }

    fn close(&mut self, now: Timestamp) {
        let policy = &self.setup.policy;
        let state_id = state_id(now, policy);
        self.windows.close(state_id.tick, &policy.prices);
        self.windows.write_state(&mut self.state, state_id, now, self.headroom);
        if let Some(closed) = self.windows.closed() {
            self.reward = measure(&self.state.windows.tick, closed, policy);
        }
    }

    /// The current State.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Reward of the last tick.
    #[must_use]
    pub fn reward(&self) -> &MeasuredReward {
        &self.reward
    }

    /// The guard's verdict on the last wanted allocation, if there was one.
    #[must_use]
    pub fn verdict(&self) -> Option<&Verdict> {
        self.verdict.as_ref()
    }

    /// True totals since the start, or since they were last taken.
    pub fn totals(&mut self) -> &Totals {
        self.function.totals(self.now)
    }

    /// Moves the true totals into `interval`, reusing its memory, and starts new ones. Counters in Scrapes continue.
    pub fn take_interval(&mut self, interval: &mut Totals) {
        self.function.take_interval(self.now, interval);
    }

    /// The simulated function.
    #[must_use]
    pub fn function(&self) -> &Function {
        &self.function
    }

    /// Setup of a simulation.
    #[must_use]
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Time since the start.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// Size of function and windows in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.function.memory_bytes() - size_of::<Function>() + self.windows.memory_bytes()
            - size_of::<FunctionWindows>()
    }
}

fn function(setup: &Setup, seed: u64, index: u64) -> Function {
    let Setup { profile, gateway, perturbation, nodes, .. } = setup;
    Function::new(Arc::clone(profile), *gateway, seed, index).on_nodes(*nodes).crashing(perturbation.crashes_per_hour)
}

const NOT_MEASURED_YET: MeasuredReward =
    MeasuredReward { value: None, terms: Terms::UNMEASURED, completion: None, latency_ms: None, cost_per_hour: None };

/// Timestamp of the instant `now`.
#[must_use]
pub fn timestamp(now: Nanos) -> Timestamp {
    BEGIN.plus(Duration::from(now))
}

fn state_id(now: Timestamp, policy: &ScalingPolicy) -> StateId {
    StateId { epoch: Epoch(BEGIN.0), tick: Tick::at(now, policy.tick) }
}

#[cfg(test)]
mod tests;
