use proptest::prelude::*;
use qscale_common::policy::{Bounds, Range};

use super::*;
use crate::fixtures;

fn usage(mean: f64) -> Option<Usage> {
    Some(Usage { mean, max: mean })
}

fn seen(cpu: f64, memory: f64, current: Allocation) -> State {
    let mut state = State { allocation: Some(current), ..fixtures::state() };
    state.windows.tick.cpu_millicores = usage(cpu);
    state.windows.tick.memory_mib = usage(memory);
    state
}

#[track_caller]
fn check(mode: Scope, (cpu, memory): (f64, f64), current: Allocation, expected: Result<Allocation, HoldReason>) {
    let policy = Threshold { scope: mode, ..Threshold::default() };
    let decision = policy.decide(&seen(cpu, memory, current), &mut Memory::default(), Timestamp(0), &mut fixtures::rng());
    match decision {
        Decision::Want { allocation, reason, .. } => assert_eq!(Ok(allocation), expected, "{reason}"),
        Decision::Hold { why, reason, .. } => assert_eq!(Err(why), expected, "{reason}"),
    }
}

#[test]
fn horizontal_scales_up_above_either_threshold_else_down() {
    let current = Allocation::new(4, 500, 512);
    let (up, down) = (Ok(Allocation::new(5, 500, 512)), Ok(Allocation::new(3, 500, 512)));
    check(Scope::Horizontal, (251.0, 10.0), current, up);
    check(Scope::Horizontal, (10.0, 257.0), current, up);
    check(Scope::Horizontal, (400.0, 400.0), current, up);
    check(Scope::Horizontal, (250.0, 256.0), current, down);
    check(Scope::Horizontal, (0.0, 0.0), current, down);
}

#[test]
fn vertical_raises_scarce_resources_and_lowers_both() {
    let current = Allocation::new(2, 500, 512);
    check(Scope::Vertical, (251.0, 10.0), current, Ok(Allocation::new(2, 530, 512)));
    check(Scope::Vertical, (10.0, 257.0), current, Ok(Allocation::new(2, 500, 576)));
    check(Scope::Vertical, (300.0, 300.0), current, Ok(Allocation::new(2, 530, 576)));
    check(Scope::Vertical, (10.0, 10.0), current, Ok(Allocation::new(2, 470, 448)));
}

#[test]
fn both_moves_all_three_in_one_decision() {
    let current = Allocation::new(2, 500, 512);
    check(Scope::Joint, (300.0, 300.0), current, Ok(Allocation::new(3, 530, 576)));
    check(Scope::Joint, (300.0, 10.0), current, Ok(Allocation::new(3, 530, 512)));
    check(Scope::Joint, (10.0, 10.0), current, Ok(Allocation::new(1, 470, 448)));
}

#[test]
fn stops_at_the_bounds() {
    check(Scope::Horizontal, (300.0, 10.0), Allocation::new(10, 500, 512), Err(HoldReason::NotAllowed));
    check(Scope::Horizontal, (10.0, 10.0), Allocation::new(1, 500, 512), Err(HoldReason::NotAllowed));
    check(Scope::Vertical, (10.0, 10.0), Allocation::new(1, 110, 64), Ok(Allocation::new(1, 100, 64)));
    check(Scope::Horizontal, (10.0, 10.0), Allocation::new(50, 500, 512), Ok(Allocation::new(10, 500, 512)));
}

#[test]
fn usage_at_a_low_limit_counts_as_above_the_threshold() {
    check(Scope::Horizontal, (190.0, 10.0), Allocation::new(2, 200, 256), Ok(Allocation::new(3, 200, 256)));
    check(Scope::Vertical, (98.0, 10.0), Allocation::new(1, 100, 256), Ok(Allocation::new(1, 130, 256)));
    check(Scope::Vertical, (10.0, 120.0), Allocation::new(1, 100, 128), Ok(Allocation::new(1, 100, 192)));
    check(Scope::Horizontal, (10.0, 120.0), Allocation::new(2, 100, 128), Ok(Allocation::new(1, 100, 128)));
}

#[test]
fn memory_is_not_lowered_into_saturation() {
    check(Scope::Vertical, (10.0, 90.0), Allocation::new(1, 100, 128), Ok(Allocation::new(1, 100, 100)));
    check(Scope::Vertical, (10.0, 90.0), Allocation::new(1, 100, 100), Err(HoldReason::NotAllowed));
    let mut state = seen(10.0, 50.0, Allocation::new(1, 100, 256));
    state.windows.long.memory_mib = usage(225.0);
    let decision = Threshold { scope: Scope::Vertical, ..Threshold::default() }.evaluate(&state);
    assert_eq!(decision.wanted(), Some(Allocation::new(1, 100, 250)));
}

#[test]
fn the_last_replica_goes_only_without_arrivals() {
    let mut state = seen(0.0, 10.0, Allocation::new(1, 500, 128));
    state.bounds.replicas = Range::new(Replicas(0), Replicas(5)).expect("a range");
    for (rate, wanted) in [(None, None), (Some(0.2), None), (Some(0.0), Some(Allocation::new(0, 500, 128)))] {
        state.windows.short.rate_rps = rate;
        assert_eq!(Threshold::default().evaluate(&state).wanted(), wanted, "{rate:?}");
    }
}

