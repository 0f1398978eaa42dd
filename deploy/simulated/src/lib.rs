//! A platform of simulated functions: the local platform's API and metrics, in virtual time, which follows the clock of services.
//!
//! Owns the hour of its world, what its functions run and the load that it makes for them; must not decide how much a function gets: it is told,
//! over its API, as the local platform is.

pub mod function;
pub mod platform;
pub mod report;
pub mod server;
pub mod settings;
mod view;
pub mod wanted;
