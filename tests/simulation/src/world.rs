//! The world: virtual time, processes, network and faults. Owns the order of events; a plan alone decides it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use qscale_actuator::store::Record;
use qscale_common::contract::{EventType, Message as _, Outcome, State, Version};
use qscale_common::control::{self, Control};
use qscale_common::name::{FunctionId, Name};
use qscale_common::policy::{Mode, Range, ScalingPolicy};
use qscale_common::runtime::lease::{self, LeaderStatus, Lease, LeaseEntry};
use qscale_common::time::{TickLength, Timestamp};
use qscale_common::units::{Allocation, Replicas};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::actuator::{Actuator, LEASE_TTL, START};
use crate::agent::Agent;
use crate::bus::{Bucket, Stream, Subscribers};
use crate::checks::{Checks, Violation};
use crate::collector::Collector;
use crate::context::Context;
use crate::plan::{ACTUATORS, AGENTS, COLLECTOR, FUNCTIONS, FaultKind, PLATFORM, PROCESSES, Plan};
use crate::platform::{Saved, SimulatedPlatform, function_id};
use crate::protocol::{Delivery, Millis, Output, Payload, PlatformReply, PlatformRequest, ProcessId, Request, Timer};

/// Key of the lease.
const LEASE_KEY: &str = "actuator.local";
/// Window of the streams for duplicates, milliseconds.
const DUPLICATE_WINDOW_MS: Millis = 120_000;
/// Longest time until a client notices a partition, milliseconds.
const DETECTION_MS: Millis = 20_000;
/// Longest delay of a new connection, milliseconds.
const RECONNECT_MS: Millis = 2_000;
/// Interval at which `qscale up` looks for lost buckets, milliseconds.
const REPAIR_MS: Millis = 5_000;
/// Time after which an operator lifts the freeze that follows the loss of the disk, milliseconds.
const UNFREEZE_MS: Millis = 3_000;
/// Time from the last fault to the first complete turn of the loop, milliseconds: a connection, the TTL of the lease and its first steps, a request that
/// times out, its retry. A lost disk is repaired before that.
const RECOVERY_MS: Millis = RECONNECT_MS + REPAIR_MS + UNFREEZE_MS + 8_000 + 10_000;
/// Time in which both actuators learn the highest token, if a clock was ahead when one was issued and the lease was lost: three times its TTL, milliseconds.
const STALE_TOKENS_MS: Millis = 20_000;
/// Time for which the loop is watched after that, milliseconds.
const WATCHED_MS: Millis = 30_000;
/// Largest size of the text of an actuator's state, bytes.
const MEMORY: usize = 128 << 10;
/// Messages to a process that does not run: as many as fit in the buffers of its connection.
const HELD: usize = 4_096;

/// Result of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// The first violation.
    pub violation: Option<Violation>,
    /// States that were published.
    pub ticks: u64,
    /// The last lines about what happened, oldest first; empty unless asked for.
    pub trace: Vec<String>,
}

enum Event {
    Process(ProcessId, u32, Input),
    Server(ProcessId, u32, Request),
    Connect(ProcessId),
    Detect(ProcessId, u32),
    Platform(ProcessId, u32, PlatformRequest),
    Begin(usize),
    End(usize),
    Repair,
    Unfreeze,
    Check,
}

enum Input {
    Delivery(u32, Delivery),
    Timer(Timer),
    Platform(PlatformReply),
}

