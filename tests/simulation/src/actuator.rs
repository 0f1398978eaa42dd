//! An actuator: the real [`Core`] and the real [`Election`] behind models of the bus and of the platform's client.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use qscale_actuator::backend::{BackendError, WorkloadStatus};
use qscale_actuator::core::{ApplyRequest, Core, CoreCommand, Lead, Settings};
use qscale_actuator::store::Record;
use qscale_common::contract::{Message as _, Outcome};
use qscale_common::name::FunctionId;
use qscale_common::policy::WorkloadKind;
use qscale_common::runtime::lease::{self, Election, LeaderStatus};

use crate::context::Context;
use crate::protocol::{Delivery, Payload, PlatformReply, PlatformRequest, ProcessOutput, Request, Timer};
use crate::recorder::Recorder;
use crate::view::ActuatorView;

/// TTL of the lease, as configured by default.
pub(crate) const LEASE_TTL: Duration = Duration::from_secs(6);
/// Interval at which the core's timers run.
const WAKE: Duration = Duration::from_millis(250);
/// Timeout of a write to a bucket.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of a request to the platform.
const APPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// An actuator.
pub(crate) struct Actuator {
    core: Core,
    recorder: Recorder,
    view: ActuatorView,
    /// Whether all buckets were read once; only then it takes part in the election.
    started: bool,
    election: Election,
    status: LeaderStatus,
    /// The token for which it gives up its own, until the election knows.
    stepping_down: Option<u64>,
    /// The step of the election under way, and when it was sent.
    step: Option<(u64, lease::ElectionStep, Duration)>,
    steps: u64,
    /// Writes under way.
    stores: BTreeMap<u64, (FunctionId, Record)>,
    stored: u64,
    /// Deletions of baselines under way.
    forgetting: BTreeMap<u64, FunctionId>,
    /// Requests to the platform without an answer, by their numbers.
    applying: BTreeMap<u64, ApplyRequest>,
}

impl Actuator {
    /// The actuator of `process`, which starts for the `life`th time.
    pub(crate) fn new(life: u32, cx: &mut Context<'_>) -> Self {
        let name = format!("actuator-{}", cx.process);
        let settings = Settings {
            actuator: name.clone(),
            max_retry_delay: Duration::from_secs(10),
            flush_interval: Duration::from_secs(10),
            reconcile: Duration::from_secs(10),
            kinds: vec![WorkloadKind::Local],
            seed: u64::from(life),
        };
        Self {
            core: Core::new(settings),
            recorder: Recorder::default(),
            view: ActuatorView::default(),
            started: false,
            election: Election::new(format!("{name}/{life}"), LEASE_TTL),
            status: LeaderStatus::Following,
            stepping_down: None,
            step: None,
            steps: 0,
            stores: BTreeMap::new(),
            stored: 0,
            forgetting: BTreeMap::new(),
            applying: BTreeMap::new(),
        }
    }

    /// Its role at `uptime`, as the service sees it.
    pub(crate) fn status(&self, uptime: Duration) -> LeaderStatus {
        if self.stepping_down.is_some() { LeaderStatus::Following } else { self.status.at(uptime) }
    }

    /// The state of its core as text, whose length shows whether it grows.
    pub(crate) fn memory(&self) -> usize {
        format!("{:?}", self.core).len()
    }

    /// Processes a delivery.
    pub(crate) fn on_delivery(&mut self, delivery: Delivery, cx: &mut Context<'_>) {
        match delivery {
            Delivery::Message(Payload::State(state)) => {
                if self.started {
                    if self.view.on_state(&state, cx.wall) {
                        cx.checks.on_state_delivered(cx.process, &state.function());
                    }
                    self.core.on_state((*state).clone(), None, cx.wall);
                }
            }
            Delivery::Message(Payload::Action(action)) => {
                if self.started {
                    cx.checks.on_action_delivered(cx.process, &action, &self.view);
                    self.core.on_action((*action).clone(), None, cx.wall);
                }
            }
            Delivery::Message(_) | Delivery::History(..) => {}
            Delivery::Recorded(number) => self.recorder.on_recorded(number, cx),
            Delivery::Lease(number, reply) => self.on_lease(number, reply, cx),
            Delivery::Stored(number, stored) => self.on_stored(number, stored, cx),
            Delivery::Forgotten(number) => self.on_forgotten(number, true, cx),
            Delivery::Policies(policies) => {
                self.view.set_policies(policies);
                if self.started {
                    self.core.set_policies(self.view.policies(), cx.wall);
                }
            }
            Delivery::Controls(controls) => {
                self.view.set_controls(controls);
                if self.started {
                    self.core.set_controls(self.view.controls(), cx.wall);
                }
            }
            Delivery::Records(records) => {
                self.view.set_records(records);
                if self.started {
                    self.core.set_records(self.view.records(), cx.wall);
                }
            }
        }
        self.start(cx);
        self.finish(cx);
    }

