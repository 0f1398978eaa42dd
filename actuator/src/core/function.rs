//! The state of one function. Owns what is remembered; must not decide.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use qscale_common::contract::{Action, Direction, GuardNote, State, StateId, TraceParent};
use qscale_common::control::Control;
use qscale_common::guard::{Budget, Frozen};
use qscale_common::name::{FunctionId, Name};
use qscale_common::policy::{Mode, ScalingPolicy};
use qscale_common::time::Timestamp;
use qscale_common::units::Allocation;

use super::decision::AllocationDecision;
use crate::backend::{WorkloadId, WorkloadStatus};
use crate::store::{self, Record};

/// Agents per function whose last answers are remembered; beyond it the agent that answered longest ago is forgotten.
const AGENTS: usize = 64;
/// Actions per function that wait for their State, one per agent.
const EARLY: usize = 8;
/// Time that an Action waits for its State.
const EARLY_WAIT: Duration = Duration::from_secs(1);

/// One function.
#[derive(Debug)]
pub(super) struct ScaledFunction {
    pub(super) policy: Option<Arc<ScalingPolicy>>,
    pub(super) frozen: bool,
    /// Last request to restore this function alone.
    pub(super) restore: Option<Timestamp>,
    /// Request to restore it because its policy is being deleted.
    release: Option<Timestamp>,
    pub(super) state: Option<Box<State>>,
    pub(super) trace: Option<TraceParent>,
    /// Arrival time of the last State.
    seen_at: Timestamp,
    /// Time by which the last State was ahead of this actuator's clock when it arrived.
    ahead: Duration,
    /// Identity of the State before the last.
    pub(super) previous: Option<StateId>,
    pub(super) silence: Silence,
    pub(super) presence: Presence,
    /// Allocation last known to be set on the platform, and when that was known.
    applied: Option<(Allocation, Timestamp)>,
    /// Decision applied last, and the allocation that the platform confirmed.
    pub(super) goal: Option<(AllocationDecision, Allocation)>,
    pub(super) budget: Budget,
    pub(super) budget_dirty: bool,
    budget_stored: Timestamp,
    pub(super) baseline: BaselineState,
    /// Last restore request that was executed.
    pub(super) restored: Timestamp,
    pub(super) restored_stored: bool,
    /// Time of the last answer that there is nothing to restore.
    pub(super) nothing_restored_at: Option<Timestamp>,
    pub(super) work: Work,
    /// Newest decision that arrived while a request was in flight.
    pub(super) next: Option<AllocationDecision>,
    answered: Vec<(Name, StateId)>,
    /// Refused Actions since the last State, by agent.
    pub(super) refusals: BTreeMap<Name, u32>,
    early: Vec<Early>,
}

/// Silence of the policy's agent.
#[derive(Debug, Clone)]
pub(super) struct Silence {
    /// States since its last Action.
    pub(super) unanswered: u32,
    /// Time of its last Action, or of the first one possible.
    pub(super) heard: Timestamp,
    /// Last State that the agent or the fallback decided on. No State is decided on twice, or the fallback would respond to one burst forever.
    pub(super) decided: Option<StateId>,
    /// Whether the fallback currently decides.
    pub(super) fallback_active: bool,
}

/// Whether the platform has the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// Not asked yet.
    Unknown,
    /// The platform has it.
    Present {
        /// Whether its CPU and memory can be changed.
        vertical: bool,
    },
    /// The platform does not have it.
    Missing,
}

/// Knowledge of the allocation before the first change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BaselineState {
    /// Not stored.
    None,
    /// Being stored.
    Storing,
    /// Stored.
    Stored(store::Baseline),
    /// Being deleted.
    Deleting {
        /// Whether the deletion was requested and not answered yet.
        requested: bool,
    },
}

/// Progress of a change.
#[derive(Debug)]
pub(super) enum Work {
    /// None.
    Idle,
    /// The change waits until the baseline is stored.
    Preparing(PendingChange),
    /// A request to the platform is in flight.
    InFlight {
        /// The change.
        job: PendingChange,
        /// Number of the request.
        number: u64,
    },
    /// The platform did not apply it; it is retried.
    Waiting {
        /// The change.
        job: PendingChange,
        /// Time of the retry.
        at: Timestamp,
    },
}

/// A decision on its way to the platform.
#[derive(Debug, Clone)]
pub(super) struct PendingChange {
    pub(super) decision: AllocationDecision,
    pub(super) allocation: Allocation,
    pub(super) before: Option<Allocation>,
    pub(super) notes: Vec<GuardNote>,
    /// Direction that the budget is charged for once it is applied.
    pub(super) charge: Option<Direction>,
    pub(super) attempts: u32,
}

#[derive(Debug)]
struct Early {
    action: Action,
    trace: Option<TraceParent>,
    since: Timestamp,
}

