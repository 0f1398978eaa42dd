//! The actuator: Actions in, Outcomes out. The only service that changes allocations.
//!
//! [`core`] decides: values in, commands out. [`service`] executes the commands. [`backend`] is the interface to the platform.

#![warn(unreachable_pub)]

mod actions;
pub mod backend;
pub mod config;
pub mod core;
mod fallback;
mod metrics;
pub mod service;
pub mod store;
