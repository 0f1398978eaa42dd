//! A simulated function: its file, desired allocation, simulation and load. Owns advancing them together; the platform
//! owns the list of functions.

use std::collections::BTreeMap;
use std::sync::Arc;

use qscale_common::name::FunctionId;
use qscale_common::platform::metrics::FunctionCounters;
use qscale_common::platform::{EventKind, FunctionSpec, ReplicaState};
use qscale_common::time::Timestamp;
use qscale_common::units::{Allocation, Replicas};
use qscale_sim::load::LoadSource;
use qscale_sim::replica::{Phase, SimulatedReplica};
use qscale_sim::rng::{Purpose, stream};
use qscale_sim::{Function, Gateway, Nanos, ScrapeBuffer};

use crate::inputs::SimulationInputs;
use crate::published::PublishedLoad;

/// Start of the platform, from which virtual time counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin(pub Timestamp);

impl Origin {
    /// Virtual time at `now`.
    #[must_use]
    pub fn nanos(self, now: Timestamp) -> Nanos {
        Nanos::from(now.since(self.0))
    }

    /// Time of day at virtual time `at`.
    #[must_use]
    pub fn timestamp(self, at: Nanos) -> Timestamp {
        self.0.plus(at.into())
    }
}

/// Event of a function: the replica, if it concerns one, the kind, and a message.
pub type FunctionEvent = (Option<String>, EventKind, String);

/// A simulated function.
#[derive(Debug)]
pub struct Simulated {
    /// Namespace and name.
    pub id: FunctionId,
    pub(crate) spec: Arc<FunctionSpec>,
    pub(crate) inputs: SimulationInputs,
    pub(crate) world: Function,
    pub(crate) reading: ScrapeBuffer,
    pub(crate) desired: Allocation,
    /// Reason why the current memory limit differs from the desired one, if it does.
    pub(crate) held: Option<String>,
    /// Counts from before the function file was replaced.
    pub(crate) carried: FunctionCounters,
    pub(crate) published: PublishedLoad,
    pub(crate) known: BTreeMap<u32, ObservedReplica>,
    origin: Origin,
    source: Option<LoadSource>,
    /// Start of its load.
    pub(crate) load_began: Option<Nanos>,
    now: Nanos,
    /// Part of the replicas' ids that makes them unique.
    run: u64,
}

/// State of a replica at the last observation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ObservedReplica {
    pub state: ReplicaState,
    /// OOM kills.
    pub kills: u64,
    /// Startup time, known once the start begins.
    pub startup: Option<Nanos>,
    /// First start of its process, with which its counters began; absent until it is placed.
    pub begun: Option<Nanos>,
}

impl Simulated {
    /// Creates a function with the allocation of its file. `run` must be unique.
    #[must_use]
    pub fn new(spec: FunctionSpec, inputs: SimulationInputs, origin: Origin, run: u64, now: Timestamp) -> Self {
        let at = origin.nanos(now);
        let desired = Allocation::from(spec.allocation);
        let mut world = world(&spec, &inputs);
        world.allocate(desired, at);
        Self {
            id: spec.id(),
            spec: Arc::new(spec),
            world,
            inputs,
            reading: ScrapeBuffer::default(),
            desired,
            held: None,
            carried: FunctionCounters::default(),
            published: PublishedLoad::at(now),
            known: BTreeMap::new(),
            origin,
            source: None,
            load_began: None,
            now: at,
            run,
        }
    }

    /// Function file.
    #[must_use]
    pub fn spec(&self) -> &FunctionSpec {
        &self.spec
    }

    /// Desired allocation.
    #[must_use]
    pub fn desired(&self) -> Allocation {
        self.desired
    }

    /// Starts its load at `now`, unless already started.
    pub fn begin_load(&mut self, now: Timestamp) {
        if self.load_began.is_some() {
            return;
        }
        let begin = self.origin.nanos(now).max(self.now);
        self.load_began = Some(begin);
        self.published = PublishedLoad::at(now);
        self.play(begin);
    }