    /// Starts once all buckets were read.
    fn start(&mut self, cx: &mut Context<'_>) {
        if self.started || !self.view.is_complete() {
            return;
        }
        self.started = true;
        self.core.set_policies(self.view.policies(), cx.wall);
        self.core.set_controls(self.view.controls(), cx.wall);
        self.core.set_records(self.view.records(), cx.wall);
        cx.after(Duration::ZERO, Timer::Wake);
        self.next_step(Duration::ZERO, cx);
    }

    /// Processes a timer.
    pub(crate) fn on_timer(&mut self, timer: &Timer, cx: &mut Context<'_>) {
        match timer {
            Timer::Wake => {
                self.core.wake(cx.wall);
                cx.after(WAKE, Timer::Wake);
            }
            Timer::LeaseStep(number) if *number == self.steps => self.advance(cx),
            Timer::LeaseTimeout(number) => self.on_lease(*number, lease::Reply::Unreachable, cx),
            Timer::StoreTimeout(number) => {
                self.on_stored(*number, None, cx);
                self.on_forgotten(*number, false, cx);
            }
            Timer::ApplyTimeout(request) if self.applying.contains_key(&request.number) => {
                self.completed(request, Err(BackendError::Unavailable("timeout".into())), cx);
            }
            _ => self.recorder.on_timer(timer, cx),
        }
        self.finish(cx);
    }

    /// Processes an answer of the platform.
    pub(crate) fn on_platform(&mut self, reply: PlatformReply, cx: &mut Context<'_>) {
        match reply {
            PlatformReply::Applied(request, result) => self.completed(&request, result, cx),
            PlatformReply::Listed(asked, Ok(workloads)) => self.core.on_listed(&workloads, asked, cx.wall),
            PlatformReply::Listed(_, Err(_)) => self.core.on_list_failed(cx.wall),
            PlatformReply::Scraped(..) => {}
        }
        self.finish(cx);
    }

    fn completed(&mut self, request: &ApplyRequest, result: Result<WorkloadStatus, BackendError>, cx: &mut Context<'_>) {
        if self.applying.remove(&request.number).is_some() {
            cx.checks.on_completed(cx.process, request);
            self.core.on_applied(&request.function, request.number, result, cx.wall);
        }
    }

    /// Executes the core's commands and passes it its role, as the loop of the service does after every input.
    fn finish(&mut self, cx: &mut Context<'_>) {
        if !self.started {
            return;
        }
        self.execute(cx);
        let lead = match self.status(cx.uptime) {
            LeaderStatus::Following => Lead::Following,
            LeaderStatus::Leading { token, .. } => Lead::Leading(token),
            LeaderStatus::Disconnected { token } => Lead::Disconnected(token),
        };
        cx.checks.on_lead(cx.process, lead);
        self.core.set_lead(lead, cx.wall);
        self.execute(cx);
    }

