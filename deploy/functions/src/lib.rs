//! Functions to run and scale: Fibonacci, AES and a function whose duration and memory are set by the request.
//!
//! They use vSwarm's and InVitro's gRPC messages, so load generators for those can call them. One port serves gRPC over
//! HTTP/2 without TLS and HTTP/1.1. Must not depend on Qscale: a function sees only its requests and limits.

pub mod aes;
pub mod faas;
pub mod fibonacci;
pub mod generator;
pub mod grpc;
pub mod metrics;
pub mod request_error;
pub mod serve;
pub mod workers;
