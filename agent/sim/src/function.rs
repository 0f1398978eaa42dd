//! One function: its gateway with a bounded queue, and its replicas. Owns the dispatch of requests, as on the local
//! platform; starts and ends of replicas are in [`life`]. Must not decide the number of replicas.

use std::collections::VecDeque;
use std::sync::Arc;

use qscale_common::units::Allocation;
use qscale_common::workload::WorkloadRng;

use crate::event_queue::EventQueue;
use crate::latency::LatencyHistogram;
use crate::nanos::Nanos;
use crate::node::{Contention, Nodes, Pool};
use crate::profile::{Demands, FunctionProfile, Gateway, ProfileScale, RequestDemand};
use crate::replica::{Ending, Path, Phase, Request, SimulatedReplica};
use crate::rng::{Purpose, stream};
use crate::totals::Totals;

mod cpu_sharing;
mod life;
mod on_demand;
mod reading;

pub use reading::ScrapeBuffer;

use life::{ExitCause, PlacedLimits};
use reading::TakenCounters;

/// Load of a replica that takes no request.
const NO_ROOM: u32 = u32::MAX;

/// A simulated function. Time only advances: calls must be in the order of their instants.
#[derive(Debug, Clone)]
pub struct Function {
    profile: Arc<FunctionProfile>,
    demands: Demands,
    scale: ProfileScale,
    path: Path,
    concurrency: u32,
    queue_bound: usize,
    timeout: Nanos,
    allocation: Allocation,
    slots: Vec<Option<SimulatedReplica>>,
    /// Removed replicas, kept for their memory.
    spare: Vec<SimulatedReplica>,
    /// Requests at the replica of each slot, [`NO_ROOM`] if it takes none: a compact array for dispatch.
    loads: Vec<u32>,
    /// Slots whose replica has room.
    open: usize,
    /// Bit set of open slots without any request.
    idle: Vec<u64>,
    event_queue: EventQueue,
    queue: VecDeque<Request>,
    /// Slot at which the search for the least loaded replica begins, so that equally loaded ones take turns.
    turn: usize,
    next_number: u32,
    /// Keep-alive of replicas that requests start themselves, if they do.
    keep_alive: Option<Nanos>,
    demand_rng: WorkloadRng,
    start_rng: WorkloadRng,
    crash_rng: WorkloadRng,
    /// Mean time to a crash, nanoseconds; infinite without crashes.
    crash_after: f64,
    /// Lower bound of the time of the next crash.
    next_crash: Nanos,
    /// Nodes, if they are limited.
    pool: Option<Box<Pool>>,
    /// Division of their CPU, if it is overcommitted.
    contention: Option<Box<Contention>>,
    /// Replicas that wait for room on a node, to be placed or to grow.
    waiting_for_room: usize,
    held: PlacedLimits,
    /// Requests that failed at the gateway.
    failed_at_gateway: u64,
    startup_time: Nanos,
    totals: Totals,
    /// Sums of the totals taken so far.
    taken: TakenCounters,
    /// Instant up to which cost is summed.
    summed: Nanos,
}

impl Function {
    /// A function without replicas. `seed` and `index` select its streams of random numbers.
    #[must_use]
    pub fn new(profile: Arc<FunctionProfile>, gateway: Gateway, seed: u64, index: u64) -> Self {
        Self {
            demands: Demands::new(&profile, ProfileScale::default()),
            scale: ProfileScale::default(),
            path: Path::of(&profile),
            profile,
            concurrency: if gateway.concurrency == 0 { NO_ROOM } else { gateway.concurrency },
            queue_bound: gateway.queue as usize,
            timeout: Nanos::from(gateway.timeout.0).min(Nanos::LONGEST),
            allocation: Allocation::new(0, 1000, 128),
            slots: Vec::new(),
            spare: Vec::new(),
            loads: Vec::new(),
            open: 0,
            idle: Vec::new(),
            event_queue: EventQueue::new(),
            queue: VecDeque::new(),
            turn: 0,
            next_number: 0,
            keep_alive: None,
            demand_rng: stream(seed, index, Purpose::Demands),
            start_rng: stream(seed, index, Purpose::Starts),
            crash_rng: stream(seed, index, Purpose::Crashes),
            crash_after: f64::INFINITY,
            next_crash: Nanos::NEVER,
            pool: None,
            contention: None,
            waiting_for_room: 0,
            held: PlacedLimits::default(),
            failed_at_gateway: 0,
            startup_time: Nanos::ZERO,
            totals: Totals::default(),
            taken: TakenCounters::default(),
            summed: Nanos::ZERO,
        }
    }

