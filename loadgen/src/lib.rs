//! Open-loop load: every request has the instant at which it is due, and its latency counts from there.
//!
//! [`workload`] says what is due when, [`protocol`] what is sent and what a good reply is, [`engine`] sends it on time, [`run`]
//! counts what comes of it, and [`report`] and [`files`] put that into words.

pub mod cli;
pub mod config;
pub mod engine;
pub mod files;
pub mod pacing;
pub mod progress;
pub mod proto;
pub mod protocol;
pub mod record;
pub mod report;
pub mod run;
pub mod service;
pub mod sink;
pub mod workload;
