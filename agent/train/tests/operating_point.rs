//! Operating points held over days in the simulator, by the bundled model.

use std::sync::Arc;

use qscale_common::contract::HeldPoint;
use qscale_common::policy::{OperatingPoint, Range, ScalingPolicy};
use qscale_common::slo;
use qscale_common::units::{Allocation, Millicores, Replicas};
use qscale_common::workload::{Gaps, Pattern};
use qscale_dqn::decider::{Decider, Memories};
use qscale_dqn::policy::{Dqn, DqnParams};
use qscale_dqn::pretrained::pretrained;
use qscale_rl::device::cpu;
use qscale_sim::simulation::timestamp;
use qscale_sim::{Distribution, FunctionProfile, Gateway, Nanos, Perturbation, Setup, SimulatedLoad, Simulation};
use rand::SeedableRng;
use rand::rngs::SmallRng;

/// A day of 5 s ticks.
const DAY: usize = 17_280;
/// Hours of a month, as in the controller.
const MONTH_HOURS: f64 = 730.0;

/// Share of violated ticks, cost per month and the point held at the end.
#[derive(Debug)]
struct Held {
    share: f64,
    month: f64,
    point: HeldPoint,
}

/// Runs a function under a bursty load for `days` at `point`.
fn run(point: OperatingPoint, days: usize) -> Held {
    let mut policy = ScalingPolicy::new("f".parse().expect("valid"));
    policy.objective.latency = qscale_common::time::Span::millis(200).try_into().expect("valid");
    policy.objective.point = Some(point);
    policy.bounds.replicas = Range::new(Replicas(1), Replicas(12)).expect("ordered");
    policy.bounds.cpu_millicores = Range::new(Millicores(100), Millicores(1000)).expect("ordered");
    let pattern: Pattern = "bursty:5..60/4m/30s".parse().expect("a pattern");
    let setup = Setup {
        profile: Arc::new(FunctionProfile::simple("f", Distribution::constant(Nanos::millis(20)))),
        gateway: Gateway::default(),
        policy,
        allocation: Allocation::new(2, 500, 128),
        load: SimulatedLoad::Pattern { pattern, gaps: Gaps::Poisson },
        perturbation: Perturbation::default(),
        nodes: None,
    };
    let mut simulation = Simulation::new(setup, 1, 0);
    let decider =
        Decider::learned(Dqn::new(pretrained(), DqnParams::default(), &cpu()).expect("it matches"), "threshold-both").expect("a rule");
    let (mut memories, mut rng) = (Memories::default(), SmallRng::seed_from_u64(1));
    let (mut violated, mut judged, mut cost, mut ticks, mut last) = (0.0, 0.0, 0.0, 0.0, None);
    for _ in 0..days * DAY {
        let state = simulation.state().clone();
        let decided = decider.decide_all(&mut [(&state, &mut memories)], timestamp(simulation.now()), &mut rng).remove(0);
        last = decided.point;
        simulation.step(decided.decision.wanted());
        let state = simulation.state();
        if let Some(is_violated) = slo::is_violated_in(&state.windows.tick, &state.objective) {
            violated += f64::from(u8::from(is_violated));
            judged += 1.0;
        }
        if let Some(allocation) = state.allocation {
            cost += state.prices.per_hour(allocation) * MONTH_HOURS;
            ticks += 1.0;
        }
    }
    let found = Held { share: violated / judged, month: cost / ticks, point: last.expect("the policy states a point") };
    println!("{point}: violated {:.3} %, {:.2} a month, {:?}", found.share * 100.0, found.month, found.point);
    found
}

fn share(share: f64) -> OperatingPoint {
    OperatingPoint::ViolatedShare(share.try_into().expect("in range"))
}

/// A day at each end of the range of violation costs.
fn ends() -> (Held, Held) {
    let fixed = |cost: f64| run(OperatingPoint::ViolationCost(cost.try_into().expect("in range")), 1);
    let (cheap, dear) = (fixed(10.0), fixed(20_000.0));
    assert!(dear.month > cheap.month && cheap.share > dear.share + 0.005, "{cheap:?} {dear:?}");
    (cheap, dear)
}

#[test]
fn holds_two_shares_of_violated_ticks_between_those_of_both_ends_over_three_days() {
    let (cheap, dear) = ends();
    for part in [0.3, 0.6] {
        let target = dear.share + part * (cheap.share - dear.share);
        let held = run(share(target), 3);
        // By the formula of the controller: 7.6 / (0.1 x 3 x 17,280) = 0.0015.
        assert!((held.share - target).abs() < 0.0015 && !held.point.out_of_reach, "{held:?}");
    }
}

#[test]
fn holds_a_budget_between_the_costs_of_both_ends_and_reports_one_out_of_reach() {
    let (cheap, dear) = ends();
    let budget = |month: f64| OperatingPoint::BudgetPerMonth(month.try_into().expect("in range"));
    let middle = (cheap.month + dear.month) / 2.0;
    let held = run(budget(middle), 6);
    // By the formula of the controller: 7.6 / (0.2 x 6 x 24) = 0.26 over all days, the first of which begin at the default violation cost.
    assert!((held.month / middle - 1.0).abs() < 0.26 && !held.point.out_of_reach, "{held:?}");
    let last_day = held.point.measured.expect("measured");
    assert!((last_day / middle - 1.0).abs() < 0.1, "{held:?}");
    let starved = run(budget(cheap.month / 2.0), 3);
    assert!(starved.point.out_of_reach && starved.point.violation_cost < 10.5, "{starved:?}");
}
