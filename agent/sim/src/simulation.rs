//! One function with what production puts around it: load, Scrapes, windows, State, guard and reward. Owns the order of a tick; must not decide.
//!
//! A tick: what is wanted passes the guard and is in force at once; the world lives through the tick; what can be seen of it then is read, or was some time ago
//! where measurements are asked to be late, but for what the platform itself tells, which is never late; or not at all; the windows close, and the State and the reward follow as the collector makes them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use qscale_common::contract::{Epoch, Headroom, Moment, State};
use qscale_common::guard::{Budget, Case, Standing, Verdict, permit};
use qscale_common::policy::{Mode, ScalingPolicy};
use qscale_common::reward::{Judgement, judge};
use qscale_common::time::{Tick, Timestamp};
use qscale_common::units::Allocation;
use qscale_common::window::{Windows, assemble};
use qscale_common::workload::WorkloadRng;
use rand::RngExt;

use crate::function::{Function, Reading};
use crate::load::{Load, Source};
use crate::nanos::Nanos;
use crate::node::Nodes;
use crate::perturbation::{Event, Perturbation};
use crate::profile::{FunctionProfile, Gateway};
use crate::rng::{Purpose, stream};
use crate::totals::Totals;

/// When every world begins: a Monday at midnight UTC, so that the time of day means something.
pub const BEGIN: Timestamp = Timestamp(1_735_516_800_000);

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The function.
    pub profile: Arc<FunctionProfile>,
    /// Its gateway.
    pub gateway: Gateway,
    /// Objective, bounds, prices, weights, guardrails and tick. Its mode is taken for `active`.
    pub policy: ScalingPolicy,
    /// What it has when the world begins, ready; brought within the policy's bounds.
    pub allocation: Allocation,
    /// Its load.
    pub load: Load,
    /// Disturbances of the world.
    pub perturbation: Perturbation,
    /// The machines that it has for itself; `None` is as many as it takes.
    pub nodes: Option<Nodes>,
}

/// One simulated function under control.
#[derive(Debug, Clone)]
pub struct Simulation {
    setup: Setup,
    index: u64,
    function: Function,
    source: Source,
    now: Nanos,
    /// Events of the perturbation in order of time, and the number of those that have happened.
    events: (Vec<(Nanos, Event)>, usize),
    scrape_rng: WorkloadRng,
    headroom: Option<Headroom>,
    /// What was read and is not known yet, oldest first.
    late: VecDeque<Reading>,
    spare: Vec<Reading>,
    reading: Reading,
    windows: Windows,
    budget: Budget,
    state: State,
    reward: Judgement,
    verdict: Option<Verdict>,
}

impl Simulation {
    /// Function number `index` of a run of `seed`, when the world begins.
    #[must_use]
    pub fn new(setup: Setup, seed: u64, index: u64) -> Self {
        let mut setup = setup;
        setup.policy.mode = Mode::Active;
        let windows = Windows::new(setup.policy.tick);
        let state = assemble(&setup.policy, moment(BEGIN, &setup.policy), BEGIN, &windows, None);
        let mut simulation = Self {
            function: function(&setup, seed, index),
            source: setup.load.source(stream(seed, index, Purpose::Arrivals)),
            now: Nanos::ZERO,
            events: (setup.perturbation.events(), 0),
            scrape_rng: stream(seed, index, Purpose::Scrapes),
            headroom: None,
            late: VecDeque::new(),
            spare: Vec::new(),
            reading: Reading::default(),
            windows,
            budget: Budget::default(),
            state,
            reward: NO_REWARD,
            verdict: None,
            index,
            setup,
        };
        simulation.begin();
        simulation
    }

    /// Begins anew, as a run of `seed`, in the memory that it has.
    pub fn reset(&mut self, seed: u64) {
        self.function.reset(seed, self.index);
        self.setup.load.reset(&mut self.source, stream(seed, self.index, Purpose::Arrivals));
        self.scrape_rng = stream(seed, self.index, Purpose::Scrapes);
        self.now = Nanos::ZERO;
        self.spare.extend(self.late.drain(..));
        self.windows.clear();
        self.budget = Budget::default();
        (self.reward, self.verdict) = (NO_REWARD, None);
        self.begin();
    }

