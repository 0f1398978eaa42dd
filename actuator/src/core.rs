//! The actuator's decisions: values and `now` in, commands out. Owns which decisions count, how they are applied and
//! what is published about them; must not send, sleep, read a clock or wait.
//!
//! Every decision takes the same path: [`admission`] (Actions only), the guard, a request to the platform, an Outcome.
//! One request per function is in flight at a time. Of the decisions that arrive meanwhile, the newest wins.

mod admission;
mod apply;
mod decision;
mod function;
mod repair;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use qscale_common::contract::{Action, Message as _, Outcome, State, TraceParent};
use qscale_common::control::{self, Control};
use qscale_common::name::{FunctionId, Name};
use qscale_common::policy::{self, ScalingPolicy, WorkloadKind};
use qscale_common::time::Timestamp;
use qscale_common::units::Allocation;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::backend::{WorkloadId, WorkloadStatus};
use crate::store::{Record, StoredRecords};
use decision::AllocationDecision;
use function::{BaselineState, Presence, ScaledFunction};

/// Interval at which all functions are checked for silence, restores and budgets to store.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Pause before the platform is listed again after a failure.
const LIST_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Something for the service to do.
#[derive(Debug, Clone, PartialEq)]
pub enum CoreCommand {
    /// Send a request to the platform, and answer with [`Core::on_applied`].
    Apply(ApplyRequest),
    /// Publish an Outcome as part of the decision's trace.
    Publish(Box<Outcome>, Option<TraceParent>),
    /// Store a record, and answer with [`Core::on_stored`].
    Store(FunctionId, Record),
    /// Delete the baseline of a function, and answer with [`Core::on_forgotten`].
    Forget(FunctionId),
    /// Answer [`Core::release`]: the restored allocation, `None` if there was nothing to restore, or why it failed.
    Released(FunctionId, Result<Option<Allocation>, String>),
    /// List the workloads, and answer with [`Core::on_listed`] or [`Core::on_list_failed`].
    List,
    /// Stop leading.
    StepDown {
        /// The token for which the platform refuses that of this actuator, 0 if it is unknown.
        highest: u64,
    },
}

/// A request to the platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApplyRequest {
    /// The function.
    pub function: FunctionId,
    /// Its workload.
    pub workload: WorkloadId,
    /// Allocation of the workload.
    pub allocation: Allocation,
    /// The fencing token.
    pub lease: u64,
    /// Number of the request; the answer has the same number.
    pub number: u64,
}

/// Whether this actuator may act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lead {
    /// Another actuator leads: only listen.
    Following,
    /// Act with this token.
    Leading(u64),
    /// The bus and the lead are lost. The fallback may increase allocations with this token, which the platform refuses
    /// if another leader has written.
    Disconnected(u64),
}

/// Settings of the core.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of this actuator.
    pub actuator: String,
    /// Longest delay between two requests for the same decision.
    pub max_retry_delay: Duration,
    /// Shortest interval between two writes of one budget.
    pub flush_interval: Duration,
    /// Interval between two comparisons with the platform.
    pub reconcile: Duration,
    /// Kinds of workload that the backend handles; policies of other kinds are left to other actuators.
    pub kinds: Vec<WorkloadKind>,
    /// Seed of the jitter of retries.
    pub seed: u64,
}

/// Outcomes of refused Actions that are published for each agent, function and State; an agent sends one Action, a
/// restarted one perhaps two.
pub const REPORTED_REFUSALS: u32 = 4;
/// Outcomes of refused Actions for functions without a ScalingPolicy that are published for each agent between two sweeps.
const REPORTED_UNKNOWN: u32 = 2;

