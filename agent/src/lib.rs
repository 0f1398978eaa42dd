//! The agent service: answers every State with an Action under its own name. Owns the path from State to Action; must
//! not know how a policy decides, and must not apply allocations.
//!
//! Instances of an agent form a queue group: each State reaches one of them, and the others take over if one fails.

pub mod answer;
pub mod config;
mod metrics;
pub mod model;
pub mod service;
