//! One replica: starts, service, ends, restarts, and counters. Owns its lifecycle; must not choose its requests.
//!
//! Two implementations of one model: a replica that serves one request at a time follows a recursion ([`sequential`]),
//! one that serves several shares its CPU among them ([`shared`]). Where both apply, they give the same results. On an
//! overcommitted node, [`contended`] extends the second.

pub mod contended;
pub mod sequential;
pub mod shared;

use qscale_common::restart::RestartBackoff;
use qscale_common::scrape::RequestCounters;

use crate::cpu::Cpu;
use crate::latency::HistogramPosition;
use crate::nanos::Nanos;
use crate::node::{Claim, ReplicaLimits};
use crate::profile::{FunctionProfile, MemoryProfile, RequestDemand};
use contended::Contended;
use sequential::Sequential;
use shared::Shared;

/// Timeout of a start: none.
const NO_TIMEOUT: Nanos = Nanos(u64::MAX / 4);

/// A request in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Arrival at the gateway.
    pub arrived: Nanos,
    /// Its demand.
    pub demand: RequestDemand,
}

/// Outcome of a request at a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Completed successfully.
    Completed {
        /// Time from its arrival at the gateway.
        latency: Nanos,
        /// Bucket and cell of the latency.
        place: HistogramPosition,
    },
    /// The gateway timed out.
    TimedOut,
}

impl Ending {
    #[inline]
    fn completed(arrived: Nanos, now: Nanos) -> Self {
        let latency = now - arrived;
        Ending::Completed { latency, place: HistogramPosition::of(latency) }
    }
}

/// Phase of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No node has room for it.
    Pending,
    /// Not ready yet.
    Starting {
        /// CPU time that it still needs.
        left: Nanos,
        /// Time of readiness.
        ready: Nanos,
    },
    /// Takes requests.
    Ready,
    /// Finishes its requests.
    Draining,
    /// Its process ended by itself and restarts later.
    BackOff {
        /// Time of the restart.
        until: Nanos,
    },
}

/// One replica.
#[derive(Debug, Clone)]
pub struct SimulatedReplica {
    /// Phase.
    pub phase: Phase,
    /// Requests that the gateway waits for.
    pub load: u32,
    /// Greatest load that fits into its memory limit.
    pub memory_room: u32,
    /// End of its keep-alive.
    pub kept_until: Nanos,
    cpu: Cpu,
    work: Engine,
    /// The request that started it and waits for it.
    pub first: Option<Request>,
    /// Counters of answered requests.
    pub requests: RequestCounters,
    /// Sum of the latencies of successful requests.
    pub answered_in: Nanos,
    /// Number, unique within the function.
    pub number: u32,
    /// Its node, if nodes are limited.
    pub node: Option<u32>,
    /// Limits.
    pub limits: ReplicaLimits,
    /// Start of its process.
    pub begun: Nanos,
    /// Time of the next crash.
    pub crash_at: Nanos,
    /// Number of restarts.
    pub restarts: u64,
    /// Number of out-of-memory kills.
    pub oom_kills: u64,
    /// Time of its last readiness.
    ready_since: Nanos,
    /// Time with requests that was not taken yet, and the begin of the present one.
    busy: Nanos,
    busy_since: Nanos,
    backoff: RestartBackoff,
}

#[derive(Debug, Clone)]
enum Engine {
    Sequential(Sequential),
    Shared(Shared),
    Contended(Box<Contended>),
}

impl Engine {
    /// Drops all requests, with the process.
    fn forget(&mut self) {
        match self {
            Engine::Sequential(work) => work.forget(),
            Engine::Shared(work) => work.forget(),
            Engine::Contended(work) => work.forget(),
        }
    }
}

impl SimulatedReplica {
    /// Replica `number`, not running; the periods of its CPU begin at `now`.
    #[must_use]
    pub fn new(number: u32, profile: &FunctionProfile, limits: ReplicaLimits, path: Path, now: Nanos) -> Self {
        let work = match path {
            Path::Sequential => Engine::Sequential(Sequential::default()),
            Path::Shared => Engine::Shared(Shared::new(profile.workers, profile.parallelism)),
            Path::Contended => Engine::Contended(Box::new(Contended::new(profile.workers, profile.parallelism, limits.cpu, now))),
        };
        Self::with(work, number, profile, limits, now)
    }

