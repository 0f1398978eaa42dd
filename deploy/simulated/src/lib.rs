//! A platform of simulated functions: the local platform's API and metrics, in virtual time, which follows the clock of services.
//!
//! Owns the hour of its world, what its functions run and the load that it makes for them; must not decide how much a function gets: it is told,
//! over its API, as the local platform is.

pub mod command;
pub mod config;
pub mod function;
pub mod platform;
mod published;
pub mod report;
pub mod server;

mod view;