    /// Selects the implementation of replicas, to compare them.
    #[must_use]
    pub fn on_path(mut self, path: Path) -> Self {
        self.path = path;
        self
    }

    /// Places the function on `nodes`; only before it has replicas.
    #[must_use]
    pub fn on_nodes(mut self, nodes: Option<Nodes>) -> Self {
        self.pool = nodes.map(|nodes| Box::new(Pool::new(nodes)));
        if let Some(nodes) = nodes.filter(|nodes| nodes.room() > nodes.cpu_millicores) {
            self.path = Path::Contended;
            self.contention = Some(Box::new(Contention::new(nodes.cpu_millicores.cores())));
        }
        self
    }

    /// Sets the crashes of each running replica, times an hour; only before it has replicas.
    #[must_use]
    pub fn crashing(mut self, per_hour: f64) -> Self {
        self.crash_after = 3.6e12 / per_hour.max(0.0);
        self
    }

    /// Scales the demands of requests and starts from now on.
    pub fn set_scale(&mut self, scale: ProfileScale) {
        if self.scale != scale {
            self.scale = scale;
            self.demands = Demands::new(&self.profile, scale);
        }
    }

    /// A request arrives at `at`.
    #[inline]
    pub fn arrive(&mut self, at: Nanos) {
        let demand = self.demands.request(&mut self.demand_rng);
        self.arrive_with(at, demand);
    }

    /// A request with `demand` arrives at `at`.
    #[inline]
    pub fn arrive_with(&mut self, at: Nanos, demand: RequestDemand) {
        self.process_until(at);
        self.totals.arrived += 1;
        self.totals.demand = Nanos(self.totals.demand.0.saturating_add(demand.cpu.0).saturating_add(demand.waiting.0));
        let request = Request { arrived: at, demand };
        if self.queue.is_empty()
            && let Some(slot) = self.least_loaded()
        {
            self.turn = slot + 1;
            self.give(slot, request, at);
            self.update(slot, at);
            return;
        }
        self.enqueue(request);
    }

    fn enqueue(&mut self, request: Request) {
        let now = request.arrived;
        if self.keep_alive.is_some() {
            self.totals.cold += 1;
            return self.start_for(request, now);
        }
        let any_ready = self.replicas().any(|replica| replica.phase == Phase::Ready);
        self.totals.cold += u64::from(!any_ready);
        self.expire(now);
        if self.queue.len() >= self.queue_bound {
            self.totals.refused += 1;
            self.failed_at_gateway += 1;
            return;
        }
        self.queue.push_back(request);
        self.wake(now);
    }

    /// Advances to `until`.
    pub fn advance(&mut self, until: Nanos) {
        self.process_until(until);
        self.expire(until);
    }

    #[inline]
    fn process_until(&mut self, until: Nanos) {
        loop {
            let now = self.event_queue.earliest();
            if now > until.min(self.next_crash) || now == Nanos::NEVER {
                if self.next_crash > until {
                    return;
                }
                self.crash_next();
                continue;
            }
            self.process(self.event_queue.first(), now);
        }
    }

