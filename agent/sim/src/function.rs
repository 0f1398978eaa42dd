//! One function: its gateway with the bounded queue, and its replicas. Owns which request goes where and when replicas start and stop, as the local
//! platform does it; must not decide how many there shall be.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::Arc;

use qscale_common::scrape::{FunctionScrape, IngressReading, PlatformReading, Scrape};
use qscale_common::time::Timestamp;
use qscale_common::units::{Allocation, Replicas};
use qscale_common::workload::WorkloadRng;

use crate::agenda::Agenda;
use crate::chance::{Purpose, stream};
use crate::latency::Histogram;
use crate::nanos::Nanos;
use crate::profile::{Demand, Demands, FunctionProfile, Gateway, Stretch};
use crate::replica::{Ending, Path, Phase, Replica, Request};
use crate::totals::Totals;

/// A replica that takes no request.
const NO_ROOM: u32 = u32::MAX;

/// A function in its world. Time only goes on: whatever is asked at an instant is asked in the order of instants.
#[derive(Debug, Clone)]
pub struct Function {
    profile: Arc<FunctionProfile>,
    demands: Demands,
    path: Path,
    concurrency: u32,
    queue_bound: usize,
    timeout: Nanos,
    allocation: Allocation,
    slots: Vec<Option<Replica>>,
    /// Requests that the replica of each slot has, [`NO_ROOM`] where it takes none: what admission looks at, close together.
    loads: Vec<u32>,
    /// Slots whose replica has room.
    open: usize,
    /// Those of them whose replica has no request at all, a bit each.
    idle: Vec<u64>,
    agenda: Agenda,
    queue: VecDeque<Request>,
    /// Slot at which the search for the least loaded replica begins, so that equals take turns.
    turn: usize,
    next_number: u32,
    demand_rng: WorkloadRng,
    start_rng: WorkloadRng,
    /// Requests that failed at the gateway.
    failed_at_gateway: u64,
    startup_time: Nanos,
    totals: Totals,
    /// Requests that had arrived, and starts that had become ready, when the totals were last taken.
    taken: (u64, u64),
    /// Up to when cost is summed.
    summed: Nanos,
}

impl Function {
    /// A function without replicas. `seed` and `index` name its streams of random numbers.
    #[must_use]
    pub fn new(profile: Arc<FunctionProfile>, gateway: Gateway, seed: u64, index: u64) -> Self {
        Self {
            demands: Demands::new(&profile, Stretch::default()),
            path: Path::of(&profile),
            profile,
            concurrency: if gateway.concurrency == 0 { NO_ROOM } else { gateway.concurrency },
            queue_bound: gateway.queue as usize,
            timeout: Nanos::from(gateway.timeout.0).min(Nanos::LONGEST),
            allocation: Allocation::new(0, 1000, 128),
            slots: Vec::new(),
            loads: Vec::new(),
            open: 0,
            idle: Vec::new(),
            agenda: Agenda::new(),
            queue: VecDeque::new(),
            turn: 0,
            next_number: 0,
            demand_rng: stream(seed, index, Purpose::Demands),
            start_rng: stream(seed, index, Purpose::Starts),
            failed_at_gateway: 0,
            startup_time: Nanos::ZERO,
            totals: Totals::default(),
            taken: (0, 0),
            summed: Nanos::ZERO,
        }
    }

    /// The same function with its replicas simulated in the other way, for holding the two against each other.
    #[must_use]
    pub fn on_path(mut self, path: Path) -> Self {
        self.path = path;
        self
    }

    /// What requests and starts ask for differs from the profile from now on.
    pub fn stretch(&mut self, stretch: Stretch) {
        self.demands = Demands::new(&self.profile, stretch);
    }

    /// Gives it `allocation` as if long before, every replica ready and none of them counted as a start; what it had is stopped.
    pub fn warm(&mut self, allocation: Allocation, now: Nanos) {
        self.allocate(Allocation { replicas: Replicas(0), ..allocation }, now);
        self.allocation = allocation;
        for _ in 0..allocation.replicas.0 {
            let slot = self.add(Demand::default(), now);
            if let Some(replica) = &mut self.slots[slot] {
                replica.become_ready(now);
            }
            self.fill(slot, now);
            self.update(slot);
        }
    }

