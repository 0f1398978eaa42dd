//! The guard: decides how much of a wanted allocation may come true. Owns every limit between a decision and its effect; must not apply
//! anything, read a clock or know where an allocation comes from.
//!
//! The rules, in the order in which they are tried:
//!
//! 1. `observe` mode records without judging.
//! 2. Freeze and pause keep what is in force, whatever it is.
//! 3. A platform that cannot resize keeps CPU and memory.
//! 4. Bounds. They are law: what is in force outside them moves into them, past every rule below. "What is in force" means from here on what
//!    bounds leave of it.
//! 5. Old measurements forbid any decrease; measurements that are absent or very old forbid any change.
//! 6. Scale-up-only forbids any decrease.
//! 7. Memory is not lowered below the working set times its margin, and not at all where the working set is unknown or replicas were
//!    killed for memory.
//! 8. One step goes so far and no further.
//! 9. Budgets of changes and reversals an hour; of both the last one is kept for a step up.
//!
//! A shadow, and every decision in `recommend` mode, is judged in the same way and recorded.

mod budget;
mod freshness;

pub use budget::{Budget, direction};

use crate::contract::{Direction, GuardNote, Rule, State};
use crate::policy::{Mode, ScalingPolicy};
use crate::time::Timestamp;
use crate::units::{Allocation, Mebibytes, Millicores, Replicas};
use freshness::{Freshness, freshness, memory_floor};

/// One decision and all that it is judged by.
#[derive(Debug, Clone, Copy)]
pub struct GuardInput<'a> {
    /// What was decided.
    pub wanted: Allocation,
    /// What the platform was last told; `None` where nobody knows.
    pub current: Option<Allocation>,
    /// Whose decision it is.
    pub kind: DecisionKind,
    /// The policy of the function.
    pub policy: &'a ScalingPolicy,
    /// The last State that was received.
    pub state: Option<&'a State>,
    /// Whether an operator froze the function.
    pub frozen: Option<Frozen>,
    /// Whether the platform can change CPU and memory of a replica.
    pub vertical: bool,
    /// What was changed within the last hour.
    pub budget: &'a Budget,
    /// The present.
    pub now: Timestamp,
}

/// Whose decision is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecisionKind {
    /// Of the agent that the policy names, or of the fallback in its place.
    Named,
    /// Of another agent: judged, never applied.
    Shadow,
    /// Not a new decision: one that was let through before and got lost, or what is in force itself. Steps and budgets do not limit it, and
    /// giving again what was lost needs no measurement.
    Repair,
}

/// What an operator froze.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frozen {
    /// This function.
    Function,
    /// Every function.
    All,
}

/// What the guard says to a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Apply this allocation, which differs from what is in force.
    Apply {
        /// What to apply.
        allocation: Allocation,
        /// The rules that changed the decision; empty where it is applied as wanted.
        notes: Vec<GuardNote>,
        /// What to charge the budget with once it is applied; `None` for a repair, which costs nothing.
        charge: Option<Direction>,
    },
    /// What was wanted is in force.
    Unchanged,
    /// Keep what is in force.
    Hold {
        /// The rules that kept it.
        notes: Vec<GuardNote>,
    },
    /// Do not apply.
    Record {
        /// What would have been applied or is in force as wanted; `None` where the guard would have held or did not judge.
        allowed: Option<Allocation>,
        /// The rules that took effect.
        notes: Vec<GuardNote>,
    },
}

/// Judges one decision. The same case has the same verdict; nothing is remembered: who applies a verdict charges the budget.
#[must_use]
pub fn evaluate(input: &GuardInput<'_>) -> Verdict {
    match (input.policy.mode, input.kind) {
        (Mode::Observe, _) => Verdict::Record { allowed: None, notes: vec![note(Rule::Mode, "the mode is observe".into())] },
        (_, DecisionKind::Shadow) => recorded(input, note(Rule::NotNamed, format!("the policy names agent {}", input.policy.agent))),
        (Mode::Recommend, _) => recorded(input, note(Rule::Mode, "the mode is recommend".into())),
        (Mode::Active, _) => judge(input),
    }
}

fn recorded(input: &GuardInput<'_>, why: GuardNote) -> Verdict {
    let (allowed, mut notes) = match judge(input) {
        Verdict::Apply { allocation, notes, .. } => (Some(allocation), notes),
        Verdict::Unchanged => (Some(input.wanted), Vec::new()),
        Verdict::Hold { notes } | Verdict::Record { notes, .. } => (None, notes),
    };
    notes.push(why);
    Verdict::Record { allowed, notes }
}

fn judge(input: &GuardInput<'_>) -> Verdict {
    match input.frozen {
        Some(Frozen::All) => return held(Rule::Freeze, "everything is frozen"),
        Some(Frozen::Function) => return held(Rule::Freeze, "the function is frozen"),
        None if input.policy.paused => return held(Rule::Paused, "the policy is paused"),
        None => {}
    }
    let Some(current) = input.current else { return held(Rule::StaleState, "what is in force is not known") };
    let home = within_bounds(input, current);
    if input.wanted == current && home == current {
        return Verdict::Unchanged;
    }
    let mut notes = Vec::new();
    let allocation = restrained(input, current, home, &mut notes);
    if allocation == current {
        return if input.wanted == current { Verdict::Unchanged } else { Verdict::Hold { notes } };
    }
    let costs = allocation != home && input.kind != DecisionKind::Repair;
    let charge = if costs { direction(&input.policy.prices, current, allocation) } else { None };
    Verdict::Apply { allocation, notes, charge }
}

