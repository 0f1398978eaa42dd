//! The actuator: Action in, effect and Outcome out. The only service that changes allocations.
//!
//! [`core`] decides: values in, commands out. [`service`] carries the commands out. [`lease`] says whether this actuator leads.

pub mod backend;
pub mod config;
pub mod core;
pub mod fallback;
pub mod lease;
pub mod metrics;
pub mod service;
pub mod store;
