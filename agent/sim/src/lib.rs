//! Event-driven simulation of serverless functions in virtual time: requests, replicas, CPU quotas, starts and queues.
//!
//! Pure: no I/O, no clock, random numbers only from seeds. It produces Scrapes like those a collector reads from a
//! platform, so windows, reward and guard are the production code.

pub mod cpu;
pub mod distribution;
pub mod event_queue;
pub mod function;
pub mod latency;
pub mod load;
pub mod nanos;
pub mod node;
pub mod perturbation;
pub mod profile;
pub mod profiles;
pub mod replica;
pub mod rng;
pub mod simulation;
pub mod totals;

pub use distribution::Distribution;
pub use function::{Function, ScrapeBuffer};
pub use load::SimulatedLoad;
pub use nanos::Nanos;
pub use node::Nodes;
pub use perturbation::{LostNode, NoisyNeighbour, Payload, Perturbation};
pub use profile::{FunctionProfile, Gateway, ProfileScale, RequestDemand};
pub use replica::Path;
pub use simulation::{Setup, Simulation};
pub use totals::Totals;
