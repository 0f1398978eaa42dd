use super::*;
use crate::contract::{Latency, Message, parse};
use crate::name::{FunctionId, Name};
use crate::policy::{Prices, ScalingPolicy};
use crate::units::Allocation;

fn policy() -> ScalingPolicy {
    // p95 within 500 ms; at most 10 replicas of one core and 1 GiB; weights 1, 0.3, 0.05, 0.2, 1.
    let name = |text| Name::new(text).expect("a DNS label");
    ScalingPolicy::new(FunctionId::new(name("default"), name("fib")))
}

fn window(p95_ms: f64, failed: f64) -> Window {
    let latency = Latency { p50_ms: 10.0, p95_ms, p99_ms: 2.0 * p95_ms, objective_ms: p95_ms };
    Window {
        covered_ms: 5000,
        rate_rps: Some(20.0),
        completed_rps: Some(20.0),
        failed_share: Some(failed),
        latency: Some(latency),
        ..Window::default()
    }
}

fn closed() -> ClosedTick {
    ClosedTick {
        tick: Tick(8),
        allocation: Some(Allocation::new(5, 1000, 1024)),
        reversed_after: None,
        resized: false,
        restarted: 0,
        kills: Some(0),
        answers_read: true,
    }
}

#[track_caller]
fn check(window: &Window, closed: &ClosedTick, violation: Option<f64>, value: Option<f64>) {
    let measured = measure(window, closed, &policy());
    let same = |found: Option<f64>, expected: Option<f64>| match (found, expected) {
        (Some(found), Some(expected)) => (found - expected).abs() < 1e-12,
        (found, expected) => found == expected,
    };
    assert!(same(measured.terms.violation.value, violation), "violation {:?}, expected {violation:?}", measured.terms.violation.value);
    assert!(same(measured.value, value), "value {:?}, expected {value:?}", measured.value);
}

#[test]
fn within_the_objective_only_cost_counts() {
    // Half of the largest allocation.
    check(&window(200.0, 0.0), &closed(), Some(0.0), Some(-0.15));
    check(&window(500.0, 0.0), &closed(), Some(0.0), Some(-0.15));
}

#[test]
fn lateness_and_failures_multiply() {
    // 1 - 1 x 500/1000.
    check(&window(1000.0, 0.0), &closed(), Some(0.5), Some(-0.65));
    // 1 - 0.8 x 500/1000.
    check(&window(1000.0, 0.2), &closed(), Some(0.6), Some(-0.75));
    check(&window(100.0, 0.25), &closed(), Some(0.25), Some(-0.4));
}

#[test]
fn a_tick_in_which_all_failed_is_violated_wholly() {
    let window = Window { completed_rps: Some(0.0), failed_share: Some(1.0), latency: None, ..window(0.0, 1.0) };
    check(&window, &closed(), Some(1.0), Some(-1.15));
}

#[test]
fn no_requests_violate_nothing() {
    let idle = Window { covered_ms: 5000, rate_rps: Some(0.0), completed_rps: Some(0.0), ..Window::default() };
    check(&idle, &closed(), Some(0.0), Some(-0.15));
    assert_eq!(measure(&idle, &closed(), &policy()).completion, None);
}

#[test]
fn an_unmeasured_tick_has_no_value() {
    check(&Window::default(), &ClosedTick { answers_read: false, ..closed() }, None, None);
    check(&window(200.0, 0.0), &ClosedTick { allocation: None, ..closed() }, Some(0.0), None);
    check(&window(200.0, 0.0), &ClosedTick { kills: None, ..closed() }, Some(0.0), None);
}

#[test]
fn a_reversal_counts_within_its_window_only() {
    check(&window(200.0, 0.0), &ClosedTick { reversed_after: Some(12), ..closed() }, Some(0.0), Some(-0.35));
    check(&window(200.0, 0.0), &ClosedTick { reversed_after: Some(13), ..closed() }, Some(0.0), Some(-0.15));
}

#[test]
fn a_resize_counts_where_it_restarted_replicas() {
    check(&window(200.0, 0.0), &ClosedTick { resized: true, restarted: 2, ..closed() }, Some(0.0), Some(-0.2));
    check(&window(200.0, 0.0), &ClosedTick { resized: true, ..closed() }, Some(0.0), Some(-0.15));
    // One restarted after a crash, which counts as a kill and not as a resize.
    check(&window(200.0, 0.0), &ClosedTick { resized: true, restarted: 1, kills: Some(1), ..closed() }, Some(0.0), Some(-1.15));
}

#[test]
fn every_kill_counts() {
    check(&window(200.0, 0.0), &ClosedTick { kills: Some(3), ..closed() }, Some(0.0), Some(-3.15));
}

#[test]
fn nothing_costs_nothing() {
    let mut policy = policy();
    policy.prices =
        Prices { cpu_core_hour: 0.0.try_into().expect("a price"), memory_gib_hour: 0.0.try_into().expect("a price"), ..Prices::default() };
    assert_eq!(measure(&window(200.0, 0.0), &closed(), &policy).value, Some(0.0));
}

#[test]
fn the_message_reads_back() {
    let policy = policy();
    let context = RewardContext { epoch: Epoch(1), tick: Tick(7), at: Timestamp(40_000), decided_by: None };
    let measured = measure(&window(1000.0, 0.2), &closed(), &policy);
    let reward = message(&measured, &closed(), context, &policy);
    let body = reward.encode();
    println!("a Reward takes {} bytes", body.len());
    assert_eq!(parse::<Reward>(&body).expect("a Reward").encode(), body);
    // Five replicas of one core and one GiB, at the default prices.
    assert!((reward.cost_per_hour.expect("known") - 5.0 * (0.04048 + 0.004445)).abs() < 1e-12);
}
