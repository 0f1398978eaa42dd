use qscale_common::policy::ScalingPolicy;
use qscale_sim::rng::{Purpose, stream};

use super::*;

fn plan(replicas: &[u32]) -> AllocationPlan {
    let one = |replicas: &u32| Allocation { replicas: Replicas(*replicas), cpu_millicores: Millicores(100), memory_mib: Mebibytes(128) };
    AllocationPlan::new(TickLength::default(), replicas.iter().map(one).collect())
}

fn planned(plan: &AllocationPlan, after: Duration) -> Option<u32> {
    let state = State::unmeasured(&ScalingPolicy::new("default/f".parse().expect("a function")));
    let decision = plan.decide(&state, &mut Memory::default(), BEGIN.plus(after), &mut stream(1, 1, Purpose::Policy));
    decision.wanted().map(|allocation| allocation.replicas.0)
}

#[test]
fn a_plan_gives_the_allocation_of_the_tick_and_its_last_one_after_its_end() {
    let (plan_of_three, tick) = (plan(&[1, 4, 2]), TickLength::default().duration());
    let at = [Duration::ZERO, tick - Duration::from_millis(1), tick, 2 * tick, 60 * tick];
    assert_eq!(at.map(|at| planned(&plan_of_three, at)), [Some(1), Some(1), Some(4), Some(2), Some(2)]);
    assert_eq!(planned(&plan(&[]), tick), None);
}

#[test]
fn a_part_can_become_like_the_tick_before_and_after_it() {
    let plan = plan(&[1, 4, 4, 9]);
    let replicas =
        |begin, end| -> Vec<u32> { changes(&plan, begin, end).iter().map(|change| change(plan.allocations[begin]).replicas.0).collect() };
    assert_eq!(replicas(1, 3)[..6], [1, 9, 3, 5, 3, 6]);
    assert_eq!(replicas(0, 1)[..2], [4, 0], "nothing is before the first tick");
}
