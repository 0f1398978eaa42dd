//! The platform from the outside: real processes, real requests, real limits.

mod access;
mod gateway;
mod harness;
mod http;
mod isolation;
mod lifecycle;
mod limits;