/// The state of all functions, and whether this actuator may act.
#[derive(Debug)]
pub struct Core {
    settings: Settings,
    lead: Lead,
    functions: BTreeMap<FunctionId, ScaledFunction>,
    /// Functions with a policy for another backend, or with one that does not act as another policy scales the same workload.
    foreign: BTreeSet<FunctionId>,
    /// Functions with a timer.
    timed: BTreeSet<FunctionId>,
    /// Requests of operators, also those for functions without a policy so far.
    controls: BTreeMap<String, Arc<Control>>,
    frozen_all: bool,
    restore_all: Option<Timestamp>,
    records_read: bool,
    platform_read: bool,
    /// Whether a list of the platform's workloads is under way.
    listing: bool,
    /// When the platform is listed next.
    list_at: Timestamp,
    swept_at: Timestamp,
    woken_at: Timestamp,
    attempts: u64,
    rng: SmallRng,
    commands: Vec<CoreCommand>,
    /// Refused Actions for functions without a ScalingPolicy since the last sweep.
    unknown: BTreeMap<Name, u32>,
    /// Refused Actions without an Outcome.
    unreported: u64,
}

impl Core {
    /// A core that follows and knows no function.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let rng = SmallRng::seed_from_u64(settings.seed);
        Self {
            settings,
            lead: Lead::Following,
            functions: BTreeMap::new(),
            foreign: BTreeSet::new(),
            timed: BTreeSet::new(),
            controls: BTreeMap::new(),
            frozen_all: false,
            restore_all: None,
            records_read: false,
            platform_read: false,
            listing: false,
            list_at: Timestamp(0),
            swept_at: Timestamp(0),
            woken_at: Timestamp(0),
            attempts: 0,
            rng,
            commands: Vec::new(),
            unknown: BTreeMap::new(),
            unreported: 0,
        }
    }

    /// Takes the commands to execute, in order.
    #[must_use]
    pub fn take_commands(&mut self) -> Vec<CoreCommand> {
        std::mem::take(&mut self.commands)
    }

    /// Sets whether this actuator leads.
    pub fn set_lead(&mut self, lead: Lead, now: Timestamp) {
        let before = std::mem::replace(&mut self.lead, lead);
        match (before, lead) {
            (before, lead) if before == lead => {}
            (Lead::Leading(_), Lead::Disconnected(_)) | (Lead::Disconnected(_), Lead::Leading(_)) => {}
            (_, Lead::Following) => self.functions.values_mut().for_each(ScaledFunction::clear_work),
            (_, Lead::Leading(_) | Lead::Disconnected(_)) => {
                // The previous leader may have changed allocations since the platform was last listed, so forget them and list again.
                self.functions.values_mut().for_each(ScaledFunction::clear_work);
                self.platform_read = false;
                self.request_list(now);
                self.sweep(now);
            }
        }
    }

    /// Sets all ScalingPolicies, by key.
    pub fn set_policies(&mut self, policies: &BTreeMap<String, Arc<ScalingPolicy>>, now: Timestamp) {
        let superseded = policy::superseded(policies.values().map(Arc::as_ref));
        for (function, acting) in superseded.iter().filter(|(function, _)| !self.foreign.contains(*function)) {
            tracing::warn!(%function, %acting, "the policy does not act, as another one scales the same workload");
        }
        let by_function = policies.values().map(|policy| (policy.function(), policy));
        let handled = |(function, policy): &(FunctionId, &Arc<ScalingPolicy>)| {
            self.settings.kinds.contains(&policy.workload.kind) && !superseded.contains_key(function)
        };
        let (current, foreign): (BTreeMap<_, _>, BTreeMap<_, _>) = by_function.partition(handled);
        self.foreign = foreign.into_keys().collect();
        for (id, function) in &mut self.functions {
            if function.policy.is_some() && !current.contains_key(id) {
                function.drop_policy();
            }
        }
        let mut unknown = false;
        for (id, policy) in current {
            let control = self.controls.get(&Control::key(&id)).map(Arc::as_ref);
            let function = self.functions.entry(id.clone()).or_insert_with(|| ScaledFunction::new(control, now));
            if function.policy.as_ref() == Some(policy) {
                continue;
            }
            unknown |= function.set_policy(Arc::clone(policy), now);
            self.timed.insert(id.clone());
            self.repair(&id, now);
        }
        self.functions.retain(|_, function| function.is_needed());
        if unknown && self.leading() {
            self.request_list(now);
        }
    }

    /// Sets the operators' requests, by key.
    pub fn set_controls(&mut self, controls: &BTreeMap<String, Arc<Control>>, now: Timestamp) {
        let all = controls.get(control::ALL);
        self.frozen_all = all.is_some_and(|control| control.frozen);
        self.restore_all = all.and_then(|control| control.restore);
        for (id, function) in &mut self.functions {
            function.set_control(controls.get(&Control::key(id)).map(Arc::as_ref));
        }
        self.controls.clone_from(controls);
        for id in self.ids() {
            self.repair(&id, now);
        }
        self.sweep(now);
    }

    /// Restores `id`, whose policy is being deleted, and answers with [`CoreCommand::Released`]. A repeated request for one under way changes nothing. An actuator that
    /// does not lead does not answer.
    pub fn release(&mut self, id: &FunctionId, now: Timestamp) {
        if !self.leading() || !self.records_read {
            return;
        }
        match self.functions.get_mut(id) {
            Some(function) if matches!(function.baseline, BaselineState::Storing | BaselineState::Stored(_)) => {
                function.request_release(now);
                self.restore(id, now);
            }
            _ => self.commands.push(CoreCommand::Released(id.clone(), Ok(None))),
        }
    }

    /// Processes the result of a deletion of a baseline.
    pub fn on_forgotten(&mut self, id: &FunctionId, deleted: bool, now: Timestamp) {
        let deleting = |function: &&mut ScaledFunction| matches!(function.baseline, BaselineState::Deleting { .. });
        let Some(function) = self.functions.get_mut(id).filter(deleting) else { return };
        if !deleted {
            function.baseline = BaselineState::Deleting { requested: false };
            return;
        }
        function.baseline = BaselineState::None;
        // A change under another policy has waited for it.
        self.on_baseline_stored(id, now);
        self.functions.retain(|_, function| function.is_needed());
    }

    /// Sets the stored records. A leader's own budget is newer than the stored one; to
    /// that of a disconnected actuator another leader may have added.
    pub fn set_records(&mut self, entries: &StoredRecords, now: Timestamp) {
        let lead = self.lead;
        for (id, record) in entries.values().map(Arc::as_ref) {
            let handled = match record {
                Record::Baseline(baseline) => self.settings.kinds.contains(&baseline.kind),
                Record::Budget(_) | Record::Restored(_) => !self.foreign.contains(id),
            };
            if !handled {
                continue;
            }
            let control = self.controls.get(&Control::key(id)).map(Arc::as_ref);
            let function = self.functions.entry(id.clone()).or_insert_with(|| ScaledFunction::new(control, now));
            match (record, lead) {
                (Record::Budget(stored), Lead::Following) => function.budget.clone_from(stored),
                (Record::Budget(stored), Lead::Disconnected(_)) => function.budget.join(stored),
                (Record::Budget(_), Lead::Leading(_)) => {}
                (record, _) => function.remember(record),
            }
        }
        // A leader deletes the baseline of a restored function that has no policy. One that this leader has just stored may not be among the entries yet.
        for (id, function) in self.functions.iter_mut().filter(|(_, function)| lead == Lead::Following || function.policy.is_none()) {
            if matches!(function.baseline, BaselineState::Stored(_)) && !entries.contains_key(&Record::baseline_key(id)) {
                function.baseline = BaselineState::None;
            }
        }
        // Every write of a leader comes back as a change of the bucket. Only the first reading is urgent; the next sweep covers the others.
        if !std::mem::replace(&mut self.records_read, true) {
            self.sweep(now);
        }
    }

    /// Processes a State.
    pub fn on_state(&mut self, state: State, trace: Option<TraceParent>, now: Timestamp) {
        let id = state.function();
        let Some(function) = self.functions.get_mut(&id) else { return };
        if function.policy.is_none() || !function.on_state(state, trace, now) {
            return;
        }
        for (action, trace) in function.take_early_for_current() {
            self.on_action(action, trace, now);
        }
        self.run_fallback(&id, now);
    }

    /// Processes an Action.
    pub fn on_action(&mut self, mut action: Action, trace: Option<TraceParent>, now: Timestamp) {
        let id = action.function();
        // Its expiry counts from the observation, by the clock of the collector.
        let ahead = self.functions.get(&id).map_or(Duration::ZERO, |function| function.ahead_of(&action));
        action.expires_at_ms = action.expires_at_ms.minus(ahead);
        if self.foreign.contains(&id) {
            return;
        }
        match admission::admit(self.functions.get_mut(&id), &action, now) {
            admission::Admission::Early => self.wait_for_state(id, action, trace, now),
            admission::Admission::Refused(why) => self.refuse(&action, trace, why, now),
            admission::Admission::Admitted { named } => {
                let decision = AllocationDecision::of_action(action, named, trace, now);
                // A disconnected actuator may still read Actions; they are for the next leader, and the fallback decides here.
                let disconnected = matches!(self.lead, Lead::Disconnected(_));
                if named
                    && !disconnected
                    && let Some(function) = self.functions.get_mut(&id)
                {
                    function.on_action(&id, now);
                }
                if self.leading() {
                    self.submit(&id, decision, now);
                }
            }
        }
    }

    fn wait_for_state(&mut self, id: FunctionId, action: Action, trace: Option<TraceParent>, now: Timestamp) {
        let Some(function) = self.functions.get_mut(&id) else { return };
        let crowded_out = function.wait_for_state(action, trace, now);
        self.timed.insert(id);
        if let Some((action, trace)) = crowded_out {
            self.refuse(&action, trace, admission::Refusal::state_missing(&action), now);
        }
    }

    fn refuse(&mut self, action: &Action, trace: Option<TraceParent>, why: admission::Refusal, now: Timestamp) {
        if self.leading() && self.reports_refusal(action) {
            let function = self.functions.get(&action.function());
            let outcome = admission::refused(action, function, why, &self.settings.actuator, now);
            self.commands.push(CoreCommand::Publish(Box::new(outcome), trace));
        }
    }

    /// Whether a refused Action gets an Outcome. A flood of Actions must not become a flood of Outcomes, which would
    /// push those of others out of the record.
    fn reports_refusal(&mut self, action: &Action) -> bool {
        let (refusals, most) = match self.functions.get_mut(&action.function()) {
            Some(function) if function.policy.is_some() => (&mut function.refusals, REPORTED_REFUSALS),
            _ => (&mut self.unknown, REPORTED_UNKNOWN),
        };
        let count = refusals.entry(action.agent.clone()).or_default();
        *count = count.saturating_add(1);
        let reported = *count <= most;
        self.unreported += u64::from(!reported);
        reported
    }

    /// Number of refused Actions that got no Outcome since the last call, because their agent had used up its share.
    pub fn take_unreported(&mut self) -> u64 {
        std::mem::take(&mut self.unreported)
    }

    /// Runs everything that is due at `now`. Call it several times a second.
    pub fn wake(&mut self, now: Timestamp) {
        if now < std::mem::replace(&mut self.woken_at, now) {
            self.functions.values_mut().for_each(|function| function.set_clock_back(now));
        }
        for id in std::mem::take(&mut self.timed) {
            let Some(function) = self.functions.get_mut(&id) else { continue };
            for (action, trace) in function.take_expired_early(now) {
                self.refuse(&action, trace, admission::Refusal::state_missing(&action), now);
            }
            self.retry_due(&id, now);
            if self.functions.get(&id).is_some_and(ScaledFunction::has_timer) {
                self.timed.insert(id);
            }
        }
        if now.since(self.swept_at) >= SWEEP_INTERVAL || now < self.swept_at {
            self.sweep(now);
        }
        // A clock that was set back must not put off the next list.
        if now >= self.list_at || self.list_at.since(now) > self.settings.reconcile {
            self.request_list(now);
        }
    }

    fn request_list(&mut self, now: Timestamp) {
        self.list_at = now.plus(self.settings.reconcile);
        if !std::mem::replace(&mut self.listing, true) {
            self.commands.push(CoreCommand::List);
        }
    }

    /// Checks every function for requested restores, silent agents and budgets to store.
    fn sweep(&mut self, now: Timestamp) {
        self.swept_at = now;
        self.unknown.clear();
        if self.lead == Lead::Following {
            return;
        }
        for id in self.ids() {
            self.restore(&id, now);
            self.forget(&id);
            self.run_fallback(&id, now);
            self.store_budget(&id, self.settings.flush_interval, now);
        }
    }

    /// Stores every changed budget, before a stop.
    pub fn flush(&mut self, now: Timestamp) {
        for id in self.ids() {
            self.store_budget(&id, Duration::ZERO, now);
        }
    }

    /// Deletes the baseline of a function that was restored after its policy was deleted.
    fn forget(&mut self, id: &FunctionId) {
        let leading = self.leading();
        if self.functions.get_mut(id).is_some_and(|function| leading && function.take_deletion()) {
            self.commands.push(CoreCommand::Forget(id.clone()));
        }
    }

    fn store_budget(&mut self, id: &FunctionId, at_most_every: Duration, now: Timestamp) {
        let leading = self.leading();
        if let Some(function) = self.functions.get_mut(id)
            && leading
            && let Some(budget) = function.budget_to_store(at_most_every, now)
        {
            self.commands.push(CoreCommand::Store(id.clone(), Record::Budget(budget)));
        }
    }

    /// Processes the result of a write: the stored record, which for a baseline may be an older one, or `None` if it failed.
    pub fn on_stored(&mut self, id: &FunctionId, record: Record, stored: Option<Record>, now: Timestamp) {
        let Some(function) = self.functions.get_mut(id) else { return };
        match (record, stored) {
            (Record::Baseline(_), Some(Record::Baseline(baseline))) => {
                function.baseline = BaselineState::Stored(baseline);
                self.on_baseline_stored(id, now);
            }
            (Record::Baseline(_), _) => {
                function.baseline = BaselineState::None;
                self.on_baseline_failed(id, now);
            }
            (Record::Budget(_), None) => function.budget_dirty = true,
            (Record::Restored(_), None) => function.restored_stored = false,
            (Record::Budget(_) | Record::Restored(_), Some(_)) => {}
        }
    }

    /// Processes a failure to list the platform.
    pub fn on_list_failed(&mut self, now: Timestamp) {
        self.listing = false;
        self.list_at = now.plus(LIST_RETRY_DELAY.min(self.settings.reconcile));
    }

    /// Processes the workloads that the platform listed when asked at `asked`.
    pub fn on_listed(&mut self, workloads: &[WorkloadStatus], asked: Timestamp, now: Timestamp) {
        (self.listing, self.platform_read) = (false, true);
        let by_id: BTreeMap<&WorkloadId, &WorkloadStatus> = workloads.iter().map(|workload| (&workload.id, workload)).collect();
        for id in self.ids() {
            let Some(function) = self.functions.get_mut(&id) else { continue };
            let Some(workload) = function.workload(&id) else { continue };
            function.observe(&id, by_id.get(&workload).copied(), asked, now);
            self.repair(&id, now);
        }
    }

    fn ids(&self) -> Vec<FunctionId> {
        self.functions.keys().cloned().collect()
    }

    fn leading(&self) -> bool {
        matches!(self.lead, Lead::Leading(_))
    }

    /// Number of functions with a policy whose workload the platform does not have.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.functions.values().filter(|function| function.policy.is_some() && function.presence == Presence::Missing).count()
    }

    /// Number of functions with a silent agent, for which the fallback decides.
    #[must_use]
    pub fn silent(&self) -> usize {
        self.functions.values().filter(|function| function.silence.fallback_active).count()
    }

    /// Number of functions with a policy.
    #[must_use]
    pub fn governed(&self) -> usize {
        self.functions.values().filter(|function| function.policy.is_some()).count()
    }
}

#[cfg(test)]
mod tests;
