//! A replica that works on several requests at a time, which share its CPU evenly: processor sharing under a quota.
//!
//! Virtual time is the CPU time that each computing request has got since the replica last idled; a request is done when virtual time reaches what it
//! was at the request's start plus its demand. One arrival or end moves virtual time once, whoever shares, so that an event costs a heap's logarithm.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::{Ending, Request};
use crate::cpu::Processor;
use crate::nanos::Nanos;

/// The requests of one replica.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Requests worked on at once.
    workers: usize,
    /// Cores used at once.
    parallelism: u32,
    /// CPU time that each computing request got, nanoseconds.
    virtual_time: f64,
    /// Requests that compute: virtual time of the end (the bits of a number that is not negative rise with it), and number.
    computing: BinaryHeap<Reverse<(u64, u64)>>,
    /// Requests that wait for others: end, number, and CPU time afterwards.
    waiting: BinaryHeap<Reverse<(Nanos, u64, Nanos)>>,
    /// Requests given to the replica and not begun, by number; those that timed out are passed over when their turn comes.
    backlog: VecDeque<(u64, Request)>,
    /// Arrival of each request from number `first` on; [`ENDED`] for one that ended.
    live: VecDeque<Nanos>,
    first: u64,
    next: Nanos,
}

const ENDED: Nanos = Nanos::NEVER;

impl Shared {
    /// No request yet; `workers` at once (0: without limit) on `parallelism` cores.
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

    /// Takes in a request.
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

    /// When something happens next.
    #[inline]
    pub fn next(&self, timeout: Nanos) -> Nanos {
        self.live.front().map_or(self.next, |arrived| self.next.min(*arrived + timeout))
    }

    /// When a request stops waiting for others, or is done.
    #[must_use]
    pub fn due(&self) -> Nanos {
        self.next
    }

    /// Lives through what happens at `now`, which is when something does; says what became of a request.
    #[inline]
    pub fn step(&mut self, cpu: &mut impl Processor, now: Nanos) -> Option<Ending> {
        if self.next > now {
            // The oldest of those that did not end.
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
        // Whole nanoseconds of real time carry virtual time a little beside the end that they lead to.
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

    /// What the end of request `number` is to the gateway: nothing, where it gave up before.
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

    /// Ends with its process: every request is gone.
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

    /// The quota was changed where all is accounted for.
    pub fn requota(&mut self, cpu: &impl Processor) {
        self.next = self.next_of_work(cpu);
    }

    /// Cores that compute, as far as they are let.
    #[inline]
    #[must_use]
    pub fn cores(&self) -> u32 {
        self.parallelism.min(u32::try_from(self.computing.len()).unwrap_or(u32::MAX))
    }

    /// When the next request stops waiting for others, or is done.
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