    /// A request arrives at `at`.
    #[inline]
    pub fn arrive(&mut self, at: Nanos) {
        let demand = self.demands.request(&mut self.demand_rng);
        self.arrive_with(at, demand);
    }

    /// A request arrives at `at` and asks for `demand`.
    #[inline]
    pub fn arrive_with(&mut self, at: Nanos, demand: Demand) {
        self.settle(at);
        self.totals.arrived += 1;
        let request = Request { arrived: at, demand };
        if self.queue.is_empty()
            && let Some(slot) = self.least_loaded()
        {
            self.turn = slot + 1;
            self.give(slot, request, at);
            self.update(slot);
            return;
        }
        self.enqueue(request);
    }

    fn enqueue(&mut self, request: Request) {
        let now = request.arrived;
        self.expire(now);
        if self.queue.len() >= self.queue_bound {
            self.totals.refused += 1;
            self.failed_at_gateway += 1;
            return;
        }
        self.queue.push_back(request);
        self.wake(now);
    }

    /// Lives up to `until`.
    pub fn advance(&mut self, until: Nanos) {
        self.settle(until);
        self.expire(until);
    }

    #[inline]
    fn settle(&mut self, until: Nanos) {
        loop {
            let now = self.agenda.earliest();
            if now > until || now == Nanos::NEVER {
                return;
            }
            self.happen(self.agenda.first(), now);
        }
    }

    /// What happens to the replica of `slot` at `now`.
    #[inline]
    fn happen(&mut self, slot: usize, now: Nanos) {
        let Some(replica) = &mut self.slots[slot] else { return self.agenda.set(slot, Nanos::NEVER) };
        if let Phase::Starting { .. } = replica.phase {
            return self.ready(slot, now);
        }
        match replica.step(now) {
            Some(Ending::Completed { latency, place }) => {
                self.totals.completed += 1;
                self.totals.latency_sum += latency;
                self.totals.latency.add(place);
            }
            Some(Ending::TimedOut) => self.totals.timed_out += 1,
            None => {}
        }
        if replica.phase == Phase::Draining {
            if replica.load == 0 {
                return self.remove(slot, now);
            }
        } else {
            self.fill(slot, now);
        }
        self.update(slot);
    }

    fn ready(&mut self, slot: usize, now: Nanos) {
        let Some(replica) = &mut self.slots[slot] else { return };
        self.startup_time += replica.become_ready(now);
        self.totals.became_ready += 1;
        self.fill(slot, now);
        self.update(slot);
    }

    /// Gives requests that wait to the replica of `slot`, as many as it may have.
    #[inline]
    fn fill(&mut self, slot: usize, now: Nanos) {
        while !self.queue.is_empty() && self.slots[slot].as_ref().is_some_and(|replica| replica.load < self.concurrency) {
            self.expire(now);
            if let Some(request) = self.queue.pop_front() {
                self.give(slot, request, now);
            }
        }
    }

    #[inline]
    fn give(&mut self, slot: usize, request: Request, now: Nanos) {
        if let Some(replica) = &mut self.slots[slot] {
            replica.accept(request, now);
        }
    }

    /// Notes what changed about the replica of `slot`.
    #[inline]
    fn update(&mut self, slot: usize) {
        let Some(replica) = &self.slots[slot] else { return };
        let takes = replica.phase == Phase::Ready && replica.load < self.concurrency;
        let (load, next) = (if takes { replica.load } else { NO_ROOM }, replica.next(self.timeout));
        self.note(slot, load, next);
    }

    #[inline]
    fn note(&mut self, slot: usize, load: u32, next: Nanos) {
        self.open -= usize::from(self.loads[slot] != NO_ROOM);
        self.open += usize::from(load != NO_ROOM);
        self.loads[slot] = load;
        let word = &mut self.idle[slot / 64];
        *word = (*word & !(1 << (slot % 64))) | (u64::from(load == 0) << (slot % 64));
        self.agenda.set(slot, next);
    }

