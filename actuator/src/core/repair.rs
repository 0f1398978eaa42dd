//! What the actuator decides by itself: the fallback in place of a silent agent, what got lost, what lies outside bounds, restores.

use qscale_common::contract::Effect;
use qscale_common::guard::DecisionKind;
use qscale_common::name::FunctionId;
use qscale_common::time::Timestamp;
use qscale_common::units::Replicas;

use super::decision::{BOUNDS, Decision, RESTORE};
use super::function::{Original, Presence, Work};
use super::{Command, Core, Lead};
use crate::fallback::advise;
use crate::store::Record;

impl Core {
    /// Lets the fallback decide on the last State where the named agent is silent.
    pub(super) fn stand_in(&mut self, id: &FunctionId, now: Timestamp) {
        let (leads, frozen_all) = (self.lead != Lead::Following, self.frozen_all);
        let Some(function) = self.functions.get_mut(id).filter(|function| leads && function.acted_on(frozen_all)) else { return };
        let (Some(policy), Some(state), Some(current)) = (function.policy.clone(), function.state.as_deref(), function.current()) else {
            return;
        };
        let state_id = state.state_id();
        if function.silence.decided == Some(state_id) || !function.is_silent(now) {
            return;
        }
        let advice = advise(policy.fallback.rule, state, current);
        let first = !std::mem::replace(&mut function.silence.standing_in, true);
        function.silence.decided = Some(state_id);
        if first {
            tracing::warn!(function = %id, agent = %policy.agent, fallback = ?policy.fallback.rule, "the agent is silent");
        }
        if let Some(advice) = advice {
            let decision = Decision::of_fallback(advice, state_id, function.trace, now);
            self.consider(id, Decision { announced: first, ..decision }, now);
        }
    }

    /// Brings back what the platform lost, and into bounds what lies outside them.
    pub(super) fn mend(&mut self, id: &FunctionId, now: Timestamp) {
        let (leads, frozen_all) = (self.leading() && self.platform_read, self.frozen_all);
        let Some(function) = self.functions.get_mut(id) else { return };
        if !function.acted_on(frozen_all) {
            // Somebody else may decide meanwhile; what was decided before no longer binds.
            function.goal = None;
            return;
        }
        let (Presence::Present { vertical }, Some(told), Some(policy)) = (function.presence, function.told_allocation(), &function.policy)
        else {
            return;
        };
        if !leads || !matches!(function.work, Work::Idle) {
            return;
        }
        if let Some((_, goal)) = &mut function.goal
            && goal.replicas == Replicas(0)
        {
            // The platform starts a function from zero by itself, on a request.
            goal.replicas = told.replicas;
        }
        let bounds = policy.bounds;
        let outside = if vertical { !bounds.contain(told) } else { !bounds.replicas.contains(told.replicas) };
        let decision = match &function.goal {
            Some((decision, goal)) if *goal != told => Decision {
                wanted: *goal,
                kind: DecisionKind::Repair,
                reason: format!("the platform had {told} instead; applied again"),
                expires: None,
                at: now,
                trace: None,
                announced: false,
                ..decision.clone()
            },
            _ if outside => Decision::of_operator(BOUNDS, told, "what is in force lies outside the policy's bounds".into(), function, now),
            _ => return,
        };
        self.consider(id, decision, now);
    }

    /// Carries out the newest request to restore, if it was not yet.
    pub(super) fn restore(&mut self, id: &FunctionId, now: Timestamp) {
        let (leads, all) = (self.leading() && self.records_read, self.restore_all);
        let Some(function) = self.functions.get_mut(id).filter(|function| leads && !function.restoring()) else { return };
        let Some(request) = function.restore.max(all).filter(|request| *request > function.restored) else {
            if !std::mem::replace(&mut function.restored_stored, true) {
                self.commands.push(Command::Store(id.clone(), Record::Restored(function.restored)));
            }
            return;
        };
        match &function.original {
            Original::Storing => {}
            Original::Stored(original) => {
                let decision =
                    Decision::of_operator(RESTORE, original.allocation, "restored to what was before Qscale acted".into(), function, now);
                self.consider(id, Decision { announced: true, ..decision }, now);
            }
            Original::None => {
                (function.restored, function.restored_stored) = (request, true);
                let current = function.current();
                self.commands.push(Command::Store(id.clone(), Record::Restored(request)));
                if let (Some(current), Some(function)) = (current, self.functions.get(id)) {
                    let decision = Decision::of_operator(RESTORE, current, "Qscale has changed nothing here".into(), function, now);
                    self.publish(id, &decision, Effect::Unchanged, |outcome| {
                        (outcome.before, outcome.allowed) = (Some(current), Some(current))
                    });
                }
            }
        }
    }

    /// A decision has come to its end. Where it was a restore, the request is carried out.
    pub(super) fn settle(&mut self, id: &FunctionId, decision: &Decision) {
        let all = self.restore_all;
        let Some(function) = self.functions.get_mut(id).filter(|_| decision.is_restore()) else { return };
        if let Some(request) = function.restore.max(all) {
            // A request that came after this decision was made is carried out with it: both want the same.
            function.restored = function.restored.max(request);
            self.commands.push(Command::Store(id.clone(), Record::Restored(function.restored)));
        }
    }
}
