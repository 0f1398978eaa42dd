//! The agent: answers every State with an Action under its own name. Owns the way from State to Action; must not know how a rule decides, and applies nothing.
//!
//! Instances of an agent form a queue group: each State reaches one of them, and the others go on where one dies.

pub mod answer;
pub mod config;
mod metrics;
pub mod model;
pub mod service;
