//! States for tests.

use qscale_common::contract::State;
use qscale_common::fixtures;

/// A function with 2 replicas of 500m and 256 MiB without measurements, within 1 to 10 replicas, 100m to 1000m, 64 to 1024 MiB.
pub fn state() -> State {
    State { agent: fixtures::name("dqn"), ..fixtures::state() }
}

/// The same under a load that uses `cores` cores.
pub fn busy(cores: f64) -> State {
    let mut state = state();
    let tick = &mut state.windows.tick;
    (tick.covered_ms, tick.rate_rps, tick.completed_rps) = (5000, Some(100.0 * cores), Some(100.0 * cores));
    let mean = 1000.0 * cores / 2.0;
    tick.cpu_millicores = Some(qscale_common::contract::Usage { mean, max: mean });
    state
}
