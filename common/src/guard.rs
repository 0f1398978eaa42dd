//! The guard: limits a requested allocation. Owns every limit between a decision and its effect; must not apply
//! anything, read a clock or know where an allocation comes from.
//!
//! The rules, in order of evaluation:
//!
//! 1. Mode `observe` records without evaluation.
//! 2. Freeze and pause keep the current allocation, whatever it is.
//! 3. A platform that cannot resize keeps CPU and memory.
//! 4. Bounds. A current allocation outside them moves into them, regardless of the rules below. From here on "current"
//!    means the current allocation clamped to the bounds.
//! 5. Stale measurements forbid decreases; absent or very old measurements forbid any change.
//! 6. Scale-up-only forbids decreases.
//! 7. Memory is not lowered below the working set times its margin, and not at all if the working set is unknown or replicas were
//!    OOM-killed.
//! 8. The size of one step is limited.
//! 9. Changes and reversals per hour are limited; the last of each is reserved for a step up.
//!
//! Shadow decisions, and all decisions in mode `recommend`, are evaluated in the same way and recorded.

mod budget;
mod freshness;

pub use budget::Budget;

use crate::contract::{Direction, GuardNote, GuardRule, State};
use crate::policy::{Mode, ScalingPolicy};
use crate::time::Timestamp;
use crate::units::{Allocation, Mebibytes, Millicores, Replicas};
use freshness::{Freshness, freshness, memory_floor};

/// A decision and everything that it is evaluated by.
#[derive(Debug, Clone, Copy)]
pub struct GuardInput<'a> {
    /// Requested allocation.
    pub wanted: Allocation,
    /// Current allocation; `None` if unknown.
    pub current: Option<Allocation>,
    /// Kind of the decision.
    pub kind: DecisionKind,
    /// ScalingPolicy of the function.
    pub policy: &'a ScalingPolicy,
    /// Last received State.
    pub state: Option<&'a State>,
    /// Scope of a freeze by an operator, if any.
    pub frozen: Option<Frozen>,
    /// Whether the platform can resize replicas.
    pub vertical: bool,
    /// Changes within the last hour.
    pub budget: &'a Budget,
    /// Current time.
    pub now: Timestamp,
}

/// Kind of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecisionKind {
    /// By the agent in the ScalingPolicy, or by the fallback in its place.
    Named,
    /// By another agent: evaluated, never applied.
    Shadow,
    /// Not a new decision: it restores an allocation that was allowed before and lost, or keeps the current one. Steps
    /// and budgets do not limit it, and restoring a lost allocation needs no measurement.
    Repair,
}

/// Scope of a freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frozen {
    /// This function only.
    Function,
    /// All functions.
    All,
}

/// Result of the guard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Apply this allocation, which differs from the current one.
    Apply {
        /// Allocation to apply.
        allocation: Allocation,
        /// Rules that changed the decision; empty if it is applied as requested.
        notes: Vec<GuardNote>,
        /// Direction to charge to the budget once applied; `None` for a repair, which is free.
        charge: Option<Direction>,
    },
    /// The requested allocation is the current one.
    Unchanged,
    /// Keep the current allocation.
    Hold {
        /// Rules that kept it.
        notes: Vec<GuardNote>,
    },
    /// Do not apply.
    Record {
        /// Allocation that would have been applied, or is current already; `None` if the guard would have held or did not evaluate.
        allowed: Option<Allocation>,
        /// Rules that took effect.
        notes: Vec<GuardNote>,
    },
}

/// Evaluates one decision. Pure: the caller charges the budget when it applies the verdict.
#[must_use]
pub fn evaluate(input: &GuardInput<'_>) -> Verdict {
    match (input.policy.mode, input.kind) {
        (Mode::Observe, _) => Verdict::Record { allowed: None, notes: vec![note(GuardRule::Mode, "the mode is observe".into())] },
        (_, DecisionKind::Shadow) => recorded(input, note(GuardRule::NotNamed, format!("the policy names agent {}", input.policy.agent))),
        (Mode::Recommend, _) => recorded(input, note(GuardRule::Mode, "the mode is recommend".into())),
        (Mode::Active, _) => apply_rules(input),
    }
}

fn recorded(input: &GuardInput<'_>, why: GuardNote) -> Verdict {
    let (allowed, mut notes) = match apply_rules(input) {
        Verdict::Apply { allocation, notes, .. } => (Some(allocation), notes),
        Verdict::Unchanged => (Some(input.wanted), Vec::new()),
        Verdict::Hold { notes } | Verdict::Record { notes, .. } => (None, notes),
    };
    notes.push(why);
    Verdict::Record { allowed, notes }
}

