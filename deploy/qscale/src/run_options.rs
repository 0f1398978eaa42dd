//! Options of every command that runs an experiment: threads, folder, resumption, output format.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

/// Execution and output of an experiment.
#[derive(Debug, Clone, Args)]
pub struct RunOptions {
    /// Threads; by default one per core. The results do not depend on it
    #[arg(long, value_name = "NUMBER")]
    threads: Option<NonZeroUsize>,
    /// Folder for results; by default a folder of this command in the state folder
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    out: Option<PathBuf>,
    /// Fail if the folder holds nothing to resume
    #[arg(long, conflicts_with = "overwrite")]
    pub resume: bool,
    /// Discard what the folder holds, and start over
    #[arg(long)]
    pub overwrite: bool,
    /// Print the results as JSON
    #[arg(long)]
    pub json: bool,
}

impl RunOptions {
    /// Number of threads.
    pub fn threads(&self) -> NonZeroUsize {
        self.threads.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
    }

    /// Folder for results: the given one, or `default`.
    pub fn out(&self, default: impl FnOnce() -> PathBuf) -> PathBuf {
        self.out.clone().unwrap_or_else(default)
    }
}
