//! The nats-server of the world, and what operators write to it. Owns its streams and buckets, their loss and their repair.

use std::collections::BTreeMap;
use std::sync::Arc;

use qscale_actuator::store::Record;
use qscale_common::contract::{Message as _, Outcome, State, Version};
use qscale_common::control::{self, Control};
use qscale_common::name::FunctionId;
use qscale_common::policy::ScalingPolicy;
use qscale_common::runtime::lease::{self, Lease, LeaseEntry};
use qscale_common::time::Timestamp;

use super::{Event, LEASE_KEY, REPAIR_MS, UNFREEZE_MS, World};
use crate::bus::{Bucket, Stream};
use crate::context::START;
use crate::plan::PROCESSES;
use crate::protocol::{Delivery, Millis, Payload, ProcessId, Request};

#[derive(Default)]
pub(super) struct Buckets {
    pub(super) policies: Bucket<Arc<ScalingPolicy>>,
    pub(super) controls: Bucket<Arc<Control>>,
    pub(super) records: Bucket<Arc<(FunctionId, Record)>>,
    pub(super) leases: Bucket<Lease>,
}

pub(super) struct Server {
    /// Faults because of which it does not run.
    pub(super) down: u32,
    /// Whether its streams and buckets exist.
    pub(super) provisioned: bool,
    pub(super) paused: u32,
    pub(super) held: Vec<(ProcessId, u32, Request)>,
    pub(super) buckets: Buckets,
    pub(super) states: BTreeMap<FunctionId, Vec<Arc<State>>>,
    pub(super) outcomes: Stream<Arc<Outcome>>,
    pub(super) others: Stream<()>,
    pub(super) lease_lost_at: Option<Millis>,
}

impl Server {
    /// Whether it answers requests.
    fn answers(&self) -> bool {
        self.down == 0 && self.paused == 0 && self.provisioned
    }
}

impl World {
    pub(super) fn on_request(&mut self, process: ProcessId, connection: u32, request: Request) {
        if self.server.down > 0 || self.processes[process].connection != connection {
            return;
        }
        if self.server.paused > 0 {
            return self.server.held.push((process, connection, request));
        }
        let provisioned = self.server.provisioned;
        match request {
            Request::Publish(payload) => {
                if let Payload::State(state) = &payload
                    && provisioned
                {
                    let retained = self.server.states.entry(state.function()).or_default();
                    retained.push(Arc::clone(state));
                    if retained.len() > 100 {
                        retained.remove(0);
                    }
                }
                self.publish(payload);
            }
            Request::Record(number, payload) => {
                if provisioned {
                    let id = payload.unique_id();
                    match &payload {
                        Payload::Outcome(outcome) => self.server.outcomes.append(&id, Arc::clone(outcome), self.now),
                        _ => self.server.others.append(&id, (), self.now),
                    };
                    self.deliver(process, Delivery::Recorded(number));
                }
                self.publish(payload);
            }
            Request::Lease(number, step) => {
                if provisioned {
                    let reply = self.on_lease(&step);
                    self.deliver(process, Delivery::Lease(number, reply));
                } else {
                    self.deliver(process, Delivery::Lease(number, lease::Reply::Unreachable));
                }
            }
            Request::Store(number, function, record) => {
                let stored = provisioned.then(|| self.on_store(&function, &record)).flatten();
                self.deliver(process, Delivery::Stored(number, stored));
            }
            Request::Forget(number, function) => {
                if provisioned {
                    self.server.buckets.records.delete(&Record::baseline_key(&function));
                    let current = Delivery::Records(Arc::new(self.server.buckets.records.current()));
                    self.show_all(&current);
                    self.deliver(process, Delivery::Forgotten(number));
                }
            }
            Request::History(number) => {
                if provisioned {
                    let states = self.server.states.values().flatten().cloned().collect();
                    self.deliver(process, Delivery::History(number, states));
                }
            }
        }
    }

    pub(super) fn publish(&mut self, payload: Payload) {
        let Some(subscribers) = self.subscribers.get(&payload.kind()) else { return };
        let processes = &self.processes;
        let receivers = subscribers.receivers(|process| processes[process].connected, &mut self.rng);
        for receiver in receivers {
            self.deliver(receiver, Delivery::Message(payload.clone()));
        }
    }

