//! Messages for tests, compiled only with the feature `fixtures`. Owns one complete State, so that a new field is given in one place.

use crate::contract::{Epoch, State};
use crate::name::{FunctionId, Name};
use crate::policy::ScalingPolicy;
use crate::time::{Tick, Timestamp};
use crate::units::Allocation;

/// A name.
///
/// # Panics
/// When `text` is not a DNS label.
#[must_use]
pub fn name(text: &str) -> Name {
    Name::new(text).expect("a DNS label")
}

/// The function `fibonacci` at its tick 1 of 5 s with a current allocation of 2 replicas of 500m and 256 MiB, of which nothing was measured; everything else is
/// as in a default ScalingPolicy: p95 within 500 ms, 1 to 10 replicas, 100m to 1000m, 64 to 1024 MiB, agent `threshold`.
#[must_use]
pub fn state() -> State {
    let function = FunctionId::new(name(FunctionId::DEFAULT_NAMESPACE), name("fibonacci"));
    State {
        epoch: Epoch(1),
        tick: Tick(1),
        observed_at_ms: Timestamp(9_999),
        allocation: Some(Allocation::new(2, 500, 256)),
        ..State::unmeasured(&ScalingPolicy::new(function))
    }
}
