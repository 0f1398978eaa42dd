//! The platform from the outside: real processes, real requests, real limits.

mod gateway;
mod harness;
mod lifecycle;
mod limits;