impl ScaledFunction {
    /// A function without a policy, under the operator's request `control`.
    pub(super) fn new(control: Option<&Control>, now: Timestamp) -> Self {
        Self {
            policy: None,
            frozen: control.is_some_and(|control| control.frozen),
            restore: control.and_then(|control| control.restore),
            release: None,
            state: None,
            trace: None,
            seen_at: now,
            ahead: Duration::ZERO,
            previous: None,
            silence: Silence::new(now),
            presence: Presence::Unknown,
            applied: None,
            goal: None,
            budget: Budget::default(),
            budget_dirty: false,
            budget_stored: Timestamp(0),
            baseline: BaselineState::None,
            restored: Timestamp(0),
            restored_stored: true,
            nothing_restored_at: None,
            work: Work::Idle,
            next: None,
            answered: Vec::new(),
            refusals: BTreeMap::new(),
            early: Vec::new(),
        }
    }

    /// The newest restore request, `all` included.
    pub(super) fn last_restore(&self, all: Option<Timestamp>) -> Option<Timestamp> {
        self.restore.max(all).max(self.release)
    }

    /// The newest restore request, `all` included, that was not executed yet.
    pub(super) fn pending_restore(&self, all: Option<Timestamp>) -> Option<Timestamp> {
        self.last_restore(all).filter(|request| *request > self.restored)
    }

    /// Requests a restore at `now` because the policy is being deleted, unless one is under way.
    pub(super) fn request_release(&mut self, now: Timestamp) {
        self.release.get_or_insert(now.max(Timestamp(self.restored.0.saturating_add(1))));
    }

    /// Ends a restore; returns whether it was requested because the policy is being deleted. Without a policy the baseline is used up: another policy begins with
    /// an own one.
    pub(super) fn end_restore(&mut self) -> bool {
        if self.policy.is_none() && matches!(self.baseline, BaselineState::Stored(_)) {
            self.baseline = BaselineState::Deleting { requested: false };
        }
        self.release.take().is_some()
    }

    /// Whether the baseline is to be deleted now.
    pub(super) fn take_deletion(&mut self) -> bool {
        let due = self.baseline == BaselineState::Deleting { requested: false };
        if due {
            self.baseline = BaselineState::Deleting { requested: true };
        }
        due
    }

    /// Whether it must be kept: it has a policy, or something to restore.
    pub(super) fn is_needed(&self) -> bool {
        self.policy.is_some() || self.baseline != BaselineState::None
    }

    /// Sets the policy; returns whether nothing is known of its workload yet.
    pub(super) fn set_policy(&mut self, policy: Arc<ScalingPolicy>, now: Timestamp) -> bool {
        // A restore for the policy before it has no purpose anymore.
        self.release = None;
        let before = self.policy.replace(policy);
        let (before, after) = (before.as_deref(), self.policy.as_deref());
        if before.map(|policy| &policy.agent) != after.map(|policy| &policy.agent) {
            self.silence = Silence::new(now);
        }
        if before.map(|policy| (policy.workload_name(), policy.workload.kind))
            != after.map(|policy| (policy.workload_name(), policy.workload.kind))
        {
            (self.presence, self.applied, self.goal) = (Presence::Unknown, None, None);
        }
        // A change that waits is evaluated again under the new policy.
        if let Work::Waiting { at, .. } = &mut self.work {
            *at = now;
        }
        self.presence == Presence::Unknown
    }

    /// Sets the operator's request.
    pub(super) fn set_control(&mut self, control: Option<&Control>) {
        self.frozen = control.is_some_and(|control| control.frozen);
        self.restore = control.and_then(|control| control.restore);
    }

    /// Forgets the policy and everything learned under it. Requests of operators and records stay.
    pub(super) fn drop_policy(&mut self) {
        let empty = Self::new(None, Timestamp(0));
        let Self { baseline, restored, restored_stored, frozen, restore, release, budget, budget_dirty, budget_stored, .. } =
            std::mem::replace(self, empty);
        let empty = Self::new(None, Timestamp(0));
        *self = Self { baseline, restored, restored_stored, frozen, restore, release, budget, budget_dirty, budget_stored, ..empty };
    }

    /// Processes a State; returns whether it is new.
    pub(super) fn on_state(&mut self, mut state: State, trace: Option<TraceParent>, now: Timestamp) -> bool {
        let (state_id, last) = (state.state_id(), self.last_state_id());
        if last.is_some_and(|last| !state_id.follows(last)) {
            return false;
        }
        self.previous = last;
        // The clock of the collector is ahead: the State ages from its arrival, or it would be fresh until this clock catches up.
        self.ahead = state.observed_at_ms.since(now);
        state.observed_at_ms = state.observed_at_ms.min(now);
        self.state = Some(Box::new(state));
        (self.trace, self.seen_at) = (trace, now);
        self.refusals.clear();
        self.silence.unanswered = self.silence.unanswered.saturating_add(1);
        true
    }

