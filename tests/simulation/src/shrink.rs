//! Shrinking of a failing plan: fewer and shorter faults that still break the same check.

use crate::plan::Plan;
use crate::world::run;

/// The smallest plan found that breaks the same check as `plan`.
#[must_use]
pub fn shrink(plan: &Plan) -> Plan {
    let Some(violation) = run(plan, false).violation else { return plan.clone() };
    let fails = |plan: &Plan| run(plan, false).violation.is_some_and(|found| found.check == violation.check);
    let mut smallest = plan.clone();
    loop {
        let Some(smaller) = candidates(&smallest).find(|candidate| fails(candidate)) else { return smallest };
        smallest = smaller;
    }
}

/// Plans that are a little simpler than `plan`.
fn candidates(plan: &Plan) -> impl Iterator<Item = Plan> {
    let count = plan.faults.len();
    let without = move |index: usize| {
        let mut smaller = plan.clone();
        smaller.faults.remove(index);
        smaller
    };
    let shorter = move |index: usize| {
        let mut smaller = plan.clone();
        smaller.faults[index].lasts /= 2;
        (plan.faults[index].lasts >= 200).then_some(smaller)
    };
    let calm = [
        Plan { duplicate: 0.0, ..plan.clone() },
        Plan { reorder: 0.0, ..plan.clone() },
        Plan { delay_ms: plan.delay_ms.min(2), ..plan.clone() },
    ];
    let calm = calm.into_iter().filter(move |candidate| candidate != plan);
    (0..count).map(without).chain(calm).chain((0..count).filter_map(shorter))
}
