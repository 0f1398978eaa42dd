//! One function: its gateway with the bounded queue, and its replicas. Owns which request goes where, as the local platform does it; [`life`] has when
//! replicas start and end. Must not decide how many there shall be.

use std::collections::VecDeque;
use std::sync::Arc;

use qscale_common::units::Allocation;
use qscale_common::workload::WorkloadRng;

use crate::event_queue::EventQueue;
use crate::latency::Histogram;
use crate::nanos::Nanos;
use crate::node::{Contention, Nodes, Pool};
use crate::profile::{Demand, Demands, FunctionProfile, Gateway, ProfileScale};
use crate::replica::{Ending, Path, Phase, Replica, Request};
use crate::rng::{Purpose, stream};
use crate::totals::Totals;

mod cpu_sharing;
mod life;
mod on_demand;
mod reading;

pub use reading::Reading;

use life::{Death, Held};
use reading::Taken;

/// A replica that takes no request.
const NO_ROOM: u32 = u32::MAX;

/// A function in its world. Time only goes on: whatever is asked at an instant is asked in the order of instants.
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
    slots: Vec<Option<Replica>>,
    /// Replicas that are gone, for the memory that they have.
    spare: Vec<Replica>,
    /// Requests that the replica of each slot has, [`NO_ROOM`] where it takes none: what admission looks at, close together.
    loads: Vec<u32>,
    /// Slots whose replica has room.
    open: usize,
    /// Those of them whose replica has no request at all, a bit each.
    idle: Vec<u64>,
    event_queue: EventQueue,
    queue: VecDeque<Request>,
    /// Slot at which the search for the least loaded replica begins, so that equals take turns.
    turn: usize,
    next_number: u32,
    /// How long a replica is kept without a request, where requests start their replicas themselves.
    keep_alive: Option<Nanos>,
    demand_rng: WorkloadRng,
    start_rng: WorkloadRng,
    crash_rng: WorkloadRng,
    /// Mean time until a process crashes, nanoseconds; infinite where none does.
    crash_after: f64,
    /// When the first process crashes, or earlier.
    next_crash: Nanos,
    /// The nodes, where they are limited.
    pool: Option<Box<Pool>>,
    /// How their CPU is divided, where more is promised than there is.
    contention: Option<Box<Contention>>,
    /// Replicas that wait for room on a node: those without one, and those that shall grow.
    waiting_for_room: usize,
    held: Held,
    /// Requests that failed at the gateway.
    failed_at_gateway: u64,
    startup_time: Nanos,
    totals: Totals,
    /// What the totals held whenever they were taken.
    taken: Taken,
    /// Up to when cost is summed.
    summed: Nanos,
}

impl Function {
    /// A function without replicas. `seed` and `index` name its streams of random numbers.
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
            held: Held::default(),
            failed_at_gateway: 0,
            startup_time: Nanos::ZERO,
            totals: Totals::default(),
            taken: Taken::default(),
            summed: Nanos::ZERO,
        }
    }

    /// The same function with its replicas simulated in the other way, for holding the two against each other.
    #[must_use]
    pub fn on_path(mut self, path: Path) -> Self {
        self.path = path;
        self
    }

    /// The same function on these nodes alone; to be said before it has replicas.
    #[must_use]
    pub fn on_nodes(mut self, nodes: Option<Nodes>) -> Self {
        self.pool = nodes.map(|nodes| Box::new(Pool::new(nodes)));
        if let Some(nodes) = nodes.filter(|nodes| nodes.room() > nodes.cpu_millicores) {
            self.path = Path::Contended;
            self.contention = Some(Box::new(Contention::new(nodes.cpu_millicores.cores())));
        }
        self
    }

    /// The same function whose running replicas crash so often, times an hour each; to be said before it has replicas.
    #[must_use]
    pub fn crashing(mut self, per_hour: f64) -> Self {
        self.crash_after = 3.6e12 / per_hour.max(0.0);
        self
    }

    /// What requests and starts ask for differs from the profile from now on.
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

    /// A request arrives at `at` and asks for `demand`.
    #[inline]
    pub fn arrive_with(&mut self, at: Nanos, demand: Demand) {
        self.process_until(at);
        self.totals.arrived += 1;
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
            return self.start_for(request, now);
        }
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

    /// What happens to the replica of `slot` at `now`.
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

    /// Gives requests that wait to the replica of `slot`, as many as it may have.
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
                self.end(slot, Death::OutOfMemory, now);
            }
        }
    }

    /// Notes what changed about the replica of `slot` at `now`.
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

    /// Notes when something happens next to the replica of `slot`, and whether it takes requests.
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

    /// The slot of the least loaded replica with room; among equals the next in turn.
    #[inline]
    fn least_loaded(&self) -> Option<usize> {
        if self.open == 0 {
            return None;
        }
        let turn = if self.turn < self.loads.len() { self.turn } else { 0 };
        self.next_idle(turn).or_else(|| self.next_least(turn))
    }

    /// The first slot from `turn` on, around, that has the least load.
    #[inline]
    fn next_least(&self, turn: usize) -> Option<usize> {
        let turn = turn as u32;
        // Slots before the turn wrap to the greatest distances, so that one number orders by load first, then by turn.
        let distances = self.loads.iter().zip(0u32..).map(|(load, slot)| (u64::from(*load) << 32) | u64::from(slot.wrapping_sub(turn)));
        distances.min().map(|least| (least as u32).wrapping_add(turn) as usize)
    }

    /// The first slot from `turn` on, around, whose replica has no request.
    #[inline]
    fn next_idle(&self, turn: usize) -> Option<usize> {
        if let [word] = self.idle[..] {
            // Whether one lies before or behind the turn cannot be foreseen, so that both are looked at in one.
            return (word != 0).then(|| (turn + word.rotate_right(turn as u32).trailing_zeros() as usize) % 64);
        }
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
        self.taken.add(&self.totals);
        interval.clear();
        std::mem::swap(&mut self.totals, interval);
    }

    /// Bytes that the function takes, on the heap and off it: as much as is live, whatever has been.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.slots.capacity() * size_of::<Option<Replica>>()
            + self.replicas().map(Replica::heap_bytes).sum::<usize>()
            + self.spare.capacity() * size_of::<Replica>()
            + self.spare.iter().map(Replica::heap_bytes).sum::<usize>()
            + self.loads.capacity() * size_of::<u32>()
            + self.idle.capacity() * size_of::<u64>()
            + self.event_queue.heap_bytes()
            + self.queue.capacity() * size_of::<Request>()
            + Histogram::BYTES
            + self.pool.as_deref().map_or(0, Pool::memory_bytes)
            + self.contention.as_deref().map_or(0, |contention| size_of::<Contention>() + contention.heap_bytes())
    }
}

#[cfg(test)]
mod tests;
