//! The local platform: functions as processes under CPU and memory limits, behind a gateway that queues, balances and starts from zero.
//!
//! Owns the processes, their cgroups and the requests to them; must not decide how much a function gets: it is told, over its API.

pub mod admission;
pub mod backoff;
pub mod cgroup;
pub mod function;
pub mod gateway;
pub mod host;
pub mod latency;
pub mod logs;
pub mod metrics;
pub mod orphans;
pub mod platform;
pub mod ports;
pub mod probe;
pub mod process;
pub mod program;
pub mod replica;
pub mod server;
pub mod settings;
pub mod state;
pub mod upstream;
