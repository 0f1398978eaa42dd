//! From a decision to the platform and back. Owns the call of the guard, requests, retries and their Outcomes.

use std::time::Duration;

use qscale_common::contract::{DecisionSource, Effect, GuardNote, GuardRule, Outcome};
use qscale_common::guard::{GuardInput, Verdict, evaluate};
use qscale_common::name::FunctionId;
use qscale_common::time::Timestamp;
use qscale_common::units::Allocation;
use rand::RngExt as _;

use super::decision::AllocationDecision;
use super::function::{BaselineState, PendingChange, Presence, ScaledFunction, Work};
use super::{ApplyRequest, Core, CoreCommand, Lead};
use crate::backend::{BackendError, WorkloadId, WorkloadStatus};
use crate::store::{self, Record};

/// Delay before the second request; it doubles with every further one.
const FIRST_RETRY_DELAY: Duration = Duration::from_millis(250);

impl Core {
    /// Evaluates an admitted decision now, or once the request in flight has ended.
    pub(super) fn submit(&mut self, id: &FunctionId, decision: AllocationDecision, now: Timestamp) {
        let Some(function) = self.functions.get_mut(id) else { return };
        let applies = decision.source != DecisionSource::Shadow;
        if applies && !decision.restores && function.restoring() {
            let note = GuardNote { rule: GuardRule::RestoreInProgress, detail: "a restore is in progress".into() };
            self.publish(id, &decision, Effect::Held, |outcome| outcome.guard.push(note));
        } else if applies && matches!(function.work, Work::InFlight { .. } | Work::Preparing(_)) {
            if let Some(older) = function.next.replace(decision) {
                self.superseded(id, &older);
            }
        } else {
            if applies {
                function.work = Work::Idle;
            }
            self.evaluate(id, decision, 0, now);
        }
    }

    fn superseded(&mut self, id: &FunctionId, older: &AllocationDecision) {
        self.publish(id, older, Effect::Failed, |outcome| outcome.reason = "superseded by a newer decision".into());
    }

    /// Evaluates a decision, unless it has expired since it was admitted, or since the last attempt.
    fn evaluate(&mut self, id: &FunctionId, decision: AllocationDecision, attempts: u32, now: Timestamp) {
        let Some(function) = self.functions.get(id) else { return };
        let before = function.current();
        let reason = match () {
            () if decision.expires.is_some_and(|expires| now >= expires) => Some("expired before it could be applied"),
            () if decision.restores && function.pending_restore(self.restore_all).is_none() => {
                Some("the restore request is no longer pending")
            }
            () => None,
        };
        if let Some(reason) = reason {
            // A failed attempt was reported.
            if attempts == 0 {
                self.publish(id, &decision, Effect::Failed, |outcome| (outcome.before, outcome.reason) = (before, reason.into()));
            }
            return;
        }
        let applies = decision.restores || (decision.source != DecisionSource::Shadow && function.is_active(self.frozen_all));
        if applies && function.presence == Presence::Missing {
            let missing = BackendError::NotFound(id.clone()).to_string();
            self.complete_restore(id, &decision, Err(missing.clone()));
            return self.publish_if_reported(id, &decision, Effect::Failed, |outcome| (outcome.before, outcome.reason) = (before, missing));
        }
        let verdict = if decision.restores { restore_verdict(&decision) } else { self.verdict(function, &decision, now) };
        match self.restrict_while_disconnected(&decision, before, verdict) {
            Verdict::Apply { allocation, notes, charge } => {
                self.start(id, PendingChange { decision, allocation, before, notes, charge, attempts }, now);
            }
            Verdict::Unchanged => {
                self.publish_if_reported(id, &decision, Effect::Unchanged, |outcome| (outcome.before, outcome.allowed) = (before, before));
            }
            Verdict::Hold { notes } => {
                self.publish_if_reported(id, &decision, Effect::Held, |outcome| (outcome.before, outcome.guard) = (before, notes));
            }
            Verdict::Record { allowed, notes } => {
                self.publish_if_reported(id, &decision, Effect::Recorded, |outcome| {
                    (outcome.before, outcome.allowed, outcome.guard) = (before, allowed, notes);
                });
            }
        }
    }