fn apply_rules(input: &GuardInput<'_>) -> Verdict {
    match input.frozen {
        Some(Frozen::All) => return held(GuardRule::Freeze, "everything is frozen"),
        Some(Frozen::Function) => return held(GuardRule::Freeze, "the function is frozen"),
        None if input.policy.paused => return held(GuardRule::Paused, "the policy is paused"),
        None => {}
    }
    let Some(current) = input.current else { return held(GuardRule::StaleState, "the current allocation is unknown") };
    let bounded_current = within_bounds(input, current);
    if input.wanted == current && bounded_current == current {
        return Verdict::Unchanged;
    }
    let mut notes = Vec::new();
    let allocation = restrained(input, current, bounded_current, &mut notes);
    if allocation == current {
        return if input.wanted == current { Verdict::Unchanged } else { Verdict::Hold { notes } };
    }
    let costs = allocation != bounded_current && input.kind != DecisionKind::Repair;
    let charge = if costs { input.policy.prices.direction(current, allocation) } else { None };
    Verdict::Apply { allocation, notes, charge }
}

/// The decision after all rules. `bounded_current` is `current` within the bounds; only bounds lead away from it.
fn restrained(input: &GuardInput<'_>, current: Allocation, bounded_current: Allocation, notes: &mut Vec<GuardNote>) -> Allocation {
    let mut wanted = resizable(input, current, input.wanted, notes);
    wanted = bounded(input, wanted, notes);
    wanted = seen_enough(input, current, bounded_current, wanted, notes);
    if input.policy.scale_up_only {
        wanted = not_less(bounded_current, wanted, notes, || (GuardRule::ScaleUpOnly, "only more is allowed".into()));
    }
    wanted = above_working_set(input, bounded_current, wanted, notes);
    if input.kind == DecisionKind::Repair {
        return wanted;
    }
    wanted = one_step(input, current, wanted, notes);
    affordable(input, current, bounded_current, wanted, notes)
}

/// `allocation` within the bounds, as far as the platform can apply it.
fn within_bounds(input: &GuardInput<'_>, allocation: Allocation) -> Allocation {
    let bounded = input.policy.bounds.clamp(allocation);
    if input.vertical { bounded } else { Allocation { replicas: bounded.replicas, ..allocation } }
}

fn resizable(input: &GuardInput<'_>, current: Allocation, wanted: Allocation, notes: &mut Vec<GuardNote>) -> Allocation {
    let horizontal = Allocation { replicas: wanted.replicas, ..current };
    if input.vertical || horizontal == wanted {
        return wanted;
    }
    let kept = format!("the platform cannot resize: {} {} stay", current.cpu_millicores, current.memory_mib);
    notes.push(note(GuardRule::HorizontalOnly, kept));
    horizontal
}

fn bounded(input: &GuardInput<'_>, wanted: Allocation, notes: &mut Vec<GuardNote>) -> Allocation {
    let bounded = within_bounds(input, wanted);
    if bounded != wanted {
        let bounds = &input.policy.bounds;
        let mut changes = ChangeText::default();
        changes.add(wanted.replicas, bounded.replicas, || format!("{} to {}", bounds.replicas.min(), bounds.replicas.max()));
        changes.add(wanted.cpu_millicores, bounded.cpu_millicores, || {
            format!("{} to {}", bounds.cpu_millicores.min(), bounds.cpu_millicores.max())
        });
        changes.add(wanted.memory_mib, bounded.memory_mib, || format!("{} to {}", bounds.memory_mib.min(), bounds.memory_mib.max()));
        notes.push(note(GuardRule::Bounds, changes.text));
    }
    bounded
}

fn seen_enough(
    input: &GuardInput<'_>,
    current: Allocation,
    bounded_current: Allocation,
    wanted: Allocation,
    notes: &mut Vec<GuardNote>,
) -> Allocation {
    match freshness(input.state, input.policy.max_age(), current, input.now) {
        Freshness::Fresh => wanted,
        Freshness::Stale(why) => not_less(bounded_current, wanted, notes, || (GuardRule::StaleState, why)),
        // An allocation that was allowed before needs no new evidence.
        Freshness::Unknown(why) if input.kind == DecisionKind::Repair => {
            not_less(bounded_current, wanted, notes, || (GuardRule::StaleState, why))
        }
        Freshness::Unknown(_) if wanted == bounded_current => wanted,
        Freshness::Unknown(why) => {
            notes.push(note(GuardRule::StaleState, why));
            bounded_current
        }
    }
}

