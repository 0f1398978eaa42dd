//! The network of the world: connections of processes to the nats-server, and messages on their way. Owns delays, order and partitions.

use std::sync::Arc;

use rand::RngExt as _;

use super::{Event, HELD, Input, RECONNECT_MS, World};
use crate::plan::{ACTUATORS, COLLECTOR, PLATFORM};
use crate::protocol::{Delivery, Payload, ProcessId, Request};

impl World {
    pub(super) fn send(&mut self, process: ProcessId, request: Request) {
        if let Request::Publish(Payload::State(state)) = &request {
            self.ticks += 1;
            let (function, tick) = (state.function.clone(), state.tick);
            self.note(|| format!("State of {function}, tick {tick}"));
        }
        let of = &mut self.processes[process];
        if !of.connected || of.cut > 0 {
            if of.outgoing.len() < HELD {
                of.outgoing.push(request);
            }
            return;
        }
        self.transmit(process, request);
    }

    pub(super) fn transmit(&mut self, process: ProcessId, request: Request) {
        let is_message = matches!(request, Request::Publish(_) | Request::Record(..));
        let copies = 1 + u32::from(is_message && self.rng.random_bool(self.plan.duplicate));
        for _ in 0..copies {
            let overtakes = is_message && self.rng.random_bool(self.plan.reorder);
            let delay = self.delay() * if overtakes { 4 } else { 1 };
            let of = &mut self.processes[process];
            let at = if overtakes { self.now + delay } else { (self.now + delay).max(of.last_out) };
            of.last_out = of.last_out.max(if overtakes { 0 } else { at });
            let connection = of.connection;
            self.schedule(at, Event::Server(process, connection, request.clone()));
        }
    }

    pub(super) fn deliver(&mut self, process: ProcessId, delivery: Delivery) {
        let delay = self.delay();
        let of = &mut self.processes[process];
        if !of.connected {
            return;
        }
        if of.cut > 0 {
            if of.incoming.len() < HELD {
                of.incoming.push(delivery);
            }
            return;
        }
        let at = (self.now + delay).max(of.last_in);
        of.last_in = at;
        let (life, connection) = (of.life, of.connection);
        self.schedule(at, Event::Process(process, life, Input::Delivery(connection, delivery)));
    }

    pub(super) fn connect(&mut self, process: ProcessId) {
        let of = &self.processes[process];
        if of.connected || of.machine.is_none() || process == PLATFORM {
            return;
        }
        if self.server.down > 0 || self.server.paused > 0 || of.cut > 0 || of.paused > 0 {
            let wait = self.rng.random_range(100..RECONNECT_MS);
            return self.schedule(self.now + wait, Event::Connect(process));
        }
        self.note(|| format!("process {process} connects"));
        let of = &mut self.processes[process];
        (of.connected, of.connection) = (true, of.connection + 1);
        for request in std::mem::take(&mut of.outgoing) {
            self.transmit(process, request);
        }
        if self.server.provisioned {
            self.show_buckets(process);
        }
    }

    pub(super) fn disconnect(&mut self, process: ProcessId) {
        let of = &mut self.processes[process];
        if !of.connected {
            return;
        }
        of.connected = false;
        // What was in the buffers of the connection is lost.
        of.outgoing.clear();
        of.incoming.clear();
        self.note(|| format!("process {process} is disconnected"));
        let wait = self.rng.random_range(100..RECONNECT_MS);
        self.schedule(self.now + wait, Event::Connect(process));
    }

    pub(super) fn show_buckets(&mut self, process: ProcessId) {
        let buckets = &self.server.buckets;
        let policies = Delivery::Policies(Arc::new(buckets.policies.current()));
        let controls = Delivery::Controls(Arc::new(buckets.controls.current()));
        let records = Delivery::Records(Arc::new(buckets.records.current()));
        if process == COLLECTOR {
            self.deliver(process, policies);
        } else if ACTUATORS.contains(&process) {
            for delivery in [policies, controls, records] {
                self.deliver(process, delivery);
            }
        }
    }

    pub(super) fn show_all(&mut self, delivery: &Delivery) {
        let collector = matches!(delivery, Delivery::Policies(_)).then_some(COLLECTOR);
        for process in ACTUATORS.into_iter().chain(collector) {
            self.deliver(process, delivery.clone());
        }
    }
}