struct Scheduled {
    at: Millis,
    number: u64,
    event: Box<Event>,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

enum Machine {
    Collector(Box<Collector>),
    Agent(Box<Agent>),
    Actuator(Box<Actuator>),
    Platform,
}

struct Process {
    machine: Option<Machine>,
    life: u32,
    started: Millis,
    clock_ms: i64,
    paused: u32,
    /// Inputs that wait until it runs again.
    held: Vec<Input>,
    connected: bool,
    /// Number of its connection; messages of an earlier one are lost.
    connection: u32,
    /// Partitions from the nats-server.
    cut: u32,
    /// Partitions from the platform.
    cut_from_platform: u32,
    /// Messages that the client holds until it is connected, or until the partition ends.
    outgoing: Vec<Request>,
    incoming: Vec<Delivery>,
    last_out: Millis,
    last_in: Millis,
}

#[derive(Default)]
struct Buckets {
    policies: Bucket<Arc<ScalingPolicy>>,
    controls: Bucket<Arc<Control>>,
    records: Bucket<Arc<(FunctionId, Record)>>,
    leases: Bucket<Lease>,
}

struct Server {
    /// Faults because of which it does not run.
    down: u32,
    /// Whether its streams and buckets exist.
    provisioned: bool,
    paused: u32,
    held: Vec<(ProcessId, u32, Request)>,
    buckets: Buckets,
    states: BTreeMap<FunctionId, Vec<Arc<State>>>,
    outcomes: Stream<Arc<Outcome>>,
    others: Stream<()>,
    lease_lost_at: Option<Millis>,
}

/// A run of a plan.
pub struct World {
    plan: Plan,
    now: Millis,
    number: u64,
    events: BinaryHeap<Reverse<Scheduled>>,
    rng: SmallRng,
    processes: Vec<Process>,
    server: Server,
    platform: SimulatedPlatform,
    saved: Saved,
    functions: Vec<FunctionId>,
    policies: Vec<ScalingPolicy>,
    rates: Vec<f64>,
    subscribers: BTreeMap<EventType, Subscribers<ProcessId>>,
    checks: Checks,
    ticks: u64,
    trace: Option<Vec<String>>,
}

/// Runs `plan`. With `traced` the report says what happened.
#[must_use]
pub fn run(plan: &Plan, traced: bool) -> Report {
    let mut world = World::new(plan.clone(), traced);
    let stale_tokens = if plan.steps_clocks() { STALE_TOKENS_MS } else { 0 };
    let watched_from = plan.quiet_from() + RECOVERY_MS + stale_tokens;
    let end = watched_from + WATCHED_MS;
    while world.checks.violation().is_none()
        && let Some(Reverse(scheduled)) = world.events.pop()
        && scheduled.at <= end
    {
        world.now = scheduled.at;
        world.checks.advance(world.now);
        world.handle(*scheduled.event, watched_from);
    }
    if world.checks.violation().is_none() {
        world.finish();
    }
    Report { violation: world.checks.violation().cloned(), ticks: world.ticks, trace: world.trace.unwrap_or_default() }
}

impl World {
    fn new(plan: Plan, traced: bool) -> Self {
        let functions: Vec<FunctionId> = (0..FUNCTIONS).map(function_id).collect();
        let policies: Vec<ScalingPolicy> = functions.iter().enumerate().map(|(index, id)| policy(index, id)).collect();
        let rates = vec![20.0; FUNCTIONS];
        let platform = SimulatedPlatform::new(&functions, &rates, None, 0);
        let process = || Process {
            machine: None,
            life: 0,
            started: 0,
            clock_ms: 0,
            paused: 0,
            held: Vec::new(),
            connected: false,
            connection: 0,
            cut: 0,
            cut_from_platform: 0,
            outgoing: Vec::new(),
            incoming: Vec::new(),
            last_out: 0,
            last_in: 0,
        };
        let mut buckets = Buckets::default();
        for policy in &policies {
            buckets.policies.put(&Control::key(&policy.function()), Arc::new(policy.clone()));
        }
        let mut subscribers: BTreeMap<EventType, Subscribers<ProcessId>> = BTreeMap::new();
        subscribers.entry(EventType::Outcome).or_default().add(COLLECTOR, None);
        for (agent, name) in AGENTS {
            subscribers.entry(EventType::State).or_default().add(agent, (name != "hpa").then_some(name));
        }
        for actuator in ACTUATORS {
            subscribers.entry(EventType::State).or_default().add(actuator, None);
            subscribers.entry(EventType::Action).or_default().add(actuator, None);
        }
        let mut world = Self {
            checks: Checks::new(plan.steps_clocks(), plan.duplicate > 0.0),
            rng: SmallRng::seed_from_u64(plan.seed),
            now: 0,
            number: 0,
            events: BinaryHeap::new(),
            processes: (0..PROCESSES).map(|_| process()).collect(),
            server: Server {
                down: 0,
                provisioned: true,
                paused: 0,
                held: Vec::new(),
                buckets,
                states: BTreeMap::new(),
                outcomes: Stream::new(DUPLICATE_WINDOW_MS),
                others: Stream::new(DUPLICATE_WINDOW_MS),
                lease_lost_at: None,
            },
            saved: platform.saved(),
            platform,
            functions,
            policies,
            rates,
            subscribers,
            ticks: 0,
            trace: traced.then(Vec::new),
            plan,
        };
        for process in 0..PROCESSES {
            world.start(process);
        }
        let faults: Vec<(Millis, Millis)> = world.plan.faults.iter().map(|fault| (fault.at, fault.at + fault.lasts)).collect();
        for (index, (begin, end)) in faults.into_iter().enumerate() {
            world.schedule(begin, Event::Begin(index));
            world.schedule(end, Event::End(index));
        }
        world.schedule(1_000, Event::Check);
        world
    }

