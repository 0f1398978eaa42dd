//! The local platform: functions as processes under CPU and memory limits, behind a gateway that queues, balances and starts from zero.
//!
//! Owns the processes, their cgroups and the requests to them; must not choose allocations, which come through its API.

mod admission;
mod cgroup;
pub mod config;
mod function;
mod gateway;
mod host;
mod latency;
mod logs;
mod metrics;
mod orphans;
mod platform;
mod ports;
mod probe;
mod process;
pub mod program;
mod reconciler;
mod replica;
mod request_body;
mod sandbox;
pub mod server;
mod state;
mod upstream;

pub use gateway::{head, route};
