//! Functions to run and to scale: Fibonacci, AES and a function whose duration and memory the request chooses.
//!
//! They speak vSwarm's and InVitro's own gRPC messages, so any load generator made for those drives them. One port answers gRPC over
//! HTTP/2 without TLS and plain HTTP/1.1. Nothing here knows Qscale: a function sees its requests and its limits, nothing else.

pub mod aes;
pub mod faas;
pub mod fibonacci;
pub mod generator;
pub mod grpc;
pub mod refusal;
pub mod serve;
pub mod workers;
