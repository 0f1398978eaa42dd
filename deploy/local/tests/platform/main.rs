//! The platform as its users see it: real processes, real requests, real limits.

mod gateway;
mod harness;
mod lifecycle;
mod limits;
