//! Faults and changes by operators: their beginning and their end.

use std::collections::BTreeMap;

use qscale_common::contract::Message as _;
use qscale_common::name::FunctionId;
use qscale_common::policy::{Mode, Range};
use qscale_common::units::{Allocation, Replicas};
use rand::RngExt as _;

use super::server::Buckets;
use super::{DETECTION_MS, DUPLICATE_WINDOW_MS, Event, Input, REPAIR_MS, World, agent_of, name};
use crate::bus::Stream;
use crate::plan::{FaultKind, PLATFORM};
use crate::platform::SimulatedPlatform;
use crate::protocol::{Delivery, Payload, ProcessId, Timer};

impl World {
    pub(super) fn begin(&mut self, index: usize) {
        let kind = self.plan.faults[index].kind;
        self.note(|| format!("begins: {kind:?}"));
        match kind {
            FaultKind::Crash(process) => {
                if self.processes[process].machine.is_some() {
                    self.stop(process);
                }
            }
            FaultKind::Pause(process) => {
                self.processes[process].paused += 1;
                self.checks.on_paused(process);
            }
            FaultKind::Partition(process) => {
                let detected = self.rng.random_range(1_000..DETECTION_MS);
                let of = &mut self.processes[process];
                of.cut += 1;
                let connection = of.connection;
                self.schedule(self.now + detected, Event::Detect(process, connection));
            }
            FaultKind::PlatformPartition(process) => self.processes[process].cut_from_platform += 1,
            FaultKind::Clock(process, step_ms) => self.processes[process].clock_ms += step_ms,
            FaultKind::Clocks(step_ms) => self.processes.iter_mut().for_each(|process| process.clock_ms += step_ms),
            FaultKind::Server => self.stop_server(),
            FaultKind::ServerDisk => {
                self.stop_server();
                self.server.buckets = Buckets::default();
                self.server.states.clear();
                (self.server.outcomes, self.server.others) = (Stream::new(DUPLICATE_WINDOW_MS), Stream::new(DUPLICATE_WINDOW_MS));
                (self.server.provisioned, self.server.lease_lost_at) = (false, Some(self.now));
                self.checks.on_server_disk_lost();
            }
            FaultKind::PauseServer => self.server.paused += 1,
            FaultKind::PlatformDisk => {
                if self.processes[PLATFORM].machine.is_some() {
                    self.stop(PLATFORM);
                }
                self.saved = SimulatedPlatform::new(&self.functions, &self.rates, None, self.now).saved();
                self.checks.on_platform_disk_lost();
            }
            FaultKind::Freeze(function) => self.control(function, |control, _| control.frozen = true),
            FaultKind::Restore(function) => self.control(function, |control, now| control.restore = Some(now)),
            FaultKind::PausePolicy(function) => self.set_policy(function, |policy| policy.paused = true),
            FaultKind::Recommend(function) => self.set_policy(function, |policy| policy.mode = Mode::Recommend),
            FaultKind::Bounds(function, least, most) => {
                self.set_policy(function, |policy| {
                    policy.bounds.replicas = Range::new(Replicas(least), Replicas(most)).expect("ordered");
                });
            }
            FaultKind::OtherAgent(function) => self.set_policy(function, |policy| policy.agent = name("hpa")),
            FaultKind::ByHand(function, replicas) => {
                let current = self.platform.desired(function);
                self.platform.set_by_hand(function, Allocation { replicas: Replicas(replicas), ..current });
            }
            FaultKind::Load(function, rate) => {
                self.rates[function] = f64::from(rate);
                self.platform.set_rate(function, f64::from(rate), self.now);
            }
        }
    }