    /// Time by which the State that `action` answers was ahead of this actuator's clock.
    pub(super) fn ahead_of(&self, action: &Action) -> Duration {
        let id = Some(action.state_id());
        if id == self.last_state_id() || id == self.previous { self.ahead } else { Duration::ZERO }
    }

    /// Moves all times that lie after `now` there, because the clock was set back to it: nothing may wait for it to catch up, or look fresh until then.
    pub(super) fn set_clock_back(&mut self, now: Timestamp) {
        if let Some(state) = &mut self.state {
            state.observed_at_ms = state.observed_at_ms.min(now);
        }
        if let Some((_, at)) = &mut self.applied {
            *at = now.min(*at);
        }
        if let Work::Waiting { at, .. } = &mut self.work {
            *at = now.min(*at);
        }
        self.early.iter_mut().for_each(|early| early.since = early.since.min(now));
        for at in [&mut self.seen_at, &mut self.silence.heard, &mut self.budget_stored] {
            *at = now.min(*at);
        }
    }

    pub(super) fn last_state_id(&self) -> Option<StateId> {
        self.state.as_ref().map(|state| state.state_id())
    }

    /// Processes the arrival of an Action from the policy's agent.
    pub(super) fn on_action(&mut self, id: &FunctionId, now: Timestamp) {
        if self.silence.fallback_active {
            tracing::info!(function = %id, "agent is back; the fallback stops");
        }
        self.silence = Silence { decided: self.last_state_id(), ..Silence::new(now) };
    }

    /// Current allocation as far as known: from the platform itself, or from a State that was observed later.
    pub(super) fn current(&self) -> Option<Allocation> {
        let state = self.state.as_deref();
        let seen = state.and_then(|state| {
            let age = Duration::from_millis(state.age.replicas_ms.unwrap_or(0));
            let replicas = state.replicas.map(|counts| counts.desired).or(state.allocation.map(|allocation| allocation.replicas))?;
            Some((replicas, state.allocation, state.observed_at_ms.minus(age)))
        });
        match (self.applied, seen) {
            // The platform itself may start a function from zero. A State does not show limits that are still being applied, so the applied ones count.
            (Some((applied, at)), Some((replicas, _, seen_at))) if seen_at > at => Some(Allocation { replicas, ..applied }),
            (Some((applied, _)), _) => Some(applied),
            (None, Some((replicas, Some(allocation), _))) => Some(Allocation { replicas, ..allocation }),
            (None, _) => None,
        }
    }

    /// Allocation that the platform itself last reported.
    pub(super) fn applied_allocation(&self) -> Option<Allocation> {
        self.applied.map(|(allocation, _)| allocation)
    }

    /// Whether the policy's agent has left more than `after_ticks` States unanswered, or the last one for that time.
    pub(super) fn is_silent(&self, now: Timestamp) -> bool {
        let Some(policy) = &self.policy else { return false };
        let after_ticks = policy.fallback.after_ticks.get();
        let quiet_since = self.silence.heard.max(self.seen_at);
        // Without the bus no States arrive that could be counted; then time counts.
        let waited = now.since(quiet_since) > policy.tick.duration().saturating_mul(after_ticks.saturating_add(1));
        self.silence.unanswered > after_ticks || waited
    }

    /// Whether CPU and memory can be changed; assumed until the platform says otherwise.
    pub(super) fn vertical(&self) -> bool {
        !matches!(self.presence, Presence::Present { vertical: false })
    }

    /// Sets the allocation that the platform has.
    pub(super) fn set_applied(&mut self, allocation: Allocation, vertical: bool, now: Timestamp) {
        self.applied = Some((allocation, now));
        self.presence = Presence::Present { vertical };
    }

    /// Processes the platform's report on the workload, requested at `asked`, at `now`.
    pub(super) fn observe(&mut self, id: &FunctionId, workload: Option<&WorkloadStatus>, asked: Timestamp, now: Timestamp) {
        // A report requested before the last write may be older than the write. A write in the future was before the clock was set back.
        let outdated = self.applied.is_some_and(|(_, at)| (asked..=now).contains(&at));
        match workload {
            None => {
                if self.presence != Presence::Missing && self.policy.is_some() {
                    tracing::warn!(function = %id, "the platform does not have the workload");
                }
                (self.presence, self.applied) = (Presence::Missing, None);
            }
            Some(_) if outdated || matches!(self.work, Work::InFlight { .. }) => {}
            Some(workload) => {
                if self.presence == Presence::Missing {
                    tracing::info!(function = %id, "the platform has the workload now");
                }
                self.set_applied(workload.desired, workload.vertical, asked);
            }
        }
    }

