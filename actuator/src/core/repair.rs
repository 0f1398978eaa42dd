//! Decisions of the actuator itself: the fallback for a silent agent, repair of lost or out-of-bounds allocations, restores.

use qscale_common::contract::Effect;
use qscale_common::guard::DecisionKind;
use qscale_common::name::FunctionId;
use qscale_common::time::Timestamp;
use qscale_common::units::{Allocation, Replicas};

use super::decision::AllocationDecision;
use super::function::{BaselineState, Presence, Work};
use super::{Core, CoreCommand, Lead};
use crate::fallback::decide;
use crate::store::Record;

impl Core {
    /// Lets the fallback decide on the last State if the policy's agent is silent.
    pub(super) fn run_fallback(&mut self, id: &FunctionId, now: Timestamp) {
        let (leads, frozen_all) = (self.lead != Lead::Following, self.frozen_all);
        let Some(function) = self.functions.get_mut(id).filter(|function| leads && function.is_active(frozen_all)) else { return };
        let (Some(policy), Some(state), Some(current)) = (function.policy.clone(), function.state.as_deref(), function.current()) else {
            return;
        };
        let state_id = state.state_id();
        if function.silence.decided == Some(state_id) || !function.is_silent(now) {
            return;
        }
        let decision = decide(policy.fallback.rule, state, current);
        let first = !std::mem::replace(&mut function.silence.fallback_active, true);
        function.silence.decided = Some(state_id);
        if first {
            tracing::warn!(function = %id, agent = %policy.agent, fallback = ?policy.fallback.rule, "agent is silent; the fallback decides");
        }
        if let Some(decision) = decision {
            let decision = AllocationDecision::of_fallback(decision, state_id, function.trace, now);
            self.submit(id, AllocationDecision { always_reported: first, ..decision }, now);
        }
    }

    /// Applies the goal again if the platform lost it, and moves an allocation that is out of bounds into them.
    pub(super) fn repair(&mut self, id: &FunctionId, now: Timestamp) {
        let (leads, frozen_all) = (self.leading() && self.platform_read, self.frozen_all);
        let Some(function) = self.functions.get_mut(id) else { return };
        if !function.is_active(frozen_all) {
            // Others may change the allocation meanwhile, so the previous decision is no longer the goal.
            function.goal = None;
            return;
        }
        let (Presence::Present { vertical }, Some(applied), Some(policy)) =
            (function.presence, function.applied_allocation(), &function.policy)
        else {
            return;
        };
        if !leads || !matches!(function.work, Work::Idle) {
            return;
        }
        if let Some((_, goal)) = &mut function.goal
            && goal.replicas == Replicas(0)
        {
            // The platform itself starts a function from zero when a request arrives.
            goal.replicas = applied.replicas;
        }
        let bounds = policy.bounds;
        let outside = if vertical { !bounds.contain(applied) } else { !bounds.replicas.contains(applied.replicas) };
        let decision = match &function.goal {
            Some((decision, goal)) if *goal != applied => AllocationDecision {
                wanted: *goal,
                kind: DecisionKind::Repair,
                reason: format!("repair: the platform had {applied}"),
                expires: None,
                at: now,
                trace: None,
                always_reported: false,
                restores: false,
                ..decision.clone()
            },
            _ if outside => AllocationDecision::of_bounds(applied, function.last_state_id(), now),
            _ => return,
        };
        self.submit(id, decision, now);
    }

    /// Executes the newest restore request unless it was already executed.
    pub(super) fn restore(&mut self, id: &FunctionId, now: Timestamp) {
        let (leads, all) = (self.leading() && self.records_read, self.restore_all);
        let Some(function) = self.functions.get_mut(id).filter(|function| leads && !function.restoring()) else { return };
        let Some(request) = function.pending_restore(all) else {
            if !std::mem::replace(&mut function.restored_stored, true) {
                self.commands.push(CoreCommand::Store(id.clone(), Record::Restored(function.restored)));
            }
            return;
        };
        match &function.baseline {
            BaselineState::Storing | BaselineState::Deleting { .. } => {}
            BaselineState::Stored(baseline) => {
                let decision = AllocationDecision::of_restore(
                    baseline.allocation,
                    "restored to the allocation before the first change",
                    function.last_state_id(),
                    now,
                );
                self.submit(id, decision, now);
            }
            BaselineState::None => {
                (function.restored, function.restored_stored) = (request, true);
                // Two requests that arrive at once get one answer.
                let answered = function.nothing_restored_at.replace(now) == Some(now);
                let current = function.current().filter(|_| !answered);
                self.commands.push(CoreCommand::Store(id.clone(), Record::Restored(request)));
                if let (Some(current), Some(function)) = (current, self.functions.get(id)) {
                    let decision = AllocationDecision::of_restore(
                        current,
                        "nothing to restore: Qscale has changed nothing",
                        function.last_state_id(),
                        now,
                    );
                    self.publish(id, &decision, Effect::Unchanged, |outcome| {
                        (outcome.before, outcome.allowed) = (Some(current), Some(current))
                    });
                }
            }
        }
    }

    /// Marks the restore request as executed, with its result, if `decision` was a restore.
    pub(super) fn complete_restore(&mut self, id: &FunctionId, decision: &AllocationDecision, result: Result<Allocation, String>) {
        let all = self.restore_all;
        let Some(function) = self.functions.get_mut(id).filter(|_| decision.restores) else { return };
        if let Some(request) = function.last_restore(all) {
            // A request that arrived after this decision has the same goal, so it counts as executed too.
            function.restored = function.restored.max(request);
            self.commands.push(CoreCommand::Store(id.clone(), Record::Restored(function.restored)));
        }
        if function.end_restore() {
            self.commands.push(CoreCommand::Released(id.clone(), result.map(Some)));
        }
        self.forget(id);
    }
}
