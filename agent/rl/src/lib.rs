//! Deep Q-learning: a network of action values, the loss, a replay, exploration, and the learner that joins them. Knows nothing of functions, allocations or
//! any other environment.
//!
//! A library without I/O, without a clock, and with chance only from seeds. Its networks compute on a device that is chosen when the program runs.

pub mod device;
pub mod explore;
pub mod learner;
pub mod loss;
pub mod mask;
pub mod network;
pub mod probe;
pub mod replay;

pub use device::Device;
pub use learner::{Hyperparameters, Learner, LearnerError};
pub use mask::Mask;
pub use network::{Architecture, DeviceFailed, Network, Weights};
