//! Runtime of a service: configuration, telemetry, health, shutdown and the bus. The only part of this crate that does I/O.

pub mod author;
pub mod bus;
pub mod cancellable;
pub mod changes;
pub mod clock;
pub mod config;
pub mod files;
pub mod health;
pub mod http;
pub mod kv;
pub mod lease;
pub mod leftovers;
pub mod lock;
pub mod models;
pub mod nats_accounts;
pub mod operator;
pub mod platform;
pub mod policies;
pub mod private;
pub mod provision;
pub mod service;
pub mod shutdown;
pub mod signature;
pub mod telemetry;
pub mod traces;
