//! Training in the simulator: worlds are drawn, agents act on many of them at once and learn, and networks are validated. Owns the loop; no files, no
//! clock: what a caller asks for comes back as values.

pub mod agent;
pub mod course;
pub mod judge;
pub mod lane;
pub mod recipe;
mod tabular;
pub mod trainer;
pub mod world;

pub use trainer::{Loss, Plan, Trainer};