    fn begin(&mut self) {
        self.events.1 = 0;
        self.function.set_scale(self.setup.perturbation.scale_at(Nanos::ZERO));
        self.function.warm(self.setup.policy.bounds.clamp(self.setup.allocation), Nanos::ZERO);
        // What replicas count before the first tick is where counting begins.
        self.function.scrape(Nanos::ZERO, BEGIN, &mut self.reading);
        self.ingest();
        self.close(BEGIN);
    }

    /// Lives through one tick with what is wanted, as far as the guard permits; `None` wants nothing else than there is.
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
        let in_force = Some(self.function.allocation());
        let (policy, budget, state) = (&self.setup.policy, &self.budget, Some(&self.state));
        let case = Case { wanted, in_force, standing: Standing::Named, policy, state, frozen: None, vertical: true, budget, now };
        let verdict = permit(&case);
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
                Event::Scale => self.function.set_scale(self.setup.perturbation.scale_at(at)),
                Event::NodeLost(node) => self.function.lose_node(node, at),
                Event::NodeReturned(node) => self.function.return_node(node, at),
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

    /// Lets what was read so many ticks ago arrive; says whether there was anything.
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

    /// Learns what arrived, unless it was lost.
    fn ingest_unless_lost(&mut self) {
        // Drawn always, so that losing one changes nothing about the next.
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
        let moment = moment(now, policy);
        self.windows.close(moment.tick, &policy.prices);
        refresh(&mut self.state, policy, moment, now, &self.windows);
        self.state.headroom = self.headroom;
        if let Some(closed) = self.windows.closed() {
            self.reward = judge(&self.state.windows.tick, closed, policy);
        }
    }

    /// What an agent sees.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What the last tick was worth.
    #[must_use]
    pub fn reward(&self) -> &Judgement {
        &self.reward
    }

    /// What the guard said to what was wanted last; `None` where nothing was.
    #[must_use]
    pub fn verdict(&self) -> Option<&Verdict> {
        self.verdict.as_ref()
    }

    /// What really happened since the world began, or since it was last taken.
    pub fn totals(&mut self) -> &Totals {
        self.function.totals(self.now)
    }

    /// Takes what really happened since the world began, or since it was last taken, into `interval`, whose memory is used again. Scrapes go on counting.
    pub fn take_interval(&mut self, interval: &mut Totals) {
        self.function.take_interval(self.now, interval);
    }

    /// The function in its world.
    #[must_use]
    pub fn function(&self) -> &Function {
        &self.function
    }

    /// What is simulated.
    #[must_use]
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Time since the world began.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// Bytes that the function and its windows take.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.function.memory_bytes() - size_of::<Function>() + self.windows.memory_bytes() - size_of::<Windows>()
    }
}

fn function(setup: &Setup, seed: u64, index: u64) -> Function {
    let Setup { profile, gateway, perturbation, nodes, .. } = setup;
    Function::new(Arc::clone(profile), *gateway, seed, index).on_nodes(*nodes).crashing(perturbation.crashes_per_hour)
}

const NO_REWARD: Judgement = {
    const NOT_MEASURED: qscale_common::contract::Term = qscale_common::contract::Term { value: None, weight: 0.0 };
    const TERMS: qscale_common::contract::Terms = qscale_common::contract::Terms {
        violation: NOT_MEASURED,
        cost: NOT_MEASURED,
        resize: NOT_MEASURED,
        reversal: NOT_MEASURED,
        kill: NOT_MEASURED,
    };
    Judgement { value: None, terms: TERMS, completion: None, latency_ms: None, cost_per_hour: None }
};

/// The instant `now` of a world as production writes it.
#[must_use]
pub fn timestamp(now: Nanos) -> Timestamp {
    BEGIN.plus(Duration::from(now))
}

fn moment(now: Timestamp, policy: &ScalingPolicy) -> Moment {
    Moment { epoch: Epoch(BEGIN.0), tick: Tick::at(now, policy.tick) }
}

/// Makes `state` what [`assemble`] would make, in the memory that it has: names, objective, bounds and prices stay.
fn refresh(state: &mut State, policy: &ScalingPolicy, moment: Moment, now: Timestamp, windows: &Windows) {
    state.tick = moment.tick;
    state.observed_at_ms = now;
    state.allocation = windows.allocation();
    state.replicas = windows.replicas(now);
    state.age = windows.ages(now);
    state.windows = windows.measured(policy.objective.percentile.get());
    state.changes = windows.changes();
    state.startup_ms = windows.startup_ms();
}

#[cfg(test)]
mod tests;
