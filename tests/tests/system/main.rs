//! Tests of the whole system: real services, a real nats-server, real functions. In one program, so that tests that wait run side by side.

mod access;
mod accounts;
mod bus;
mod chaos;
mod explain;
mod faults;
mod finetune;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod models;
mod operating_point;
mod reproduce;
mod signatures;
mod simulated;
mod takeover;
mod up;
