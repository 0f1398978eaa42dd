//! Open-loop load generator: every request has an intended send time, and its latency counts from there.
//!
//! [`schedule`] determines send times and targets, [`protocol`] forms requests and validates replies, [`engine`] sends
//! on time, [`run`] counts the results, and [`report`] and [`files`] write them.

pub mod cli;
pub mod config;
pub mod engine;
pub mod files;
pub mod pacing;
pub mod progress;
pub mod protocol;
pub mod record;
pub mod report;
pub mod run;
pub mod schedule;
pub mod service;
pub mod sink;
