//! Whether a function can meet its objective at all: with its largest allocation throughout. Must not know a policy.

use std::time::Duration;

use qscale_common::policy::RewardWeights;
use qscale_sim::{Simulation, Totals};

use crate::cell::{CellFunction, MeasurementSpan};
use crate::measure::{Criteria, RunMeter};
use crate::results::Measure;

/// Seed of the simulation.
const SEED: u64 = 1;

/// Share of the counted intervals in which `function` violates its objective with its largest allocation throughout; `None` if none counts.
pub(super) fn least_violated(function: &CellFunction, measurement: MeasurementSpan) -> Option<f64> {
    let mut setup = function.setup.clone();
    setup.allocation = setup.policy.bounds.largest();
    let criteria = Criteria::new(&setup, measurement, Duration::ZERO);
    let mut meter = RunMeter::new(&criteria, &[], false);
    let ticks = measurement.interval.as_nanos() / setup.policy.tick.duration().as_nanos().max(1);
    let mut simulation = Simulation::new(setup, SEED, function.index);
    let mut interval = Totals::default();
    for _ in 0..measurement.intervals() {
        (0..ticks).for_each(|_| simulation.step(None));
        simulation.take_interval(&mut interval);
        meter.interval(&interval, simulation.function().allocation().replicas.0, simulation.function().queued());
    }
    let (sums, _) = meter.finish();
    sums.measures(&RewardWeights::default()).get(Measure::ViolatedShare)
}