/// The larger of `wanted` and `least`, part by part.
fn not_less(least: Allocation, wanted: Allocation, notes: &mut Vec<GuardNote>, why: impl FnOnce() -> (GuardRule, String)) -> Allocation {
    let raised = Allocation {
        replicas: wanted.replicas.max(least.replicas),
        cpu_millicores: wanted.cpu_millicores.max(least.cpu_millicores),
        memory_mib: wanted.memory_mib.max(least.memory_mib),
    };
    if raised != wanted {
        let (rule, why) = why();
        notes.push(note(rule, format!("{why}: {wanted} becomes {raised}")));
    }
    raised
}

fn above_working_set(input: &GuardInput<'_>, bounded_current: Allocation, wanted: Allocation, notes: &mut Vec<GuardNote>) -> Allocation {
    if wanted.memory_mib >= bounded_current.memory_mib {
        return wanted;
    }
    let (floor, why) = memory_floor(input.state, input.policy.guard.working_set_margin.get());
    let memory_mib = floor.map_or(bounded_current.memory_mib, |floor| floor.min(bounded_current.memory_mib)).max(wanted.memory_mib);
    if memory_mib != wanted.memory_mib {
        notes.push(note(GuardRule::WorkingSet, format!("{} becomes {memory_mib}, {why}", wanted.memory_mib)));
    }
    Allocation { memory_mib, ..wanted }
}

fn one_step(input: &GuardInput<'_>, current: Allocation, wanted: Allocation, notes: &mut Vec<GuardNote>) -> Allocation {
    let guard = &input.policy.guard;
    let factor = guard.resize_factor.get();
    let least = current.replicas.0.saturating_sub(guard.replicas_down.get());
    let most = current.replicas.0.saturating_add(guard.replicas_up.get());
    let step = Allocation {
        replicas: Replicas(wanted.replicas.0.clamp(least, most)),
        cpu_millicores: Millicores(resized(current.cpu_millicores.0, wanted.cpu_millicores.0, factor)),
        memory_mib: Mebibytes(resized(current.memory_mib.0, wanted.memory_mib.0, factor)),
    };
    let step = within_bounds(input, step);
    if step != wanted {
        let mut changes = ChangeText::default();
        changes.add(wanted.replicas, step.replicas, || {
            format!("steps of +{} and -{} from {}", guard.replicas_up, guard.replicas_down, current.replicas)
        });
        changes.add(wanted.cpu_millicores, step.cpu_millicores, || format!("a factor of {factor} from {}", current.cpu_millicores));
        changes.add(wanted.memory_mib, step.memory_mib, || format!("a factor of {factor} from {}", current.memory_mib));
        notes.push(note(GuardRule::StepLimit, changes.text));
    }
    step
}

/// `wanted` within `factor` of `from`. A factor above 1 allows at least one whole unit, so that small limits can change.
fn resized(from: u32, wanted: u32, factor: f64) -> u32 {
    if factor <= 1.0 {
        return from;
    }
    let least = (f64::from(from) / factor).ceil() as u32;
    let most = (f64::from(from) * factor).floor() as u32;
    wanted.clamp(least.min(from.saturating_sub(1)), most.max(from.saturating_add(1)))
}

fn affordable(
    input: &GuardInput<'_>,
    current: Allocation,
    bounded_current: Allocation,
    wanted: Allocation,
    notes: &mut Vec<GuardNote>,
) -> Allocation {
    if wanted == bounded_current {
        return wanted;
    }
    let Some(direction) = input.policy.prices.direction(current, wanted) else { return wanted };
    match input.budget.refusal(direction, &input.policy.guard, input.now) {
        None => wanted,
        Some((rule, why)) => {
            notes.push(note(rule, why));
            bounded_current
        }
    }
}

fn held(rule: GuardRule, why: &str) -> Verdict {
    Verdict::Hold { notes: vec![note(rule, why.into())] }
}

fn note(rule: GuardRule, detail: String) -> GuardNote {
    GuardNote { rule, detail }
}

/// Description of the parts of an allocation that a rule changed.
#[derive(Default)]
struct ChangeText {
    text: String,
}

impl ChangeText {
    fn add<T: PartialEq + std::fmt::Display + Part>(&mut self, from: T, to: T, limit: impl FnOnce() -> String) {
        if from == to {
            return;
        }
        let gap = if self.text.is_empty() { "" } else { "; " };
        self.text.push_str(&format!("{gap}{} {from} becomes {to}, allowed are {}", T::NAME, limit()));
    }
}

/// Name of a part of an allocation.
trait Part {
    const NAME: &'static str;
}

impl Part for Replicas {
    const NAME: &'static str = "replicas";
}

impl Part for Millicores {
    const NAME: &'static str = "CPU";
}

impl Part for Mebibytes {
    const NAME: &'static str = "memory";
}

#[cfg(test)]
mod tests;