    fn schedule(&mut self, at: Millis, event: Event) {
        self.number += 1;
        self.events.push(Reverse(Scheduled { at, number: self.number, event: Box::new(event) }));
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>8} ms  {}", self.now, text()));
        }
    }

    fn delay(&mut self) -> Millis {
        self.rng.random_range(0..=self.plan.delay_ms)
    }

    fn handle(&mut self, event: Event, watched_from: Millis) {
        match event {
            Event::Process(process, life, input) => self.on_input(process, life, input),
            Event::Server(process, connection, request) => self.on_request(process, connection, request),
            Event::Connect(process) => self.connect(process),
            Event::Detect(process, connection) => {
                let of = &self.processes[process];
                if of.cut > 0 && of.connected && of.connection == connection {
                    self.disconnect(process);
                }
            }
            Event::Platform(process, life, request) => self.on_platform_request(process, life, request),
            Event::Begin(index) => self.begin(index),
            Event::End(index) => self.end(index),
            Event::Repair => self.repair(),
            Event::Unfreeze => self.control(None, |control, _| control.frozen = false),
            Event::Check => self.check(watched_from),
        }
    }

    fn check(&mut self, watched_from: Millis) {
        if self.now > watched_from {
            let slowest = self.policies.iter().map(|policy| policy.tick.millis()).max().unwrap_or(0);
            let functions = self.functions.clone();
            self.checks.require_loop(&functions, self.now.saturating_sub(2 * slowest + 1_000));
        }
        self.schedule(self.now + 5_000, Event::Check);
    }

    fn finish(&mut self) {
        for actuator in ACTUATORS {
            if let Some(Machine::Actuator(machine)) = &self.processes[actuator].machine {
                let size = machine.memory();
                if size > MEMORY {
                    self.checks.fail("memory is bounded", format!("actuator {actuator}: {size} bytes of state"));
                }
            }
        }
        let recorded: Vec<String> = self.server.outcomes.messages().iter().map(|outcome| outcome.unique_id()).collect();
        self.checks.require_recorded(&recorded);
        for (index, policy) in self.policies.iter().enumerate() {
            let desired = self.platform.desired(index);
            if !policy.bounds.contain(desired) {
                self.checks.fail("the loop recovers", format!("{} has {desired}, bounds {:?}", policy.name, policy.bounds));
            }
        }
    }

    // Processes.

    fn wall(&self, process: ProcessId) -> Timestamp {
        let wall = START.0 + self.now;
        Timestamp(wall.saturating_add_signed(self.processes[process].clock_ms))
    }

    fn start(&mut self, process: ProcessId) {
        let life = {
            let of = &mut self.processes[process];
            of.life += 1;
            of.started = self.now;
            of.life
        };
        self.note(|| format!("process {process} starts"));
        if process == PLATFORM {
            self.platform = SimulatedPlatform::new(&self.functions, &self.rates, Some(&self.saved), self.now);
            self.processes[process].machine = Some(Machine::Platform);
            return self.checks.on_platform_started();
        }
        let wait = self.rng.random_range(0..RECONNECT_MS / 4);
        self.schedule(self.now + wait, Event::Connect(process));
        let mut out = Vec::new();
        let wall = self.wall(process);
        let mut cx = Context {
            process,
            now: self.now,
            wall,
            uptime: Duration::ZERO,
            connected: false,
            rng: &mut self.rng,
            out: &mut out,
            checks: &mut self.checks,
        };
        let machine = match AGENTS.iter().find(|(agent, _)| *agent == process) {
            Some((_, name)) => Machine::Agent(Box::new(Agent::new(name, process, &mut cx))),
            None if process == COLLECTOR => {
                cx.checks.on_collector_started();
                Machine::Collector(Box::new(Collector::new(&mut cx)))
            }
            None => Machine::Actuator(Box::new(Actuator::new(life, &mut cx))),
        };
        self.processes[process].machine = Some(machine);
        self.carry_out(process, out);
    }

    fn stop(&mut self, process: ProcessId) {
        self.note(|| format!("process {process} is killed"));
        if process == PLATFORM {
            self.saved = self.platform.saved();
        }
        let of = &mut self.processes[process];
        of.machine = None;
        of.life += 1;
        of.held.clear();
        self.disconnect(process);
        self.processes[process].outgoing.clear();
        self.checks.on_stopped(process);
    }

    fn on_input(&mut self, process: ProcessId, life: u32, input: Input) {
        let of = &mut self.processes[process];
        if of.life != life || of.machine.is_none() {
            return;
        }
        if let Input::Delivery(connection, _) = &input
            && (*connection != of.connection || !of.connected)
        {
            return;
        }
        if of.paused > 0 {
            if of.held.len() < HELD {
                of.held.push(input);
            }
            return;
        }
        self.process(process, input);
    }

    fn process(&mut self, process: ProcessId, input: Input) {
        let wall = self.wall(process);
        let of = &mut self.processes[process];
        let mut out = Vec::new();
        let mut cx = Context {
            process,
            now: self.now,
            wall,
            uptime: Duration::from_millis(self.now - of.started),
            connected: of.connected,
            rng: &mut self.rng,
            out: &mut out,
            checks: &mut self.checks,
        };
        match (of.machine.as_mut(), input) {
            (Some(Machine::Collector(collector)), Input::Delivery(_, delivery)) => collector.on_delivery(delivery, &mut cx),
            (Some(Machine::Collector(collector)), Input::Timer(timer)) => collector.on_timer(&timer, &mut cx),
            (Some(Machine::Collector(collector)), Input::Platform(PlatformReply::Scraped(number, functions))) => {
                collector.on_scraped(number, functions, &mut cx);
            }
            (Some(Machine::Agent(agent)), Input::Delivery(_, delivery)) => agent.on_delivery(delivery, &mut cx),
            (Some(Machine::Agent(agent)), Input::Timer(timer)) => agent.on_timer(&timer, &mut cx),
            (Some(Machine::Actuator(actuator)), Input::Delivery(_, delivery)) => actuator.on_delivery(delivery, &mut cx),
            (Some(Machine::Actuator(actuator)), Input::Timer(timer)) => actuator.on_timer(&timer, &mut cx),
            (Some(Machine::Actuator(actuator)), Input::Platform(reply)) => actuator.on_platform(reply, &mut cx),
            _ => {}
        }
        self.carry_out(process, out);
        if ACTUATORS.contains(&process) {
            self.check_leaders();
        }
    }

    fn check_leaders(&mut self) {
        let lost = self.server.lease_lost_at.is_some_and(|at| self.now - at < 2 * LEASE_TTL.as_millis() as Millis + REPAIR_MS);
        let leads = |process: &ProcessId| {
            let of = &self.processes[*process];
            let uptime = Duration::from_millis(self.now - of.started);
            matches!(&of.machine, Some(Machine::Actuator(actuator)) if matches!(actuator.status(uptime), LeaderStatus::Leading { .. }))
        };
        let leaders: Vec<ProcessId> = ACTUATORS.into_iter().filter(leads).collect();
        if !lost {
            self.checks.on_leaders(&leaders);
        }
    }

    fn carry_out(&mut self, process: ProcessId, out: Vec<Output>) {
        let life = self.processes[process].life;
        for output in out {
            match output {
                Output::After(delay, timer) => self.schedule(self.now + delay, Event::Process(process, life, Input::Timer(timer))),
                Output::ToServer(request) => self.send(process, request),
                Output::ToPlatform(request) => {
                    let delay = self.delay();
                    self.schedule(self.now + delay, Event::Platform(process, life, request));
                }
            }
        }
    }

    // Network.

    fn send(&mut self, process: ProcessId, request: Request) {
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

    fn transmit(&mut self, process: ProcessId, request: Request) {
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

    fn deliver(&mut self, process: ProcessId, delivery: Delivery) {
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

    fn connect(&mut self, process: ProcessId) {
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

    fn disconnect(&mut self, process: ProcessId) {
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

    fn show_buckets(&mut self, process: ProcessId) {
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

    fn show_all(&mut self, delivery: &Delivery) {
        let collector = matches!(delivery, Delivery::Policies(_)).then_some(COLLECTOR);
        for process in ACTUATORS.into_iter().chain(collector) {
            self.deliver(process, delivery.clone());
        }
    }

    // The nats-server.

    fn on_request(&mut self, process: ProcessId, connection: u32, request: Request) {
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
            Request::History(number) => {
                if provisioned {
                    let states = self.server.states.values().flatten().cloned().collect();
                    self.deliver(process, Delivery::History(number, states));
                }
            }
        }
    }

    fn publish(&mut self, payload: Payload) {
        let Some(subscribers) = self.subscribers.get(&payload.kind()) else { return };
        let processes = &self.processes;
        let receivers = subscribers.receivers(|process| processes[process].connected, &mut self.rng);
        for receiver in receivers {
            self.deliver(receiver, Delivery::Message(payload.clone()));
        }
    }

    fn on_lease(&mut self, step: &lease::Step) -> lease::Reply {
        let leases = &mut self.server.buckets.leases;
        match step {
            lease::Step::Read => lease::Reply::Found(leases.entry(LEASE_KEY).map(|(revision, lease)| LeaseEntry { lease, revision })),
            lease::Step::Write { lease, expected } => match leases.update(LEASE_KEY, lease.clone(), *expected) {
                Ok(revision) => lease::Reply::Written(revision),
                Err(_) => lease::Reply::Conflict,
            },
        }
    }

    fn on_store(&mut self, function: &FunctionId, record: &Record) -> Option<Record> {
        let (key, value) = (record.key(function), Arc::new((function.clone(), record.clone())));
        let records = &mut self.server.buckets.records;
        if !matches!(record, Record::Baseline(_)) {
            records.put(&key, value);
        } else if records.create(&key, value).is_err() {
            return records.entry(&key).map(|(_, older)| older.1.clone());
        }
        let current = Delivery::Records(Arc::new(records.current()));
        self.show_all_records(&current);
        Some(record.clone())
    }

    fn show_all_records(&mut self, current: &Delivery) {
        for actuator in ACTUATORS {
            self.deliver(actuator, current.clone());
        }
    }

    /// Creates the streams and buckets of a server that has lost its disk. The policies are written again, and everything is frozen: the lost requests may
    /// have been freezes.
    fn repair(&mut self) {
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

    // The platform.

    fn on_platform_request(&mut self, process: ProcessId, life: u32, request: PlatformRequest) {
        if self.processes[process].cut_from_platform > 0
            || self.processes[PLATFORM].cut_from_platform > 0
            || self.processes[PLATFORM].paused > 0
        {
            // It arrives later, or never.
            if self.rng.random_bool(0.5) {
                let wait = self.rng.random_range(100..10_000);
                self.schedule(self.now + wait, Event::Platform(process, life, request));
            } else if let PlatformRequest::Scrape(number) = request {
                self.answer(process, life, 10_000, PlatformReply::Scraped(number, None));
            } else if let PlatformRequest::List(asked) = request {
                let error = qscale_actuator::backend::BackendError::Unavailable("timeout".into());
                self.answer(process, life, 5_000, PlatformReply::Listed(asked, Err(error)));
            }
            return;
        }
        let up = self.processes[PLATFORM].machine.is_some();
        let unavailable = || qscale_actuator::backend::BackendError::Unavailable("connection refused".into());
        let wall = self.wall(PLATFORM);
        let reply = match request {
            PlatformRequest::Apply(request) => {
                let result = if up { self.platform.apply(&request, self.now, wall) } else { Err(unavailable()) };
                if result.is_ok() {
                    self.checks.on_accepted(&request);
                }
                self.note(|| {
                    format!(
                        "actuator {process} sets {} to {} with token {}: {}",
                        request.function,
                        request.allocation,
                        request.lease,
                        if result.is_ok() { "done" } else { "failed" }
                    )
                });
                PlatformReply::Applied(request, result)
            }
            PlatformRequest::List(asked) => {
                PlatformReply::Listed(asked, if up { Ok(self.platform.workloads()) } else { Err(unavailable()) })
            }
            PlatformRequest::Scrape(number) => PlatformReply::Scraped(number, up.then(|| self.platform.scrape(self.now, wall))),
        };
        let delay = self.delay();
        self.answer(process, life, delay, reply);
    }

    fn answer(&mut self, process: ProcessId, life: u32, delay: Millis, reply: PlatformReply) {
        self.schedule(self.now + delay, Event::Process(process, life, Input::Platform(reply)));
    }

    // Faults.

    fn begin(&mut self, index: usize) {
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

    fn end(&mut self, index: usize) {
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

    fn stop_server(&mut self) {
        self.server.down += 1;
        self.server.held.clear();
        for process in 0..PROCESSES {
            self.disconnect(process);
        }
    }

    fn resume_server(&mut self) {
        self.server.paused -= 1;
        if self.server.paused == 0 {
            for (process, connection, request) in std::mem::take(&mut self.server.held) {
                self.on_request(process, connection, request);
            }
        }
    }

    fn resume(&mut self, process: ProcessId) {
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

    fn heal(&mut self, process: ProcessId) {
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

    /// An operator writes a request; it is repeated until the server has stored it.
    fn control(&mut self, function: Option<usize>, change: impl Fn(&mut Control, Timestamp)) {
        let key = function.map_or_else(|| control::ALL.to_owned(), |index| Control::key(&self.functions[index]));
        let mut control = self.server.buckets.controls.entry(&key).map(|(_, control)| (*control).clone()).unwrap_or_default();
        (control.version, control.at_ms) = (Version::CURRENT, Timestamp(START.0 + self.now));
        change(&mut control, Timestamp(START.0 + self.now));
        self.server.buckets.controls.put(&key, Arc::new(control));
        if self.server.down == 0 && self.server.provisioned {
            let current = Delivery::Controls(Arc::new(self.server.buckets.controls.current()));
            self.show_all(&current);
        }
    }

    fn set_policy(&mut self, function: usize, change: impl Fn(&mut ScalingPolicy)) {
        change(&mut self.policies[function]);
        let policy = &self.policies[function];
        self.server.buckets.policies.put(&Control::key(&policy.function()), Arc::new(policy.clone()));
        if self.server.down == 0 && self.server.provisioned {
            let current = Delivery::Policies(Arc::new(self.server.buckets.policies.current()));
            self.show_all(&current);
        }
    }
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a DNS label")
}

/// Agent of function `index`.
fn agent_of(index: usize) -> &'static str {
    if index == 1 { "hpa" } else { "threshold-both" }
}

/// Policy of function `index`: active, with ticks of 5 s or 2 s.
fn policy(index: usize, id: &FunctionId) -> ScalingPolicy {
    let mut policy = ScalingPolicy { mode: Mode::Active, agent: name(agent_of(index)), ..ScalingPolicy::new(id.clone()) };
    if index == 2 {
        policy.tick = TickLength::new(Duration::from_secs(2)).expect("in range");
        policy.guard.changes_per_hour = std::num::NonZeroU32::new(12).expect("not zero");
    }
    policy
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
        Input::Platform(_) | Input::Delivery(_, Delivery::Stored(..)) | Input::Timer(Timer::StoreTimeout(_) | Timer::ApplyTimeout(_)) => 3,
        Input::Timer(_) | Input::Delivery(_, Delivery::Recorded(_) | Delivery::History(..)) => 4,
        Input::Delivery(_, Delivery::Message(Payload::State(_))) => 5,
        Input::Delivery(_, Delivery::Message(_)) => 6,
        Input::Delivery(_, Delivery::Records(_)) => 7,
    }
}
