//! A platform of simulated functions: the local platform's API and metrics, in virtual time, which follows the clock of services.
//!
//! Owns virtual time, the simulated functions and their load; must not choose allocations, which come through its API
//! as on the local platform.

pub mod config;
pub mod function;
pub mod inputs;
pub mod platform;
mod published;
pub mod report;
pub mod server;
mod view;
