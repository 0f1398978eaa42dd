//! One simulated function: its file, what it shall have, its world and its load. Owns how the three go together at an instant; which functions there are
//! belongs to the platform.

use std::collections::BTreeMap;
use std::sync::Arc;

use qscale_common::name::FunctionId;
use qscale_common::platform::metrics::Counted;
use qscale_common::platform::{EventKind, FunctionSpec, ReplicaState};
use qscale_common::time::Timestamp;
use qscale_common::units::{Allocation, Replicas};
use qscale_sim::load::Source;
use qscale_sim::replica::{Phase, Replica};
use qscale_sim::rng::{Purpose, stream};
use qscale_sim::{Function, Gateway, Nanos, Reading};

use crate::report::Told;
use crate::wanted::Wanted;

/// When the world of a platform began: virtual time counts from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin(pub Timestamp);

impl Origin {
    /// How long the world has lived at `now`.
    #[must_use]
    pub fn nanos(self, now: Timestamp) -> Nanos {
        Nanos::from(now.since(self.0))
    }

    /// When the world has lived so long.
    #[must_use]
    pub fn timestamp(self, at: Nanos) -> Timestamp {
        self.0.plus(at.into())
    }
}

/// Something that happened to a function: its replica, where it concerns one, what, and in words.
pub type Happened = (Option<String>, EventKind, String);

/// A simulated function.
#[derive(Debug)]
pub struct Simulated {
    /// Which.
    pub id: FunctionId,
    pub(crate) spec: Arc<FunctionSpec>,
    pub(crate) wanted: Wanted,
    pub(crate) world: Function,
    pub(crate) reading: Reading,
    pub(crate) desired: Allocation,
    /// Why the memory in force is not what is desired, where it is not.
    pub(crate) held: Option<String>,
    /// What was counted before the file was replaced.
    pub(crate) carried: Counted,
    pub(crate) told: Told,
    pub(crate) known: BTreeMap<u32, Known>,
    origin: Origin,
    source: Option<Source>,
    /// When its load began.
    pub(crate) load_began: Option<Nanos>,
    now: Nanos,
    /// Part of the names of its replicas, so that they do not come back.
    run: u64,
}

/// What was seen of a replica last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Known {
    pub state: ReplicaState,
    /// Times that it was killed for memory.
    pub kills: u64,
    /// How long it takes, or took, to become ready.
    pub startup: Option<Nanos>,
}

impl Simulated {
    /// A function that starts with what its file says. `run` is given to no other one.
    #[must_use]
    pub fn new(spec: FunctionSpec, wanted: Wanted, origin: Origin, run: u64, now: Timestamp) -> Self {
        let at = origin.nanos(now);
        let desired = Allocation::from(spec.allocation);
        let mut world = world(&spec, &wanted);
        world.allocate(desired, at);
        Self {
            id: spec.id(),
            spec: Arc::new(spec),
            world,
            wanted,
            reading: Reading::default(),
            desired,
            held: None,
            carried: Counted::default(),
            told: Told::at(now),
            known: BTreeMap::new(),
            origin,
            source: None,
            load_began: None,
            now: at,
            run,
        }
    }

    /// Its file.
    #[must_use]
    pub fn spec(&self) -> &FunctionSpec {
        &self.spec
    }

    /// What it shall have.
    #[must_use]
    pub fn desired(&self) -> Allocation {
        self.desired
    }

    /// Lets its load begin at `now`, unless it began before.
    pub fn begin_load(&mut self, now: Timestamp) {
        if self.load_began.is_some() {
            return;
        }
        let begin = self.origin.nanos(now).max(self.now);
        self.load_began = Some(begin);
        self.told = Told::at(now);
        self.play(begin);
    }

    fn play(&mut self, begin: Nanos) {
        let source = |load: &qscale_sim::Load| load.source(stream(self.wanted.seed, 0, Purpose::Arrivals)).beginning(begin);
        self.source = self.wanted.load.as_ref().map(source);
    }

    /// Takes no more requests of its load.
    pub fn stop_load(&mut self) {
        self.source = None;
    }

