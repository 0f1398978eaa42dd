//! What is known of one function. Owns remembering; must not decide.

use std::sync::Arc;
use std::time::Duration;

use qscale_common::contract::{Action, Direction, GuardNote, State, StateId, TraceParent};
use qscale_common::guard::{Budget, Frozen};
use qscale_common::name::{FunctionId, Name};
use qscale_common::policy::{Mode, ScalingPolicy};
use qscale_common::time::Timestamp;
use qscale_common::units::Allocation;

use super::decision::Decision;
use crate::backend::Workload;
use crate::store::{self, Record};

/// Agents of one function whose answers are remembered. More than anyone compares at once; beyond it the one that was silent longest is forgotten.
const AGENTS: usize = 64;
/// Actions of one function that wait for their State, one an agent.
const EARLY: usize = 8;
/// How long an Action waits for its State.
const EARLY_WAIT: Duration = Duration::from_secs(1);

/// One function.
#[derive(Debug)]
pub(super) struct Function {
    pub policy: Option<Arc<ScalingPolicy>>,
    pub frozen: bool,
    /// The last request to restore this function alone.
    pub restore: Option<Timestamp>,
    pub state: Option<Box<State>>,
    pub trace: Option<TraceParent>,
    /// When the last State came.
    seen_at: Timestamp,
    /// The State before the last.
    pub previous: Option<StateId>,
    pub silence: Silence,
    pub presence: Presence,
    /// What the platform was last known to be told, and when that was known.
    told: Option<(Allocation, Timestamp)>,
    /// The decision that was applied last, with what the guard made of it.
    pub goal: Option<(Decision, Allocation)>,
    pub budget: Budget,
    pub budget_dirty: bool,
    budget_stored: Timestamp,
    pub original: Original,
    /// The last request to restore that was carried out.
    pub restored: Timestamp,
    pub restored_stored: bool,
    pub work: Work,
    /// The newest decision that came while an attempt was under way.
    pub next: Option<Decision>,
    answered: Vec<(Name, StateId)>,
    early: Vec<Early>,
}

/// How long the named agent has been silent.
#[derive(Debug, Clone)]
pub(super) struct Silence {
    /// States since it was last heard.
    pub unanswered: u32,
    /// When it was last heard, or began to be listened to.
    pub heard: Timestamp,
    /// The last State that it or the fallback decided on: no State is decided on twice, or one burst would be answered for ever.
    pub decided: Option<StateId>,
    /// Whether the fallback acts at present.
    pub standing_in: bool,
}

/// Whether the platform has the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// Nobody asked yet.
    Unknown,
    /// It has.
    Present {
        /// Whether its CPU and memory can be changed.
        vertical: bool,
    },
    /// It has not.
    Missing,
}

/// What is known of the allocation before Qscale first acted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Original {
    /// None is stored.
    None,
    /// One is being stored.
    Storing,
    /// It is stored.
    Stored(store::Original),
}

/// What is being done.
#[derive(Debug)]
pub(super) enum Work {
    /// Nothing.
    Idle,
    /// An attempt waits until the allocation before Qscale acted is stored.
    Preparing(Job),
    /// An attempt is under way.
    Flying {
        /// What is attempted.
        job: Job,
        /// Number of the attempt.
        number: u64,
    },
    /// The platform did not take it; it is tried again then.
    Waiting {
        /// What is attempted.
        job: Job,
        /// When.
        at: Timestamp,
    },
}

/// A decision on its way to the platform.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub decision: Decision,
    pub allocation: Allocation,
    pub before: Option<Allocation>,
    pub notes: Vec<GuardNote>,
    /// What the budget is charged with once it is applied.
    pub charge: Option<Direction>,
    pub attempts: u32,
}

#[derive(Debug)]
struct Early {
    action: Action,
    trace: Option<TraceParent>,
    since: Timestamp,
}

impl Function {
    pub fn new(now: Timestamp) -> Self {
        Self {
            policy: None,
            frozen: false,
            restore: None,
            state: None,
            trace: None,
            seen_at: now,
            previous: None,
            silence: Silence::new(now),
            presence: Presence::Unknown,
            told: None,
            goal: None,
            budget: Budget::default(),
            budget_dirty: false,
            budget_stored: Timestamp(0),
            original: Original::None,
            restored: Timestamp(0),
            restored_stored: true,
            work: Work::Idle,
            next: None,
            answered: Vec::new(),
            early: Vec::new(),
        }
    }

    /// Whether anything speaks for keeping it: a policy, or something to restore.
    pub fn is_of_use(&self) -> bool {
        self.policy.is_some() || self.original != Original::None
    }

