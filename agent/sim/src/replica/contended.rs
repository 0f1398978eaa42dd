//! A replica on an overcommitted node, slowed down by the others there. Owns its requests, as [`super::shared`], and
//! its throttling; must not know other replicas.

use qscale_common::scrape::CpuCounters;
use qscale_common::units::Millicores;

use super::shared::Shared;
use super::{Ending, Request};
use crate::cpu::portion::Portion;
use crate::nanos::Nanos;

/// Requests of one replica, and its share of the node's CPU.
#[derive(Debug, Clone)]
pub struct Contended {
    cpu: Portion,
    work: Shared,
    /// Next instant at which the quota throttles it or releases it.
    turn: Nanos,
}

impl Contended {
    /// Without requests; serves `workers` at once (0: without limit) on `parallelism` cores.
    #[must_use]
    pub fn new(workers: u32, parallelism: u32, limit: Millicores, now: Nanos) -> Self {
        Self { cpu: Portion::new(now, limit), work: Shared::new(workers, parallelism), turn: Nanos::NEVER }
    }

    /// Places it at `now`, when its first period begins.
    pub fn put(&mut self, limit: Millicores, now: Nanos) {
        self.cpu = Portion::new(now, limit);
    }

    /// Accepts a request.
    pub fn accept(&mut self, request: Request, now: Nanos) {
        self.work.accept(request, &mut self.cpu, now);
        self.schedule();
    }

    /// Time of the next event.
    #[must_use]
    pub fn next(&self, timeout: Nanos) -> Nanos {
        self.work.next(timeout).min(self.turn)
    }

    /// Processes the event at `now`; returns the outcome of a request, if one ended.
    pub fn step(&mut self, now: Nanos) -> Option<Ending> {
        // Work that ends just when the quota is spent is done.
        let turns = self.turn <= now && self.work.due() > now;
        let ending = if turns {
            self.work.account(&mut self.cpu, now);
            self.cpu.turned();
            self.work.requota(&self.cpu);
            None
        } else {
            self.work.step(&mut self.cpu, now)
        };
        self.schedule();
        ending
    }

    fn schedule(&mut self) {
        self.turn = self.cpu.turn(self.work.cores());
    }

    /// Drops all requests, with the process.
    pub fn forget(&mut self) {
        self.work.forget();
        self.schedule();
    }

    /// Accounts for CPU up to `now`.
    pub fn account(&mut self, now: Nanos) {
        self.work.account(&mut self.cpu, now);
    }

    /// Changes the limit; usage must be accounted up to now.
    pub fn limit(&mut self, limit: Millicores) {
        self.cpu.limit(limit);
        self.work.requota(&self.cpu);
        self.schedule();
    }

    /// Cores with work.
    #[must_use]
    pub fn cores(&self) -> u32 {
        if self.cpu.throttled() { 0 } else { self.work.cores() }
    }

    /// Sets the share of a core for each core from `now` on.
    pub fn set_speed(&mut self, speed: f64, now: Nanos) {
        self.account(now);
        self.cpu.set_speed(speed);
        self.work.requota(&self.cpu);
        self.schedule();
    }

    /// CPU counters up to the accounted instant.
    #[must_use]
    pub fn counters(&self) -> CpuCounters {
        self.cpu.counters()
    }

    /// Bytes on the heap.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.work.heap_bytes()
    }
}