    fn play(&mut self, begin: Nanos) {
        let source = |load: &qscale_sim::SimulatedLoad| load.source(stream(self.inputs.seed, 0, Purpose::Arrivals)).beginning(begin);
        self.source = self.inputs.load.as_ref().map(source);
    }

    /// Stops its load.
    pub fn stop_load(&mut self) {
        self.source = None;
    }

    /// Whether it has no replica and no waiting request.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.world.replicas().next().is_none() && self.world.queued() == 0
    }

    /// Advances the simulation to `now`; returns the events.
    pub fn advance(&mut self, now: Timestamp) -> Vec<FunctionEvent> {
        // If the clock was set back, the simulation waits for it.
        let until = self.origin.nanos(now).max(self.now);
        if let Some(source) = &mut self.source {
            source.feed(&mut self.world, until);
        }
        self.world.advance(until);
        self.now = until;
        if self.held.is_some() {
            self.apply();
        }
        let mut events = Vec::new();
        if self.world.allocation().replicas > self.desired.replicas {
            self.desired.replicas = Replicas(1);
            events.push((None, EventKind::StartedFromZero, "a request waits: 0 to 1 replicas".to_owned()));
        }
        self.observe(&mut events);
        events
    }

    /// Sets the desired allocation; returns the events. The function must be advanced to the present.
    pub fn allocate(&mut self, desired: Allocation) -> Vec<FunctionEvent> {
        let mut events = Vec::new();
        if desired != self.desired {
            events.push((None, EventKind::AllocationSet, format!("{} to {desired}", self.desired)));
        }
        let held = self.held.is_some();
        self.desired = desired;
        self.apply();
        if let Some(why) = self.held.clone().filter(|_| !held) {
            events.push((None, EventKind::ResizeRefused, why));
        }
        self.observe(&mut events);
        events
    }

    /// Applies the desired allocation. A memory limit below a replica's usage is deferred: all replicas keep their limit until it fits.
    fn apply(&mut self) {
        let most = self.world.replicas().map(|replica| self.inputs.profile.memory.working_set(replica.load)).max().unwrap_or(0);
        let current = self.world.allocation();
        let fits = self.desired.memory_mib.bytes() > most || self.desired.memory_mib >= current.memory_mib;
        self.held = (!fits).then(|| {
            let in_use = qscale_common::units::Mebibytes::from_bytes(most);
            format!("memory_mib = {}, must be above the memory in use, {in_use}", self.desired.memory_mib.0)
        });
        let memory_mib = if fits { self.desired.memory_mib } else { current.memory_mib };
        let allocation = Allocation { memory_mib, ..self.desired };
        if allocation != current {
            self.world.allocate(allocation, self.now);
        }
    }

    /// Replaces the function file. The function must be advanced to the present. If only the load differs, replicas
    /// stay; otherwise they are replaced by ready ones, and requests in flight are lost. Counters are kept.
    pub fn replace(&mut self, spec: FunctionSpec, inputs: SimulationInputs, run: u64) {
        let same_world = inputs.profile == self.inputs.profile
            && inputs.scale == self.inputs.scale
            && inputs.crashes_per_hour == self.inputs.crashes_per_hour
            && gateway(&spec) == gateway(&self.spec);
        (self.spec, self.inputs) = (Arc::new(spec), inputs);
        if !same_world {
            self.carried = self.counted();
            self.published.carry(self.world.totals(self.now));
            self.world = world(&self.spec, &self.inputs);
            self.world.warm(self.desired, self.now);
            (self.run, self.held) = (run, None);
            self.known.clear();
        }
        if self.load_began.is_some() {
            self.load_began = Some(self.now);
            self.play(self.now);
        }
    }

    /// Counters over all function files.
    pub(crate) fn counted(&mut self) -> FunctionCounters {
        let at = self.origin.timestamp(self.now);
        self.world.scrape(self.now, at, &mut self.reading);
        let (arrived, platform) =
            (self.reading.scrape.ingress.as_ref().map_or(0, |ingress| ingress.arrived.sum()), self.reading.scrape.platform);
        let (startups, startup_ms) = platform.and_then(|platform| platform.startups).unwrap_or_default();
        FunctionCounters {
            arrived: self.carried.arrived + arrived,
            oom_kills: self.carried.oom_kills + platform.and_then(|platform| platform.oom_kills).unwrap_or(0),
            crashes: self.carried.crashes + platform.and_then(|platform| platform.crashes).unwrap_or(0),
            startups: self.carried.startups + startups,
            startup_time: self.carried.startup_time + std::time::Duration::from_millis(startup_ms),
        }
    }

    /// Id of a replica.
    pub(crate) fn name_of(&self, number: u32) -> String {
        format!("{}-{:05x}-{number}", self.id.name, self.run)
    }

    /// First start of a replica, from which on its counters go on over all restarts.
    pub(crate) fn started(&self, replica: &SimulatedReplica) -> Option<Timestamp> {
        self.seen(replica).begun.map(|begun| self.origin.timestamp(begun))
    }

    /// Virtual time since its load began; zero if it has not.
    pub(crate) fn loaded_for(&self) -> Nanos {
        self.load_began.map_or(Nanos::ZERO, |began| self.now.since(began))
    }

    /// Totals of the simulation.
    pub(crate) fn totals(&mut self) -> &qscale_sim::Totals {
        self.world.totals(self.now)
    }

    /// Records changes of its replicas.
    fn observe(&mut self, events: &mut Vec<FunctionEvent>) {
        let now: BTreeMap<u32, ObservedReplica> = self.world.replicas().map(|replica| (replica.number, self.seen(replica))).collect();
        if now == self.known {
            return;
        }
        for (number, ObservedReplica { state, kills, startup, .. }) in &now {
            let before = self.known.get(number).map(|known| known.state);
            let mut add = |kind, message: String| events.push((Some(self.name_of(*number)), kind, message));
            if before.is_none() {
                add(EventKind::ReplicaStarted, "simulated".to_owned());
            }
            match state {
                ReplicaState::Ready if before != Some(ReplicaState::Ready) => {
                    add(EventKind::ReplicaReady, format!("ready after {} ms", startup.unwrap_or_default().0 / 1_000_000));
                }
                ReplicaState::Draining if before != Some(ReplicaState::Draining) => {
                    add(EventKind::ReplicaDraining, "finishing requests".to_owned());
                }
                ReplicaState::BackOff if before != Some(ReplicaState::BackOff) => {
                    let of_memory = *kills > self.known.get(number).map_or(0, |known| known.kills);
                    let kind = if of_memory { EventKind::ReplicaOomKilled } else { EventKind::ReplicaCrashed };
                    add(kind, "ended unexpectedly; restarting".to_owned());
                }
                _ => {}
            }
        }
        for number in self.known.keys().filter(|number| !now.contains_key(number)) {
            events.push((Some(self.name_of(*number)), EventKind::ReplicaStopped, "stopped".to_owned()));
        }
        self.known = now;
    }

    pub(crate) fn seen(&self, replica: &SimulatedReplica) -> ObservedReplica {
        let known = self.known.get(&replica.number);
        let (before, begun) = (known.and_then(|known| known.startup), known.and_then(|known| known.begun));
        let begun = begun.or((replica.phase != Phase::Pending).then_some(replica.begun));
        let (state, startup) = match replica.phase {
            Phase::Pending => (ReplicaState::Starting, None),
            Phase::Starting { ready, .. } => (ReplicaState::Starting, Some(ready.since(replica.begun))),
            Phase::Ready => (ReplicaState::Ready, before),
            Phase::Draining => (ReplicaState::Draining, before),
            Phase::BackOff { .. } => (ReplicaState::BackOff, before),
        };
        ObservedReplica { state, kills: replica.oom_kills, startup, begun }
    }
}

fn gateway(spec: &FunctionSpec) -> Gateway {
    Gateway::from(spec)
}

fn world(spec: &FunctionSpec, inputs: &SimulationInputs) -> Function {
    let world = Function::new(Arc::clone(&inputs.profile), gateway(spec), inputs.seed, 0);
    let mut world = world.crashing(inputs.crashes_per_hour);
    world.set_scale(inputs.scale);
    world
}
