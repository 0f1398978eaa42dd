//! Lifecycle of the replicas of a function: starts, stops, crashes, restarts and placement. Owns the platform's own
//! behaviour; must not decide the number of replicas.
//!
//! As on the local platform, a replica that ends by itself restarts after a back-off that doubles, keeps its limits and
//! its CPU counter, and loses its requests. Deviations: a memory limit set below the usage kills the replica, as the
//! kernel does, where the local platform refuses and retries; starts have no timeout.

use qscale_common::units::{Allocation, Replicas};
use rand::RngExt;
use rand_distr::Exp1;

use super::reading::TakenCounters;
use super::{Function, NO_ROOM};
use crate::nanos::Nanos;
use crate::node::ReplicaLimits;
use crate::profile::RequestDemand;
use crate::replica::{Phase, SimulatedReplica};
use crate::rng::{Purpose, stream};

/// Greatest number of removed replicas whose memory is kept.
const SPARE: usize = 32;

/// Why a process ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExitCause {
    /// A crash.
    Crash,
    /// More memory used than its limit.
    OutOfMemory,
}

/// Sum of the limits of all placed replicas.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PlacedLimits {
    millicores: u64,
    mebibytes: u64,
}

impl PlacedLimits {
    pub(super) fn add(&mut self, limits: ReplicaLimits) {
        self.millicores += u64::from(limits.cpu.0);
        self.mebibytes += u64::from(limits.memory.0);
    }

    fn subtract(&mut self, limits: ReplicaLimits) {
        self.millicores -= u64::from(limits.cpu.0);
        self.mebibytes -= u64::from(limits.memory.0);
    }
}

impl Function {
    /// Replaces all replicas by `allocation`, every replica ready and none counted as a start.
    pub fn warm(&mut self, allocation: Allocation, now: Nanos) {
        self.allocate(Allocation { replicas: Replicas(0), ..allocation }, now);
        self.allocation = allocation;
        for _ in 0..allocation.replicas.0 {
            let slot = self.add(now);
            if !self.place(slot, now) {
                continue;
            }
            self.waiting_for_room -= 1;
            if let Some(replica) = &mut self.slots[slot] {
                replica.start(RequestDemand::default(), now);
                replica.become_ready(now);
            }
            self.schedule_crash(slot, now);
            self.fill(slot, now);
            self.update(slot, now);
        }
    }

    /// Starts one replica for a function with queued requests and none.
    pub(super) fn wake(&mut self, now: Nanos) {
        if self.allocation.replicas == Replicas(0) && !self.queue.is_empty() {
            self.totals.wakes += 1;
            self.allocate(Allocation { replicas: Replicas(1), ..self.allocation }, now);
        }
    }

    /// Applies an allocation: stops surplus replicas, resizes the others in place, starts missing ones.
    pub fn allocate(&mut self, allocation: Allocation, now: Nanos) {
        self.advance(now);
        let resized = ReplicaLimits::from(allocation) != ReplicaLimits::from(self.allocation);
        self.allocation = allocation;
        let wanted = allocation.replicas.0 as usize;
        (wanted..self.alive()).for_each(|_| self.stop_one(now));
        if resized {
            (0..self.slots.len()).for_each(|slot| self.resize(slot, now));
        }
        self.start_missing(now);
        self.wake(now);
    }

    /// Replicas that are not draining.
    fn alive(&self) -> usize {
        self.replicas().filter(|replica| replica.phase != Phase::Draining).count()
    }

    /// Starts missing replicas, and pending ones that have room now.
    fn start_missing(&mut self, now: Nanos) {
        for _ in self.alive()..self.allocation.replicas.0 as usize {
            self.add(now);
        }
        self.use_room(now);
    }

