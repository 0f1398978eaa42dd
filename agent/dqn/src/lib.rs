//! Deep Q-learning of allocations: what a network sees, what it may choose, how it learns, and how a trained one decides.
//!
//! A library without services: no I/O, no clock, and chance only from seeds. Its networks compute on a device that is chosen when the program runs.

pub mod actions;
pub mod agent;
pub mod checkpoint;
pub mod decider;
pub mod device;
pub mod explore;
pub mod finetune;
pub mod learner;
pub mod loss;
pub mod network;
pub mod observation;
pub mod policy;
pub mod pretrained;
pub mod probe;
pub mod registry;
pub mod replay;
pub mod sight;
pub mod tabular;
pub mod train;

pub use actions::{ActionSet, Actions, Mask, Menu, Scope};
pub use checkpoint::{Checkpoint, CheckpointError};
pub use learner::{Hyperparameters, Learner, LearnerError};
pub use network::{Architecture, Network, Weights};
pub use policy::{Dqn, DqnParams};
pub use registry::by_name;
pub use tabular::Tabular;

#[cfg(test)]
mod sample;
