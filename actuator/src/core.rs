//! What the actuator decides: values and `now` in, commands out. Owns which decisions count, what becomes of them and what is published about
//! it; must not send, sleep, read a clock or wait.
//!
//! Every decision, whoever made it, takes the same way: [`admission`] (an Action only), the guard, an attempt, an Outcome. One attempt a
//! function is under way at a time; what is decided meanwhile waits, and of what waits the newest wins.

mod admission;
mod attempt;
mod decision;
mod function;
mod repair;

pub use decision::Decision;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use qscale_common::contract::{Action, Message as _, Outcome, State, TraceParent};
use qscale_common::control::{self, Control};
use qscale_common::name::FunctionId;
use qscale_common::policy::ScalingPolicy;
use qscale_common::time::Timestamp;
use qscale_common::units::Allocation;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::backend::Workload;
use crate::store::{Entries, Record};
use function::{Function, Presence};

/// How often clocks are looked at for functions of which nothing is heard.
const LOOK_ROUND: Duration = Duration::from_secs(1);

/// Something to be carried out.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Tell the platform, and answer with [`Core::applied`].
    Apply(Order),
    /// Record an Outcome as part of the trace of the decision.
    Publish(Box<Outcome>, Option<TraceParent>),
    /// Store a record, and answer with [`Core::stored`].
    Store(FunctionId, Record),
    /// List the workloads, and answer with [`Core::listed`].
    List,
    /// Give up the lead.
    StepDown,
}

/// What the platform is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The function that it is for.
    pub function: FunctionId,
    /// Its workload.
    pub workload: FunctionId,
    /// What the workload shall have.
    pub allocation: Allocation,
    /// The fencing token.
    pub lease: u64,
    /// Which attempt this is; the answer bears the same number.
    pub number: u64,
}

/// Whether this actuator may act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lead {
    /// Another acts: listen only.
    Following,
    /// Act under this token.
    Leading(u64),
    /// The bus is gone and the lead with it. The fallback may give more under this token, which the platform refuses where another has written.
    Cut(u64),
}

/// What the core is told once.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of this actuator.
    pub actuator: String,
    /// Longest pause between two attempts.
    pub retry_at_most: Duration,
    /// Pause between two writes of one budget.
    pub store_every: Duration,
    /// Where chance begins.
    pub seed: u64,
}

/// The state of all functions, and who may act.
#[derive(Debug)]
pub struct Core {
    settings: Settings,
    lead: Lead,
    functions: BTreeMap<FunctionId, Function>,
    /// Functions with something that waits for a time.
    timed: BTreeSet<FunctionId>,
    frozen_all: bool,
    restore_all: Option<Timestamp>,
    policies_read: bool,
    records_read: bool,
    platform_read: bool,
    looked_round: Timestamp,
    attempts: u64,
    rng: SmallRng,
    commands: Vec<Command>,
}

