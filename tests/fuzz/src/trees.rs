//! Files of decision trees.

use qscale_common::fixtures::state;
use qscale_dqn::DecisionTree;
use qscale_dqn::tree::policy::TreePolicy;
use qscale_policies::{Memory, Policy as _};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

/// A tree that is accepted is written as text from which the same tree is read, and decides within the bounds.
pub fn trees(data: &[u8]) {
    let Ok(tree) = DecisionTree::parse(data) else { return };
    let text = tree.to_string();
    assert_eq!(DecisionTree::parse(text.as_bytes()).expect("its own text").to_string(), text);
    let policy = TreePolicy::new(tree);
    let (mut state, mut memory, mut rng) = (state(), Memory::default(), SmallRng::seed_from_u64(1));
    for tick in 1..4 {
        state.tick.0 = tick;
        if let Some(wanted) = policy.decide(&state, &mut memory, state.observed_at_ms, &mut rng).wanted() {
            assert!(state.bounds.contain(wanted), "{wanted}");
        }
    }
}