    /// As [`SimulatedReplica::new`], reusing the memory of a removed replica of the same profile.
    #[must_use]
    pub fn instead(gone: SimulatedReplica, number: u32, profile: &FunctionProfile, limits: ReplicaLimits, now: Nanos) -> Self {
        let mut work = gone.work;
        work.forget();
        Self::with(work, number, profile, limits, now)
    }

    fn with(work: Engine, number: u32, profile: &FunctionProfile, limits: ReplicaLimits, now: Nanos) -> Self {
        Self {
            phase: Phase::Pending,
            load: 0,
            kept_until: Nanos::NEVER,
            first: None,
            memory_room: profile.memory.room(limits.memory),
            cpu: Cpu::new(now, limits.cpu),
            work,
            requests: RequestCounters::default(),
            answered_in: Nanos::ZERO,
            number,
            node: None,
            limits,
            begun: now,
            crash_at: Nanos::NEVER,
            restarts: 0,
            oom_kills: 0,
            ready_since: now,
            busy: Nanos::ZERO,
            busy_since: now,
            backoff: RestartBackoff::default(),
        }
    }

    /// Places it at `now`.
    pub fn put(&mut self, node: Option<u32>, limits: ReplicaLimits, profile: &FunctionProfile, now: Nanos) {
        self.node = node;
        self.limits = limits;
        self.memory_room = profile.memory.room(limits.memory);
        self.cpu = Cpu::new(now, limits.cpu);
        if let Engine::Contended(work) = &mut self.work {
            work.put(limits.cpu, now);
        }
    }

    /// Whether its process serves requests.
    #[inline]
    #[must_use]
    pub fn runs(&self) -> bool {
        matches!(self.phase, Phase::Ready | Phase::Draining)
    }

    /// Whether it can take another request, given `concurrency`.
    #[inline]
    #[must_use]
    pub fn takes(&self, concurrency: u32) -> bool {
        self.phase == Phase::Ready && self.load < concurrency
    }

    /// Whether its usage fits into its memory limit.
    #[must_use]
    pub fn fits(&self, memory: &MemoryProfile) -> bool {
        memory.working_set(self.load) <= self.limits.memory.bytes()
    }

    /// Starts or restarts its process at `now`, with the demand `startup`.
    pub fn start(&mut self, startup: RequestDemand, now: Nanos) {
        self.begun = now;
        if let Engine::Contended(work) = &mut self.work {
            work.accept(Request { arrived: now, demand: startup }, now);
            self.phase = Phase::Starting { left: Nanos::ZERO, ready: Nanos::NEVER };
            return;
        }
        self.cpu.resume(now);
        self.cpu.idle(now + startup.waiting);
        self.phase = Phase::Starting { left: startup.cpu, ready: self.cpu.end(startup.cpu, 1) };
    }

    /// Ends its process at `now` with all requests. Returns the number of those that the gateway waited for.
    pub fn crash(&mut self, now: Nanos) -> u32 {
        self.account(now);
        let healthy = if let Phase::Ready = self.phase { now.since(self.ready_since) } else { Nanos::ZERO };
        self.work.forget();
        self.phase = Phase::BackOff { until: now + Nanos::from(self.backoff.next(healthy.into())) };
        self.crash_at = Nanos::NEVER;
        if self.load > 0 {
            self.busy += now.since(self.busy_since);
        }
        let failed = std::mem::take(&mut self.load);
        self.requests.failed += u64::from(failed);
        failed
    }

    /// Accepts a request.
    #[inline]
    pub fn accept(&mut self, request: Request, now: Nanos) {
        if self.load == 0 {
            self.busy_since = now;
        }
        self.load += 1;
        match &mut self.work {
            Engine::Sequential(work) => work.accept(request, &mut self.cpu, now),
            Engine::Shared(work) => work.accept(request, &mut self.cpu, now),
            Engine::Contended(work) => work.accept(request, now),
        }
    }

    /// Time of the next event; requests time out after `timeout`.
    #[inline]
    #[must_use]
    pub fn next(&self, timeout: Nanos) -> Nanos {
        match self.phase {
            Phase::Ready | Phase::Draining => {}
            Phase::Starting { ready, .. } => return self.starts_until(ready),
            Phase::BackOff { until } => return until,
            Phase::Pending => return Nanos::NEVER,
        }
        let next = match &self.work {
            Engine::Sequential(work) => work.next(timeout),
            Engine::Shared(work) => work.next(timeout),
            Engine::Contended(work) => work.next(timeout),
        };
        next.min(self.kept_until)
    }

