//! The collector: metrics in, State and Reward out. Owns reading sources and the timing of ticks; must not decide
//! anything, nor change an allocation.

#![warn(unreachable_pub)]

pub mod config;
pub mod metric;
mod metrics;
pub mod observer;
mod poller;
pub mod reading;
mod rows;
pub mod service;
pub mod source;
