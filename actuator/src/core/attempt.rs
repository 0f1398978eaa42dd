//! From a decision to the platform and back. Owns the guard's call, attempts, retries and the Outcomes of both.

use std::time::Duration;

use qscale_common::contract::{DecisionSource, Effect, GuardNote, GuardRule, Outcome};
use qscale_common::guard::{GuardInput, Verdict, evaluate};
use qscale_common::name::FunctionId;
use qscale_common::time::Timestamp;
use qscale_common::units::Allocation;
use rand::RngExt as _;

use super::decision::Decision;
use super::function::{Function, Job, Original, Presence, Work};
use super::{Command, Core, Lead, Order};
use crate::backend::{BackendError, Workload};
use crate::store::{self, Record};

/// Pause before the second attempt; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

impl Core {
    /// Takes in a decision that counts: judges it now, or once the attempt that is under way has ended.
    pub(super) fn consider(&mut self, id: &FunctionId, decision: Decision, now: Timestamp) {
        let Some(function) = self.functions.get_mut(id) else { return };
        let applies = decision.source != DecisionSource::Shadow;
        if applies && !decision.is_restore() && function.restoring() {
            let note = GuardNote { rule: GuardRule::RestoreInProgress, detail: "a restore is in progress".into() };
            self.publish(id, &decision, Effect::Held, |outcome| outcome.guard.push(note));
        } else if applies && matches!(function.work, Work::Flying { .. } | Work::Preparing(_)) {
            if let Some(older) = function.next.replace(decision) {
                self.superseded(id, &older);
            }
        } else {
            if applies {
                function.work = Work::Idle;
            }
            self.judge(id, decision, 0, now);
        }
    }

    fn superseded(&mut self, id: &FunctionId, older: &Decision) {
        self.publish(id, older, Effect::Failed, |outcome| outcome.reason = "a newer decision came before this one could be applied".into());
    }

    fn judge(&mut self, id: &FunctionId, decision: Decision, attempts: u32, now: Timestamp) {
        let Some(function) = self.functions.get(id) else { return };
        let before = function.current();
        let verdict = if decision.is_restore() { restore_verdict(&decision) } else { self.verdict(function, &decision, now) };
        match self.allowed_when_cut(&decision, before, verdict) {
            Verdict::Apply { allocation, notes, charge } => {
                self.begin(id, Job { decision, allocation, before, notes, charge, attempts }, now);
            }
            Verdict::Unchanged => {
                self.settle(id, &decision);
                self.publish_if_announced(id, &decision, Effect::Unchanged, |outcome| (outcome.before, outcome.allowed) = (before, before));
            }
            Verdict::Hold { notes } => {
                self.publish_if_announced(id, &decision, Effect::Held, |outcome| (outcome.before, outcome.guard) = (before, notes));
            }
            Verdict::Record { allowed, notes } => {
                self.publish_if_announced(id, &decision, Effect::Recorded, |outcome| {
                    (outcome.before, outcome.allowed, outcome.guard) = (before, allowed, notes);
                });
            }
        }
    }

