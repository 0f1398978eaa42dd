//! Where allocations come true. Owns what a platform can be asked and how it may fail; must not judge what is asked.

pub mod local;

use qscale_common::name::FunctionId;
use qscale_common::units::Allocation;
use thiserror::Error;

/// What the platform says of one workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Namespace and name of the workload.
    pub id: FunctionId,
    /// What it was last told to have.
    pub desired: Allocation,
    /// Whether CPU and memory of its replicas can be changed.
    pub vertical: bool,
}

/// Why the platform did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BackendError {
    /// It does not answer or is not ready; trying again may help.
    #[error("{0}")]
    Unavailable(String),
    /// A newer leader has written since.
    #[error("the lease is older than another that the platform has seen: {0}")]
    StaleLease(String),
    /// It has no such workload.
    #[error("the platform has no function {0}")]
    NotFound(FunctionId),
    /// It will never do this.
    #[error("the platform refuses: {0}")]
    Invalid(String),
}

/// A platform that runs functions.
pub trait Backend: Send + Sync + 'static {
    /// All workloads.
    fn list(&self) -> impl Future<Output = Result<Vec<Workload>, BackendError>> + Send;

    /// Tells the platform what `workload` shall have; absolute, so that telling it twice is harmless. Writes with a `lease` lower than the
    /// highest that the platform ever saw are refused. Returns the workload after the change.
    fn apply(
        &self,
        workload: &FunctionId,
        allocation: Allocation,
        lease: u64,
    ) -> impl Future<Output = Result<Workload, BackendError>> + Send;
}
