//! Deterministic simulation of the whole loop: the real cores of collector, agent, actuator, lease and platform on a model of the bus, under one seed, with
//! faults. Every step is checked. The same plan gives the same run.

#![warn(unreachable_pub)]

mod actuator;
mod agent;
pub mod bus;
mod checks;
mod collector;
mod context;
pub mod plan;
mod platform;
pub mod promotion;
mod protocol;
mod recorder;
pub mod shrink;
mod view;
pub mod world;

pub use checks::Violation;
