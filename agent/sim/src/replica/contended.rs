//! A replica on a node whose CPU is promised more than once: what others compute on the node slows it down. Owns its requests, as [`super::shared`] does,
//! and when its quota stops it; must not know the others.

use qscale_common::scrape::CpuCounters;
use qscale_common::units::Millicores;

use super::shared::Shared;
use super::{Ending, Request};
use crate::cpu::portion::Portion;
use crate::nanos::Nanos;

/// The requests of one replica, and its part of the node's CPU.
#[derive(Debug, Clone)]
pub struct Contended {
    cpu: Portion,
    work: Shared,
    /// When the quota stops it, or lets it go on.
    turn: Nanos,
}

impl Contended {
    /// No request yet; `workers` at once (0: without limit) on `parallelism` cores.
    #[must_use]
    pub fn new(workers: u32, parallelism: u32, limit: Millicores, now: Nanos) -> Self {
        Self { cpu: Portion::new(now, limit), work: Shared::new(workers, parallelism), turn: Nanos::NEVER }
    }

    /// It has a place from `now` on, which is when its first period begins.
    pub fn put(&mut self, limit: Millicores, now: Nanos) {
        self.cpu = Portion::new(now, limit);
    }

    /// Takes in a request.
    pub fn accept(&mut self, request: Request, now: Nanos) {
        self.work.accept(request, &mut self.cpu, now);
        self.schedule();
    }

    /// When something happens next.
    #[must_use]
    pub fn next(&self, timeout: Nanos) -> Nanos {
        self.work.next(timeout).min(self.turn)
    }

    /// Lives through what happens at `now`, which is when something does; says what became of a request.
    pub fn step(&mut self, now: Nanos) -> Option<Ending> {
        // What is done when the quota is spent is done.
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

    /// Ends with its process: every request is gone.
    pub fn forget(&mut self) {
        self.work.forget();
        self.schedule();
    }

    /// Accounts for CPU up to `now`.
    pub fn account(&mut self, now: Nanos) {
        self.work.account(&mut self.cpu, now);
    }

    /// Sets another limit where all is accounted for.
    pub fn limit(&mut self, limit: Millicores) {
        self.cpu.limit(limit);
        self.work.requota(&self.cpu);
        self.schedule();
    }

    /// Cores that want to compute.
    #[must_use]
    pub fn cores(&self) -> u32 {
        if self.cpu.throttled() { 0 } else { self.work.cores() }
    }

    /// Each of them gets so much of a core from `now` on.
    pub fn set_speed(&mut self, speed: f64, now: Nanos) {
        self.account(now);
        self.cpu.set_speed(speed);
        self.work.requota(&self.cpu);
        self.schedule();
    }

    /// CPU used up to where it is accounted.
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