    /// The slot of the least loaded replica with room; among equals the next in turn.
    #[inline]
    fn least_loaded(&self) -> Option<usize> {
        if self.open == 0 {
            return None;
        }
        let turn = if self.turn < self.loads.len() { self.turn } else { 0 };
        self.next_idle(turn).or_else(|| (turn..self.loads.len()).chain(0..turn).min_by_key(|slot| self.loads[*slot]))
    }

    /// The first slot from `turn` on, around, whose replica has no request.
    #[inline]
    fn next_idle(&self, turn: usize) -> Option<usize> {
        let first = turn / 64;
        let in_word = |word: usize, bits: u64| (bits != 0).then(|| word * 64 + bits.trailing_zeros() as usize);
        in_word(first, self.idle[first] & (u64::MAX << (turn % 64)))
            .or_else(|| (first + 1..self.idle.len()).chain(0..=first).find_map(|word| in_word(word, self.idle[word])))
    }

    /// Requests that waited too long leave the queue. They arrived in order and wait equally long, so these are the first.
    #[inline]
    fn expire(&mut self, now: Nanos) {
        while self.queue.front().is_some_and(|first| first.arrived + self.timeout <= now) {
            self.queue.pop_front();
            self.totals.timed_out += 1;
            self.failed_at_gateway += 1;
        }
    }

    /// A function of no replicas for which a request waits is given one.
    fn wake(&mut self, now: Nanos) {
        if self.allocation.replicas == Replicas(0) && !self.queue.is_empty() {
            self.totals.wakes += 1;
            self.allocate(Allocation { replicas: Replicas(1), ..self.allocation }, now);
        }
    }

    /// Gives it another allocation: starts what is missing, stops what is too much, resizes the others in place.
    pub fn allocate(&mut self, allocation: Allocation, now: Nanos) {
        self.advance(now);
        self.sum_cost(now);
        let resized = allocation.cpu_millicores != self.allocation.cpu_millicores;
        self.allocation = allocation;
        if resized {
            self.resize(now);
        }
        let alive = self.replicas().filter(|replica| replica.phase != Phase::Draining).count();
        let wanted = allocation.replicas.0 as usize;
        (alive..wanted).for_each(|_| self.start(now));
        (wanted..alive).for_each(|_| self.stop_one(now));
        self.wake(now);
    }

    fn resize(&mut self, now: Nanos) {
        for slot in 0..self.slots.len() {
            if let Some(replica) = &mut self.slots[slot] {
                replica.resize(self.allocation.cpu_millicores, now);
                self.update(slot);
            }
        }
    }

    fn start(&mut self, now: Nanos) {
        let startup = self.demands.startup(&mut self.start_rng);
        self.totals.starts += 1;
        let slot = self.add(startup, now);
        self.update(slot);
    }

