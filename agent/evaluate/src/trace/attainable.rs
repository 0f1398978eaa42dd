//! Whether a function can meet its objective at all: with its largest allocation throughout. Must not know a policy.

use std::time::Duration;

use qscale_sim::{Simulation, Totals};

use crate::cell::{CellFunction, MeasurementSpan};
use crate::measure::Criteria;

/// Seed of the simulation.
const SEED: u64 = 1;

/// Share of the counted intervals in which `function` violates its objective with its largest allocation throughout; `None` if none counts.
pub(super) fn least_violated(function: &CellFunction, measurement: MeasurementSpan) -> Option<f64> {
    let mut setup = function.setup.clone();
    setup.allocation = setup.policy.bounds.largest();
    let criteria = Criteria::new(&setup, measurement, Duration::ZERO);
    let ticks = measurement.interval.as_nanos() / setup.policy.tick.duration().as_nanos().max(1);
    let mut simulation = Simulation::new(setup, SEED, function.index);
    let (mut totals, mut outstanding, mut counted, mut violated) = (Totals::default(), 0_u64, 0_u32, 0_u32);
    for interval in 0..measurement.intervals() {
        (0..ticks).for_each(|_| simulation.step(None));
        simulation.take_interval(&mut totals);
        let result = criteria.evaluate(&totals, outstanding > 0);
        outstanding = (outstanding + totals.arrived).saturating_sub(totals.completed + totals.unanswered());
        if let Some(result) = result.filter(|_| interval >= measurement.warm_up as usize) {
            counted += 1;
            violated += u32::from(result.violated);
        }
    }
    (counted > 0).then(|| f64::from(violated) / f64::from(counted))
}