    fn verdict(&self, function: &ScaledFunction, decision: &AllocationDecision, now: Timestamp) -> Verdict {
        // Without a policy only restores are decided. If the policy was deleted in between, nothing is applied.
        let Some(policy) = function.policy.as_deref() else { return Verdict::Hold { notes: Vec::new() } };
        evaluate(&GuardInput {
            wanted: decision.wanted,
            current: function.current(),
            kind: decision.kind,
            policy,
            state: function.state.as_deref(),
            frozen: function.frozen(self.frozen_all),
            vertical: function.vertical(),
            budget: &function.budget,
            now,
        })
    }

    /// While disconnected, only the fallback acts, and only increases: that does the least harm if another actuator
    /// leads by now. The platform refuses it once the other leader has written.
    fn restrict_while_disconnected(&self, decision: &AllocationDecision, before: Option<Allocation>, verdict: Verdict) -> Verdict {
        let Verdict::Apply { allocation, .. } = &verdict else { return verdict };
        let gives = before.is_some_and(|before| !allocation.is_lower_than(before));
        if matches!(self.lead, Lead::Leading(_)) || (decision.source == DecisionSource::Fallback && gives) {
            return verdict;
        }
        Verdict::Hold {
            notes: vec![GuardNote {
                rule: GuardRule::Disconnected,
                detail: "disconnected from the bus: only increases are applied".into(),
            }],
        }
    }

    fn start(&mut self, id: &FunctionId, job: PendingChange, now: Timestamp) {
        let Some(function) = self.functions.get_mut(id) else { return };
        let Some(workload) = function.workload(id) else {
            let missing = BackendError::NotFound(id.clone()).to_string();
            self.complete_restore(id, &job.decision, Err(missing.clone()));
            return self.failed(id, &job, &missing);
        };
        match (&function.baseline, job.before) {
            (BaselineState::Stored(_), _) => self.send(id, job, workload),
            (BaselineState::None, Some(allocation)) => {
                let baseline = store::Baseline { workload: workload.name, kind: workload.kind, allocation, at_ms: now };
                (function.baseline, function.work) = (BaselineState::Storing, Work::Preparing(job));
                self.commands.push(CoreCommand::Store(id.clone(), Record::Baseline(baseline)));
            }
            (BaselineState::None | BaselineState::Storing | BaselineState::Deleting { .. }, _) => function.work = Work::Preparing(job),
        }
    }

    fn send(&mut self, id: &FunctionId, mut job: PendingChange, workload: WorkloadId) {
        let (Lead::Leading(lease) | Lead::Disconnected(lease)) = self.lead else { return };
        let Some(function) = self.functions.get_mut(id) else { return };
        self.attempts += 1;
        job.attempts = job.attempts.saturating_add(1);
        let (number, allocation) = (self.attempts, job.allocation);
        function.work = Work::InFlight { job, number };
        self.commands.push(CoreCommand::Apply(ApplyRequest { function: id.clone(), workload, allocation, lease, number }));
    }

    /// The baseline is stored: the change that waited for it is decided on again, since it may have been frozen meanwhile, or its State may have become stale.
    pub(super) fn on_baseline_stored(&mut self, id: &FunctionId, now: Timestamp) {
        let Some(function) = self.functions.get_mut(id) else { return };
        let Some(job) = function.take_if(|work| matches!(work, Work::Preparing(_))) else { return };
        if function.next.is_none() {
            return self.evaluate(id, job.decision, job.attempts, now);
        }
        if job.attempts == 0 {
            self.superseded(id, &job.decision);
        }
        self.submit_next(id, now);
    }

