//! The guard.

use std::num::NonZeroU32;
use std::time::Duration;

use qscale_common::contract::{Ages, Direction};
use qscale_common::fixtures::{any_state, name};
use qscale_common::guard::{Budget, DecisionKind, Frozen, GuardInput, Verdict, evaluate};
use qscale_common::name::FunctionId;
use qscale_common::policy::{Bounds, Mode, Range, ResizeFactor, ScalingPolicy};
use qscale_common::time::{Span, TickLength, Timestamp};
use qscale_common::units::{Allocation, Mebibytes, Millicores, Replicas};

use crate::input::Input;

/// The bytes of a decision with its policy, State and budget: the verdict respects bounds, steps and freezes, takes nothing away on stale
/// measurements, and is final.
pub fn guard(data: &[u8]) {
    let mut input = Input::new(data);
    let policy = policy(&mut input);
    let mut state = input.maybe(any_state);
    let now = Timestamp(input.any_u64().min(Timestamp::LAST.0));
    if let Some(state) = state.as_mut().filter(|_| input.choose([true, true, true, false])) {
        // Recent in most cases.
        state.observed_at_ms = Timestamp(now.0.saturating_sub(u64::from(input.any_u32() >> 16)));
        state.age = Ages { requests_ms: Some(0), cpu_ms: Some(0), memory_ms: Some(0), replicas_ms: Some(0) };
    }
    let budget = budget(&mut input, now);
    let current = allocation(&mut input);
    let wanted = allocation(&mut input);
    let case = GuardInput {
        wanted,
        current: Some(current),
        kind: input.choose([DecisionKind::Named, DecisionKind::Named, DecisionKind::Named, DecisionKind::Shadow, DecisionKind::Repair]),
        policy: &policy,
        state: state.as_ref(),
        frozen: input.choose([None, None, None, None, None, None, None, Some(Frozen::Function), Some(Frozen::All)]),
        vertical: input.choose([true, true, false]),
        budget: &budget,
        now,
    };
    check(&case, current);
    assert!(!matches!(evaluate(&GuardInput { current: None, ..case }), Verdict::Apply { .. }), "nothing replaces an unknown allocation");
}

fn check(case: &GuardInput<'_>, current: Allocation) {
    let verdict = evaluate(case);
    let policy = case.policy;
    let after = match &verdict {
        Verdict::Apply { allocation, notes, charge } => {
            assert!(case.frozen.is_none() && !policy.paused && policy.mode == Mode::Active && case.kind != DecisionKind::Shadow);
            assert_ne!(*allocation, current);
            assert_eq!(notes.is_empty(), *allocation == case.wanted, "a change of the decision has its reason");
            assert!(charge.is_none() || case.kind == DecisionKind::Named);
            *allocation
        }
        Verdict::Hold { notes } | Verdict::Record { notes, .. } => {
            assert!(!notes.is_empty());
            return;
        }
        Verdict::Unchanged => current,
    };
    if case.frozen.is_some() || policy.paused {
        return;
    }
    assert_eq!(within_bounds(case, after), after, "the allocation is within the bounds");
    let bounded = within_bounds(case, current);
    let less = |after: Allocation| parts(after).into_iter().zip(parts(bounded)).any(|(after, before)| after < before);
    assert!(!(policy.scale_up_only && less(after)), "scale_up_only takes nothing away");
    assert!(!(is_stale(case, current) && less(after)), "stale measurements take nothing away");
    if case.kind == DecisionKind::Named {
        check_step(case, bounded, after, current);
    }
    let again = GuardInput { wanted: after, current: Some(after), ..*case };
    assert_eq!(evaluate(&again), Verdict::Unchanged, "the verdict is final");
}

fn check_step(case: &GuardInput<'_>, bounded: Allocation, after: Allocation, current: Allocation) {
    let rails = &case.policy.guard;
    let (up, down) = (rails.replicas_up.get(), rails.replicas_down.get());
    let step = current.replicas.0.saturating_sub(down)..=current.replicas.0.saturating_add(up);
    let bounds = &case.policy.bounds.replicas;
    let at_bound = after.replicas == bounds.min() || after.replicas == bounds.max();
    assert!(step.contains(&after.replicas.0) || at_bound, "from {current} to {after} by steps of +{up} and -{down}");
    if after != bounded
        && let Some(direction) = case.policy.prices.direction(current, after)
    {
        assert_eq!(case.budget.refusal(direction, rails, case.now), None, "a change beyond the budget");
    }
}

