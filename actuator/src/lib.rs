//! The actuator: Action in, effect and Outcome out. The only service that changes allocations.
//!
//! [`core`] decides: values in, commands out. [`service`] executes the commands.

pub mod backend;
pub mod config;
pub mod core;
pub mod fallback;
pub mod metrics;
pub mod service;
pub mod store;
