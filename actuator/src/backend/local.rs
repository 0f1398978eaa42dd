//! The platform on this machine, over its HTTP API. The platform itself checks the fencing token.

use std::path::PathBuf;
use std::time::Duration;

use qscale_common::name::FunctionId;
use qscale_common::platform::{AllocationRequest, FunctionStatus};
use qscale_common::policy::WorkloadKind;
use qscale_common::range::check_span;
use qscale_common::runtime::platform::{PlatformClient, PlatformError};
use qscale_common::time::Span;
use qscale_common::units::Allocation;
use serde::{Deserialize, Serialize};

use super::{BackendError, BackendFuture, PlatformBackend, WorkloadId, WorkloadStatus};

/// Lowest HTTP status that blames the platform rather than the request.
const SERVER_ERROR: u16 = 500;

/// Configuration of the platform on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename = "LocalConfig", default, deny_unknown_fields)]
pub struct LocalBackendConfig {
    /// Address of its API, host and port.
    pub address: String,
    /// File that holds the token of its API; absent: the one that a platform of the same user and machine has noted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// Timeout of one request, 10 ms to 1 min.
    pub timeout: Span,
}

impl Default for LocalBackendConfig {
    fn default() -> Self {
        Self { address: "127.0.0.1:8701".into(), token_file: None, timeout: Span::seconds(5) }
    }
}

impl LocalBackendConfig {
    pub(super) fn check(&self) -> anyhow::Result<()> {
        check_span("platform.timeout", self.timeout, Span::millis(10), Span::seconds(60))?;
        Ok(())
    }
}

/// The platform on this machine.
#[derive(Debug, Clone)]
pub struct LocalBackend {
    client: PlatformClient,
}

impl LocalBackend {
    /// The platform with its API at `address`, host and port, and a timeout for each request.
    ///
    /// # Errors
    /// If `address` is not host and port.
    pub fn new(address: &str, timeout: Duration) -> Result<Self, PlatformError> {
        Ok(Self { client: PlatformClient::with_timeout(address, timeout)? })
    }

    pub(super) fn open(config: &LocalBackendConfig) -> Result<Self, PlatformError> {
        let platform = Self::new(&config.address, config.timeout.0)?;
        Ok(match &config.token_file {
            Some(file) => Self { client: platform.client.with_token_file(file.clone()) },
            None => platform,
        })
    }

    async fn set(&self, workload: &FunctionId, allocation: Allocation, lease: u64) -> Result<WorkloadStatus, BackendError> {
        // What the platform cannot do of one part must not keep it from the others.
        let request = AllocationRequest { clamp: true, ..AllocationRequest::new(allocation, Some(lease)) };
        match self.client.set_allocation(workload, &request).await {
            Ok(reply) => {
                for warning in reply.warnings {
                    tracing::info!(%workload, warning, "the platform applied the allocation with a warning");
                }
                Ok(reply.function.into())
            }
            Err(error @ (PlatformError::Unreachable { .. } | PlatformError::Unexpected { .. })) => {
                // The request may have succeeded even though its reply was lost.
                match self.client.get(workload).await {
                    Ok(status) if status.desired == allocation => Ok(status.into()),
                    Ok(_) | Err(_) => Err(backend_error(error, workload)),
                }
            }
            Err(error) => Err(backend_error(error, workload)),
        }
    }
}

impl From<FunctionStatus> for WorkloadStatus {
    fn from(status: FunctionStatus) -> Self {
        let id = WorkloadId { kind: WorkloadKind::Local, name: status.id() };
        Self { id, desired: status.desired, vertical: status.vertical }
    }
}

fn backend_error(error: PlatformError, workload: &FunctionId) -> BackendError {
    match error {
        PlatformError::StaleLease(ref said) => {
            BackendError::StaleLease { highest: said.highest_lease.unwrap_or(0), reason: error.to_string() }
        }
        PlatformError::NotFound(_) => BackendError::NotFound(workload.clone()),
        PlatformError::Refused { status, .. } if status < SERVER_ERROR => BackendError::Invalid(error.to_string()),
        // A platform that restarts has issued another token.
        PlatformError::Address(_)
        | PlatformError::Token { .. }
        | PlatformError::Unauthorized(_)
        | PlatformError::Unreachable { .. }
        | PlatformError::Refused { .. }
        | PlatformError::Unexpected { .. } => BackendError::Unavailable(error.to_string()),
    }
}

impl PlatformBackend for LocalBackend {
    fn kinds(&self) -> &'static [WorkloadKind] {
        &[WorkloadKind::Local]
    }

    fn list(&self) -> BackendFuture<'_, Vec<WorkloadStatus>> {
        Box::pin(async {
            let listed = self.client.list().await;
            listed
                .map(|functions| functions.into_iter().map(WorkloadStatus::from).collect())
                .map_err(|error| BackendError::Unavailable(error.to_string()))
        })
    }

    fn apply<'a>(&'a self, workload: &'a WorkloadId, allocation: Allocation, lease: u64) -> BackendFuture<'a, WorkloadStatus> {
        Box::pin(self.set(&workload.name, allocation, lease))
    }
}
