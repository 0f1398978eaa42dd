//! The world: virtual time, processes, network and faults. Owns the order of events; a plan alone decides it.

mod faults;
mod network;
mod server;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use qscale_common::contract::{EventType, Message as _};
use qscale_common::control::Control;
use qscale_common::name::{FunctionId, Name};
use qscale_common::policy::{Mode, ResizeFactor, ScalingPolicy};
use qscale_common::runtime::lease::LeaderStatus;
use qscale_common::time::{TickLength, Timestamp};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::actuator::{Actuator, LEASE_TTL};
use crate::agent::Agent;
use crate::bus::{Stream, Subscribers};
use crate::checks::{Checks, Violation};
use crate::collector::Collector;
use crate::context::{Context, START};
use crate::plan::{ACTUATORS, AGENTS, COLLECTOR, FUNCTIONS, PLATFORM, PROCESSES, Plan};
use crate::platform::{Saved, SimulatedPlatform, function_id};
use crate::protocol::{Delivery, Millis, PlatformReply, PlatformRequest, PlatformScrape, ProcessId, ProcessOutput, Request, Timer};
use server::{Buckets, Server};

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

#[derive(Default)]
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
            processes: (0..PROCESSES).map(|_| Process::default()).collect(),
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
            return;
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

    fn carry_out(&mut self, process: ProcessId, out: Vec<ProcessOutput>) {
        let life = self.processes[process].life;
        for output in out {
            match output {
                ProcessOutput::After(delay, timer) => self.schedule(self.now + delay, Event::Process(process, life, Input::Timer(timer))),
                ProcessOutput::ToServer(request) => self.send(process, request),
                ProcessOutput::ToPlatform(request) => {
                    let delay = self.delay();
                    self.schedule(self.now + delay, Event::Platform(process, life, request));
                }
            }
        }
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
            PlatformRequest::Scrape(number) => {
                let life = self.processes[PLATFORM].life;
                PlatformReply::Scraped(number, up.then(|| PlatformScrape { life, functions: self.platform.scrape(self.now, wall) }))
            }
        };
        let delay = self.delay();
        self.answer(process, life, delay, reply);
    }

    fn answer(&mut self, process: ProcessId, life: u32, delay: Millis, reply: PlatformReply) {
        self.schedule(self.now + delay, Event::Process(process, life, Input::Platform(reply)));
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
        policy.guard.reversals_per_hour = 3;
        policy.guard.working_set_margin = ResizeFactor::try_from(1.5).expect("at least 1");
    }
    policy
}