    /// The baseline could not be stored, so nothing may be changed yet.
    pub(super) fn on_baseline_failed(&mut self, id: &FunctionId, now: Timestamp) {
        let Some(function) = self.functions.get_mut(id) else { return };
        if let Some(mut job) = function.take_if(|work| matches!(work, Work::Preparing(_))) {
            job.attempts = job.attempts.saturating_add(1);
            self.retry_later(id, job, "failed to store the allocation before the first change", now);
        }
    }

    /// Processes the result of request `number`.
    pub fn on_applied(&mut self, id: &FunctionId, number: u64, result: Result<WorkloadStatus, BackendError>, now: Timestamp) {
        let Some(function) = self.functions.get_mut(id) else { return };
        // Any other answer is to a request from an earlier lead.
        let in_flight = |work: &Work| matches!(work, Work::InFlight { number: flying, .. } if *flying == number);
        let Some(mut job) = function.take_if(in_flight) else { return };
        match result {
            Ok(workload) => {
                function.set_applied(workload.desired, workload.vertical, now);
                // If the platform applied a different allocation, that one becomes the goal.
                function.goal = Some((job.decision.clone(), workload.desired));
                job.notes.extend(refused_parts(job.allocation, workload.desired));
                job.allocation = workload.desired;
                if let Some(direction) = job.charge.filter(|_| job.before != Some(workload.desired)) {
                    function.budget.charge(direction, now);
                    function.budget_dirty = true;
                }
                self.complete_restore(id, &job.decision, Ok(workload.desired));
                self.succeeded(id, &job);
            }
            Err(BackendError::StaleLease { reason, highest }) => {
                tracing::warn!(function = %id, reason, "the platform refuses the lease");
                self.commands.push(CoreCommand::StepDown { highest });
                return self.set_lead(Lead::Following, now);
            }
            Err(BackendError::Unavailable(why)) => return self.retry_later(id, job, &why, now),
            Err(error @ (BackendError::NotFound(_) | BackendError::Invalid(_))) => {
                if matches!(error, BackendError::NotFound(_)) {
                    function.presence = Presence::Missing;
                }
                self.complete_restore(id, &job.decision, Err(error.to_string()));
                self.failed(id, &job, &error.to_string());
            }
        }
        self.submit_next(id, now);
    }

    fn retry_later(&mut self, id: &FunctionId, job: PendingChange, why: &str, now: Timestamp) {
        if job.attempts == 1 {
            self.failed(id, &job, why);
        }
        let delay = self.retry_delay(job.attempts);
        let Some(function) = self.functions.get_mut(id) else { return };
        if function.next.is_some() {
            return self.submit_next(id, now);
        }
        function.work = Work::Waiting { job, at: now.plus(delay) };
        self.timed.insert(id.clone());
    }

    /// Delay after `attempts` requests: doubled every time up to the limit, then shortened by up to half to spread the functions.
    fn retry_delay(&mut self, attempts: u32) -> Duration {
        let doubled = FIRST_RETRY_DELAY.saturating_mul(1 << attempts.saturating_sub(1).min(20));
        doubled.min(self.settings.max_retry_delay).mul_f64(self.rng.random_range(0.5..=1.0))
    }

    fn submit_next(&mut self, id: &FunctionId, now: Timestamp) {
        if let Some(next) = self.functions.get_mut(id).and_then(|function| function.next.take()) {
            self.submit(id, next, now);
        }
    }

    /// Retries a change that is due. The decision is evaluated again, since conditions may have changed.
    pub(super) fn retry_due(&mut self, id: &FunctionId, now: Timestamp) {
        let Some(function) = self.functions.get_mut(id) else { return };
        // A clock that was set back must not put off the retry.
        let latest = now.plus(self.settings.max_retry_delay);
        if let Some(job) = function.take_if(|work| matches!(work, Work::Waiting { at, .. } if *at <= now || *at > latest)) {
            self.evaluate(id, job.decision, job.attempts, now);
        }
    }