    /// Identity of the workload; `None` if neither a policy nor a stored allocation names it.
    pub(super) fn workload(&self, id: &FunctionId) -> Option<WorkloadId> {
        match (&self.policy, &self.baseline) {
            (Some(policy), _) => {
                let name = FunctionId::new(id.namespace.clone(), policy.workload_name().clone());
                Some(WorkloadId { kind: policy.workload.kind, name })
            }
            (None, BaselineState::Stored(baseline)) => Some(WorkloadId { kind: baseline.kind, name: baseline.workload.clone() }),
            (None, BaselineState::None | BaselineState::Storing | BaselineState::Deleting { .. }) => None,
        }
    }

    /// The freeze that applies to this function.
    pub(super) fn frozen(&self, all: bool) -> Option<Frozen> {
        if all { Some(Frozen::All) } else { self.frozen.then_some(Frozen::Function) }
    }

    /// Whether decisions are currently applied.
    pub(super) fn is_active(&self, frozen_all: bool) -> bool {
        self.frozen(frozen_all).is_none() && self.policy.as_ref().is_some_and(|policy| policy.mode == Mode::Active && !policy.paused)
    }

    /// Sets a stored record other than a budget.
    pub(super) fn remember(&mut self, record: &Record) {
        match record {
            Record::Baseline(baseline) if matches!(&self.baseline, BaselineState::Stored(stored) if stored == baseline) => {}
            // It was read before the deletion.
            Record::Baseline(_) if matches!(self.baseline, BaselineState::Deleting { .. }) => {}
            Record::Baseline(baseline) => self.baseline = BaselineState::Stored(baseline.clone()),
            Record::Budget(_) => {}
            Record::Restored(request) => self.restored = self.restored.max(*request),
        }
    }

    pub(super) fn budget_to_store(&mut self, at_most_every: Duration, now: Timestamp) -> Option<Budget> {
        if !self.budget_dirty || (self.budget_stored..self.budget_stored.plus(at_most_every)).contains(&now) {
            return None;
        }
        (self.budget_dirty, self.budget_stored) = (false, now);
        Some(self.budget.clone())
    }

    /// Drops requests and goals when the lead changes: the allocation may change without notice.
    pub(super) fn clear_work(&mut self) {
        if matches!(self.baseline, BaselineState::Deleting { .. }) {
            self.baseline = BaselineState::None;
        }
        (self.work, self.next, self.goal, self.applied) = (Work::Idle, None, None, None);
    }

    /// Last State that `agent` answered.
    pub(super) fn answered_by(&self, agent: &Name) -> Option<StateId> {
        self.answered.iter().find(|(name, _)| name == agent).map(|(_, state_id)| *state_id)
    }

    pub(super) fn answer(&mut self, agent: &Name, state_id: StateId) {
        // Ordered by the time of the last answer, so that the first agent is the one to forget.
        self.answered.retain(|(name, _)| name != agent);
        if self.answered.len() >= AGENTS {
            self.answered.remove(0);
        }
        self.answered.push((agent.clone(), state_id));
    }

    /// Keeps an Action until its State arrives; returns the Action that is dropped for it, if any.
    pub(super) fn wait_for_state(
        &mut self,
        action: Action,
        trace: Option<TraceParent>,
        now: Timestamp,
    ) -> Option<(Action, Option<TraceParent>)> {
        let crowded = self.early.iter().position(|early| early.action.agent == action.agent).or((self.early.len() >= EARLY).then_some(0));
        let gone = crowded.map(|index| self.early.remove(index)).map(|early| (early.action, early.trace));
        self.early.push(Early { action, trace, since: now });
        gone
    }

    /// Takes the Actions that waited for the last State.
    pub(super) fn take_early_for_current(&mut self) -> Vec<(Action, Option<TraceParent>)> {
        let present = self.last_state_id();
        let (come, waiting) =
            std::mem::take(&mut self.early).into_iter().partition(|early: &Early| Some(early.action.state_id()) == present);
        self.early = waiting;
        Vec::into_iter(come).map(|early| (early.action, early.trace)).collect()
    }

    /// Takes the Actions whose State did not arrive in time.
    pub(super) fn take_expired_early(&mut self, now: Timestamp) -> Vec<(Action, Option<TraceParent>)> {
        let overdue = |early: &Early| now.since(early.since) >= EARLY_WAIT || now < early.since;
        let (overdue, waiting) = std::mem::take(&mut self.early).into_iter().partition(overdue);
        self.early = waiting;
        Vec::into_iter(overdue).map(|early| (early.action, early.trace)).collect()
    }

    /// Whether anything waits for a point in time.
    pub(super) fn has_timer(&self) -> bool {
        !self.early.is_empty() || matches!(self.work, Work::Waiting { .. })
    }
}

impl Silence {
    fn new(now: Timestamp) -> Self {
        Self { unanswered: 0, heard: now, decided: None, fallback_active: false }
    }
}
