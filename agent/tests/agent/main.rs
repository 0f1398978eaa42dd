//! The agent as a program, over a real nats-server with the accounts of the services.

mod python;
mod scene;
mod service;
