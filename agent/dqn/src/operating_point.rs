//! The operating point of a ScalingPolicy in the user's terms, held by moving the violation cost. Owns the controller of one function; pure.
//!
//! With u = ln(violation cost), each State moves u by an integral controller:
//! - share s of violated ticks: u += 0.1 (v - s), where v is 1 if the tick before was violated, 0 if not. A tick without an ended request counts for nothing.
//! - budget b an hour: u -= 0.2 e h, where e = c / b - 1, at most 4, for the price c an hour of the allocation, and h is the tick length in hours.
//!
//! u stays within the range of training. While it does not reach an end, the sum of the errors is the distance that u moved over the gain, so that after T
//! ticks the share differs from s by at most 7.6 / (0.1 T), and after T hours the mean of e from 0 by at most 7.6 / (0.2 T). This is the argument of adaptive
//! conformal inference (Gibbs and Candès, NeurIPS 2021); it needs no model of how violations follow from the violation cost.

use qscale_common::contract::{HeldPoint, State, StateId};
use qscale_common::policy::{OperatingPoint, ViolationCost};
use qscale_common::slo;

/// Distance of ln(violation cost) from an end of its range within which it counts as there: 5 %.
const AT_END: f64 = 0.05;
/// Change of u by a violated tick if none is allowed.
const SHARE_GAIN: f64 = 0.1;
/// Change of u in an hour at twice the budget.
const BUDGET_GAIN: f64 = 0.2;
/// Largest relative excess of the budget that counts.
const MOST_EXCESS: f64 = 4.0;
/// Time constant of the measured share and cost that are reported, hours: a day hides the time of day.
const REPORTED_HOURS: f64 = 24.0;
/// Hours of a month, a twelfth of a year of 365 days.
const MONTH_HOURS: f64 = 730.0;

/// Controller of one function.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PointController {
    /// u; `None` before the first State.
    position: Option<f64>,
    /// The point that it holds.
    target: Option<OperatingPoint>,
    /// Mean of the held quantity, with the hours over which it is taken, at most [`REPORTED_HOURS`].
    measured: Option<(f64, f64)>,
    last: Option<StateId>,
}

impl PointController {
    /// The violation cost for the decision on `state`, for a function whose ScalingPolicy states `target`. Begins at `initial`.
    pub fn update(&mut self, state: &State, target: OperatingPoint, initial: f64) -> f64 {
        if self.target.is_some_and(|before| std::mem::discriminant(&before) != std::mem::discriminant(&target)) {
            // The other quantity was measured so far.
            self.measured = None;
        }
        self.target = Some(target);
        let position = self.position.get_or_insert(initial.ln());
        let is_new = self.last.is_none_or(|last| state.state_id().follows(last));
        let hours = state.tick_length_ms as f64 / 3_600_000.0;
        let step = match target {
            OperatingPoint::ViolationCost(cost) => {
                *position = cost.get().ln();
                None
            }
            OperatingPoint::ViolatedShare(share) => slo::is_violated_in(&state.windows.tick, &state.objective).map(|violated| {
                let violated = f64::from(u8::from(violated));
                (violated, SHARE_GAIN * (violated - share.get()))
            }),
            OperatingPoint::BudgetPerMonth(budget) => state.allocation.map(|allocation| {
                let (cost, budget) = (state.prices.per_hour(allocation), budget.get() / MONTH_HOURS);
                (cost * MONTH_HOURS, -BUDGET_GAIN * (cost / budget - 1.0).min(MOST_EXCESS) * hours)
            }),
        };
        if let Some((measured, step)) = step.filter(|_| is_new) {
            *position = (*position + step).clamp(ViolationCost::LEAST.ln(), ViolationCost::MOST.ln());
            let (mean, over) = self.measured.unwrap_or_default();
            let over = (over + hours).min(REPORTED_HOURS);
            self.measured = Some((mean + (measured - mean) * (hours / over).min(1.0), over));
        }
        self.last = Some(state.state_id());
        position.exp().clamp(ViolationCost::LEAST, ViolationCost::MOST)
    }

    /// The point that it holds; `None` before the first State.
    #[must_use]
    pub fn held(&self) -> Option<HeldPoint> {
        let (target, position) = (self.target?, self.position?);
        let (at_least, at_most) = (position <= ViolationCost::LEAST.ln() + AT_END, position >= ViolationCost::MOST.ln() - AT_END);
        let measured = self.measured.map(|(mean, _)| mean);
        let out_of_reach = match target {
            OperatingPoint::ViolationCost(_) => false,
            // A higher violation cost makes violations rarer and an allocation dearer.
            OperatingPoint::ViolatedShare(share) => at_most && measured.is_some_and(|measured| measured > share.get()),
            OperatingPoint::BudgetPerMonth(budget) => at_least && measured.is_some_and(|measured| measured > budget.get()),
        };
        let measured_hours = self.measured.map_or(0.0, |(_, hours)| hours);
        Some(HeldPoint { target, violation_cost: position.exp(), measured, measured_hours, out_of_reach })
    }

    /// Continues from `point`, as after a restart.
    pub fn resume(&mut self, point: &HeldPoint) {
        let cost = point.violation_cost.clamp(ViolationCost::LEAST, ViolationCost::MOST);
        self.position = cost.is_finite().then(|| cost.ln());
        self.target = Some(point.target);
        self.measured = point.measured.map(|mean| (mean, point.measured_hours.clamp(0.0, REPORTED_HOURS)));
    }
}

#[cfg(test)]
mod tests;
