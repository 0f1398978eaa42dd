//! States for tests.

use qscale_common::contract::{State, Usage};
use qscale_common::fixtures;
use rand::SeedableRng;

/// A function with 2 measured replicas of 500m and 256 MiB, and bounds of 1 to 10 replicas, 100m to 1000m, 64 to 1024 MiB.
pub fn state() -> State {
    let mut state = fixtures::state();
    state.windows.tick.cpu_millicores = Some(Usage { mean: 100.0, max: 120.0 });
    state.windows.tick.memory_mib = Some(Usage { mean: 50.0, max: 60.0 });
    state
}

/// A generator with a fixed seed.
pub fn rng() -> rand::rngs::SmallRng {
    rand::rngs::SmallRng::seed_from_u64(7)
}