impl Core {
    /// A core that knows nothing and follows.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let rng = SmallRng::seed_from_u64(settings.seed);
        Self {
            settings,
            lead: Lead::Following,
            functions: BTreeMap::new(),
            timed: BTreeSet::new(),
            frozen_all: false,
            restore_all: None,
            policies_read: false,
            records_read: false,
            platform_read: false,
            looked_round: Timestamp(0),
            attempts: 0,
            rng,
            commands: Vec::new(),
        }
    }

    /// What is to be carried out, in order.
    #[must_use]
    pub fn take(&mut self) -> Vec<Command> {
        std::mem::take(&mut self.commands)
    }

    /// Whether enough is known to lead: policies, what is remembered.
    #[must_use]
    pub fn informed(&self) -> bool {
        self.policies_read && self.records_read
    }

    /// Takes in where this actuator stands.
    pub fn lead(&mut self, lead: Lead, now: Timestamp) {
        let before = std::mem::replace(&mut self.lead, lead);
        match (before, lead) {
            (before, lead) if before == lead => {}
            (Lead::Leading(_), Lead::Cut(_)) | (Lead::Cut(_), Lead::Leading(_)) => {}
            (_, Lead::Following) => self.functions.values_mut().for_each(Function::forget_work),
            (_, Lead::Leading(_) | Lead::Cut(_)) => {
                // What the platform was last known to be told is what the leader before changed since.
                self.functions.values_mut().for_each(Function::forget_work);
                self.platform_read = false;
                self.commands.push(Command::List);
                self.look_round(now);
            }
        }
    }

    /// Takes in all policies.
    pub fn policies(&mut self, policies: &BTreeMap<String, Arc<ScalingPolicy>>, now: Timestamp) {
        self.policies_read = true;
        let current: BTreeMap<FunctionId, &Arc<ScalingPolicy>> = policies.values().map(|policy| (policy.function(), policy)).collect();
        for (id, function) in &mut self.functions {
            if function.policy.is_some() && !current.contains_key(id) {
                function.drop_policy();
            }
        }
        let mut unknown = false;
        for (id, policy) in current {
            let function = self.functions.entry(id.clone()).or_insert_with(|| Function::new(now));
            if function.policy.as_ref() == Some(policy) {
                continue;
            }
            unknown |= function.set_policy(Arc::clone(policy), now);
            self.timed.insert(id.clone());
            self.mend(&id, now);
        }
        self.functions.retain(|_, function| function.is_of_use());
        if unknown && self.leading() {
            self.commands.push(Command::List);
        }
    }

    /// Takes in what operators ask for.
    pub fn controls(&mut self, controls: &BTreeMap<String, Arc<Control>>, now: Timestamp) {
        let all = controls.get(control::ALL);
        self.frozen_all = all.is_some_and(|control| control.frozen);
        self.restore_all = all.and_then(|control| control.restore);
        for (id, function) in &mut self.functions {
            let control = controls.get(&Control::key(id));
            function.frozen = control.is_some_and(|control| control.frozen);
            function.restore = control.and_then(|control| control.restore);
        }
        for id in self.ids() {
            self.mend(&id, now);
        }
        self.look_round(now);
    }

    /// Takes in what is remembered. Whoever leads knows better what it wrote itself.
    pub fn records(&mut self, entries: &Entries, now: Timestamp) {
        self.records_read = true;
        let leading = self.leading();
        for (id, record) in entries.values().map(Arc::as_ref) {
            self.functions.entry(id.clone()).or_insert_with(|| Function::new(now)).remember(record, leading);
        }
        self.look_round(now);
    }

    /// Takes in a State.
    pub fn state(&mut self, state: State, trace: Option<TraceParent>, now: Timestamp) {
        let id = state.function();
        let Some(function) = self.functions.get_mut(&id) else { return };
        if function.policy.is_none() || !function.see(state, trace, now) {
            return;
        }
        for (action, trace) in function.early_for_present() {
            self.action(action, trace, now);
        }
        self.stand_in(&id, now);
    }

    /// Takes in an Action.
    pub fn action(&mut self, action: Action, trace: Option<TraceParent>, now: Timestamp) {
        let id = action.function();
        match admission::admit(self.functions.get_mut(&id), &action, now) {
            admission::Admission::Early => self.wait_for_state(id, action, trace, now),
            admission::Admission::Refused(why) => self.refuse(&action, trace, why, now),
            admission::Admission::Considered { named } => {
                let decision = Decision::of_action(action, named, trace, now);
                if named && let Some(function) = self.functions.get_mut(&id) {
                    function.hear(&id, now);
                }
                // An actuator that was cut off hears nobody; what it still reads then is for the next leader.
                if self.leading() {
                    self.consider(&id, decision, now);
                }
            }
        }
    }

    fn wait_for_state(&mut self, id: FunctionId, action: Action, trace: Option<TraceParent>, now: Timestamp) {
        let Some(function) = self.functions.get_mut(&id) else { return };
        let crowded_out = function.wait_for_state(action, trace, now);
        self.timed.insert(id);
        if let Some((action, trace)) = crowded_out {
            self.refuse(&action, trace, admission::Refusal::of_unseen(&action), now);
        }
    }

    fn refuse(&mut self, action: &Action, trace: Option<TraceParent>, why: admission::Refusal, now: Timestamp) {
        if self.leading() {
            let function = self.functions.get(&action.function());
            let outcome = decision::refused(action, function, why, &self.settings.actuator, now);
            self.commands.push(Command::Publish(Box::new(outcome), trace));
        }
    }

    /// Does what is due at `now`. To be called a few times a second.
    pub fn wake(&mut self, now: Timestamp) {
        for id in std::mem::take(&mut self.timed) {
            let Some(function) = self.functions.get_mut(&id) else { continue };
            for (action, trace) in function.early_overdue(now) {
                self.refuse(&action, trace, admission::Refusal::of_unseen(&action), now);
            }
            self.retry(&id, now);
            if self.functions.get(&id).is_some_and(Function::waits) {
                self.timed.insert(id);
            }
        }
        if now.since(self.looked_round) >= LOOK_ROUND || now < self.looked_round {
            self.look_round(now);
        }
    }

    /// Looks after every function: restores that were asked for, silence, budgets to be stored.
    fn look_round(&mut self, now: Timestamp) {
        self.looked_round = now;
        if self.lead == Lead::Following {
            return;
        }
        for id in self.ids() {
            self.restore(&id, now);
            self.stand_in(&id, now);
            self.store_budget(&id, self.settings.store_every, now);
        }
    }

    /// Stores every budget that changed, for a stop.
    pub fn flush(&mut self, now: Timestamp) {
        for id in self.ids() {
            self.store_budget(&id, Duration::ZERO, now);
        }
    }

    fn store_budget(&mut self, id: &FunctionId, at_most_every: Duration, now: Timestamp) {
        let leading = self.leading();
        if let Some(function) = self.functions.get_mut(id)
            && leading
            && let Some(budget) = function.budget_to_store(at_most_every, now)
        {
            self.commands.push(Command::Store(id.clone(), Record::Budget(budget)));
        }
    }

    /// Takes in that a record was stored, which for an original may be an older one, or that it could not be.
    pub fn stored(&mut self, id: &FunctionId, record: Record, stored: Option<Record>, now: Timestamp) {
        let Some(function) = self.functions.get_mut(id) else { return };
        match (record, stored) {
            (Record::Original(_), Some(Record::Original(original))) => {
                function.original = function::Original::Stored(original);
                self.prepared(id);
            }
            (Record::Original(_), _) => {
                function.original = function::Original::None;
                self.not_prepared(id, now);
            }
            (Record::Budget(_), None) => function.budget_dirty = true,
            (Record::Restored(_), None) => function.restored_stored = false,
            (Record::Budget(_) | Record::Restored(_), Some(_)) => {}
        }
    }

    /// Takes in the workloads as the platform listed them when it was asked at `asked`.
    pub fn listed(&mut self, workloads: &[Workload], asked: Timestamp, now: Timestamp) {
        self.platform_read = true;
        let by_id: BTreeMap<&FunctionId, &Workload> = workloads.iter().map(|workload| (&workload.id, workload)).collect();
        for id in self.ids() {
            let Some(function) = self.functions.get_mut(&id) else { continue };
            let Some(workload) = function.workload(&id) else { continue };
            function.observe(&id, by_id.get(&workload).copied(), asked);
            self.mend(&id, now);
        }
    }

    fn ids(&self) -> Vec<FunctionId> {
        self.functions.keys().cloned().collect()
    }

    fn leading(&self) -> bool {
        matches!(self.lead, Lead::Leading(_))
    }

    /// Functions with a policy whose workload the platform does not have.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.functions.values().filter(|function| function.policy.is_some() && function.presence == Presence::Missing).count()
    }

    /// Functions that the fallback looks after, because their agent is silent.
    #[must_use]
    pub fn silent(&self) -> usize {
        self.functions.values().filter(|function| function.silence.standing_in).count()
    }

    /// Functions with a policy.
    #[must_use]
    pub fn governed(&self) -> usize {
        self.functions.values().filter(|function| function.policy.is_some()).count()
    }
}

#[cfg(test)]
mod tests;
