//! Training in the simulator: sampling of worlds, environments, the training loop and validation. No files and no
//! clock; results are return values.

pub mod agent;
pub mod config;
pub mod distil;
pub mod env;
pub mod evaluate;
pub mod run;
mod tabular;
pub mod trainer;
pub mod world;

pub use config::TrainingConfig;
pub use run::TrainingRun;
pub use trainer::{Trainer, TrainerConfig, UpdateMeans};
