//! Model files.

use qscale_common::fixtures::state;
use qscale_dqn::policy::DqnParams;
use qscale_dqn::{Checkpoint, Dqn};
use qscale_policies::{Memory, Policy as _};
use qscale_rl::device::cpu;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

/// A checkpoint that is accepted is written as it was read; one for this program decides within the bounds.
pub fn models(data: &[u8]) {
    let Ok(checkpoint) = Checkpoint::from_bytes(data) else { return };
    let written = checkpoint.to_bytes();
    assert_eq!(Checkpoint::from_bytes(&written).expect("written").to_bytes(), written);
    let Ok(policy) = Dqn::new(&checkpoint, DqnParams::default(), &cpu()) else { return };
    assert!(checkpoint.check().is_ok(), "a model for another program is refused");
    let (mut state, mut memory, mut rng) = (state(), Memory::default(), SmallRng::seed_from_u64(1));
    for tick in 1..4 {
        state.tick.0 = tick;
        if let Some(wanted) = policy.decide(&state, &mut memory, state.observed_at_ms, &mut rng).wanted() {
            assert!(state.bounds.contain(wanted), "{wanted}");
        }
    }
}