    fn starts_until(&self, ready: Nanos) -> Nanos {
        match &self.work {
            Engine::Sequential(_) | Engine::Shared(_) => ready,
            Engine::Contended(work) => work.next(NO_TIMEOUT),
        }
    }

    /// Processes the event of a start at `now`; returns whether the start is done.
    pub fn step_start(&mut self, now: Nanos) -> bool {
        match &mut self.work {
            Engine::Sequential(_) | Engine::Shared(_) => true,
            Engine::Contended(work) => work.step(now).is_some(),
        }
    }

    /// Processes the event of a request at `now`.
    #[inline]
    pub fn step(&mut self, now: Nanos) -> Option<Ending> {
        let ending = match &mut self.work {
            Engine::Sequential(work) => work.step(&mut self.cpu, now),
            Engine::Shared(work) => work.step(&mut self.cpu, now),
            Engine::Contended(work) => work.step(now),
        }?;
        self.load -= 1;
        if self.load == 0 {
            self.busy += now.since(self.busy_since);
        }
        match ending {
            Ending::Completed { latency, place } => {
                self.answered_in += latency;
                self.requests.completed += 1;
                if let Some(latency) = &mut self.requests.latency {
                    latency[place.bucket] += 1;
                }
            }
            Ending::TimedOut => self.requests.failed += 1,
        }
        Some(ending)
    }

    /// Becomes ready at `now`. Returns the duration of the start.
    pub fn become_ready(&mut self, now: Nanos) -> Nanos {
        self.account(now);
        if let Engine::Contended(_) = &self.work {
            self.work.forget();
        }
        self.phase = Phase::Ready;
        self.ready_since = now;
        now - self.begun
    }

    /// Changes its limits at `now`, without a restart.
    pub fn resize(&mut self, limits: ReplicaLimits, memory: &MemoryProfile, now: Nanos) {
        self.memory_room = memory.room(limits.memory);
        if limits.cpu != self.limits.cpu {
            self.account(now);
            self.cpu.limit(limits.cpu);
            match (&mut self.phase, &mut self.work) {
                (_, Engine::Contended(work)) => work.limit(limits.cpu),
                (Phase::Starting { left, ready }, _) => *ready = self.cpu.end(*left, 1),
                (_, Engine::Sequential(work)) => work.requota(&self.cpu),
                (_, Engine::Shared(work)) => work.requota(&self.cpu),
            }
        }
        self.limits = limits;
    }

    /// CPU counters at `now`.
    pub fn cpu(&mut self, now: Nanos) -> qscale_common::scrape::CpuCounters {
        self.account(now);
        if let Engine::Contended(work) = &self.work { work.counters() } else { self.cpu.counters() }
    }

    /// Its claim on the node's CPU: computing cores and weight.
    #[must_use]
    pub fn claim(&self) -> Claim {
        let Engine::Contended(work) = &self.work else { return Claim::default() };
        Claim { cores: work.cores(), weight: self.limits.cpu.0 }
    }

    /// Sets the share of a core for each of its cores from `now` on.
    pub fn set_speed(&mut self, speed: f64, now: Nanos) {
        if let Engine::Contended(work) = &mut self.work {
            work.set_speed(speed, now);
        }
    }

    /// Time with requests up to `now` since it was last taken.
    pub fn take_busy(&mut self, now: Nanos) -> Nanos {
        if self.load > 0 {
            self.busy += now.since(self.busy_since);
            self.busy_since = now;
        }
        std::mem::take(&mut self.busy)
    }

    /// Whether it took a request since it was added.
    #[must_use]
    pub fn served(&self) -> bool {
        u64::from(self.load) + self.requests.completed + self.requests.failed > 0
    }

    /// Throttled time, up to the accounted instant.
    #[must_use]
    pub fn held_back(&self) -> Nanos {
        self.cpu.held_back()
    }

    fn account(&mut self, now: Nanos) {
        match (&mut self.phase, &mut self.work) {
            (_, Engine::Contended(work)) => work.account(now),
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
            Engine::Contended(work) => size_of::<Contended>() + work.heap_bytes(),
        }
    }
}

/// Implementation of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// One request at a time.
    Sequential,
    /// Several requests that share the CPU.
    Shared,
    /// Several requests that share the CPU of a node with other replicas.
    Contended,
}

impl Path {
    /// The fastest implementation that is correct for `profile`.
    #[must_use]
    pub fn of(profile: &FunctionProfile) -> Self {
        if profile.workers == 1 { Path::Sequential } else { Path::Shared }
    }
}
