//! The collector: metrics in, State and Reward out. Owns reading endpoints and the rhythm of ticks; must not decide anything, nor change an allocation.

pub mod config;
pub mod exposition;
pub mod metrics;
pub mod observer;
pub mod reading;
pub mod round;
pub mod service;
pub mod source;