/// What the rules leave of the decision. `home` is what bounds leave of `current`; no rule leads away from it that does not lead into bounds.
fn restrained(input: &GuardInput<'_>, current: Allocation, home: Allocation, notes: &mut Vec<GuardNote>) -> Allocation {
    let mut wanted = resizable(input, current, input.wanted, notes);
    wanted = bounded(input, wanted, notes);
    wanted = seen_enough(input, current, home, wanted, notes);
    if input.policy.scale_up_only {
        wanted = not_less(home, wanted, notes, || (Rule::ScaleUpOnly, "only more is allowed".into()));
    }
    wanted = above_working_set(input, home, wanted, notes);
    if input.kind == DecisionKind::Repair {
        return wanted;
    }
    wanted = one_step(input, current, wanted, notes);
    affordable(input, current, home, wanted, notes)
}

/// `allocation` within the bounds, as far as the platform can bring it there.
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
    notes.push(note(Rule::HorizontalOnly, kept));
    horizontal
}

fn bounded(input: &GuardInput<'_>, wanted: Allocation, notes: &mut Vec<GuardNote>) -> Allocation {
    let bounded = within_bounds(input, wanted);
    if bounded != wanted {
        let bounds = &input.policy.bounds;
        let mut changes = Changes::default();
        changes.add(wanted.replicas, bounded.replicas, || format!("{} to {}", bounds.replicas.min(), bounds.replicas.max()));
        changes.add(wanted.cpu_millicores, bounded.cpu_millicores, || {
            format!("{} to {}", bounds.cpu_millicores.min(), bounds.cpu_millicores.max())
        });
        changes.add(wanted.memory_mib, bounded.memory_mib, || format!("{} to {}", bounds.memory_mib.min(), bounds.memory_mib.max()));
        notes.push(note(Rule::Bounds, changes.text));
    }
    bounded
}

fn seen_enough(
    input: &GuardInput<'_>,
    current: Allocation,
    home: Allocation,
    wanted: Allocation,
    notes: &mut Vec<GuardNote>,
) -> Allocation {
    match freshness(input.state, input.policy.max_age(), current, input.now) {
        Freshness::Fresh => wanted,
        Freshness::Stale(why) => not_less(home, wanted, notes, || (Rule::StaleState, why)),
        // What was let through before needs no evidence to be given again.
        Freshness::Unknown(why) if input.kind == DecisionKind::Repair => not_less(home, wanted, notes, || (Rule::StaleState, why)),
        Freshness::Unknown(_) if wanted == home => wanted,
        Freshness::Unknown(why) => {
            notes.push(note(Rule::StaleState, why));
            home
        }
    }
}

/// `wanted`, with every part raised to that of `least`.
fn not_less(least: Allocation, wanted: Allocation, notes: &mut Vec<GuardNote>, why: impl FnOnce() -> (Rule, String)) -> Allocation {
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

fn above_working_set(input: &GuardInput<'_>, home: Allocation, wanted: Allocation, notes: &mut Vec<GuardNote>) -> Allocation {
    if wanted.memory_mib >= home.memory_mib {
        return wanted;
    }
    let (floor, why) = memory_floor(input.state, input.policy.guard.working_set_margin.get());
    let memory_mib = floor.map_or(home.memory_mib, |floor| floor.min(home.memory_mib)).max(wanted.memory_mib);
    if memory_mib != wanted.memory_mib {
        notes.push(note(Rule::WorkingSet, format!("{} becomes {memory_mib}, {why}", wanted.memory_mib)));
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
        let mut changes = Changes::default();
        changes.add(wanted.replicas, step.replicas, || {
            format!("steps of +{} and -{} from {}", guard.replicas_up, guard.replicas_down, current.replicas)
        });
        changes.add(wanted.cpu_millicores, step.cpu_millicores, || format!("a factor of {factor} from {}", current.cpu_millicores));
        changes.add(wanted.memory_mib, step.memory_mib, || format!("a factor of {factor} from {}", current.memory_mib));
        notes.push(note(Rule::StepLimit, changes.text));
    }
    step
}

/// `wanted` within `factor` of `from`. Where the factor allows a change at all, it allows one whole unit, or small limits could never move.
fn resized(from: u32, wanted: u32, factor: f64) -> u32 {
    if factor <= 1.0 {
        return from;
    }
    let least = (f64::from(from) / factor).ceil() as u32;
    let most = (f64::from(from) * factor).floor() as u32;
    wanted.clamp(least.min(from.saturating_sub(1)), most.max(from.saturating_add(1)))
}

fn affordable(input: &GuardInput<'_>, current: Allocation, home: Allocation, wanted: Allocation, notes: &mut Vec<GuardNote>) -> Allocation {
    if wanted == home {
        return wanted;
    }
    let Some(direction) = direction(&input.policy.prices, current, wanted) else { return wanted };
    match input.budget.refusal(direction, &input.policy.guard, input.now) {
        None => wanted,
        Some((rule, why)) => {
            notes.push(note(rule, why));
            home
        }
    }
}

fn held(rule: Rule, why: &str) -> Verdict {
    Verdict::Hold { notes: vec![note(rule, why.into())] }
}

fn note(rule: Rule, detail: String) -> GuardNote {
    GuardNote { rule, detail }
}

/// The parts of an allocation that a rule changed, in words.
#[derive(Default)]
struct Changes {
    text: String,
}

impl Changes {
    fn add<T: PartialEq + std::fmt::Display + Part>(&mut self, from: T, to: T, limit: impl FnOnce() -> String) {
        if from == to {
            return;
        }
        let gap = if self.text.is_empty() { "" } else { "; " };
        self.text.push_str(&format!("{gap}{} {from} becomes {to}, allowed are {}", T::NAME, limit()));
    }
}

/// What a part of an allocation is called.
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