    /// Whether it has no replica and no request that waits for one.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.world.replicas().next().is_none() && self.world.queued() == 0
    }

    /// Lives up to `now`; returns what happened.
    pub fn advance(&mut self, now: Timestamp) -> Vec<Happened> {
        // A clock that was set back is waited for: a world only goes on.
        let until = self.origin.nanos(now).max(self.now);
        if let Some(source) = &mut self.source {
            source.feed(&mut self.world, until);
        }
        self.world.advance(until);
        self.now = until;
        if self.held.is_some() {
            self.put_in_force();
        }
        let mut happened = Vec::new();
        if self.world.allocation().replicas > self.desired.replicas {
            self.desired.replicas = Replicas(1);
            happened.push((None, EventKind::StartedFromZero, "a request waits: 0 to 1 replicas".to_owned()));
        }
        self.look(&mut happened);
        happened
    }

    /// Gives it another allocation, having lived up to now; returns what happened.
    pub fn allocate(&mut self, desired: Allocation) -> Vec<Happened> {
        let mut happened = Vec::new();
        if desired != self.desired {
            happened.push((None, EventKind::AllocationSet, format!("{} to {desired}", self.desired)));
        }
        let held = self.held.is_some();
        self.desired = desired;
        self.put_in_force();
        if let Some(why) = self.held.clone().filter(|_| !held) {
            happened.push((None, EventKind::ResizeRefused, why));
        }
        self.look(&mut happened);
        happened
    }

    /// Memory below what a replica uses is not forced on it: all keep the limit that they have until it fits.
    fn put_in_force(&mut self) {
        let most = self.world.replicas().map(|replica| self.wanted.profile.memory.working_set(replica.load)).max().unwrap_or(0);
        let current = self.world.allocation();
        let fits = self.desired.memory_mib.bytes() > most || self.desired.memory_mib >= current.memory_mib;
        self.held = (!fits).then(|| {
            let in_use = qscale_common::units::Mebibytes::from_bytes(most);
            format!("memory_mib = {}, must be above what is in use, {in_use}", self.desired.memory_mib.0)
        });
        let memory_mib = if fits { self.desired.memory_mib } else { current.memory_mib };
        let allocation = Allocation { memory_mib, ..self.desired };
        if allocation != current {
            self.world.allocate(allocation, self.now);
        }
    }

    /// Replaces its file, having lived up to now. Where only the load differs its replicas stay; else they are new ones, ready at once, and requests
    /// under way are lost with the old ones. What was counted before stays counted.
    pub fn replace(&mut self, spec: FunctionSpec, wanted: Wanted, run: u64) {
        let same_world = wanted.profile == self.wanted.profile
            && wanted.scale == self.wanted.scale
            && wanted.crashes_per_hour == self.wanted.crashes_per_hour
            && gateway(&spec) == gateway(&self.spec);
        (self.spec, self.wanted) = (Arc::new(spec), wanted);
        if !same_world {
            self.carried = self.counted();
            self.told.carry(self.world.totals(self.now));
            self.world = world(&self.spec, &self.wanted);
            self.world.warm(self.desired, self.now);
            (self.run, self.held) = (run, None);
            self.known.clear();
        }
        if self.load_began.is_some() {
            self.load_began = Some(self.now);
            self.play(self.now);
        }
    }

    /// What it has counted, whatever its file was.
    pub(crate) fn counted(&mut self) -> Counted {
        let at = self.origin.timestamp(self.now);
        self.world.scrape(self.now, at, &mut self.reading);
        let (arrived, platform) = (self.reading.scrape.ingress.map_or(0, |ingress| ingress.arrived), self.reading.scrape.platform);
        let (startups, startup_ms) = platform.and_then(|platform| platform.startups).unwrap_or_default();
        Counted {
            arrived: self.carried.arrived + arrived,
            oom_kills: self.carried.oom_kills + platform.and_then(|platform| platform.oom_kills).unwrap_or(0),
            crashes: self.carried.crashes + platform.and_then(|platform| platform.crashes).unwrap_or(0),
            startups: self.carried.startups + startups,
            startup_time: self.carried.startup_time + std::time::Duration::from_millis(startup_ms),
        }
    }

    /// The name of a replica.
    pub(crate) fn name_of(&self, number: u32) -> String {
        format!("{}-{:05x}-{number}", self.id.name, self.run)
    }

    /// When a replica was started.
    pub(crate) fn started(&self, replica: &Replica) -> Timestamp {
        self.origin.timestamp(replica.begun)
    }

    /// How long it has lived since its load began; nothing where it has not.
    pub(crate) fn loaded_for(&self) -> Nanos {
        self.load_began.map_or(Nanos::ZERO, |began| self.now.since(began))
    }

    /// What the world added up to.
    pub(crate) fn totals(&mut self) -> &qscale_sim::Totals {
        self.world.totals(self.now)
    }

    /// Notes what became of its replicas.
    fn look(&mut self, happened: &mut Vec<Happened>) {
        let now: BTreeMap<u32, Known> = self.world.replicas().map(|replica| (replica.number, self.seen(replica))).collect();
        if now == self.known {
            return;
        }
        for (number, Known { state, kills, startup }) in &now {
            let before = self.known.get(number).map(|known| known.state);
            let mut tell = |kind, words: String| happened.push((Some(self.name_of(*number)), kind, words));
            if before.is_none() {
                tell(EventKind::ReplicaStarted, "simulated".to_owned());
            }
            match state {
                ReplicaState::Ready if before != Some(ReplicaState::Ready) => {
                    tell(EventKind::ReplicaReady, format!("ready after {} ms", startup.unwrap_or_default().0 / 1_000_000));
                }
                ReplicaState::Draining if before != Some(ReplicaState::Draining) => {
                    tell(EventKind::ReplicaDraining, "finishes its requests".to_owned());
                }
                ReplicaState::BackOff if before != Some(ReplicaState::BackOff) => {
                    let of_memory = *kills > self.known.get(number).map_or(0, |known| known.kills);
                    let kind = if of_memory { EventKind::ReplicaOomKilled } else { EventKind::ReplicaCrashed };
                    tell(kind, "ended by itself; it is started again".to_owned());
                }
                _ => {}
            }
        }
        for number in self.known.keys().filter(|number| !now.contains_key(number)) {
            happened.push((Some(self.name_of(*number)), EventKind::ReplicaStopped, "simulated no more".to_owned()));
        }
        self.known = now;
    }

    pub(crate) fn seen(&self, replica: &Replica) -> Known {
        let before = self.known.get(&replica.number).and_then(|known| known.startup);
        let (state, startup) = match replica.phase {
            Phase::Pending => (ReplicaState::Starting, None),
            Phase::Starting { ready, .. } => (ReplicaState::Starting, Some(ready.since(replica.begun))),
            Phase::Ready => (ReplicaState::Ready, before),
            Phase::Draining => (ReplicaState::Draining, before),
            Phase::BackOff { .. } => (ReplicaState::BackOff, before),
        };
        Known { state, kills: replica.oom_kills, startup }
    }
}

fn gateway(spec: &FunctionSpec) -> Gateway {
    Gateway::from(spec)
}

fn world(spec: &FunctionSpec, wanted: &Wanted) -> Function {
    let world = Function::new(Arc::clone(&wanted.profile), gateway(spec), wanted.seed, 0);
    let mut world = world.crashing(wanted.crashes_per_hour);
    world.set_scale(wanted.scale);
    world
}
