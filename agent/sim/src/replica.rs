//! One replica: how it starts, works and stops, and its counters. Owns one life; must not choose which request it is given.
//!
//! Two ways of working, one meaning: a replica that works on one request at a time follows a recursion ([`sequential`]), one that works on several shares
//! its CPU among them ([`shared`]). Where both apply, they give the same.

pub mod sequential;
pub mod shared;

use qscale_common::scrape::RequestCounters;
use qscale_common::units::Millicores;

use crate::cpu::Cpu;
use crate::latency::Place;
use crate::nanos::Nanos;
use crate::profile::{Demand, FunctionProfile};
use sequential::Sequential;
use shared::Shared;

/// A request on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// When it arrived at the gateway.
    pub arrived: Nanos,
    /// What it asks of its replica.
    pub demand: Demand,
}

/// What became of a request at a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Answered well.
    Completed {
        /// Time from its arrival at the gateway.
        latency: Nanos,
        /// Where that is counted.
        place: Place,
    },
    /// The gateway gave it up.
    TimedOut,
}

impl Ending {
    #[inline]
    fn completed(arrived: Nanos, now: Nanos) -> Self {
        let latency = now - arrived;
        Ending::Completed { latency, place: Place::of(latency) }
    }
}

/// Where a replica is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It takes no requests yet.
    Starting {
        /// CPU time that it still needs.
        left: Nanos,
        /// When it will be ready.
        ready: Nanos,
    },
    /// It takes requests.
    Ready,
    /// It finishes those that it has.
    Draining,
}

/// One replica.
#[derive(Debug, Clone)]
pub struct Replica {
    /// Never given to another replica of the function.
    pub number: u32,
    /// When it was started.
    pub begun: Nanos,
    /// Where it is in its life.
    pub phase: Phase,
    /// Requests that it was given and that the gateway still waits for.
    pub load: u32,
    /// Requests that it answered.
    pub requests: RequestCounters,
    cpu: Cpu,
    work: Engine,
}

#[derive(Debug, Clone)]
enum Engine {
    Sequential(Sequential),
    Shared(Shared),
}

impl Replica {
    /// Starts replica `number` at `now`, with this CPU limit; it needs `startup` to become ready.
    #[must_use]
    pub fn start(number: u32, profile: &FunctionProfile, limit: Millicores, startup: Demand, path: Path, now: Nanos) -> Self {
        let mut cpu = Cpu::new(now, limit);
        cpu.idle(now + startup.waiting);
        let ready = cpu.end(startup.cpu, 1);
        let work = match path {
            Path::Sequential => Engine::Sequential(Sequential::default()),
            Path::Shared => Engine::Shared(Shared::new(profile.workers, profile.parallelism)),
        };
        Self {
            number,
            begun: now,
            phase: Phase::Starting { left: startup.cpu, ready },
            load: 0,
            requests: RequestCounters::default(),
            cpu,
            work,
        }
    }

    /// Takes in a request.
    #[inline]
    pub fn accept(&mut self, request: Request, now: Nanos) {
        self.load += 1;
        match &mut self.work {
            Engine::Sequential(work) => work.accept(request, &mut self.cpu, now),
            Engine::Shared(work) => work.accept(request, &mut self.cpu, now),
        }
    }

    /// When something happens next; requests time out after `timeout`.
    #[inline]
    #[must_use]
    pub fn next(&self, timeout: Nanos) -> Nanos {
        if let Phase::Starting { ready, .. } = self.phase {
            return ready;
        }
        match &self.work {
            Engine::Sequential(work) => work.next(timeout),
            Engine::Shared(work) => work.next(timeout),
        }
    }

    /// Lives through what happens to requests at `now`, which is when something does.
    #[inline]
    pub fn step(&mut self, now: Nanos) -> Option<Ending> {
        let ending = match &mut self.work {
            Engine::Sequential(work) => work.step(&mut self.cpu, now),
            Engine::Shared(work) => work.step(&mut self.cpu, now),
        }?;
        self.load -= 1;
        match ending {
            Ending::Completed { place, .. } => {
                self.requests.completed += 1;
                self.requests.latency[place.bucket] += 1;
            }
            Ending::TimedOut => self.requests.failed += 1,
        }
        Some(ending)
    }

    /// It is ready at `now`. Returns how long that took.
    pub fn become_ready(&mut self, now: Nanos) -> Nanos {
        self.account(now);
        self.phase = Phase::Ready;
        now - self.begun
    }

    /// Gives it another CPU limit at `now`, without a restart.
    pub fn resize(&mut self, limit: Millicores, now: Nanos) {
        self.account(now);
        self.cpu.limit(limit);
        match (&mut self.phase, &mut self.work) {
            (Phase::Starting { left, ready }, _) => *ready = self.cpu.end(*left, 1),
            (_, Engine::Sequential(work)) => work.requota(&self.cpu),
            (_, Engine::Shared(work)) => work.requota(&self.cpu),
        }
    }

    /// CPU used up to `now`.
    pub fn cpu(&mut self, now: Nanos) -> qscale_common::scrape::CpuCounters {
        self.account(now);
        self.cpu.counters()
    }

    fn account(&mut self, now: Nanos) {
        match (&mut self.phase, &mut self.work) {
            (Phase::Starting { left, .. }, _) => *left = left.since(self.cpu.run(now, 1)),
            (_, Engine::Sequential(work)) => work.account(&mut self.cpu, now),
            (_, Engine::Shared(work)) => work.account(&mut self.cpu, now),
        }
    }

    /// Bytes on the heap.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        match &self.work {
            Engine::Sequential(work) => work.heap_bytes(),
            Engine::Shared(work) => work.heap_bytes(),
        }
    }
}

/// By which way replicas are simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// One request at a time.
    Sequential,
    /// Several, sharing the CPU.
    Shared,
}

impl Path {
    /// The faster way that is true of `profile`.
    #[must_use]
    pub fn of(profile: &FunctionProfile) -> Self {
        if profile.workers == 1 { Path::Sequential } else { Path::Shared }
    }
}
