//! A replica that serves one request at a time, first come first served. Each event follows from the one before
//! (Kiefer-Wolfowitz recursion), so no event queue is needed. Owns the requests of one replica.

use std::collections::VecDeque;

use super::{Ending, Request};
use crate::cpu::Cpu;
use crate::nanos::Nanos;

/// The request in service, and its backlog.
#[derive(Debug, Clone, Default)]
pub struct Sequential {
    current: Option<CurrentRequest>,
    /// Requests not begun, none of them timed out.
    backlog: VecDeque<Request>,
}

#[derive(Debug, Clone, Copy)]
struct CurrentRequest {
    arrived: Nanos,
    /// CPU time left at the accounted instant.
    left: Nanos,
    end: Nanos,
    /// Timed out at the gateway; served to its end nevertheless, since a function does not notice.
    timed_out: bool,
}

impl Sequential {
    /// Accepts a request.
    #[inline]
    pub fn accept(&mut self, request: Request, cpu: &mut Cpu, now: Nanos) {
        match self.current {
            None => self.begin(request, cpu, now),
            Some(_) => self.backlog.push_back(request),
        }
    }

    #[inline]
    fn begin(&mut self, request: Request, cpu: &mut Cpu, now: Nanos) {
        // It waits before it computes, and blocks the replica meanwhile.
        cpu.idle(now + request.demand.waiting);
        let left = request.demand.cpu;
        self.current = Some(CurrentRequest { arrived: request.arrived, left, end: cpu.end(left, 1), timed_out: false });
    }

    /// Time of the next event.
    #[inline]
    pub fn next(&self, timeout: Nanos) -> Nanos {
        let Some(current) = &self.current else { return Nanos::NEVER };
        if !current.timed_out {
            return current.end.min(current.arrived + timeout);
        }
        self.backlog.front().map_or(current.end, |first| current.end.min(first.arrived + timeout))
    }

    /// Processes the event at `now`; returns the outcome of a request, if one ended.
    #[inline]
    pub fn step(&mut self, cpu: &mut Cpu, now: Nanos) -> Option<Ending> {
        let CurrentRequest { arrived, end, timed_out, .. } = self.current?;
        if end > now {
            return Some(self.time_out());
        }
        cpu.run(end, 1);
        self.current = None;
        if let Some(next) = self.backlog.pop_front() {
            self.begin(next, cpu, now);
        }
        (!timed_out).then(|| Ending::completed(arrived, now))
    }

    /// Times out the oldest request: the one in service, or the first of the backlog.
    fn time_out(&mut self) -> Ending {
        match &mut self.current {
            Some(current) if !current.timed_out => current.timed_out = true,
            _ => drop(self.backlog.pop_front()),
        }
        Ending::TimedOut
    }

    /// Drops all requests, with the process.
    pub fn forget(&mut self) {
        self.current = None;
        self.backlog.clear();
    }

    /// Accounts for CPU up to `now`.
    pub fn account(&mut self, cpu: &mut Cpu, now: Nanos) {
        match &mut self.current {
            None => cpu.idle(now),
            Some(current) => current.left = current.left.since(cpu.run(now, 1)),
        }
    }

    /// Updates the end of service after a change of the quota.
    pub fn requota(&mut self, cpu: &Cpu) {
        if let Some(current) = &mut self.current {
            current.end = cpu.end(current.left, 1);
        }
    }

    /// Bytes on the heap.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.backlog.capacity() * size_of::<Request>()
    }
}
