//! Shared by all services: units, names, the messages and pure functions over them.
//!
//! Pure by default: no I/O, no clock, no randomness of its own. The feature `runtime` adds what a service needs to run, `fixtures` messages for tests.

pub mod change;
pub mod contract;
pub mod control;
pub mod document;
#[cfg(feature = "fixtures")]
pub mod fixtures;
pub mod guard;
pub mod hash;
pub mod load;
pub mod name;
pub mod partition;
pub mod platform;
pub mod policy;
pub mod quantity;
pub mod range;
pub mod restart;
pub mod reward;
#[cfg(feature = "runtime")]
pub mod runtime;
pub mod schema;
pub mod scrape;
pub mod slo;
pub mod text;
pub mod time;
pub mod units;
mod version;
pub mod window;
pub mod workload;
