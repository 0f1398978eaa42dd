//! Experiments: evaluation of policies, training and ablation of models, the reproduced study, profiles of functions
//! and the validation of the simulator.
//!
//! Owns the order of runs, their folders and result files. Must not print results: callers do.

pub mod distil;
pub mod evaluate;
mod files;
pub mod journal;
pub mod profile;
pub mod reproduce;
pub mod train;
pub mod validate;
