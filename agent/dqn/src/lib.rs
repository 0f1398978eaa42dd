//! A trained network as a scaling policy: what it sees of a function, what it may choose, how its choices are rewarded, how it is stored, and how it
//! decides. Must not depend on training.
//!
//! A library without services: no I/O, no clock, and chance only from seeds.

pub mod actions;
pub mod checkpoint;
pub mod decider;
pub mod domain;
pub mod observation;
pub mod policy;
pub mod pretrained;
pub mod registry;
pub mod sight;
pub mod tabular;
pub mod worth;

pub use actions::{ActionSet, Actions, Menu, Scope};
pub use checkpoint::{Checkpoint, CheckpointError};
pub use policy::{Dqn, DqnParams};
pub use registry::by_name;
pub use tabular::Tabular;

#[cfg(test)]
mod sample;