    pub(super) fn on_lease(&mut self, step: &lease::ElectionStep) -> lease::Reply {
        let leases = &mut self.server.buckets.leases;
        match step {
            lease::ElectionStep::Read => {
                lease::Reply::Found(leases.entry(LEASE_KEY).map(|(revision, lease)| LeaseEntry { lease, revision }))
            }
            lease::ElectionStep::Write { lease, expected } => match leases.update(LEASE_KEY, lease.clone(), *expected) {
                Ok(revision) => lease::Reply::Written(revision),
                Err(_) => lease::Reply::Conflict,
            },
        }
    }

    pub(super) fn on_store(&mut self, function: &FunctionId, record: &Record) -> Option<Record> {
        let (key, value) = (record.key(function), Arc::new((function.clone(), record.clone())));
        let records = &mut self.server.buckets.records;
        if !matches!(record, Record::Baseline(_)) {
            records.put(&key, value);
        } else if records.create(&key, value).is_err() {
            return records.entry(&key).map(|(_, older)| older.1.clone());
        }
        let current = Delivery::Records(Arc::new(records.current()));
        self.show_all(&current);
        Some(record.clone())
    }

    /// Creates the streams and buckets of a server that has lost its disk. The policies are written again, and everything is frozen: the lost requests may
    /// have been freezes.
    pub(super) fn repair(&mut self) {
        if self.server.provisioned {
            return;
        }
        if self.server.down > 0 {
            return self.schedule(self.now + REPAIR_MS, Event::Repair);
        }
        self.note(|| "buckets are created again, everything is frozen".to_owned());
        self.server.provisioned = true;
        let freeze = Control { frozen: true, at_ms: Timestamp(START.0 + self.now), ..Control::default() };
        self.server.buckets.controls.put(control::ALL, Arc::new(freeze));
        for policy in &self.policies {
            self.server.buckets.policies.put(&Control::key(&policy.function()), Arc::new(policy.clone()));
        }
        for process in 0..PROCESSES {
            self.show_buckets(process);
        }
        // The operator checks, and lifts the freeze.
        self.schedule(self.now + UNFREEZE_MS, Event::Unfreeze);
    }

    pub(super) fn stop_server(&mut self) {
        self.server.down += 1;
        self.server.held.clear();
        for process in 0..PROCESSES {
            self.disconnect(process);
        }
    }

    pub(super) fn resume_server(&mut self) {
        self.server.paused -= 1;
        if self.server.paused == 0 {
            for (process, connection, request) in std::mem::take(&mut self.server.held) {
                self.on_request(process, connection, request);
            }
        }
        // Operators wrote to it meanwhile.
        if self.server.answers() {
            (0..PROCESSES).for_each(|process| self.show_buckets(process));
        }
    }

    /// An operator writes a request; it is repeated until the server has stored it.
    pub(super) fn control(&mut self, function: Option<usize>, change: impl Fn(&mut Control, Timestamp)) {
        let key = function.map_or_else(|| control::ALL.to_owned(), |index| Control::key(&self.functions[index]));
        let mut control = self.server.buckets.controls.entry(&key).map(|(_, control)| (*control).clone()).unwrap_or_default();
        (control.version, control.at_ms) = (Version::CURRENT, Timestamp(START.0 + self.now));
        change(&mut control, Timestamp(START.0 + self.now));
        self.server.buckets.controls.put(&key, Arc::new(control));
        if self.server.answers() {
            let current = Delivery::Controls(Arc::new(self.server.buckets.controls.current()));
            self.show_all(&current);
        }
    }

    pub(super) fn set_policy(&mut self, function: usize, change: impl Fn(&mut ScalingPolicy)) {
        change(&mut self.policies[function]);
        let policy = &self.policies[function];
        self.server.buckets.policies.put(&Control::key(&policy.function()), Arc::new(policy.clone()));
        if self.server.answers() {
            let current = Delivery::Policies(Arc::new(self.server.buckets.policies.current()));
            self.show_all(&current);
        }
    }
}
