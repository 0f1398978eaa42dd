//! A State to try things on.

use qscale_common::contract::{Ages, Changes, Epoch, State, Version, Windows, WireObjective};
use qscale_common::name::Name;
use qscale_common::policy::{Bounds, Prices};
use qscale_common::time::{Tick, Timestamp};
use qscale_common::units::Allocation;

/// A function with 2 replicas of 500m and 256 MiB of which nothing was measured, within 1 to 10 replicas, 100m to 1000m, 64 to 1024 MiB.
pub fn state() -> State {
    let name = |text: &str| Name::new(text).expect("a valid name");
    State {
        version: Version::CURRENT,
        namespace: name("default"),
        function: name("fibonacci"),
        epoch: Epoch(1),
        tick: Tick(1),
        tick_length_ms: 5000,
        observed_at_ms: Timestamp(9_999),
        agent: name("dqn"),
        allocation: Some(Allocation::new(2, 500, 256)),
        replicas: None,
        age: Ages::default(),
        windows: Windows::default(),
        changes: Changes::default(),
        startup_ms: None,
        headroom: None,
        objective: WireObjective { percentile: 95.0, latency_ms: 500, failure_share: 0.01 },
        bounds: Bounds::default(),
        prices: Prices::default(),
    }
}

/// The same under a load that keeps `cores` of them busy.
pub fn busy(cores: f64) -> State {
    let mut state = state();
    let tick = &mut state.windows.tick;
    (tick.covered_ms, tick.rate_rps, tick.completed_rps) = (5000, Some(100.0 * cores), Some(100.0 * cores));
    let mean = 1000.0 * cores / 2.0;
    tick.cpu_millicores = Some(qscale_common::contract::Usage { mean, max: mean });
    state
}