    /// Processes the event of the replica of `slot` at `now`.
    #[inline]
    fn process(&mut self, slot: usize, now: Nanos) {
        let Some(replica) = &mut self.slots[slot] else { return self.event_queue.set(slot, Nanos::NEVER) };
        if !replica.runs() || replica.kept_until <= now {
            return self.process_lifecycle(slot, now);
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
        self.update(slot, now);
    }

    /// Dispatches queued requests to the replica of `slot`, up to its concurrency.
    #[inline]
    fn fill(&mut self, slot: usize, now: Nanos) {
        while !self.queue.is_empty() && self.slots[slot].as_ref().is_some_and(|replica| replica.takes(self.concurrency)) {
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
            if replica.load > replica.memory_room {
                self.end(slot, ExitCause::OutOfMemory, now);
            }
        }
    }

    /// Updates all bookkeeping of the replica of `slot` at `now`.
    #[inline]
    fn update(&mut self, slot: usize, now: Nanos) {
        if self.contention.is_some() {
            self.contend(slot, now);
        }
        if let Some(keep_alive) = self.keep_alive {
            self.keep(slot, now + keep_alive);
        }
        self.schedule(slot);
    }

    /// Schedules the next event of the replica of `slot`, and records whether it takes requests.
    #[inline]
    fn schedule(&mut self, slot: usize) {
        let Some(replica) = &self.slots[slot] else { return };
        let takes = replica.takes(self.concurrency);
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
        self.event_queue.set(slot, next);
    }

    /// Slot of the least loaded replica with room; among equals the next in turn.
    #[inline]
    fn least_loaded(&self) -> Option<usize> {
        if self.open == 0 {
            return None;
        }
        let turn = if self.turn < self.loads.len() { self.turn } else { 0 };
        self.next_idle(turn).or_else(|| self.next_least(turn))
    }

    /// First slot from `turn` on, cyclically, with the least load.
    #[inline]
    fn next_least(&self, turn: usize) -> Option<usize> {
        let turn = turn as u32;
        // Slots before `turn` wrap to the greatest distances, so one number orders by load, then by turn.
        let distances = self.loads.iter().zip(0u32..).map(|(load, slot)| (u64::from(*load) << 32) | u64::from(slot.wrapping_sub(turn)));
        distances.min().map(|least| (least as u32).wrapping_add(turn) as usize)
    }

    /// First slot from `turn` on, cyclically, whose replica is idle.
    #[inline]
    fn next_idle(&self, turn: usize) -> Option<usize> {
        if let [word] = self.idle[..] {
            // The position relative to `turn` is unpredictable, so one rotation covers both sides.
            return (word != 0).then(|| (turn + word.rotate_right(turn as u32).trailing_zeros() as usize) % 64);
        }
        let first = turn / 64;
        let in_word = |word: usize, bits: u64| (bits != 0).then(|| word * 64 + bits.trailing_zeros() as usize);
        in_word(first, self.idle[first] & (u64::MAX << (turn % 64)))
            .or_else(|| (first + 1..self.idle.len()).chain(0..=first).find_map(|word| in_word(word, self.idle[word])))
    }

    /// Removes requests that waited too long. They arrived in order and have equal timeouts, so these are the first.
    #[inline]
    fn expire(&mut self, now: Nanos) {
        while self.queue.front().is_some_and(|first| first.arrived + self.timeout <= now) {
            self.queue.pop_front();
            self.totals.timed_out += 1;
            self.failed_at_gateway += 1;
        }
    }

    /// All replicas, including draining ones.
    pub fn replicas(&self) -> impl Iterator<Item = &SimulatedReplica> {
        self.slots.iter().flatten()
    }

    /// The current allocation.
    #[must_use]
    pub fn allocation(&self) -> Allocation {
        self.allocation
    }

    /// Number of queued requests.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Totals up to `now`, since the start or since they were last taken.
    pub fn totals(&mut self, now: Nanos) -> &Totals {
        self.advance(now);
        self.sum_cost(now);
        self.sum_busy(now);
        &self.totals
    }

    /// Moves the totals up to `now` into `interval`, reusing its memory, and starts new ones.
    pub fn take_interval(&mut self, now: Nanos, interval: &mut Totals) {
        self.advance(now);
        self.sum_cost(now);
        self.sum_busy(now);
        self.taken.add(&self.totals);
        interval.clear();
        std::mem::swap(&mut self.totals, interval);
    }

    /// Size in bytes, with heap.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.slots.capacity() * size_of::<Option<SimulatedReplica>>()
            + self.replicas().map(SimulatedReplica::heap_bytes).sum::<usize>()
            + self.spare.capacity() * size_of::<SimulatedReplica>()
            + self.spare.iter().map(SimulatedReplica::heap_bytes).sum::<usize>()
            + self.loads.capacity() * size_of::<u32>()
            + self.idle.capacity() * size_of::<u64>()
            + self.event_queue.heap_bytes()
            + self.queue.capacity() * size_of::<Request>()
            + LatencyHistogram::BYTES
            + self.pool.as_deref().map_or(0, Pool::memory_bytes)
            + self.contention.as_deref().map_or(0, |contention| size_of::<Contention>() + contention.heap_bytes())
    }
}

#[cfg(test)]
mod tests;