    fn verdict(&self, function: &Function, decision: &Decision, now: Timestamp) -> Verdict {
        // Without a policy nothing but a restore is ever decided; should one vanish meanwhile, nothing is done.
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

    /// Cut off from the bus, only the fallback acts, and only gives more: should another lead by now, that harms least, and the platform refuses
    /// it as soon as the other has written.
    fn allowed_when_cut(&self, decision: &Decision, before: Option<Allocation>, verdict: Verdict) -> Verdict {
        let Verdict::Apply { allocation, .. } = &verdict else { return verdict };
        let gives = before.is_some_and(|before| {
            allocation.replicas >= before.replicas
                && allocation.cpu_millicores >= before.cpu_millicores
                && allocation.memory_mib >= before.memory_mib
        });
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

    fn begin(&mut self, id: &FunctionId, job: Job, now: Timestamp) {
        let Some(function) = self.functions.get_mut(id) else { return };
        let workload = function.workload(id);
        let Some(workload) = workload.filter(|_| function.presence != Presence::Missing) else {
            self.settle(id, &job.decision);
            return self.failed(id, &job, &BackendError::NotFound(id.clone()).to_string());
        };
        match (&function.original, job.before) {
            (Original::Stored(_), _) => self.attempt(id, job, workload),
            (Original::None, Some(allocation)) => {
                let original = store::Original { workload, allocation, at_ms: now };
                (function.original, function.work) = (Original::Storing, Work::Preparing(job));
                self.commands.push(Command::Store(id.clone(), Record::Original(original)));
            }
            (Original::None | Original::Storing, _) => function.work = Work::Preparing(job),
        }
    }

    fn attempt(&mut self, id: &FunctionId, mut job: Job, workload: FunctionId) {
        let (Lead::Leading(lease) | Lead::Cut(lease)) = self.lead else { return };
        let Some(function) = self.functions.get_mut(id) else { return };
        self.attempts += 1;
        job.attempts = job.attempts.saturating_add(1);
        let (number, allocation) = (self.attempts, job.allocation);
        function.work = Work::Flying { job, number };
        self.commands.push(Command::Apply(Order { function: id.clone(), workload, allocation, lease, number }));
    }

    /// The allocation before Qscale acted is stored: what waited for it goes ahead.
    pub(super) fn prepared(&mut self, id: &FunctionId) {
        let Some(function) = self.functions.get_mut(id) else { return };
        let Some(workload) = function.workload(id) else { return };
        if let Work::Preparing(job) = std::mem::replace(&mut function.work, Work::Idle) {
            self.attempt(id, job, workload);
        }
    }

    /// The allocation before Qscale acted could not be stored, so nothing may be changed yet.
    pub(super) fn not_prepared(&mut self, id: &FunctionId, now: Timestamp) {
        let Some(function) = self.functions.get_mut(id) else { return };
        if let Work::Preparing(mut job) = std::mem::replace(&mut function.work, Work::Idle) {
            job.attempts = job.attempts.saturating_add(1);
            self.try_again(id, job, "the allocation before Qscale acted could not be stored", now);
        }
    }

    /// Takes in what became of attempt `number`.
    pub fn applied(&mut self, id: &FunctionId, number: u64, result: Result<Workload, BackendError>, now: Timestamp) {
        let Some(function) = self.functions.get_mut(id) else { return };
        let job = match std::mem::replace(&mut function.work, Work::Idle) {
            Work::Flying { job, number: flying } if flying == number => job,
            other => {
                // The answer to an attempt of an earlier lead.
                function.work = other;
                return;
            }
        };
        match result {
            Ok(workload) => {
                function.told(workload.desired, workload.vertical, now);
                // Where the platform gave something else, that is what it is held to.
                function.goal = Some((job.decision.clone(), workload.desired));
                if let Some(direction) = job.charge {
                    function.budget.charge(direction, now);
                    function.budget_dirty = true;
                }
                self.settle(id, &job.decision);
                self.succeeded(id, &job);
            }
            Err(BackendError::StaleLease(said)) => {
                tracing::warn!(function = %id, said, "the platform refuses the lease");
                self.commands.push(Command::StepDown);
                return self.lead(Lead::Following, now);
            }
            Err(BackendError::Unavailable(why)) => return self.try_again(id, job, &why, now),
            Err(error @ (BackendError::NotFound(_) | BackendError::Invalid(_))) => {
                if matches!(error, BackendError::NotFound(_)) {
                    function.presence = Presence::Missing;
                }
                self.settle(id, &job.decision);
                self.failed(id, &job, &error.to_string());
            }
        }
        self.consider_next(id, now);
    }

    fn try_again(&mut self, id: &FunctionId, job: Job, why: &str, now: Timestamp) {
        if job.attempts == 1 {
            self.failed(id, &job, why);
        }
        let pause = self.pause(job.attempts);
        let Some(function) = self.functions.get_mut(id) else { return };
        if function.next.is_some() {
            return self.consider_next(id, now);
        }
        function.work = Work::Waiting { job, at: now.plus(pause) };
        self.timed.insert(id.clone());
    }

    /// The pause after so many attempts: doubled each time, up to a limit, and cut by up to half so that functions do not try in step.
    fn pause(&mut self, attempts: u32) -> Duration {
        let doubled = FIRST_PAUSE.saturating_mul(1 << attempts.saturating_sub(1).min(20));
        doubled.min(self.settings.retry_at_most).mul_f64(self.rng.random_range(0.5..=1.0))
    }

    fn consider_next(&mut self, id: &FunctionId, now: Timestamp) {
        if let Some(next) = self.functions.get_mut(id).and_then(|function| function.next.take()) {
            self.consider(id, next, now);
        }
    }

    /// Tries again what is due: the same decision, judged anew, since much may have changed.
    pub(super) fn retry(&mut self, id: &FunctionId, now: Timestamp) {
        let Some(function) = self.functions.get_mut(id) else { return };
        match std::mem::replace(&mut function.work, Work::Idle) {
            Work::Waiting { job, at } if at <= now => {
                let void = job.decision.expires.is_some_and(|expires| now >= expires);
                if !void {
                    self.judge(id, job.decision, job.attempts, now);
                }
            }
            other => function.work = other,
        }
    }

    fn succeeded(&mut self, id: &FunctionId, job: &Job) {
        let effect = match () {
            () if job.before == Some(job.allocation) => Effect::Unchanged,
            () if job.notes.is_empty() => Effect::Applied,
            () => Effect::Changed,
        };
        let by = job.decision.agent.to_string();
        tracing::info!(function = %id, from = job.before.map(tracing::field::display), to = %job.allocation, by, reason = job.decision.reason, "scaled");
        self.publish(id, &job.decision, effect, |outcome| of_job(outcome, job));
    }

    fn failed(&mut self, id: &FunctionId, job: &Job, why: &str) {
        tracing::debug!(function = %id, to = %job.allocation, why, "not applied");
        self.publish(id, &job.decision, Effect::Failed, |outcome| {
            of_job(outcome, job);
            outcome.reason = why.to_owned();
        });
    }

    fn publish_if_announced(&mut self, id: &FunctionId, decision: &Decision, effect: Effect, complete: impl FnOnce(&mut Outcome)) {
        if decision.announced {
            self.publish(id, decision, effect, complete);
        }
    }

    pub(super) fn publish(&mut self, id: &FunctionId, decision: &Decision, effect: Effect, complete: impl FnOnce(&mut Outcome)) {
        let mut outcome = decision.outcome(id, effect, &self.settings.actuator);
        complete(&mut outcome);
        self.commands.push(Command::Publish(Box::new(outcome), decision.trace));
    }
}

/// A restore goes past the guard: it is the way back, also from bounds and budgets that were wrong. The platform is told even where it is believed
/// to have what is restored, as a person or an attempt without an answer may have changed that meanwhile.
fn restore_verdict(decision: &Decision) -> Verdict {
    Verdict::Apply { allocation: decision.wanted, notes: Vec::new(), charge: None }
}

fn of_job(outcome: &mut Outcome, job: &Job) {
    outcome.before = job.before;
    outcome.allowed = Some(job.allocation);
    outcome.guard.clone_from(&job.notes);
    outcome.attempts = job.attempts;
}

impl Function {
    /// Whether a restore is under way.
    pub(super) fn restoring(&self) -> bool {
        let under_way = match &self.work {
            Work::Preparing(job) | Work::Flying { job, .. } | Work::Waiting { job, .. } => job.decision.is_restore(),
            Work::Idle => false,
        };
        under_way || self.next.as_ref().is_some_and(Decision::is_restore)
    }
}