/// Whether a measurement that a decrease needs is too old, or nothing was measured. Without replicas there is no CPU or memory to measure.
fn is_stale(case: &GuardInput<'_>, current: Allocation) -> bool {
    let Some(state) = case.state else { return true };
    let running = current.replicas.0 > 0;
    let load = [state.age.requests_ms, state.age.cpu_ms.filter(|_| running), state.age.memory_ms.filter(|_| running)];
    let delay = case.now.since(state.observed_at_ms);
    let old = |age_ms: u64| Duration::from_millis(age_ms).saturating_add(delay) > case.policy.max_age();
    load == [None; 3] || load.into_iter().chain([state.age.replicas_ms]).flatten().any(old)
}

fn within_bounds(case: &GuardInput<'_>, allocation: Allocation) -> Allocation {
    let bounded = case.policy.bounds.clamp(allocation);
    if case.vertical { bounded } else { Allocation { replicas: bounded.replicas, ..allocation } }
}

fn parts(allocation: Allocation) -> [u32; 3] {
    [allocation.replicas.0, allocation.cpu_millicores.0, allocation.memory_mib.0]
}

pub(crate) fn allocation(input: &mut Input<'_>) -> Allocation {
    Allocation::new(input.any_u32(), input.any_u32(), input.any_u32())
}

/// A policy with any valid bounds and limits.
pub(crate) fn policy(input: &mut Input<'_>) -> ScalingPolicy {
    let mut policy = ScalingPolicy::new(FunctionId::new(name("default"), name("f")));
    let length = Duration::from_millis(input.any_u64().clamp(100, 3_600_000));
    policy.tick = TickLength::new(length).expect("within the range");
    policy.bounds =
        Bounds { replicas: range(input, 0, Replicas), cpu_millicores: range(input, 1, Millicores), memory_mib: range(input, 1, Mebibytes) };
    policy.mode = input.choose([Mode::Active, Mode::Active, Mode::Active, Mode::Active, Mode::Active, Mode::Recommend, Mode::Observe]);
    policy.paused = input.choose([false, false, false, false, false, false, true]);
    policy.scale_up_only = input.choose([false, false, true]);
    let guard = &mut policy.guard;
    (guard.replicas_up, guard.replicas_down) = (at_least_one(input), at_least_one(input));
    (guard.resize_factor, guard.working_set_margin) = (factor(input), factor(input));
    (guard.changes_per_hour, guard.reversals_per_hour) = (at_least_one(input), input.any_u32());
    guard.max_age = input.maybe(|input| Span(Duration::from_millis(input.any_u64())));
    ScalingPolicy::from_json(&policy.to_json()).expect("a valid policy")
}

fn range<T: Copy + Ord + std::fmt::Display>(input: &mut Input<'_>, least: u32, unit: fn(u32) -> T) -> Range<T> {
    let (one, other) = (input.any_u32().max(least), input.any_u32().max(1));
    Range::new(unit(one.min(other)), unit(one.max(other))).expect("ordered")
}

fn at_least_one(input: &mut Input<'_>) -> NonZeroU32 {
    NonZeroU32::new(input.any_u32()).unwrap_or(NonZeroU32::MIN)
}

fn factor(input: &mut Input<'_>) -> ResizeFactor {
    let usual = 1.0 + f64::from(input.any_u32()) / 1e6;
    ResizeFactor::try_from(input.choose([usual, usual, 1.0, 2.0, f64::MAX])).expect("a finite number of at least 1")
}

fn budget(input: &mut Input<'_>, now: Timestamp) -> Budget {
    let mut budget = Budget::default();
    for _ in 0..input.choose([0, 1, 3, 10, 200]) {
        if input.is_empty() {
            break;
        }
        let direction = input.choose([Direction::Up, Direction::Down]);
        budget.charge(direction, Timestamp(now.0.saturating_sub(u64::from(input.any_u32()) >> 4)));
    }
    let written = serde_json::to_value(&budget).expect("JSON");
    assert!(written["minutes"].as_array().is_some_and(|minutes| minutes.len() <= 61), "the size of a budget is bounded");
    budget
}