    /// Gives free room on nodes to waiting replicas: first to those that grow, then to pending ones, the oldest first.
    fn use_room(&mut self, now: Nanos) {
        if self.waiting_for_room == 0 {
            return;
        }
        (0..self.slots.len()).for_each(|slot| self.resize(slot, now));
        while let Some(slot) = self.first_pending()
            && self.place(slot, now)
        {
            self.totals.starts += 1;
            self.begin(slot, now);
        }
        let wanted = ReplicaLimits::from(self.allocation);
        let waits = |replica: &&SimulatedReplica| match replica.phase {
            Phase::Pending => true,
            Phase::Draining => false,
            Phase::Starting { .. } | Phase::Ready | Phase::BackOff { .. } => replica.limits != wanted,
        };
        self.waiting_for_room = self.replicas().filter(waits).count();
    }

    fn first_pending(&self) -> Option<usize> {
        let pending = self.slots.iter().enumerate().filter_map(|(slot, replica)| replica.as_ref().map(|replica| (slot, replica)));
        pending.filter(|(_, replica)| replica.phase == Phase::Pending).min_by_key(|(_, replica)| replica.number).map(|(slot, _)| slot)
    }

    /// Adds a pending replica; returns its slot.
    pub(super) fn add(&mut self, now: Nanos) -> usize {
        let (number, limits) = (self.next_number, ReplicaLimits::from(self.allocation));
        let replica = match self.spare.pop() {
            Some(gone) => SimulatedReplica::instead(gone, number, &self.profile, limits, now),
            None => SimulatedReplica::new(number, &self.profile, limits, self.path, now),
        };
        self.next_number += 1;
        let slot = self.slots.iter().position(Option::is_none).unwrap_or_else(|| {
            self.slots.push(None);
            self.loads.push(NO_ROOM);
            self.idle.resize(self.slots.len().div_ceil(64), 0);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(replica);
        self.waiting_for_room += 1;
        slot
    }

    /// Places the replica of `slot`; returns whether a node has room.
    pub(super) fn place(&mut self, slot: usize, now: Nanos) -> bool {
        let limits = ReplicaLimits::from(self.allocation);
        let node = match &mut self.pool {
            None => None,
            Some(pool) => match pool.place(limits) {
                None => return false,
                node => node,
            },
        };
        self.sum_cost(now);
        self.held.add(limits);
        if let Some(replica) = &mut self.slots[slot] {
            replica.put(node, limits, &self.profile, now);
        }
        true
    }

    /// Starts the process of the replica of `slot`.
    pub(super) fn begin(&mut self, slot: usize, now: Nanos) {
        let startup = self.demands.startup(&mut self.start_rng);
        if let Some(replica) = &mut self.slots[slot] {
            replica.start(startup, now);
        }
        self.schedule_crash(slot, now);
        self.update(slot, now);
    }

    /// Draws the time of the next crash of the replica of `slot`.
    fn schedule_crash(&mut self, slot: usize, now: Nanos) {
        if !self.crash_after.is_finite() {
            return;
        }
        let runs = self.crash_after * self.crash_rng.sample::<f64, _>(Exp1);
        let at = Nanos(now.0.saturating_add(runs as u64));
        if let Some(replica) = &mut self.slots[slot] {
            replica.crash_at = at;
        }
        self.next_crash = self.next_crash.min(at);
    }

    /// Processes a lifecycle event of the replica of `slot`.
    pub(super) fn process_lifecycle(&mut self, slot: usize, now: Nanos) {
        match self.slots[slot].as_mut().map(|replica| replica.phase) {
            Some(Phase::Starting { .. }) => self.start_on(slot, now),
            Some(Phase::BackOff { .. }) => self.restart(slot, now),
            Some(Phase::Ready) => self.remove_idle(slot, now),
            _ => self.update(slot, now),
        }
    }

    fn start_on(&mut self, slot: usize, now: Nanos) {
        if self.slots[slot].as_mut().is_some_and(|replica| replica.step_start(now)) {
            self.ready(slot, now);
        } else {
            self.update(slot, now);
        }
    }

    fn ready(&mut self, slot: usize, now: Nanos) {
        let Some(replica) = &mut self.slots[slot] else { return };
        if !replica.fits(&self.profile.memory) {
            return self.end(slot, ExitCause::OutOfMemory, now);
        }
        self.startup_time += replica.become_ready(now);
        let awaited = replica.first.is_some() || !self.queue.is_empty();
        self.totals.became_ready += 1;
        self.totals.prewarmed += u64::from(!awaited);
        self.give_first(slot, now);
        self.fill(slot, now);
        self.update(slot, now);
    }

    fn restart(&mut self, slot: usize, now: Nanos) {
        if let Some(replica) = &mut self.slots[slot] {
            replica.restarts += 1;
        }
        self.totals.restarts += 1;
        self.begin(slot, now);
    }

    /// Processes the next scheduled crash.
    #[cold]
    pub(super) fn crash_next(&mut self) {
        let now = self.next_crash;
        let due = |replica: &Option<SimulatedReplica>| replica.as_ref().is_some_and(|replica| replica.crash_at <= now);
        if let Some(slot) = self.slots.iter().position(due) {
            self.end(slot, ExitCause::Crash, now);
        }
        self.next_crash = self.replicas().map(|replica| replica.crash_at).min().unwrap_or(Nanos::NEVER);
    }

    /// Ends the process of the replica of `slot` with its requests.
    #[cold]
    pub(super) fn end(&mut self, slot: usize, death: ExitCause, now: Nanos) {
        let Some(replica) = &mut self.slots[slot] else { return };
        let draining = replica.phase == Phase::Draining;
        let first = u64::from(replica.first.take().is_some());
        self.failed_at_gateway += first;
        self.totals.failed += u64::from(replica.crash(now)) + first;
        match death {
            ExitCause::Crash => self.totals.crashes += 1,
            ExitCause::OutOfMemory => {
                replica.oom_kills += 1;
                self.totals.oom_kills += 1;
            }
        }
        if draining {
            return self.remove(slot, now);
        }
        self.update(slot, now);
    }

    /// Resizes the replica of `slot` to the allocation, if its node has room.
    fn resize(&mut self, slot: usize, now: Nanos) {
        let wanted = ReplicaLimits::from(self.allocation);
        let Some(replica) = &mut self.slots[slot] else { return };
        if replica.limits == wanted || matches!(replica.phase, Phase::Draining | Phase::Pending) {
            return;
        }
        if let (Some(pool), Some(node)) = (&mut self.pool, replica.node)
            && !pool.resize(node, replica.limits, wanted)
        {
            self.waiting_for_room += 1;
            return;
        }
        let before = replica.limits;
        self.totals.busy_gibibyte_seconds += before.memory.gibibytes() * replica.take_busy(now).seconds();
        self.sum_cost(now);
        self.held.subtract(before);
        self.held.add(wanted);
        let Some(replica) = &mut self.slots[slot] else { return };
        replica.resize(wanted, &self.profile.memory, now);
        if replica.phase == Phase::Ready && !replica.fits(&self.profile.memory) {
            return self.end(slot, ExitCause::OutOfMemory, now);
        }
        self.update(slot, now);
    }

    /// Stops one replica: pending ones first, then those that are not ready, then the least loaded, then the youngest.
    fn stop_one(&mut self, now: Nanos) {
        let rank = |phase| match phase {
            Phase::Pending => 0,
            Phase::Starting { .. } | Phase::BackOff { .. } => 1,
            Phase::Ready | Phase::Draining => 2,
        };
        let alive = self.slots.iter_mut().enumerate().filter_map(|(slot, replica)| replica.as_mut().map(|replica| (slot, replica)));
        let alive = alive.filter(|(_, replica)| replica.phase != Phase::Draining);
        let chosen = alive.min_by_key(|(_, replica)| (rank(replica.phase), replica.load, std::cmp::Reverse(replica.number)));
        let Some((slot, replica)) = chosen else { return };
        if replica.load == 0 {
            return self.remove(slot, now);
        }
        replica.phase = Phase::Draining;
        self.update(slot, now);
    }

    pub(super) fn remove(&mut self, slot: usize, now: Nanos) {
        let Some(mut replica) = self.slots[slot].take() else { return };
        self.totals.busy_gibibyte_seconds += replica.limits.memory.gibibytes() * replica.take_busy(now).seconds();
        self.totals.unused += u64::from(replica.phase == Phase::Ready && !replica.served());
        self.queue.extend(replica.first);
        self.note(slot, NO_ROOM, Nanos::NEVER);
        let (node, limits, phase) = (replica.node, replica.limits, replica.phase);
        self.leave(slot, node, now);
        if self.spare.len() < SPARE {
            self.spare.push(replica);
        }
        if phase == Phase::Pending {
            self.waiting_for_room -= 1;
            return;
        }
        self.sum_cost(now);
        self.held.subtract(limits);
        if let (Some(pool), Some(node)) = (&mut self.pool, node) {
            pool.free(node, limits);
        }
        self.use_room(now);
    }

    /// Resets to function `index` of a run of `seed` without replicas, reusing memory. Nodes, crash rate and scale stay as set.
    pub fn reset(&mut self, seed: u64, index: u64) {
        self.allocation = Allocation::new(0, 1000, 128);
        self.spare.extend(self.slots.drain(..).flatten());
        self.spare.truncate(SPARE);
        self.loads.clear();
        self.idle.clear();
        self.event_queue.clear();
        self.queue.clear();
        (self.open, self.turn, self.next_number, self.waiting_for_room) = (0, 0, 0, 0);
        self.demand_rng = stream(seed, index, Purpose::Demands);
        self.start_rng = stream(seed, index, Purpose::Starts);
        self.crash_rng = stream(seed, index, Purpose::Crashes);
        self.next_crash = Nanos::NEVER;
        self.pool.iter_mut().for_each(|pool| pool.clear());
        self.contention.iter_mut().for_each(|contention| contention.clear());
        self.held = PlacedLimits::default();
        self.failed_at_gateway = 0;
        (self.startup_time, self.summed) = (Nanos::ZERO, Nanos::ZERO);
        self.totals.clear();
        self.taken = TakenCounters::default();
    }

    /// Node `node` fails at `now` with all its replicas; replacements start at once where there is room.
    pub fn lose_node(&mut self, node: u32, now: Nanos) {
        self.advance(now);
        let Some(pool) = &mut self.pool else { return };
        pool.lose(node);
        for slot in 0..self.slots.len() {
            if let Some(replica) = self.slots[slot].as_ref().filter(|replica| replica.node == Some(node)) {
                // The replica's counters are lost with it, so its failures are counted at the gateway.
                self.failed_at_gateway += u64::from(replica.load);
                self.totals.failed += u64::from(replica.load);
                self.totals.lost += 1;
                self.remove(slot, now);
            }
        }
        self.start_missing(now);
        self.wake(now);
    }

    /// Node `node` returns at `now`, empty.
    pub fn return_node(&mut self, node: u32, now: Nanos) {
        self.advance(now);
        if let Some(pool) = &mut self.pool {
            pool.give_back(node);
        }
        self.use_room(now);
    }

    /// Adds the time with requests up to `now` to the totals.
    pub(super) fn sum_busy(&mut self, now: Nanos) {
        for replica in self.slots.iter_mut().flatten() {
            self.totals.busy_gibibyte_seconds += replica.limits.memory.gibibytes() * replica.take_busy(now).seconds();
        }
    }

    pub(super) fn sum_cost(&mut self, now: Nanos) {
        let seconds = now.since(self.summed).seconds();
        self.totals.core_seconds += self.held.millicores as f64 / 1000.0 * seconds;
        self.totals.gibibyte_seconds += self.held.mebibytes as f64 / 1024.0 * seconds;
        self.summed = now;
    }
}