    /// Adds a replica that needs `startup` to become ready; returns its slot.
    fn add(&mut self, startup: Demand, now: Nanos) -> usize {
        let replica = Replica::start(self.next_number, &self.profile, self.allocation.cpu_millicores, startup, self.path, now);
        self.next_number += 1;
        let slot = self.slots.iter().position(Option::is_none).unwrap_or_else(|| {
            self.slots.push(None);
            self.loads.push(NO_ROOM);
            self.idle.resize(self.slots.len().div_ceil(64), 0);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(replica);
        slot
    }

    /// Stops one replica: first those that are not ready, then the least loaded, then the youngest.
    fn stop_one(&mut self, now: Nanos) {
        let alive = self.slots.iter_mut().enumerate().filter_map(|(slot, replica)| replica.as_mut().map(|replica| (slot, replica)));
        let alive = alive.filter(|(_, replica)| replica.phase != Phase::Draining);
        let chosen = alive.min_by_key(|(_, replica)| (replica.phase == Phase::Ready, replica.load, std::cmp::Reverse(replica.number)));
        let Some((slot, replica)) = chosen else { return };
        if replica.load == 0 {
            return self.remove(slot, now);
        }
        replica.phase = Phase::Draining;
        self.update(slot);
    }

    fn remove(&mut self, slot: usize, now: Nanos) {
        self.sum_cost(now);
        self.slots[slot] = None;
        self.note(slot, NO_ROOM, Nanos::NEVER);
    }

    fn sum_cost(&mut self, now: Nanos) {
        let seconds = now.since(self.summed).seconds();
        let there = Allocation { replicas: Replicas(self.replicas().count() as u32), ..self.allocation };
        self.totals.core_seconds += there.total_cores() * seconds;
        self.totals.gibibyte_seconds += there.total_gibibytes() * seconds;
        self.summed = now;
    }

    /// The replicas that there are, draining ones included.
    pub fn replicas(&self) -> impl Iterator<Item = &Replica> {
        self.slots.iter().flatten()
    }

    /// The allocation in force.
    #[must_use]
    pub fn allocation(&self) -> Allocation {
        self.allocation
    }

    /// Requests that wait for a replica.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// What happened by `now` since the world began, or since it was last taken.
    pub fn totals(&mut self, now: Nanos) -> &Totals {
        self.advance(now);
        self.sum_cost(now);
        &self.totals
    }

    /// Takes what happened by `now` since the world began, or since it was last taken, into `interval`, whose memory is used again.
    pub fn take_interval(&mut self, now: Nanos, interval: &mut Totals) {
        self.advance(now);
        self.sum_cost(now);
        self.taken = (self.arrived(), self.became_ready());
        interval.clear();
        std::mem::swap(&mut self.totals, interval);
    }

    /// Requests that arrived since the world began.
    fn arrived(&self) -> u64 {
        self.taken.0 + self.totals.arrived
    }

    /// Starts that became ready since the world began.
    fn became_ready(&self) -> u64 {
        self.taken.1 + self.totals.became_ready
    }

    /// Reads everything at `now`, which is `at` to those who read, into `reading`, whose memory is used again.
    pub fn scrape(&mut self, now: Nanos, at: Timestamp, reading: &mut Reading) {
        self.advance(now);
        let phase = |wanted: fn(Phase) -> bool| Replicas(self.replicas().filter(|replica| wanted(replica.phase)).count() as u32);
        reading.scrape.platform = Some(PlatformReading {
            at,
            allocation: self.allocation,
            ready: phase(|phase| phase == Phase::Ready),
            pending: phase(|phase| matches!(phase, Phase::Starting { .. })),
            crashes: Some(0),
            oom_kills: Some(0),
            startups: Some((self.became_ready(), self.startup_time.0 / 1_000_000)),
        });
        let arrived = self.arrived();
        reading.scrape.ingress = Some(IngressReading { at, arrived, failed: self.failed_at_gateway, queued: self.queue.len() as f64 });
        reading.resize(self.replicas().count());
        for (replica, scrape) in self.slots.iter_mut().flatten().zip(&mut reading.scrape.replicas) {
            scrape.replica.clear();
            write!(scrape.replica, "{}-{:05}", self.profile.name, replica.number).expect("a string takes whatever is written to it");
            scrape.at = at;
            scrape.requests = Some(replica.requests);
            scrape.in_flight = Some(f64::from(replica.load));
            scrape.cpu = Some(replica.cpu(now));
            scrape.working_set_bytes = Some(self.profile.memory.working_set(replica.load));
        }
    }

    /// Bytes that the function takes, on the heap and off it: as much as is live, whatever has been.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.slots.capacity() * size_of::<Option<Replica>>()
            + self.replicas().map(Replica::heap_bytes).sum::<usize>()
            + self.loads.capacity() * size_of::<u32>()
            + self.idle.capacity() * size_of::<u64>()
            + self.agenda.heap_bytes()
            + self.queue.capacity() * size_of::<Request>()
            + Histogram::BYTES
    }
}

/// What was read of a function, with room for more replicas than there are.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// What was read.
    pub scrape: FunctionScrape,
    spare: Vec<Scrape>,
}

impl Reading {
    fn resize(&mut self, replicas: usize) {
        let now = &mut self.scrape.replicas;
        while now.len() > replicas {
            self.spare.extend(now.pop());
        }
        while now.len() < replicas {
            now.push(self.spare.pop().unwrap_or_else(empty));
        }
    }
}

fn empty() -> Scrape {
    Scrape {
        replica: String::new(),
        at: Timestamp(0),
        requests: None,
        in_flight: None,
        cpu: None,
        working_set_bytes: None,
        restarts: 0,
        oom_kills: 0,
    }
}

#[cfg(test)]
mod tests;
