//! A world of functions in virtual time: requests, replicas, CPU quotas, starts and queues, simulated one by one.
//!
//! Pure: no I/O, no clock, and chance only from seeds. What it shows are Scrapes, the same that a collector reads from a platform, so that windows, reward
//! and guard are production's own.

pub mod agenda;
pub mod cell;
pub mod chance;
pub mod cpu;
pub mod distribution;
pub mod function;
pub mod latency;
pub mod load;
pub mod nanos;
pub mod node;
pub mod perturbation;
pub mod profile;
pub mod profiles;
pub mod replica;
pub mod totals;

pub use cell::{Cell, Setup};
pub use distribution::Distribution;
pub use function::{Function, Reading};
pub use load::Load;
pub use nanos::Nanos;
pub use node::Nodes;
pub use perturbation::{LostNode, Payload, Perturbation};
pub use profile::{Demand, FunctionProfile, Gateway, Stretch};
pub use replica::Path;
pub use totals::Totals;
