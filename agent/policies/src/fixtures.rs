//! States for tests.

use qscale_common::contract::{Ages, Changes, Epoch, State, Usage, Version, Windows, WireObjective};
use qscale_common::name::Name;
use qscale_common::policy::{Bounds, Prices};
use qscale_common::time::{Tick, Timestamp};
use qscale_common::units::Allocation;
use rand::SeedableRng;

/// A function with 2 measured replicas of 500m and 256 MiB, and bounds of 1 to 10 replicas, 100m to 1000m, 64 to 1024 MiB.
pub fn state() -> State {
    let name = |text: &str| Name::new(text).expect("a valid name");
    let mut windows = Windows::default();
    windows.tick.cpu_millicores = Some(Usage { mean: 100.0, max: 120.0 });
    windows.tick.memory_mib = Some(Usage { mean: 50.0, max: 60.0 });
    State {
        version: Version::CURRENT,
        namespace: name("default"),
        function: name("fibonacci"),
        epoch: Epoch(1),
        tick: Tick(1),
        tick_length_ms: 5000,
        observed_at_ms: Timestamp(9_999),
        agent: name("threshold"),
        allocation: Some(Allocation::new(2, 500, 256)),
        replicas: None,
        age: Ages::default(),
        windows,
        changes: Changes::default(),
        startup_ms: None,
        headroom: None,
        objective: WireObjective { percentile: 95.0, latency_ms: 500, failure_share: 0.01 },
        bounds: Bounds::default(),
        prices: Prices::default(),
    }
}

/// A generator with a fixed seed.
pub fn rng() -> rand::rngs::SmallRng {
    rand::rngs::SmallRng::seed_from_u64(7)
}
