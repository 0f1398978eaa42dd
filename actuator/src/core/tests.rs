//! The core, fed with values. The platform is a map and the clock a number.

mod actions;
mod any_sequence;
mod autonomous;
mod clocks;
mod deleted;

use std::num::NonZeroU32;

use qscale_common::contract::{Ages, DecisionSource, Effect, Epoch, GuardRule, Provenance, StateId, Usage, Version, Window, Windows};
use qscale_common::name::Name;
use qscale_common::policy::Mode;
use qscale_common::time::Tick;
use qscale_common::units::Millicores;

use super::*;
use crate::backend::BackendError;
use crate::store;

const START: Timestamp = Timestamp(1_800_000_000_000);
const TICK_MS: u64 = 5_000;
const FUNCTION: &str = "fib";

/// A core, its platform, and everything that it published.
struct Rig {
    core: Core,
    now: Timestamp,
    tick: u64,
    policy: ScalingPolicy,
    controls: BTreeMap<String, Arc<Control>>,
    platform: Platform,
    records: StoredRecords,
    outcomes: Vec<Outcome>,
    orders: Vec<ApplyRequest>,
    /// Requests that the platform has not answered yet, if it delays answers.
    pending: Vec<ApplyRequest>,
    stepped_down: bool,
    /// Answers to requests to restore the function because its policy is being deleted.
    released: Vec<Result<Option<Allocation>, String>>,
}

#[derive(Clone)]
struct Platform {
    workloads: BTreeMap<FunctionId, Allocation>,
    reachable: bool,
    answers: bool,
    highest_lease: u64,
    /// Least CPU that it can apply.
    least_cpu: Millicores,
}

fn id() -> FunctionId {
    FUNCTION.parse().expect("a name")
}