    /// Takes in a policy; says whether it names a workload of which nothing is known yet.
    pub fn set_policy(&mut self, policy: Arc<ScalingPolicy>, now: Timestamp) -> bool {
        let before = self.policy.replace(policy);
        let (before, after) = (before.as_deref(), self.policy.as_deref());
        if before.map(|policy| &policy.agent) != after.map(|policy| &policy.agent) {
            self.silence = Silence::new(now);
        }
        if before.map(|policy| (policy.workload_name(), policy.workload.kind))
            != after.map(|policy| (policy.workload_name(), policy.workload.kind))
        {
            (self.presence, self.told, self.goal) = (Presence::Unknown, None, None);
        }
        // What waits is judged anew under the new policy.
        if let Work::Waiting { at, .. } = &mut self.work {
            *at = now;
        }
        self.presence == Presence::Unknown
    }

    pub fn drop_policy(&mut self) {
        let Self { original, restored, restored_stored, frozen, restore, budget, .. } = std::mem::replace(self, Self::new(Timestamp(0)));
        *self = Self { original, restored, restored_stored, frozen, restore, budget, ..Self::new(Timestamp(0)) };
    }

    /// Takes in a State; says whether it is new.
    pub fn see(&mut self, state: State, trace: Option<TraceParent>, now: Timestamp) -> bool {
        let (state_id, last) = (state.state_id(), self.last_moment());
        if last.is_some_and(|last| last.epoch == state_id.epoch && last.tick >= state_id.tick) {
            return false;
        }
        self.previous = last;
        self.state = Some(Box::new(state));
        (self.trace, self.seen_at) = (trace, now);
        self.silence.unanswered = self.silence.unanswered.saturating_add(1);
        true
    }

    pub fn last_moment(&self) -> Option<StateId> {
        self.state.as_ref().map(|state| state.state_id())
    }

    /// The named agent has spoken.
    pub fn hear(&mut self, id: &FunctionId, now: Timestamp) {
        if self.silence.standing_in {
            tracing::info!(function = %id, "the agent is back");
        }
        self.silence = Silence { decided: self.last_moment(), ..Silence::new(now) };
    }

    /// What the platform was last told, as far as is known: from the platform itself, or from a State that was observed later.
    pub fn current(&self) -> Option<Allocation> {
        let state = self.state.as_deref();
        let seen = state.and_then(|state| {
            let age = Duration::from_millis(state.age.replicas_ms.unwrap_or(0));
            let replicas = state.replicas.map(|counts| counts.desired).or(state.allocation.map(|allocation| allocation.replicas))?;
            Some((replicas, state.allocation, state.observed_at_ms.minus(age)))
        });
        match (self.told, seen) {
            // The platform itself may start a function from zero. Limits that replicas are still moving to are not seen in a State, so what was told stays.
            (Some((told, at)), Some((replicas, _, seen_at))) if seen_at > at => Some(Allocation { replicas, ..told }),
            (Some((told, _)), _) => Some(told),
            (None, Some((replicas, Some(allocation), _))) => Some(Allocation { replicas, ..allocation }),
            (None, _) => None,
        }
    }

    /// What the platform itself last said that it was told.
    pub fn told_allocation(&self) -> Option<Allocation> {
        self.told.map(|(allocation, _)| allocation)
    }

    /// Whether the named agent has left so many States unanswered, or the last one for so long, that the fallback is to act.
    pub fn is_silent(&self, now: Timestamp) -> bool {
        let Some(policy) = &self.policy else { return false };
        let patience = policy.fallback.after_ticks.get();
        let quiet_since = self.silence.heard.max(self.seen_at);
        // Where the bus is gone no State comes that could be counted; then time is.
        let waited = now.since(quiet_since) > policy.tick.duration().saturating_mul(patience.saturating_add(1));
        self.silence.unanswered > patience || waited
    }

    /// Whether CPU and memory can be changed; taken to be so until the platform says otherwise.
    pub fn vertical(&self) -> bool {
        !matches!(self.presence, Presence::Present { vertical: false })
    }

    pub fn told(&mut self, allocation: Allocation, vertical: bool, now: Timestamp) {
        self.told = Some((allocation, now));
        self.presence = Presence::Present { vertical };
    }

