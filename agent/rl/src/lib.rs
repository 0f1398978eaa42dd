//! Deep Q-learning: a network of action values, the loss, a replay, exploration and the learner that combines them.
//! Knows nothing of functions, allocations or any other environment.
//!
//! A library without I/O and clock; randomness comes from seeds. Networks compute on the CPU, or on a [`Device`] that
//! another crate implements.

pub mod adam;
pub mod device;
pub mod explore;
#[cfg(any(test, feature = "fixtures"))]
pub mod fixtures;
pub mod learner;
pub mod loss;
pub mod mask;
pub mod network;
pub mod replay;
pub mod training;

pub use device::{Device, cpu};
pub use learner::{Hyperparameters, Learner, LearnerError};
pub use mask::Mask;
pub use network::{Architecture, DeviceError, Network, Weights};