fn workload_id(name: &FunctionId) -> WorkloadId {
    WorkloadId { kind: WorkloadKind::Local, name: name.clone() }
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn settings() -> Settings {
    Settings {
        actuator: "a".into(),
        max_retry_delay: Duration::from_secs(10),
        flush_interval: Duration::from_secs(10),
        reconcile: Duration::from_secs(3600),
        kinds: vec![WorkloadKind::Local],
        seed: 7,
    }
}

impl Rig {
    /// A leading core with one function of four replicas, whose active policy names `agent`.
    fn new() -> Self {
        let mut rig = Self::following();
        rig.core.set_lead(Lead::Leading(1), rig.now);
        rig.settle();
        rig
    }

    /// Like [`Rig::new`], while another actuator leads.
    fn following() -> Self {
        let mut policy = ScalingPolicy::new(id());
        policy.mode = Mode::Active;
        policy.agent = name("agent");
        let platform = Platform {
            workloads: BTreeMap::from([(id(), Allocation::new(4, 500, 256))]),
            reachable: true,
            answers: true,
            highest_lease: 0,
            least_cpu: Millicores(0),
        };
        let mut rig = Self {
            core: Core::new(settings()),
            now: START,
            tick: 0,
            policy,
            controls: BTreeMap::new(),
            platform,
            records: BTreeMap::new(),
            outcomes: Vec::new(),
            orders: Vec::new(),
            pending: Vec::new(),
            stepped_down: false,
            released: Vec::new(),
        };
        rig.apply_policy();
        rig.core.set_controls(&rig.controls, rig.now);
        rig.core.set_records(&rig.records, rig.now);
        rig.settle();
        rig
    }

    /// Another actuator that follows, with the platform and the records of this one.
    fn successor(&self) -> Self {
        Self { records: self.records.clone(), platform: self.platform.clone(), now: self.now, tick: self.tick, ..Self::following() }
    }

    /// Reads the records and leads with a newer lease.
    fn take_over(&mut self) {
        self.core.set_records(&self.records, self.now);
        self.core.set_lead(Lead::Leading(2), self.now);
    }

    fn apply_policy(&mut self) {
        let policies = BTreeMap::from([(id().tokens(), Arc::new(self.policy.clone()))]);
        self.core.set_policies(&policies, self.now);
        self.settle();
    }

    fn control(&mut self, key: &str, frozen: bool, restore: Option<Timestamp>) {
        let control = Control {
            version: Version::CURRENT,
            frozen,
            restore,
            by: String::new(),
            reason: String::new(),
            at_ms: self.now,
            malformed: false,
        };
        self.controls.insert(key.into(), Arc::new(control));
        self.core.set_controls(&self.controls, self.now);
        self.settle();
    }

    /// Executes commands until there are none.
    fn settle(&mut self) {
        loop {
            let commands = self.core.take_commands();
            if commands.is_empty() {
                return;
            }
            for command in commands {
                self.execute(command);
            }
        }
    }

    fn execute(&mut self, command: CoreCommand) {
        match command {
            CoreCommand::Publish(outcome, _) => self.outcomes.push(*outcome),
            CoreCommand::StepDown { .. } => self.stepped_down = true,
            CoreCommand::List => self.list(),
            CoreCommand::Forget(function) => {
                self.records.remove(&Record::baseline_key(&function));
                self.core.on_forgotten(&function, true, self.now);
            }
            CoreCommand::Released(_, answer) => self.released.push(answer),
            CoreCommand::Store(function, record) => {
                let key = record.key(&function);
                let stored = match self.records.get(&key) {
                    Some(older) if matches!(record, Record::Baseline(_)) => older.1.clone(),
                    _ => record.clone(),
                };
                self.records.insert(key, Arc::new((function.clone(), stored.clone())));
                self.core.on_stored(&function, record, Some(stored), self.now);
            }
            CoreCommand::Apply(order) => {
                self.orders.push(order.clone());
                if self.platform.answers { self.answer(&order) } else { self.pending.push(order) }
            }
        }
    }

    fn answer(&mut self, order: &ApplyRequest) {
        let result = self.platform.apply(order);
        self.core.on_applied(&order.function, order.number, result, self.now);
    }

    fn answer_pending(&mut self) {
        self.platform.answers = true;
        for order in std::mem::take(&mut self.pending) {
            self.answer(&order);
        }
        self.settle();
    }

    fn list(&mut self) {
        if self.platform.reachable {
            let workloads: Vec<_> = self
                .platform
                .workloads
                .iter()
                .map(|(id, desired)| WorkloadStatus { id: workload_id(id), desired: *desired, vertical: true })
                .collect();
            self.core.on_listed(&workloads, self.now, self.now);
            self.settle();
        } else {
            self.core.on_list_failed(self.now);
        }
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now.plus(time);
        while self.now < until {
            self.now = self.now.plus(Duration::from_millis(50)).min(until);
            self.core.wake(self.now);
            self.settle();
        }
    }

    /// Sends the next State; the replicas use half of their CPU.
    fn state(&mut self) -> StateId {
        self.state_using(250.0)
    }

    fn state_using(&mut self, cpu: f64) -> StateId {
        self.now = self.now.plus(Duration::from_millis(TICK_MS));
        self.tick += 1;
        let state = self.make_state(cpu);
        let state_id = state.state_id();
        self.core.on_state(state, None, self.now);
        self.settle();
        state_id
    }

    fn make_state(&self, cpu: f64) -> State {
        let used = |used: f64| Some(Usage { mean: used, max: used });
        let window = Window { cpu_millicores: used(cpu), memory_mib: used(50.0), rate_rps: Some(10.0), ..Window::default() };
        let age = Ages { requests_ms: Some(0), cpu_ms: Some(0), memory_ms: Some(0), replicas_ms: Some(0) };
        State {
            epoch: Epoch(1),
            tick: Tick(self.tick),
            observed_at_ms: self.now,
            age,
            allocation: self.platform.workloads.get(&id()).copied(),
            windows: Windows { tick: window.clone(), short: window.clone(), long: window },
            ..State::unmeasured(&self.policy)
        }
    }

    fn make_action(&self, agent: &str, state_id: StateId, replicas: u32) -> Action {
        Action {
            version: Version::CURRENT,
            agent: name(agent),
            instance: String::new(),
            provenance: Provenance::of_rule("p", "m".into()),
            namespace: id().namespace,
            function: id().name,
            epoch: state_id.epoch,
            tick: state_id.tick,
            decided_at_ms: self.now,
            expires_at_ms: self.now.plus(Duration::from_millis(2 * TICK_MS)),
            allocation: Allocation::new(replicas, 500, 256),
            reason: String::new(),
            choices: Vec::new(),
            point: None,
        }
    }

    fn action(&mut self, agent: &str, state_id: StateId, replicas: u32) {
        let action = self.make_action(agent, state_id, replicas);
        self.core.on_action(action, None, self.now);
        self.settle();
    }

    /// Sends a State and the agent's answer.
    fn tick_wanting(&mut self, replicas: u32) {
        let state_id = self.state();
        self.action("agent", state_id, replicas);
    }

    fn has(&self) -> Allocation {
        self.platform.workloads[&id()]
    }

    #[track_caller]
    fn last(&self) -> &Outcome {
        self.outcomes.last().expect("an Outcome")
    }

    #[track_caller]
    fn expect(&self, effect: Effect, source: DecisionSource, rules: &[GuardRule]) {
        let last = self.last();
        let found: Vec<GuardRule> = last.guard.iter().map(|note| note.rule).collect();
        assert_eq!((last.effect, last.source, found.as_slice()), (effect, source, rules), "{last:?}");
    }
}

impl Platform {
    fn apply(&mut self, order: &ApplyRequest) -> Result<WorkloadStatus, BackendError> {
        if !self.reachable {
            return Err(BackendError::Unavailable("no answer".into()));
        }
        if order.lease < self.highest_lease {
            let reason = format!("{} is older than {}", order.lease, self.highest_lease);
            return Err(BackendError::StaleLease { reason, highest: self.highest_lease });
        }
        self.highest_lease = order.lease;
        let Some(workload) = self.workloads.get_mut(&order.workload.name) else {
            return Err(BackendError::NotFound(order.workload.name.clone()));
        };
        *workload = Allocation { cpu_millicores: order.allocation.cpu_millicores.max(self.least_cpu), ..order.allocation };
        Ok(WorkloadStatus { id: order.workload.clone(), desired: *workload, vertical: true })
    }
}