    /// Takes in what the platform, asked at `asked`, said of the workload.
    pub fn observe(&mut self, id: &FunctionId, workload: Option<&Workload>, asked: Timestamp) {
        match workload {
            None => {
                if self.presence != Presence::Missing && self.policy.is_some() {
                    tracing::warn!(function = %id, "the platform has no such workload");
                }
                (self.presence, self.told) = (Presence::Missing, None);
            }
            // An answer to a question asked before the last write may be older than the write.
            Some(_) if self.told.is_some_and(|(_, at)| at >= asked) || matches!(self.work, Work::Flying { .. }) => {}
            Some(workload) => {
                if self.presence == Presence::Missing {
                    tracing::info!(function = %id, "the platform has the workload now");
                }
                self.told(workload.desired, workload.vertical, asked);
            }
        }
    }

    /// Namespace and name of the workload; `None` where nothing names it.
    pub fn workload(&self, id: &FunctionId) -> Option<FunctionId> {
        match (&self.policy, &self.original) {
            (Some(policy), _) => Some(FunctionId::new(id.namespace.clone(), policy.workload_name().clone())),
            (None, Original::Stored(original)) => Some(original.workload.clone()),
            (None, Original::None | Original::Storing) => None,
        }
    }

    /// What an operator froze of this function.
    pub fn frozen(&self, all: bool) -> Option<Frozen> {
        if all { Some(Frozen::All) } else { self.frozen.then_some(Frozen::Function) }
    }

    /// Whether decisions are applied at present.
    pub fn acted_on(&self, frozen_all: bool) -> bool {
        self.frozen(frozen_all).is_none() && self.policy.as_ref().is_some_and(|policy| policy.mode == Mode::Active && !policy.paused)
    }

    /// Takes in what was stored. A leader's own budget is newer than what it stored.
    pub fn remember(&mut self, record: &Record, leading: bool) {
        match record {
            Record::Original(original) => self.original = Original::Stored(original.clone()),
            Record::Budget(budget) if !leading => self.budget = budget.clone(),
            Record::Budget(_) => {}
            Record::Restored(request) => self.restored = self.restored.max(*request),
        }
    }

    pub fn budget_to_store(&mut self, at_most_every: Duration, now: Timestamp) -> Option<Budget> {
        if !self.budget_dirty || now.since(self.budget_stored) < at_most_every {
            return None;
        }
        (self.budget_dirty, self.budget_stored) = (false, now);
        Some(self.budget.clone())
    }

    /// Another leads now: what is under way here is no longer of concern, and what is in force may change unseen.
    pub fn forget_work(&mut self) {
        (self.work, self.next, self.goal, self.told) = (Work::Idle, None, None, None);
    }

    /// The moment that `agent` answered last.
    pub fn answered_by(&self, agent: &Name) -> Option<StateId> {
        self.answered.iter().find(|(name, _)| name == agent).map(|(_, state_id)| *state_id)
    }

    pub fn answer(&mut self, agent: &Name, state_id: StateId) {
        // The list is ordered by who answered last, so that the first is the one to forget.
        self.answered.retain(|(name, _)| name != agent);
        if self.answered.len() >= AGENTS {
            self.answered.remove(0);
        }
        self.answered.push((agent.clone(), state_id));
    }

    /// Keeps an Action until its State comes; returns the one that has to go for it, if any has.
    pub fn wait_for_state(&mut self, action: Action, trace: Option<TraceParent>, now: Timestamp) -> Option<(Action, Option<TraceParent>)> {
        let crowded = self.early.iter().position(|early| early.action.agent == action.agent).or((self.early.len() >= EARLY).then_some(0));
        let gone = crowded.map(|index| self.early.remove(index)).map(|early| (early.action, early.trace));
        self.early.push(Early { action, trace, since: now });
        gone
    }

    /// The Actions that waited for the State that came last.
    pub fn early_for_present(&mut self) -> Vec<(Action, Option<TraceParent>)> {
        let present = self.last_moment();
        let (come, waiting) =
            std::mem::take(&mut self.early).into_iter().partition(|early: &Early| Some(early.action.state_id()) == present);
        self.early = waiting;
        Vec::into_iter(come).map(|early| (early.action, early.trace)).collect()
    }

    /// The Actions whose State does not come.
    pub fn early_overdue(&mut self, now: Timestamp) -> Vec<(Action, Option<TraceParent>)> {
        let overdue = |early: &Early| now.since(early.since) >= EARLY_WAIT || now < early.since;
        let (overdue, waiting) = std::mem::take(&mut self.early).into_iter().partition(overdue);
        self.early = waiting;
        Vec::into_iter(overdue).map(|early| (early.action, early.trace)).collect()
    }

    /// Whether anything here waits for a time.
    pub fn waits(&self) -> bool {
        !self.early.is_empty() || matches!(self.work, Work::Waiting { .. })
    }
}

impl Silence {
    fn new(now: Timestamp) -> Self {
        Self { unanswered: 0, heard: now, decided: None, standing_in: false }
    }
}
