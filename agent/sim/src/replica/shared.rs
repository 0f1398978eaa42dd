//! A replica that serves several requests that share its CPU evenly: processor sharing under a quota. Owns the requests of one replica.
//!
//! Virtual time is the CPU time that each computing request has received since the replica was last idle. A request is
//! done when virtual time reaches its value at the request's start plus the demand. An arrival or an end moves virtual
//! time once for all requests, so an event costs logarithmic time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::{Ending, Request};
use crate::cpu::Processor;
use crate::nanos::Nanos;

/// Requests of one replica.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Requests served at once.
    workers: usize,
    /// Cores used at once.
    parallelism: u32,
    /// Virtual time, nanoseconds.
    virtual_time: f64,
    /// Computing requests: virtual time of the end, as bits (monotonic for non-negative numbers), and number.
    computing: BinaryHeap<Reverse<(u64, u64)>>,
    /// Requests that wait for other services: end of waiting, number, and CPU time afterwards.
    waiting: BinaryHeap<Reverse<(Nanos, u64, Nanos)>>,
    /// Requests not begun, by number; timed out ones are skipped when their turn comes.
    backlog: VecDeque<(u64, Request)>,
    /// Arrivals of the requests from number `first` on; [`ENDED`] if ended.
    live: VecDeque<Nanos>,
    first: u64,
    next: Nanos,
}

const ENDED: Nanos = Nanos::NEVER;

impl Shared {
    /// Without requests; serves `workers` at once (0: without limit) on `parallelism` cores.
    #[must_use]
    pub fn new(workers: u32, parallelism: u32) -> Self {
        Self {
            workers: if workers == 0 { usize::MAX } else { workers as usize },
            parallelism: parallelism.max(1),
            virtual_time: 0.0,
            computing: BinaryHeap::new(),
            waiting: BinaryHeap::new(),
            backlog: VecDeque::new(),
            live: VecDeque::new(),
            first: 0,
            next: Nanos::NEVER,
        }
    }

    /// Accepts a request.
    #[inline]
    pub fn accept(&mut self, request: Request, cpu: &mut impl Processor, now: Nanos) {
        self.account(cpu, now);
        let number = self.first + self.live.len() as u64;
        self.live.push_back(request.arrived);
        if self.working() < self.workers {
            self.begin(number, request, now);
        } else {
            self.backlog.push_back((number, request));
        }
        self.next = self.next_of_work(cpu);
    }

    fn working(&self) -> usize {
        self.computing.len() + self.waiting.len()
    }

    #[inline]
    fn begin(&mut self, number: u64, request: Request, now: Nanos) {
        if request.demand.waiting > Nanos::ZERO {
            self.waiting.push(Reverse((now + request.demand.waiting, number, request.demand.cpu)));
        } else {
            self.compute(number, request.demand.cpu);
        }
    }

    #[inline]
    fn compute(&mut self, number: u64, demand: Nanos) {
        self.computing.push(Reverse(((self.virtual_time + demand.0 as f64).to_bits(), number)));
    }

    /// Time of the next event.
    #[inline]
    pub fn next(&self, timeout: Nanos) -> Nanos {
        self.live.front().map_or(self.next, |arrived| self.next.min(*arrived + timeout))
    }

    /// Time at which a request stops waiting for other services, or is done.
    #[must_use]
    pub fn due(&self) -> Nanos {
        self.next
    }

    /// Processes the event at `now`; returns the outcome of a request, if one ended.
    #[inline]
    pub fn step(&mut self, cpu: &mut impl Processor, now: Nanos) -> Option<Ending> {
        if self.next > now {
            // The oldest request that has not ended.
            self.live.pop_front();
            self.first += 1;
            self.forget_ended();
            return Some(Ending::TimedOut);
        }
        self.account(cpu, now);
        let ending = match self.waiting.peek() {
            Some(&Reverse((end, number, demand))) if end <= now => {
                self.waiting.pop();
                self.compute(number, demand);
                None
            }
            _ => self.complete(now),
        };
        self.next = self.next_of_work(cpu);
        ending
    }

    #[inline]
    fn complete(&mut self, now: Nanos) -> Option<Ending> {
        let Reverse((end, number)) = self.computing.pop()?;
        // Rounding of real time to nanoseconds leaves virtual time slightly off the end.
        self.virtual_time = if self.computing.is_empty() { 0.0 } else { f64::from_bits(end) };
        let ending = self.end(number, now);
        while self.working() < self.workers
            && let Some((number, request)) = self.backlog.pop_front()
        {
            if number >= self.first {
                self.begin(number, request, now);
            }
        }
        ending
    }

    /// Outcome of the end of request `number` at the gateway; `None` if it had timed out.
    #[inline]
    fn end(&mut self, number: u64, now: Nanos) -> Option<Ending> {
        let index = number.checked_sub(self.first)?;
        let arrived = std::mem::replace(self.live.get_mut(index as usize)?, ENDED);
        self.forget_ended();
        Some(Ending::completed(arrived, now))
    }

    #[inline]
    fn forget_ended(&mut self) {
        while self.live.front() == Some(&ENDED) {
            self.live.pop_front();
            self.first += 1;
        }
    }

    /// Drops all requests, with the process.
    pub fn forget(&mut self) {
        self.virtual_time = 0.0;
        self.computing.clear();
        self.waiting.clear();
        self.backlog.clear();
        self.live.clear();
        self.next = Nanos::NEVER;
    }

    /// Accounts for CPU up to `now`.
    #[inline]
    pub fn account(&mut self, cpu: &mut impl Processor, now: Nanos) {
        let computing = self.computing.len();
        if computing == 0 {
            cpu.idle(now);
        } else {
            self.virtual_time += cpu.run(now, self.cores()) / computing as f64;
        }
    }

    /// Updates the next event after a change of the quota.
    pub fn requota(&mut self, cpu: &impl Processor) {
        self.next = self.next_of_work(cpu);
    }

    /// Cores with work.
    #[inline]
    #[must_use]
    pub fn cores(&self) -> u32 {
        self.parallelism.min(u32::try_from(self.computing.len()).unwrap_or(u32::MAX))
    }

    /// Time at which the next request stops waiting, or is done.
    #[inline]
    fn next_of_work(&self, cpu: &impl Processor) -> Nanos {
        let ready = self.waiting.peek().map_or(Nanos::NEVER, |Reverse((end, ..))| *end);
        let Some(Reverse((end, _))) = self.computing.peek() else { return ready };
        let left = (f64::from_bits(*end) - self.virtual_time) * self.computing.len() as f64;
        ready.min(cpu.end(left, self.cores()))
    }

    /// Bytes on the heap.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.computing.capacity() * size_of::<(u64, u64)>()
            + self.waiting.capacity() * size_of::<(Nanos, u64, Nanos)>()
            + self.backlog.capacity() * size_of::<(u64, Request)>()
            + self.live.capacity() * size_of::<Nanos>()
    }
}