    fn succeeded(&mut self, id: &FunctionId, job: &PendingChange) {
        let effect = match () {
            () if job.before == Some(job.allocation) => Effect::Unchanged,
            () if job.notes.is_empty() => Effect::Applied,
            () => Effect::Changed,
        };
        if effect != Effect::Unchanged {
            let by = job.decision.agent.to_string();
            tracing::info!(function = %id, from = job.before.map(tracing::field::display), to = %job.allocation, by, reason = job.decision.reason, "scaled");
        }
        self.publish(id, &job.decision, effect, |outcome| of_job(outcome, job));
    }

    fn failed(&mut self, id: &FunctionId, job: &PendingChange, why: &str) {
        tracing::debug!(function = %id, to = %job.allocation, why, "failed to apply");
        self.publish(id, &job.decision, Effect::Failed, |outcome| {
            of_job(outcome, job);
            outcome.reason = why.to_owned();
        });
    }

    fn publish_if_reported(&mut self, id: &FunctionId, decision: &AllocationDecision, effect: Effect, complete: impl FnOnce(&mut Outcome)) {
        if decision.always_reported {
            self.publish(id, decision, effect, complete);
        }
    }

    pub(super) fn publish(&mut self, id: &FunctionId, decision: &AllocationDecision, effect: Effect, complete: impl FnOnce(&mut Outcome)) {
        let mut outcome = decision.outcome(id, effect, &self.settings.actuator);
        complete(&mut outcome);
        self.commands.push(CoreCommand::Publish(Box::new(outcome), decision.trace));
    }
}

/// A restore bypasses the guard, as it must also undo wrong bounds and budgets. The request is sent even if the
/// platform is believed to have the allocation: an operator or a request without an answer may have changed it.
fn restore_verdict(decision: &AllocationDecision) -> Verdict {
    Verdict::Apply { allocation: decision.wanted, notes: Vec::new(), charge: None }
}

/// The parts of an allocation that the platform did not apply.
fn refused_parts(wanted: Allocation, applied: Allocation) -> Option<GuardNote> {
    let mut parts = Vec::new();
    let mut add = |name: &str, wanted: String, applied: String| {
        if wanted != applied {
            parts.push(format!("{name} {wanted} becomes {applied}"));
        }
    };
    add("replicas", wanted.replicas.to_string(), applied.replicas.to_string());
    add("CPU", wanted.cpu_millicores.to_string(), applied.cpu_millicores.to_string());
    add("memory", wanted.memory_mib.to_string(), applied.memory_mib.to_string());
    let detail = || format!("the platform cannot apply the rest: {}", parts.join("; "));
    (!parts.is_empty()).then(|| GuardNote { rule: GuardRule::Bounds, detail: detail() })
}

fn of_job(outcome: &mut Outcome, job: &PendingChange) {
    outcome.before = job.before;
    outcome.allowed = Some(job.allocation);
    outcome.guard.clone_from(&job.notes);
    outcome.attempts = job.attempts;
}

impl ScaledFunction {
    /// Takes the change under way if `work` is what `is_wanted` says.
    fn take_if(&mut self, is_wanted: impl FnOnce(&Work) -> bool) -> Option<PendingChange> {
        if !is_wanted(&self.work) {
            return None;
        }
        match std::mem::replace(&mut self.work, Work::Idle) {
            Work::Preparing(job) | Work::InFlight { job, .. } | Work::Waiting { job, .. } => Some(job),
            Work::Idle => None,
        }
    }

    /// Whether a restore is in progress.
    pub(super) fn restoring(&self) -> bool {
        let pending = match &self.work {
            Work::Preparing(job) | Work::InFlight { job, .. } | Work::Waiting { job, .. } => job.decision.restores,
            Work::Idle => false,
        };
        pending || self.next.as_ref().is_some_and(|next| next.restores)
    }
}