    fn execute(&mut self, cx: &mut Context<'_>) {
        loop {
            let commands = self.core.take_commands();
            if commands.is_empty() {
                return;
            }
            for command in commands {
                match command {
                    CoreCommand::Apply(request) => self.apply(request, cx),
                    CoreCommand::Publish(outcome, _) => self.publish(*outcome, cx),
                    CoreCommand::Store(function, record) => {
                        self.stored += 1;
                        self.stores.insert(self.stored, (function.clone(), record.clone()));
                        cx.send(Request::Store(self.stored, function, record));
                        cx.after(STORE_TIMEOUT, Timer::StoreTimeout(self.stored));
                    }
                    CoreCommand::Forget(function) => {
                        self.stored += 1;
                        self.forgetting.insert(self.stored, function.clone());
                        cx.send(Request::Forget(self.stored, function));
                        cx.after(STORE_TIMEOUT, Timer::StoreTimeout(self.stored));
                    }
                    // No policy is an object of this platform.
                    CoreCommand::Released(..) => {}
                    CoreCommand::List => cx.out.push(ProcessOutput::ToPlatform(PlatformRequest::List(cx.wall))),
                    CoreCommand::StepDown { highest } => self.step_down(highest, cx),
                }
            }
        }
    }

    fn publish(&mut self, outcome: Outcome, cx: &mut Context<'_>) {
        cx.checks.on_outcome(cx.process, &outcome, &self.view);
        self.recorder.record(Payload::Outcome(Arc::new(outcome)), cx);
    }

    fn apply(&mut self, request: ApplyRequest, cx: &mut Context<'_>) {
        let status = self.status(cx.uptime);
        if status.token() != Some(request.lease) {
            let error = BackendError::Unavailable("this actuator does not lead anymore".into());
            return self.core.on_applied(&request.function, request.number, Err(error), cx.wall);
        }
        cx.checks.on_apply(cx.process, &request, status, &self.view, cx.wall);
        self.applying.insert(request.number, request.clone());
        cx.after(APPLY_TIMEOUT, Timer::ApplyTimeout(request.clone()));
        cx.out.push(ProcessOutput::ToPlatform(PlatformRequest::Apply(request)));
    }

    fn on_stored(&mut self, number: u64, stored: Option<Record>, cx: &mut Context<'_>) {
        if let Some((function, record)) = self.stores.remove(&number) {
            if let Some(Record::Baseline(baseline)) = &stored {
                self.view.set_baseline(&function, baseline.allocation);
            }
            self.core.on_stored(&function, record, stored, cx.wall);
        }
    }

    fn on_forgotten(&mut self, number: u64, deleted: bool, cx: &mut Context<'_>) {
        if let Some(function) = self.forgetting.remove(&number) {
            if deleted {
                self.view.remove_baseline(&function);
            }
            self.core.on_forgotten(&function, deleted, cx.wall);
        }
    }

    fn step_down(&mut self, highest: u64, cx: &mut Context<'_>) {
        self.stepping_down = Some(highest);
        if self.step.is_none() {
            self.complete_step_down(cx);
        }
    }

    fn complete_step_down(&mut self, cx: &mut Context<'_>) {
        self.election.step_down(self.stepping_down.take().unwrap_or(0));
        self.status = self.election.status(cx.uptime);
        self.next_step(self.election.ttl(), cx);
    }

    fn next_step(&mut self, delay: Duration, cx: &mut Context<'_>) {
        self.steps += 1;
        cx.after(delay, Timer::LeaseStep(self.steps));
    }

    fn advance(&mut self, cx: &mut Context<'_>) {
        let sent = cx.uptime;
        let step = self.election.next_step(sent, cx.wall);
        let timeout = match self.election.status(sent) {
            LeaderStatus::Leading { until, .. } => until.saturating_sub(sent).min(self.election.ttl() / 3),
            LeaderStatus::Following | LeaderStatus::Disconnected { .. } => self.election.ttl() / 3,
        };
        cx.send(Request::Lease(self.steps, step.clone()));
        cx.after(timeout, Timer::LeaseTimeout(self.steps));
        self.step = Some((self.steps, step, sent));
    }

    fn on_lease(&mut self, number: u64, reply: lease::Reply, cx: &mut Context<'_>) {
        let Some((_, step, sent)) = self.step.take_if(|(waiting, ..)| *waiting == number) else { return };
        self.election.on_reply(&step, reply, sent, cx.uptime);
        self.status = self.election.status(cx.uptime);
        if self.stepping_down.is_some() {
            return self.complete_step_down(cx);
        }
        self.next_step(self.election.delay(), cx);
    }
}