    pub(super) fn end(&mut self, index: usize) {
        let kind = self.plan.faults[index].kind;
        self.note(|| format!("ends: {kind:?}"));
        match kind {
            FaultKind::Crash(process) => {
                if self.processes[process].machine.is_none() {
                    self.start(process);
                }
            }
            FaultKind::Pause(process) => self.resume(process),
            FaultKind::Partition(process) => self.heal(process),
            FaultKind::PlatformPartition(process) => self.processes[process].cut_from_platform -= 1,
            FaultKind::Clock(process, step_ms) => self.processes[process].clock_ms -= step_ms,
            FaultKind::Clocks(step_ms) => self.processes.iter_mut().for_each(|process| process.clock_ms -= step_ms),
            FaultKind::Server => self.server.down -= 1,
            FaultKind::ServerDisk => {
                self.server.down -= 1;
                let wait = self.rng.random_range(0..REPAIR_MS);
                self.schedule(self.now + wait, Event::Repair);
            }
            FaultKind::PauseServer => self.resume_server(),
            FaultKind::PlatformDisk => {
                if self.processes[PLATFORM].machine.is_none() {
                    self.start(PLATFORM);
                }
            }
            FaultKind::Freeze(function) => self.control(function, |control, _| control.frozen = false),
            FaultKind::Restore(_) | FaultKind::ByHand(..) | FaultKind::Load(..) => {}
            FaultKind::PausePolicy(function) => self.set_policy(function, |policy| policy.paused = false),
            FaultKind::Recommend(function) => self.set_policy(function, |policy| policy.mode = Mode::Active),
            FaultKind::Bounds(function, ..) => self.set_policy(function, |policy| policy.bounds = Default::default()),
            FaultKind::OtherAgent(function) => self.set_policy(function, |policy| policy.agent = name(agent_of(function))),
        }
    }

    pub(super) fn resume(&mut self, process: ProcessId) {
        self.processes[process].paused -= 1;
        if self.processes[process].paused > 0 {
            return;
        }
        self.checks.on_resumed(process);
        let life = self.processes[process].life;
        let mut held = newest_states(std::mem::take(&mut self.processes[process].held));
        // The loop takes inputs by their urgency; the election runs beside it, so its steps come at any time.
        let election_first = self.rng.random_bool(0.5);
        held.sort_by_key(|input| urgency(input, election_first));
        for input in held {
            self.on_input(process, life, input);
        }
    }

    pub(super) fn heal(&mut self, process: ProcessId) {
        let of = &mut self.processes[process];
        of.cut -= 1;
        if of.cut > 0 || !of.connected {
            return;
        }
        let (outgoing, incoming) = (std::mem::take(&mut of.outgoing), std::mem::take(&mut of.incoming));
        for request in outgoing {
            self.transmit(process, request);
        }
        for delivery in incoming {
            self.deliver(process, delivery);
        }
    }
}

/// The inputs of a process that did not run: a subscription keeps the newest State of each function.
fn newest_states(held: Vec<Input>) -> Vec<Input> {
    let mut newest: BTreeMap<FunctionId, usize> = BTreeMap::new();
    for (index, input) in held.iter().enumerate() {
        if let Input::Delivery(_, Delivery::Message(Payload::State(state))) = input {
            newest.insert(state.function(), index);
        }
    }
    let is_newest = |index: usize, input: &Input| match input {
        Input::Delivery(_, Delivery::Message(Payload::State(state))) => newest.get(&state.function()) == Some(&index),
        _ => true,
    };
    held.into_iter().enumerate().filter(|(index, input)| is_newest(*index, input)).map(|(_, input)| input).collect()
}

/// Order in which a loop takes its inputs.
fn urgency(input: &Input, election_first: bool) -> u32 {
    match input {
        Input::Delivery(_, Delivery::Lease(..)) | Input::Timer(Timer::LeaseStep(_) | Timer::LeaseTimeout(_)) => {
            if election_first {
                0
            } else {
                9
            }
        }
        Input::Delivery(_, Delivery::Policies(_)) => 1,
        Input::Delivery(_, Delivery::Controls(_)) => 2,
        Input::Platform(_)
        | Input::Delivery(_, Delivery::Stored(..) | Delivery::Forgotten(_))
        | Input::Timer(Timer::StoreTimeout(_) | Timer::ApplyTimeout(_)) => 3,
        Input::Timer(_) | Input::Delivery(_, Delivery::Recorded(_) | Delivery::History(..)) => 4,
        Input::Delivery(_, Delivery::Message(Payload::State(_))) => 5,
        Input::Delivery(_, Delivery::Message(_)) => 6,
        Input::Delivery(_, Delivery::Records(_)) => 7,
    }
}
