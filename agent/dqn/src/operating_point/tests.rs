use qscale_common::time::Tick;
use qscale_common::units::Allocation;

use super::*;
use crate::fixtures;

fn share(share: f64) -> OperatingPoint {
    OperatingPoint::ViolatedShare(share.try_into().expect("in range"))
}

fn budget(budget: f64) -> OperatingPoint {
    OperatingPoint::BudgetPerMonth(budget.try_into().expect("in range"))
}

/// A State at `tick` of which the tick before was violated or not.
fn state(tick: u64, violated: bool) -> State {
    let mut state = fixtures::busy(0.5);
    state.tick = Tick(tick);
    state.windows.tick.failed_share = Some(if violated { 1.0 } else { 0.0 });
    state
}

/// Applies 100,000 ticks of a plant whose probability of a violation is `most` at the least violation cost, and falls to nothing at the greatest. Returns the share
/// of violated ticks and the controller.
fn held(target: OperatingPoint, most: f64) -> (f64, PointController) {
    let (mut controller, mut violations, mut chance) = (PointController::default(), 0u32, 0.0);
    let (mut cost, ticks) = (20.0f64, 100_000);
    for tick in 1..=ticks {
        let range = (ViolationCost::MOST / ViolationCost::LEAST).ln();
        chance += most * (1.0 - (cost / ViolationCost::LEAST).ln() / range);
        let violated = chance >= 1.0;
        chance -= f64::from(u8::from(violated));
        violations += u32::from(violated);
        cost = controller.update(&state(tick, violated), target, 20.0);
    }
    (f64::from(violations) / f64::from(ticks as u32), controller)
}

#[test]
fn an_attainable_share_is_held_within_the_stated_bound() {
    for target in [0.005, 0.01, 0.05] {
        let (found, controller) = held(share(target), 0.2);
        // 7.6 / (0.1 x 100,000) = 0.00076.
        assert!((found - target).abs() <= 0.000_76, "{found} for {target}");
        let point = controller.held().expect("held");
        assert!(
            !point.out_of_reach && point.violation_cost > ViolationCost::LEAST && point.violation_cost < ViolationCost::MOST,
            "{point:?}"
        );
        assert!((point.measured.expect("measured") - target).abs() < target / 5.0 && point.measured_hours == 24.0, "{point:?}");
    }
}

#[test]
fn a_share_out_of_reach_is_reported_at_the_end_of_the_range() {
    let mut controller = PointController::default();
    let cost = (1..=2000).map(|tick| controller.update(&state(tick, true), share(0.01), 20.0)).last().expect("a tick");
    let point = controller.held().expect("held");
    assert!((cost - ViolationCost::MOST).abs() < 1e-6 && point.out_of_reach, "{point:?}");
    // A function that is never violated is as cheap as it can be; that is no fault.
    let cost = (2001..=90_000).map(|tick| controller.update(&state(tick, false), share(0.01), 20.0)).last().expect("a tick");
    assert!((cost - ViolationCost::LEAST).abs() < 1e-6 && !controller.held().expect("held").out_of_reach);
}

#[test]
fn one_step_is_the_gain_times_the_error() {
    let mut controller = PointController::default();
    let ln = |cost: f64| cost.ln();
    let first = controller.update(&state(1, true), share(0.01), 20.0);
    assert!((ln(first) - (ln(20.0) + 0.1 * 0.99)).abs() < 1e-12);
    let second = controller.update(&state(2, false), share(0.01), 20.0);
    assert!((ln(second) - (ln(first) - 0.1 * 0.01)).abs() < 1e-12);
    // The same State again, and a tick in which no request ended, change nothing.
    assert_eq!(controller.update(&state(2, false), share(0.01), 20.0), second);
    let mut idle = state(3, false);
    (idle.windows.tick.failed_share, idle.windows.tick.latency) = (None, None);
    assert_eq!(controller.update(&idle, share(0.01), 20.0), second);
}

#[test]
fn a_budget_lowers_the_violation_cost_while_it_is_exceeded() {
    let mut dear = state(1, false);
    dear.allocation = Some(Allocation::new(2, 500, 256));
    let month = dear.prices.per_hour(Allocation::new(2, 500, 256)) * MONTH_HOURS;
    let mut controller = PointController::default();
    let after = controller.update(&dear, budget(month / 2.0), 1000.0);
    let hours = dear.tick_length_ms as f64 / 3_600_000.0;
    assert!((after.ln() - (1000f64.ln() - 0.2 * hours)).abs() < 1e-12, "at twice the budget");
    assert!((controller.held().and_then(|point| point.measured).expect("measured") - month).abs() < 1e-9);
    for tick in 2..200_000 {
        dear.tick = Tick(tick);
        controller.update(&dear, budget(month / 2.0), 1000.0);
    }
    assert!(controller.held().expect("held").out_of_reach, "the allocation does not follow");
    let cost = |dear: &State, of: f64| PointController::default().update(dear, budget(of), 1000.0);
    assert!(cost(&dear, month * 2.0) > 1000.0, "money is left");
    dear.allocation = None;
    assert!((cost(&dear, month) - 1000.0).abs() < 1e-9, "the cost is unknown");
}

#[test]
fn a_fixed_violation_cost_is_used_as_it_is() {
    let point = OperatingPoint::ViolationCost(300.0.try_into().expect("in range"));
    let mut controller = PointController::default();
    assert!((controller.update(&state(1, true), point, 20.0) - 300.0).abs() < 1e-9);
    assert_eq!(controller.held().map(|held| (held.measured, held.out_of_reach)), Some((None, false)));
}

#[test]
fn continues_after_a_restart_where_it_was() {
    let (_, before) = held(share(0.01), 0.2);
    let mut after = PointController::default();
    after.resume(&before.held().expect("held"));
    let mut before = before;
    let (one, other) = (before.update(&state(200_000, true), share(0.01), 20.0), after.update(&state(200_000, true), share(0.01), 20.0));
    assert!((one - other).abs() < 1e-9 * one, "{one} {other}");
    assert_eq!(after.held().map(|point| point.measured_hours), before.held().map(|point| point.measured_hours));
}

#[test]
fn another_kind_of_target_keeps_the_position_and_measures_again() {
    let (_, mut controller) = held(share(0.01), 0.2);
    let before = controller.held().expect("held");
    let mut unknown = state(200_000, false);
    unknown.allocation = None;
    controller.update(&unknown, budget(30.0), 20.0);
    let after = controller.held().expect("held");
    assert_eq!((after.measured, after.target), (None, budget(30.0)));
    assert!((after.violation_cost - before.violation_cost).abs() < 1e-9 * before.violation_cost);
}
