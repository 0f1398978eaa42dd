//! A trained network as a scaling policy: observation, actions, reward, checkpoint format and inference. Must not depend on training.
//!
//! A library without I/O and clock; randomness comes from seeds.

pub mod actions;
pub mod checkpoint;
pub mod context;
pub mod decider;
pub mod default_action;
pub mod observation;
pub mod operating_point;
pub mod policy;
pub mod pretrained;
pub mod registry;
pub mod reward;
pub mod tabular;
pub mod tasks;
pub mod tree;

pub use actions::{ActionCandidates, ActionSet, Actions};
pub use checkpoint::{Checkpoint, CheckpointError};
pub use policy::{Dqn, DqnParams};
pub use qscale_policies::Scope;
pub use registry::by_name;
pub use tabular::Tabular;
pub use tree::DecisionTree;

#[cfg(test)]
mod fixtures;