#[test]
fn holds_on_unknown_inputs() {
    let mut state = fixtures::state();
    state.windows.tick.memory_mib = None;
    assert!(matches!(Threshold::default().evaluate(&state), Decision::Hold { why: HoldReason::NoMeasurement, .. }));
    let mut state = fixtures::state();
    state.windows.tick.cpu_millicores = None;
    assert!(matches!(Threshold::default().evaluate(&state), Decision::Hold { why: HoldReason::NoMeasurement, .. }));
    let state = State { allocation: None, ..fixtures::state() };
    assert!(matches!(Threshold::default().evaluate(&state), Decision::Hold { why: HoldReason::NoAllocation, .. }));
}

#[test]
fn rests_within_its_band() {
    let policy = Threshold { down_below: 0.6, ..Threshold::default() };
    let current = Allocation::new(4, 500, 512);
    assert!(matches!(policy.evaluate(&seen(200.0, 10.0, current)), Decision::Hold { why: HoldReason::NothingToDo, .. }));
    assert_eq!(policy.evaluate(&seen(150.0, 10.0, current)).wanted(), Some(Allocation::new(3, 500, 512)));
    assert_eq!(policy.evaluate(&seen(251.0, 10.0, current)).wanted(), Some(Allocation::new(5, 500, 512)));
}

#[test]
fn says_why_and_what_was_masked() {
    let Decision::Hold { reason, choices, .. } = Threshold::default().evaluate(&seen(312.0, 10.0, Allocation::new(10, 500, 512))) else {
        panic!("must hold at the bound");
    };
    assert!(reason.contains("312m") && reason.contains("250m"), "{reason}");
    assert_eq!(
        choices.iter().map(|choice| (choice.action.as_str(), choice.masked.is_some())).collect::<Vec<_>>(),
        [("up", true), ("down", false)]
    );
}

prop_compose! {
    fn allocations()(replicas in any::<u32>(), cpu in any::<u32>(), memory in any::<u32>()) -> Allocation {
        Allocation::new(replicas, cpu, memory)
    }
}

fn range<T: Copy + Ord + std::fmt::Display>(of: fn(u32) -> T, a: u32, b: u32) -> Range<T> {
    Range::new(of(a.min(b)), of(a.max(b))).expect("the lesser comes first")
}

prop_compose! {
    fn bounds()(a in allocations(), b in allocations()) -> Bounds {
        Bounds {
            replicas: range(Replicas, a.replicas.0, b.replicas.0),
            cpu_millicores: range(Millicores, a.cpu_millicores.0, b.cpu_millicores.0),
            memory_mib: range(Mebibytes, a.memory_mib.0, b.memory_mib.0),
        }
    }
}

fn modes() -> impl Strategy<Value = Scope> {
    prop_oneof![Just(Scope::Horizontal), Just(Scope::Vertical), Just(Scope::Joint)]
}

fn measurements() -> impl Strategy<Value = Option<Usage>> {
    prop::option::of((any::<f64>(), any::<f64>()).prop_map(|(mean, max)| Usage { mean, max }))
}

prop_compose! {
    fn rules()(mode in modes(), cpu in any::<u32>(), memory in any::<u32>(), down_below in 0.0..=1.0f64, saturation in 0.01..2.0f64, steps in allocations())
        -> Threshold {
        Threshold { scope: mode, cpu_millicores: Millicores(cpu), memory_mib: Mebibytes(memory), down_below, saturation,
            replicas_step: steps.replicas, cpu_step_millicores: steps.cpu_millicores, memory_step_mib: steps.memory_mib }
    }
}

proptest! {
    #[test]
    fn wanted_allocations_are_within_bounds_and_differ(
        policy in rules(), current in prop::option::of(allocations()), bounds in bounds(),
        cpu in measurements(), memory in measurements(), peak in measurements(), rate in prop::option::of(any::<f64>()),
    ) {
        let mut state = State { allocation: current, bounds, ..fixtures::state() };
        state.windows.tick.cpu_millicores = cpu;
        state.windows.tick.memory_mib = memory;
        state.windows.long.memory_mib = peak;
        state.windows.short.rate_rps = rate;
        let decision = policy.evaluate(&state);
        if let Some(wanted) = decision.wanted() {
            prop_assert!(bounds.contain(wanted));
            prop_assert_ne!(Some(wanted), current);
        }
        prop_assert_eq!(decision, policy.evaluate(&state), "a rule without memory answers the same twice");
    }

    #[test]
    fn one_step_never_exceeds_the_step_within_the_bounds(mode in modes(), cpu in 0.0..2000.0f64, memory in 0.0..2000.0f64, r in 1u32..=10, c in 100u32..=1000, m in 64u32..=1024) {
        let current = Allocation::new(r, c, m);
        let policy = Threshold { scope: mode, ..Threshold::default() };
        if let Some(wanted) = policy.evaluate(&seen(cpu, memory, current)).wanted() {
            prop_assert!(wanted.replicas.0.abs_diff(r) <= 1);
            prop_assert!(wanted.cpu_millicores.0.abs_diff(c) <= 30);
            prop_assert!(wanted.memory_mib.0.abs_diff(m) <= 64);
        }
    }
}
